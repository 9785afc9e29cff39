//! The age of a picture when a viewer has it: from its writing to `usher publish`, which reads a pipe as it would
//! ffmpeg's, until all of it has come out of `usher play --player -`, verified.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use usher_kit::Process;

use super::{
    Timing,
    clip::{Clip, PictureReader, RATE},
    cluster::TestCluster,
    quantile,
};
use crate::{
    cluster::{output, start, usher},
    peers::table::{Results, SELF},
};

pub(super) const CASE: &str = "handoff";

pub(super) const HALF: &str = "written to handed out, p50 ms";

/// Time that is not measured: the player joins with a group that is over.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) async fn run(timing: &Timing, dir: &Path, results: &mut Results) -> anyhow::Result<()> {
    eprintln!("{CASE}");
    let clip = Clip::make(dir, timing.handoff + SETTLE + Duration::from_secs(10), RATE)?;
    let cluster = TestCluster::start(&[&[]])?;
    let publisher = cluster.publish("handoff", &clip)?;
    let (mut player, mut output) = play(&cluster, "handoff")?;
    player.ignore_log();
    let (mut eye, mut came) = (PictureReader::new(&clip), BTreeMap::new());
    let (began, mut buffer) = (Instant::now(), vec![0; 256 * 1024]);
    while began.elapsed() < SETTLE + timing.handoff {
        let read = output.read(&mut buffer).context("read what is played")?;
        let now = Instant::now();
        ensure!(read > 0, "the player ended");
        eye.see(&buffer[..read], |picture| {
            came.insert(picture, now);
        })?;
    }
    let written = publisher.playing.times();
    let from = began + SETTLE;
    let mut ages = Vec::new();
    for (picture, came) in &came {
        let written = *written.get(*picture).context("a picture that was written")?;
        if written >= from {
            ages.push(came.saturating_duration_since(written).as_secs_f64() * 1e3);
        }
    }
    let due = written.iter().filter(|written| **written >= from).count();
    ensure!(ages.len() + 2 >= due, "of {due} pictures {} came out", ages.len());
    let figures = vec![
        (HALF, quantile(&mut ages, 0.5)),
        ("written to handed out, p99 ms", quantile(&mut ages, 0.99)),
        ("written to handed out, most ms", quantile(&mut ages, 1.0)),
    ];
    results.enter(CASE, SELF, 0, figures);
    Ok(())
}

/// Starts `usher play` on a feed, and what it plays.
pub(super) fn play(cluster: &TestCluster, name: &str) -> anyhow::Result<(Process, std::process::ChildStdout)> {
    let mut command = Command::new(usher()?);
    command.args(["play", &cluster.feed_url(name), "--player", "-", "--log", "warn"]).arg("--ca").arg(cluster.ca());
    let mut process = start(command.stdout(Stdio::piped()))?;
    let out = output(&mut process)?;
    Ok((process, out))
}
