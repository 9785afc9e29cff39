//! One feed and many viewers: their cost for the process that relays it, beside moq-relay. Each viewer has its own connection,
//! reads everything and discards it.

use std::{path::Path, sync::Arc};

use super::{
    Timing,
    clip::{Clip, RATE},
    cluster::TestCluster,
    moq,
    viewer::Audience,
};
use crate::{
    cluster::usage::Meter,
    peers::{
        table::{Figures, Peer, Results, SELF},
        testbed::enter,
    },
};

/// The peer that Usher is compared with.
pub(super) const MOQ: Peer = Peer { name: "moq-relay", suffix: "" };

pub(super) const CASE: &str = "fanout";

/// The figure that has a goal.
pub(super) const COST: &str = "relay CPU-s per viewer-Gbit";

pub(super) async fn run(
    timing: &Timing,
    peer: Option<Option<&Path>>,
    dir: &Path,
    reps: usize,
    results: &mut Results,
) -> anyhow::Result<()> {
    let programs = peer.and_then(moq::MoqPrograms::find);
    let clip = Clip::make(dir, timing.fanout, RATE)?;
    let cluster = TestCluster::start(&[&[]])?;
    for rep in 0..reps {
        eprintln!("{CASE}: {} of {reps}", rep + 1);
        if let Some(programs) = &programs {
            enter(results, CASE, MOQ, rep, relay(timing, programs, &clip).await);
        }
        results.enter(CASE, SELF, rep, usher(timing, &cluster, &format!("fanout-{rep}"), &clip).await?);
    }
    Ok(())
}

async fn usher(timing: &Timing, cluster: &TestCluster, name: &str, clip: &Arc<Clip>) -> anyhow::Result<Figures> {
    let publisher = cluster.publish(name, clip)?;
    let node = cluster.node_id(0);
    let mut audience = Audience::seat(cluster, name, timing.viewers).await?;
    tokio::time::sleep(timing.settle).await;
    let broken = |audience: &Audience| audience.seen.iter().map(|seen| seen.groups().lost()).sum::<u64>();
    let (meter, before, lost) = (Meter::start(&[node])?, audience.bytes(), broken(&audience));
    tokio::time::sleep(timing.window).await;
    let figures = figures(timing, &meter, audience.bytes() - before, broken(&audience) - lost)?;
    audience.is_whole()?;
    drop(publisher);
    Ok(figures)
}

async fn relay(timing: &Timing, programs: &moq::MoqPrograms, clip: &Arc<Clip>) -> anyhow::Result<Figures> {
    let relay = moq::MoqRelay::start(programs, clip)?;
    let mut audience = relay.seat(programs, timing.viewers)?;
    tokio::time::sleep(timing.settle).await;
    let (meter, (before, lost)) = (Meter::start(&[relay.relay.id()])?, audience.bytes()?);
    tokio::time::sleep(timing.window).await;
    let (bytes, broken) = audience.bytes()?;
    figures(timing, &meter, bytes - before, broken - lost)
}

fn figures(timing: &Timing, meter: &Meter, bytes: u64, broken: u64) -> anyhow::Result<Figures> {
    let (bits, used, time) = (bytes as f64 * 8.0, meter.seconds()?, meter.elapsed().as_secs_f64());
    Ok(vec![
        (COST, used / (bits / 1e9)),
        // Containers differ: moq-relay's viewers get the same pictures without MPEG-TS around them.
        ("relay CPU-s per viewer-minute", used / (time / 60.0) / timing.viewers as f64),
        ("Mbit/s of media that a viewer gets (more is better)", bits / 1e6 / time / timing.viewers as f64),
        ("groups that broke off, of all viewers", broken as f64),
    ])
}
