//! The waiting time of a late viewer: from the start of a new `usher play --player -`, with all that a process must do
//! first, to the first byte that comes out of it.

use std::{
    io::Read as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Timing,
    clip::{Clip, RATE},
    cluster::TestCluster,
    handoff::play,
    quantile,
};
use crate::peers::table::{Results, SELF};

pub(super) const CASE: &str = "join";

pub(super) const HALF: &str = "start to first byte, p50 ms";

/// Time before the first joiner, in which a group is completed.
const FIRST: Duration = Duration::from_secs(5);

/// Time between joiners: no divisor of a group's 2 s, so that they join at all positions of a group.
const APART: Duration = Duration::from_millis(270);

pub(super) async fn run(timing: &Timing, dir: &Path, results: &mut Results) -> anyhow::Result<()> {
    eprintln!("{CASE}");
    let count = u32::try_from(timing.joins)?;
    let clip = Clip::make(dir, FIRST + (APART + Duration::from_secs(1)) * count + Duration::from_secs(5), RATE)?;
    let cluster = TestCluster::start(&[&[]])?;
    let _publisher = cluster.publish("join", &clip)?;
    tokio::time::sleep(FIRST).await;
    let mut waits = Vec::new();
    for _ in 0..timing.joins {
        tokio::time::sleep(APART).await;
        let began = Instant::now();
        let (mut player, mut output) = play(&cluster, "join")?;
        let read = output.read(&mut [0; 1]).context("read what is played")?;
        let waited = began.elapsed();
        player.ignore_log();
        ensure!(read == 1, "a player ended before its first byte");
        waits.push(waited.as_secs_f64() * 1e3);
    }
    let figures = vec![(HALF, quantile(&mut waits, 0.5)), ("start to first byte, most ms", quantile(&mut waits, 1.0))];
    results.enter(CASE, SELF, 0, figures);
    Ok(())
}
