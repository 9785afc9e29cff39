//! A cheap viewer of a feed inside this process: it asks the master, watches on its own connection, reads and counts. It does
//! not verify; the cases that check the media do.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use quinn::{RecvStream, TransportConfig, VarInt};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tonic::transport::Channel;
use usher_proto::{
    pb::{
        v1::tickets_client::TicketsClient,
        wire::{FeedStart, Open},
    },
    wire::{self, Decoder, Frame, Kind},
};

use super::cluster::{TestCluster, title};
use crate::peers::viewer::{endpoint, seat, tickets, trust};

/// Viewers that join at once.
const JOINS_AT_ONCE: usize = 16;

/// How far a viewer may fall behind before groups are dropped: as `usher play` requests.
const LATENCY: Duration = Duration::from_secs(10);

/// Receive window of a slow viewer, in bytes: less than its node would wait for.
const SLOW_WINDOW: u32 = 256 * 1024;

/// Media that one viewer received.
#[derive(Default)]
pub(crate) struct ViewerLog {
    /// Media.
    pub(crate) bytes: AtomicU64,
    groups: Mutex<Groups>,
    /// Media has come, or the viewer has gone.
    begun: Notify,
}

/// Groups by their numbers.
#[derive(Clone, Default)]
pub(crate) struct Groups {
    /// Complete.
    pub(crate) whole: BTreeSet<u64>,
    /// Incomplete.
    pub(crate) broken: BTreeSet<u64>,
    /// Dropped by the node, as it announced.
    pub(crate) skipped: u64,
}

impl Groups {
    /// Number of groups that are not complete.
    pub(crate) fn lost(&self) -> u64 {
        self.broken.len() as u64 + self.skipped
    }
}

impl ViewerLog {
    pub(crate) fn groups(&self) -> Groups {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Viewers with a seat.
pub(crate) struct Audience {
    pub(crate) seen: Vec<Arc<ViewerLog>>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Audience {
    /// Seats viewers until each has media.
    pub(crate) async fn seat(cluster: &TestCluster, name: &str, viewers: usize) -> anyhow::Result<Self> {
        let mut audience = Self { seen: Vec::new(), tasks: JoinSet::new() };
        let (tickets, permits) =
            (tickets(&cluster.address, &cluster.ca()).await?, Arc::new(Semaphore::new(JOINS_AT_ONCE)));
        for _ in 0..viewers {
            let permits = Arc::clone(&permits);
            audience.add(tickets.clone(), name, None, Some(permits));
        }
        for seen in audience.seen.clone() {
            tokio::select! {
                () = seen.begun.notified() => {}
                Some(left) = audience.tasks.join_next() => left.context("a viewer's task")?.context("a viewer left")?,
            }
        }
        Ok(audience)
    }

    /// Adds a viewer that reads no more than `rate` bits per second.
    pub(crate) async fn add_slow(
        &mut self,
        cluster: &TestCluster,
        name: &str,
        rate: u64,
    ) -> anyhow::Result<Arc<ViewerLog>> {
        let seen = self.add(tickets(&cluster.address, &cluster.ca()).await?, name, Some(rate), None);
        seen.begun.notified().await;
        Ok(seen)
    }

    fn add(
        &mut self,
        tickets: TicketsClient<Channel>,
        name: &str,
        rate: Option<u64>,
        permits: Option<Arc<Semaphore>>,
    ) -> Arc<ViewerLog> {
        let (seen, title) = (Arc::<ViewerLog>::default(), title(name));
        self.seen.push(Arc::clone(&seen));
        let viewer = Arc::clone(&seen);
        self.tasks.spawn(async move {
            let permit = match permits {
                Some(permits) => Some(permits.acquire_owned().await.context("a permit to join")?),
                None => None,
            };
            watch(tickets, &title, rate, viewer, permit).await
        });
        seen
    }

    /// Media that all viewers have received, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.seen.iter().map(|seen| seen.bytes.load(Relaxed)).sum()
    }

    /// Fails when a viewer's session has ended.
    pub(crate) fn is_whole(&mut self) -> anyhow::Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(left) => left.context("a viewer's task")?.context("a viewer left"),
        }
    }
}

