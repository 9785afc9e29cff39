//! Many viewers of one broadcast of a moq-relay in one process, each on a connection of its own: reads all of every group
//! of every track that the catalog names, throws it away and counts it. `usher-bench live` starts it and asks for its counts.
//!
//! `usher-bench-moq URL PIN BROADCAST VIEWERS`, where PIN is the SHA-256 of the relay's certificate in hex, prints `joined` once every viewer has had media of every track. To each
//! line on its standard input it then answers `BYTES GROUPS BROKEN`, so far and of all viewers together; it ends with its
//! input.

use std::{
    io::BufRead as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use moq_net::{broadcast, track};
use moq_tokio::Client;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

/// Viewers that come in at once.
const JOINS_AT_ONCE: usize = 16;

/// How late a group may be and is waited for all the same: nothing is to be thrown away that was paid for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Totals of all viewers.
#[derive(Default)]
struct Count {
    bytes: AtomicU64,
    groups: AtomicU64,
    broken: AtomicU64,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, pin, name, viewers] = &args[..] else { bail!("usage: usher-bench-moq URL PIN BROADCAST VIEWERS") };
    let (url, viewers): (url::Url, usize) = (url.parse().context("a URL")?, viewers.parse().context("a number")?);
    let mut config = moq_tokio::connect::Config::default();
    config.tls.fingerprint.push(pin.clone());
    config.once = Some(true);
    let (count, permits) = (Arc::<Count>::default(), Arc::new(Semaphore::new(JOINS_AT_ONCE)));
    let (ready, mut seated) = mpsc::channel(viewers.max(1));
    let mut all = JoinSet::new();
    for _ in 0..viewers {
        // As real ones do, each has a socket of its own.
        let client = config.clone().init(Default::default()).context("start QUIC")?;
        let (url, name) = (url.clone(), name.clone());
        let (count, permits, ready) = (Arc::clone(&count), Arc::clone(&permits), ready.clone());
        all.spawn(async move {
            let permit = permits.acquire_owned().await.context("a permit to join")?;
            watch(client, url, &name, &count, async move || {
                drop(permit);
                ready.send(()).await.context("tell that a viewer is seated")
            })
            .await
        });
    }
    for _ in 0..viewers {
        tokio::select! {
            one = seated.recv() => one.context("a viewer is seated")?,
            Some(left) = all.join_next() => left.context("a viewer's task")?.context("a viewer left early")?,
        }
    }
    println!("joined");
    let (asked, mut questions) = mpsc::channel(1);
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            if asked.blocking_send(()).is_err() {
                return;
            }
        }
    });
    loop {
        tokio::select! {
            question = questions.recv() => match question {
                Some(()) => println!("{} {} {}", count.bytes.load(Relaxed), count.groups.load(Relaxed), count.broken.load(Relaxed)),
                None => return Ok(()),
            },
            Some(left) = all.join_next() => left.context("a viewer's task")?.context("a viewer left")?,
        }
    }
}

/// Watches until the connection is lost; `seated` is notified when media of every track has come.
async fn watch(
    client: Client,
    url: url::Url,
    name: &str,
    count: &Arc<Count>,
    seated: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let origin = moq_tokio::origin::spawn();
    let connection = client.with_subscriber(origin.clone()).connect(url);
    let broadcast = tokio::select! {
        routed = async { origin.consume().routed_broadcast(name).await } => routed.context("find the broadcast")?,
        lost = connection.closed() => bail!("the connection was lost: {lost:?}"),
    };
    let tracks = catalog(&broadcast).await.context("read the catalog")?;
    let (first, mut begun) = mpsc::channel(tracks.len());
    let mut reading = JoinSet::new();
    for track in &tracks {
        let wanted = track::Subscription::default().with_max_age(PATIENCE);
        let track = broadcast.track(track.as_str())?.subscribe(wanted).await.context("subscribe to a track")?;
        reading.spawn(read(track, Arc::clone(count), first.clone()));
    }
    for _ in &tracks {
        tokio::select! {
            one = begun.recv() => one.context("media of a track")?,
            Some(left) = reading.join_next() => left.context("a track's task")?.context("a track ended early")?,
        }
    }
    seated().await?;
    tokio::select! {
        lost = connection.closed() => bail!("the connection was lost: {lost:?}"),
        Some(left) = reading.join_next() => left.context("a track's task")?,
    }
}

/// The names of the media tracks.
async fn catalog(broadcast: &broadcast::Consumer) -> anyhow::Result<Vec<String>> {
    let mut track = broadcast.track("catalog.json")?.subscribe(None).await?;
    loop {
        let mut group = track.recv_group().await?.context("a catalog")?;
        let Some(frame) = group.read_frame().await? else { continue };
        let text: serde_json::Value = serde_json::from_slice(&frame.payload).context("JSON")?;
        let of = |kind: &str| {
            let tracks = text[kind]["renditions"].as_object();
            tracks.map(|tracks| tracks.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        let (video, audio) = (of("video"), of("audio"));
        // It may be said before all tracks are known.
        if !video.is_empty() && !audio.is_empty() {
            return Ok([video, audio].concat());
        }
    }
}

/// Reads all groups of a track, each to its end.
async fn read(mut track: track::Subscriber, count: Arc<Count>, first: mpsc::Sender<()>) -> anyhow::Result<()> {
    let mut first = Some(first);
    let mut groups = JoinSet::new();
    loop {
        let mut group = tokio::select! {
            group = track.recv_group() => group.context("the next group")?.context("the track ended")?,
            Some(_) = groups.join_next(), if !groups.is_empty() => continue,
        };
        let (count, first) = (Arc::clone(&count), first.take());
        groups.spawn(async move {
            let mut first = first;
            loop {
                match group.read_frame().await {
                    Ok(Some(frame)) => {
                        count.bytes.fetch_add(frame.payload.len() as u64, Relaxed);
                        if let Some(first) = first.take() {
                            // The caller may have left.
                            first.send(()).await.ok();
                        }
                    }
                    Ok(None) => {
                        count.groups.fetch_add(1, Relaxed);
                        return;
                    }
                    Err(_) => {
                        count.broken.fetch_add(1, Relaxed);
                        return;
                    }
                }
            }
        });
    }
}
