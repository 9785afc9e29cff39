//! One feed and many viewers: what they cost the process that relays it, beside moq-relay. Each viewer has a connection of
//! its own, reads all and throws it away.

use std::{path::Path, sync::Arc};

use super::{
    Plan,
    clip::{Clip, RATE},
    cluster::TestCluster,
    moq,
    viewer::Audience,
};
use crate::{
    cluster::usage::Meter,
    peers::{
        stage::enter,
        table::{Book, Figures, Peer, SELF},
    },
};

/// The one that is held against Usher.
pub(super) const MOQ: Peer = Peer { name: "moq-relay", suffix: "" };

pub(super) const CASE: &str = "fanout";

/// What counts.
pub(super) const COST: &str = "relay CPU-s per viewer-Gbit";

pub(super) async fn run(
    plan: &Plan,
    peer: Option<Option<&Path>>,
    dir: &Path,
    reps: usize,
    book: &mut Book,
) -> anyhow::Result<()> {
    let programs = peer.and_then(moq::Programs::find);
    let clip = Clip::make(dir, plan.fanout, RATE)?;
    let cluster = TestCluster::start(&[&[]])?;
    for rep in 0..reps {
        eprintln!("{CASE}: {} of {reps}", rep + 1);
        if let Some(programs) = &programs {
            enter(book, CASE, MOQ, rep, relay(plan, programs, &clip).await);
        }
        book.enter(CASE, SELF, rep, usher(plan, &cluster, &format!("fanout-{rep}"), &clip).await?);
    }
    Ok(())
}

async fn usher(plan: &Plan, cluster: &TestCluster, name: &str, clip: &Arc<Clip>) -> anyhow::Result<Figures> {
    let publisher = cluster.publish(name, clip)?;
    let node = cluster.node_id(0);
    let mut audience = Audience::seat(cluster, name, plan.viewers).await?;
    tokio::time::sleep(plan.settle).await;
    let broken = |audience: &Audience| audience.seen.iter().map(|seen| seen.groups().lost()).sum::<u64>();
    let (meter, before, lost) = (Meter::start(&[node])?, audience.bytes(), broken(&audience));
    tokio::time::sleep(plan.window).await;
    let figures = figures(plan, &meter, audience.bytes() - before, broken(&audience) - lost)?;
    audience.is_whole()?;
    drop(publisher);
    Ok(figures)
}

async fn relay(plan: &Plan, programs: &moq::Programs, clip: &Arc<Clip>) -> anyhow::Result<Figures> {
    let stage = moq::Stage::set(programs, clip)?;
    let mut audience = stage.seat(programs, plan.viewers)?;
    tokio::time::sleep(plan.settle).await;
    let (meter, (before, lost)) = (Meter::start(&[stage.relay.id()])?, audience.bytes()?);
    tokio::time::sleep(plan.window).await;
    let (bytes, broken) = audience.bytes()?;
    figures(plan, &meter, bytes - before, broken - lost)
}

fn figures(plan: &Plan, meter: &Meter, bytes: u64, broken: u64) -> anyhow::Result<Figures> {
    let (bits, used, time) = (bytes as f64 * 8.0, meter.seconds()?, meter.elapsed().as_secs_f64());
    Ok(vec![
        (COST, used / (bits / 1e9)),
        // Containers differ: moq-relay's viewers get the same pictures without MPEG-TS around them.
        ("relay CPU-s per viewer-minute", used / (time / 60.0) / plan.viewers as f64),
        ("Mbit/s of media that a viewer gets (more is better)", bits / 1e6 / time / plan.viewers as f64),
        ("groups that broke off, of all viewers", broken as f64),
    ])
}