/// Watches until the session ends, which is an error: it ends when its task does.
async fn watch(
    mut tickets: TicketsClient<Channel>,
    title: &str,
    rate: Option<u64>,
    seen: Arc<ViewerLog>,
    permit: Option<impl Send>,
) -> anyhow::Result<()> {
    // Each has its own socket, as real viewers do.
    let endpoint = endpoint()?;
    let seat = seat(&mut tickets, title).await?;
    let mut transport = TransportConfig::default();
    if rate.is_some() {
        transport.receive_window(VarInt::from_u32(SLOW_WINDOW));
    }
    let address = *seat.addresses.iter().find(|address| address.ip().is_loopback()).context("a loopback address")?;
    let connecting = endpoint.connect_with(trust(seat.pins.clone(), transport)?, address, "node.usher")?;
    let connection = connecting.await.context("dial a node")?;
    let start = FeedStart { latency_ms: u64::try_from(LATENCY.as_millis())?, ..FeedStart::default() };
    let open = Open { ticket: seat.ticket.clone(), watch: Some(start), ..Open::default() };
    let (mut send, control) = connection.open_bi().await.context("open a stream")?;
    send.write_chunk(wire::message(Kind::Open, &open).context("a short ticket")?).await.context("send a ticket")?;
    let (throttle, mut streams) = (Arc::new(Throttle::new(rate)), JoinSet::new());
    let mut control = std::pin::pin!(read_control(control, &seen));
    let mut permit = permit;
    loop {
        tokio::select! {
            stream = connection.accept_uni() => {
                let (seen, throttle) = (Arc::clone(&seen), Arc::clone(&throttle));
                streams.spawn(read(stream.context("the connection was lost")?, seen, throttle));
                // It has its seat with the first group.
                permit = None;
            }
            Some(read) = streams.join_next(), if !streams.is_empty() => read.context("a stream's task")??,
            ended = &mut control => {
                drop((permit, send));
                return ended;
            }
        }
    }
}

/// Reads the session's own stream.
async fn read_control(mut stream: RecvStream, seen: &ViewerLog) -> anyhow::Result<()> {
    let mut decoder = Decoder::default();
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.context("read a session")? {
        decoder.push_chunk(chunk.bytes);
        while let Some(frame) = decoder.next_frame().context("read a frame")? {
            match frame {
                Frame::Setup(_) => {}
                Frame::Skipped(skipped) => seen.lock().skipped += skipped.end.saturating_sub(skipped.first),
                Frame::Refused(refused) => bail!("the node refused: {} {}", refused.reason, refused.message),
                other => bail!("the node sent {other:?}"),
            }
        }
    }
    bail!("the node ended a session")
}

/// Reads a group.
async fn read(mut stream: RecvStream, seen: Arc<ViewerLog>, throttle: Arc<Throttle>) -> anyhow::Result<()> {
    let (mut decoder, mut sequence, mut whole) = (Decoder::default(), None, false);
    // A stream that the node drops ends in an error.
    while let Ok(Some(chunk)) = stream.read_chunk(64 * 1024, true).await {
        let (before, len) = (seen.bytes.load(Relaxed), chunk.bytes.len());
        decoder.push_chunk(chunk.bytes);
        while let Some(frame) = decoder.next_frame().context("read a frame")? {
            match frame {
                Frame::FeedGroup(group) => sequence = Some(group.sequence),
                Frame::Piece(piece) => {
                    ensure!(sequence.is_some() && !whole, "a piece of no group");
                    seen.bytes.fetch_add(piece.media.len() as u64, Relaxed);
                    whole = piece.flags.last;
                }
                other => bail!("a group has {other:?}"),
            }
        }
        if before == 0 && seen.bytes.load(Relaxed) > 0 {
            seen.begun.notify_one();
        }
        throttle.took(len).await;
    }
    if let Some(sequence) = sequence {
        let mut groups = seen.lock();
        if whole {
            groups.whole.insert(sequence)
        } else {
            groups.broken.insert(sequence)
        };
    }
    Ok(())
}

/// Limits the rate of all streams of a viewer together.
struct Throttle {
    rate: Option<u64>,
    /// When the rate has covered the bytes taken so far.
    paid: tokio::sync::Mutex<Instant>,
}

impl Throttle {
    fn new(rate: Option<u64>) -> Self {
        Self { rate, paid: tokio::sync::Mutex::new(Instant::now()) }
    }

    async fn took(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        // Held while it waits: the streams take turns.
        let mut paid = self.paid.lock().await;
        *paid = (*paid).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        tokio::time::sleep_until((*paid).into()).await;
    }
}
