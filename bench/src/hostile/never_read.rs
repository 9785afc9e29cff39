//! Sessions from one address that never read, as many as a node has capacity for.

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{runtime::Runtime, task::JoinSet, time};
use usher_hostile::{
    Client, Reading,
    client::{self, USUAL_WINDOW},
    honest::Outcome,
};

use super::row::{ClientFigures, HostileRow};
use crate::cluster::usher;

/// Capacity of the node in bit/s: twenty sessions of the film.
const CAPACITY: u64 = 73_000_000;

/// Bytes of padding in the film: more than any window holds.
const PADDING: u32 = 8 << 20;

/// Time in which the capacity should be given again.
const GOAL: Duration = Duration::from_secs(5);

/// Time between two requests of a client that was refused.
const AGAIN: Duration = Duration::from_millis(50);

pub(crate) const ROW: HostileRow =
    HostileRow { name: "sessions that never read", goal: ">= 90 % of the capacity given again within 5 s", run };

fn run(_clients: usize) -> anyhow::Result<ClientFigures> {
    let flags = ["--metrics", "off", "--cluster-access", "open", "--log", "warn,usher_master::app=info"];
    let mut cluster = usher_kit::Cluster::start(&usher()?, &flags)?;
    cluster.master.ignore_log();
    let mut data = include_bytes!("../../../media/samples/B.mp4").to_vec();
    // A free box, which readers of MP4 skip.
    data.extend_from_slice(&PADDING.to_be_bytes());
    data.extend_from_slice(b"free");
    data.resize(data.len() + PADDING as usize - 8, 0);
    let film = cluster.path().join("film");
    fs::write(&film, data).context("write a title")?;
    cluster.add("node-1", "film.mp4", &film)?;
    let capacity = format!("{CAPACITY}bit");
    cluster.spawn_node("node-1", &["--capacity", &capacity, "--replica-quota", "0"])?.ignore_log();
    cluster.wait_for_copies(1)?;
    cluster.wait_for_nodes(1)?;
    let rate = cluster.catalog()?[0]["bitrate_bps"].as_u64().context("the title's rate")?;
    let runtime = Runtime::new().context("start a runtime")?;
    runtime.block_on(measure(&cluster, rate))
}

async fn measure(cluster: &usher_kit::Cluster, rate: u64) -> anyhow::Result<ClientFigures> {
    let seats = usize::try_from(CAPACITY / rate)?;
    let ca = cluster.ca();
    let client = |last, window| Client::new(Ipv4Addr::new(127, 0, 0, last), &cluster.address, &ca, window);
    let mut attacker = client(2, 1).await?;
    let mut honest = client(3, USUAL_WINDOW).await?;
    let start = Instant::now();
    let session = honest.begin(client::play("film.mp4")).await?;
    let quiet = Outcome { asked: 1, times: vec![start.elapsed()], errors: Vec::new() };
    drop(session);
    let mut held = Vec::new();
    while let Ok(session) = attacker.open(client::play("film.mp4")).await {
        held.push(session);
        ensure!(held.len() <= 4 * seats, "the node is never full");
    }
    let (start, mut players) = (Instant::now(), JoinSet::new());
    let mut attacked = Outcome { asked: seats, ..Outcome::default() };
    while start.elapsed() < GOAL && attacked.times.len() < seats {
        match honest.begin(client::play("film.mp4")).await {
            Ok(mut session) => {
                attacked.times.push(start.elapsed());
                players.spawn(async move { session.read(Reading::Rate(rate / 2)).await });
            }
            Err(_) => time::sleep(AGAIN).await,
        }
    }
    Ok(ClientFigures::of_calls(&quiet, &attacked))
}
