//! Many viewers, one of which reads at a tenth of the rate: the others miss nothing, and the cost of the slow one is bounded.

use std::{collections::BTreeSet, path::Path, time::Duration};

use super::{
    Timing,
    clip::{Clip, RATE},
    cluster::TestCluster,
    viewer::Audience,
};
use crate::{
    cluster::usage::resident,
    peers::table::{Results, SELF},
};

pub(super) const CASE: &str = "slow";

pub(super) const MISSED: &str = "groups that the others missed";

pub(super) const MEMORY: &str = "node's memory growth MB";

/// Share of the rate that the slow viewer reads.
const PART: u64 = 10;

/// Limit for the viewers to join.
const ENTRANCE: Duration = Duration::from_secs(30);

pub(super) async fn run(timing: &Timing, dir: &Path, results: &mut Results) -> anyhow::Result<()> {
    eprintln!("{CASE}");
    let clip = Clip::make(dir, timing.crowded + ENTRANCE, RATE)?;
    let cluster = TestCluster::start(&[&[]])?;
    let node = cluster.node_id(0);
    let before = resident(&[node])?;
    let _publisher = cluster.publish("slow", &clip)?;
    let mut audience = Audience::seat(&cluster, "slow", timing.crowd).await?;
    let others = audience.seen.clone();
    let slow = audience.add_slow(&cluster, "slow", RATE / PART).await?;
    let (from, began) = (audience.bytes(), std::time::Instant::now());
    tokio::time::sleep(timing.crowded).await;
    let (bytes, time) = (audience.bytes() - from, began.elapsed());
    let grown = resident(&[node])?.saturating_sub(before);
    audience.is_whole()?;
    // Every viewer must have had each group that any viewer had whole since it joined; the last group may be under way.
    let groups: Vec<_> = others.iter().map(|seen| seen.groups()).collect();
    let all: BTreeSet<u64> = groups.iter().flat_map(|groups| &groups.whole).copied().collect();
    let newest = all.iter().rev().nth(1).copied().unwrap_or_default();
    let missed = |groups: &super::viewer::Groups| {
        let first = groups.whole.iter().chain(&groups.broken).next().copied().unwrap_or_default();
        all.range(first..=newest.max(first)).filter(|group| !groups.whole.contains(group)).count()
    };
    let missed: usize = groups.iter().map(missed).sum();
    let slow = slow.groups();
    let figures = vec![
        (MISSED, missed as f64),
        ("groups that the others saw", all.len() as f64),
        ("groups that the slow one dropped, as its node says", slow.skipped as f64),
        ("groups that the slow one had whole", slow.whole.len() as f64),
        (MEMORY, grown as f64 / 1e6),
        (
            "Mbit/s of media that a viewer gets (more is better)",
            bytes as f64 * 8.0 / 1e6 / time.as_secs_f64() / timing.crowd as f64,
        ),
    ];
    results.enter(CASE, SELF, 0, figures);
    Ok(())
}
