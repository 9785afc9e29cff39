//! A node with viewers is killed: the stall of each viewer, and the pictures that it misses. The viewers use the client
//! library with all of its checks, each with its own connections; they are on one of two nodes that relay the feed from a
//! third, and fail over to the others by themselves.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::{sync::watch, task::JoinSet};
use usher_client::{Address, Authority, Client, FeedEvent, FeedSink, FeedStats, Options, StartAt};
use usher_proto::{Fault, Title};

use super::{
    Timing,
    clip::{Clip, PictureReader, RATE},
    cluster::{TestCluster, title},
    quantile,
};
use crate::peers::table::{Results, SELF};

pub(super) const CASE: &str = "lost";

pub(super) const LONGEST: &str = "killed to playing again, most ms";

pub(super) const AGAIN: &str = "pictures twice or out of order, of all viewers";

pub(super) const MISSED: &str = "pictures missed, of all viewers";

pub(super) const FAILED: &str = "viewers that failed";

/// How far a viewer may fall behind: what `usher play` takes.
const LATENCY: Duration = Duration::from_secs(10);

/// Limit for the viewers to join, the time that they watch then, and their time afterwards.
const ENTRANCE: Duration = Duration::from_secs(30);
const BEFORE: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(10);

pub(super) async fn run(timing: &Timing, dir: &Path, reps: usize, results: &mut Results) -> anyhow::Result<()> {
    let clip = Clip::make(dir, ENTRANCE + BEFORE + AFTER, RATE)?;
    let (mut waits, mut sums) = (Vec::new(), [0.0; 3]);
    for rep in 0..reps {
        eprintln!("{CASE}: {} of {reps}", rep + 1);
        let (more, counts) = once(timing, &clip, &format!("lost-{rep}")).await?;
        waits.extend(more);
        sums = [0, 1, 2].map(|i| sums[i] + counts[i]);
    }
    let [again, missed, failed] = sums;
    let figures = vec![
        ("killed to playing again, p50 ms", quantile(&mut waits, 0.5)),
        (LONGEST, quantile(&mut waits, 1.0)),
        (AGAIN, again),
        (MISSED, missed),
        (FAILED, failed),
    ];
    // The worst figure of all repetitions counts.
    results.enter(CASE, SELF, 0, figures);
    Ok(())
}

/// Duration of each viewer's stall in ms, and counts of all viewers.
async fn once(timing: &Timing, clip: &Arc<Clip>, name: &str) -> anyhow::Result<(Vec<f64>, [f64; 3])> {
    let mut cluster = TestCluster::start(&[
        &["--zone", "source"],
        &["--zone", "east", "--no-ingest"],
        &["--zone", "west", "--no-ingest"],
    ])?;
    let publisher = cluster.publish(name, clip)?;
    let (eye, (over, end)) = (PictureReader::new(clip), watch::channel(false));
    let mut tasks = JoinSet::new();
    let mut viewers = Vec::new();
    for _ in 0..timing.orphans {
        let (viewer, mut end) = (Arc::new(Viewer::default()), end.clone());
        viewers.push(Arc::clone(&viewer));
        let drain = Screen { eye: eye.another(), viewer: Arc::clone(&viewer) };
        let (address, ca, name) = (cluster.address.clone(), cluster.ca(), title(name));
        tasks.spawn(async move {
            tokio::select! {
                ended = play(&address, &ca, &name, drain, &viewer) => Some(ended),
                _over = end.wait_for(|over| *over) => None,
            }
        });
    }
    let entered = Instant::now();
    while viewers.iter().any(|viewer| viewer.lock().pictures.is_empty()) {
        ensure!(entered.elapsed() < ENTRANCE, "not all viewers had a picture within {} s", ENTRANCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(BEFORE).await;
    for viewer in &viewers {
        let node = viewer.lock().nodes.last().cloned();
        ensure!(node.as_deref() == Some("node-2"), "a viewer is on {node:?} and not on the node in its zone");
    }
    let killed = Instant::now();
    cluster.kill_node(1);
    tokio::time::sleep(AFTER).await;
    // Pictures that were written earlier must have arrived.
    let written = publisher.playing.times();
    let last = written.partition_point(|at| *at < killed + AFTER / 2);
    over.send_replace(true);
    let mut failed = 0.0;
    while let Some(ended) = tasks.join_next().await {
        if let Some(ended) = ended.context("a viewer's task")? {
            eprintln!("a viewer ended: {ended:?}");
            failed += 1.0;
        }
    }
    let (mut waits, mut missed) = (Vec::new(), 0);
    for viewer in &viewers {
        let seen = viewer.lock();
        let first = seen.pictures.first().map(|(picture, _)| *picture).context("a picture")?;
        let had: std::collections::BTreeSet<usize> = seen.pictures.iter().map(|(picture, _)| *picture).collect();
        missed += (first..last).filter(|picture| !had.contains(picture)).count();
        let again = seen.pictures.iter().find(|(picture, _)| written.get(*picture).is_some_and(|at| *at >= killed));
        // A viewer that never continues has waited until the end.
        let again = again.map_or(killed + AFTER, |(_, at)| *at);
        waits.push(again.saturating_duration_since(killed).as_secs_f64() * 1e3);
    }
    let again = viewers.iter().map(|viewer| viewer.lock().again).sum::<u64>();
    Ok((waits, [again as f64, missed as f64, failed]))
}

async fn play(address: &str, ca: &Path, name: &str, mut drain: Screen, viewer: &Viewer) -> anyhow::Result<FeedStats> {
    let authority = Authority::load(Some(ca.to_owned())).map_err(anyhow::Error::msg)?;
    let address: Address = address.parse().context("the master's address")?;
    let client = Client::new(address, authority, Options { zone: "east".to_owned(), ..Options::default() })?;
    let title = Title::parse(name).context("a title")?;
    let observer = |sight: &FeedEvent| {
        if let FeedEvent::Seated { node, .. } = sight {
            viewer.lock().nodes.push(node.to_string());
        }
    };
    Ok(client.play(&title, StartAt::LastWhole, LATENCY, &mut drain, &observer).await?)
}

/// A viewer.
#[derive(Default)]
struct Viewer(Mutex<SeenPictures>);

/// Pictures that one viewer received.
#[derive(Default)]
struct SeenPictures {
    /// Whole pictures, and when they were.
    pictures: Vec<(usize, Instant)>,
    again: u64,
    nodes: Vec<String>,
}

impl Viewer {
    fn lock(&self) -> MutexGuard<'_, SeenPictures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The feed that one viewer watches.
struct Screen {
    eye: PictureReader,
    viewer: Arc<Viewer>,
}

impl FeedSink for Screen {
    async fn write(&mut self, media: Vec<Bytes>) -> Result<(), Fault> {
        let now = Instant::now();
        let mut seen = self.viewer.lock();
        for media in &media {
            let looked = self.eye.see(media, |picture| seen.pictures.push((picture, now)));
            looked.map_err(|error| Fault::new(usher_proto::Code::Internal, format!("{error:#}")))?;
        }
        seen.again = self.eye.again();
        Ok(())
    }
}
