//! The connections of a process to nodes: one per node, shared by its sessions, one stream per session. Trust is by the
//! pins of a seat alone.

use std::{
    collections::HashMap,
    fmt::Display,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use quinn::{ConnectionError, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::{runtime::Handle, sync::mpsc, task::AbortHandle};
use usher_certs::pin;
use usher_proto::{
    Code, Fault, NodeName,
    buffers::Buffers,
    model::SeatAddress,
    pb::wire::{Open, Renew},
    tree::GROUP,
    wire::{self, Decoder, Frame, Kind},
};
use usher_transport::{Connection, Endpoint, SendStream};

use crate::{
    batch::{Batch, BatchReader, ReadTimeouts},
    clock,
    core::stall::Expectation,
    dial::{ConnectionSettings, Dialer},
    early::{KnownNode, Opened, Request, redial},
    fault::connection_lost,
    feed::{FeedSession, Forwarder, SessionEvent},
    frames::{FrameReader, RateLimit},
    router::GroupRouter,
    sync::lock,
};

/// How long a node may take to answer to a new ticket.
const RENEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Unused buffers of groups that are kept: two sessions' worth of groups on their way to a disk.
const BUFFERS: usize = 64;

/// Groups that a node may send at once on one connection.
const GROUP_STREAMS: u32 = 32;

/// Groups kept of sessions that are not known yet.
const PARKED_GROUPS: usize = 16;

/// A node's connection, dialled by one caller at a time.
type SharedNode = Arc<tokio::sync::Mutex<Node>>;

/// The connections of a process. They close when the pool and their last session are dropped.
pub struct Pool {
    dialer: Dialer,
    buffers: Buffers,
    /// By the name of the cluster, and the node's name there.
    nodes: Mutex<HashMap<(String, NodeName), SharedNode>>,
    /// The routers of the feeds' groups, by connection.
    routers: Mutex<HashMap<usize, GroupRouter>>,
}

/// One node's connection, dialled by one session at a time while the others wait for it.
#[derive(Default)]
struct Node {
    live: Option<(Connection, [u8; 32])>,
    /// The last connection's outcome: enough to dial again without a round trip.
    known: Option<KnownNode>,
    /// When the last dial failed, and why: sessions that waited for it do not try again.
    failed: Option<(Instant, Fault)>,
}

/// A task that reads a stream, ended on drop.
pub struct ReaderTask(AbortHandle);

impl Drop for ReaderTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pool {
    /// A pool without connections, which live on a media thread of its own.
    pub fn new(settings: ConnectionSettings) -> Self {
        Self::with(Dialer::new(settings))
    }

    /// A pool without connections, which live in the present runtime.
    pub fn in_runtime(settings: ConnectionSettings) -> Self {
        Self::with(Dialer::in_runtime(settings, Handle::current(), None))
    }

    /// A pool whose IPv4 connections share `endpoint`, which lives in the present runtime.
    pub fn over(settings: ConnectionSettings, endpoint: Endpoint) -> Self {
        Self::with(Dialer::in_runtime(settings, Handle::current(), Some(endpoint)))
    }

    fn with(dialer: Dialer) -> Self {
        let buffers = Buffers::new(GROUP as usize, BUFFERS);
        Self { dialer, buffers, nodes: Mutex::default(), routers: Mutex::default() }
    }

    /// Dials a seat unless it is connected: a session there then takes one round trip.
    ///
    /// # Errors
    /// `NETWORK` when no address answers, `TICKET_INVALID` when another node answers.
    pub async fn connect(&self, cluster: &impl Display, seat: &SeatAddress) -> Result<(), Fault> {
        self.connection(cluster, seat, None).await.map(drop)
    }

    /// Opens a session at a seat of `cluster`: dials or shares a connection, and sends `open`. Returns this side of the
    /// stream where it stays open: where `open` says that more may follow, or asks for a feed.
    ///
    /// # Errors
    /// As [`Pool::connect`]; `BAD_REQUEST` for a ticket that is too long.
    pub async fn open(
        &self,
        cluster: &impl Display,
        seat: &SeatAddress,
        open: &Open,
        limit: Option<RateLimit>,
    ) -> Result<(FrameReader, Option<SendStream>), Fault> {
        let request = Request::new(open)?;
        let stays = request.stays;
        let (connection, opened) = self.connection(cluster, seat, Some(request.clone())).await?;
        let (send, recv) = match opened {
            Some(opened) => opened,
            None => request.send(&connection, seat).await?,
        };
        let decoder = Decoder::into_buffers(self.buffers.clone());
        let frames = FrameReader::new(seat.node.clone(), connection, recv, decoder, limit);
        Ok((frames, stays.then_some(send)))
    }

    /// Gathers the frames of a stream into batches, marked with the number `stream`, until the task is dropped.
    ///
    /// # Errors
    /// `INTERNAL` when the media thread does not start.
    pub fn read_batches(
        &self,
        frames: FrameReader,
        stream: u32,
        timeouts: ReadTimeouts,
        batches: mpsc::Sender<Batch>,
    ) -> Result<ReaderTask, Fault> {
        let reader = BatchReader::new(frames, timeouts).run(stream, batches);
        Ok(ReaderTask(self.dialer.handle()?.spawn(reader).abort_handle()))
    }

    /// Receives the feed of an open session: its set-up information named `subscription`.
    ///
    /// # Errors
    /// `INTERNAL` when the media thread does not start.
    pub fn feed(
        self: &Arc<Self>,
        frames: FrameReader,
        send: SendStream,
        subscription: u64,
        expected: Expectation,
    ) -> Result<FeedSession, Fault> {
        let connection = frames.connection().clone();
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(GROUP_STREAMS));
        let runtime = self.dialer.handle()?;
        let mut routers = lock(&self.routers);
        let router = routers.entry(connection.stable_id()).or_insert_with(|| {
            let router = GroupRouter::new(PARKED_GROUPS);
            let (pool, accepting) = (Arc::clone(self), router.clone());
            runtime.spawn(async move {
                accepting.accept(&connection).await;
                lock(&pool.routers).remove(&connection.stable_id());
            });
            router
        });
        let groups = router.register(subscription, GROUP_STREAMS as usize);
        let _in_runtime = runtime.enter();
        Ok(FeedSession::new(frames, send, groups, expected))
    }

    /// Sends the events of a feed's session into a channel, marked with the number `session`, until the task is dropped.
    ///
    /// # Errors
    /// As [`Pool::feed`].
    pub fn read_feed(
        self: &Arc<Self>,
        frames: FrameReader,
        send: SendStream,
        subscription: u64,
        session: u64,
        events: mpsc::Sender<SessionEvent>,
    ) -> Result<ReaderTask, Fault> {
        let feed = self.feed(frames, send, subscription, Expectation::feed())?;
        let forward = Forwarder { session, events }.run(feed);
        Ok(ReaderTask(self.dialer.handle()?.spawn(forward).abort_handle()))
    }

    /// Shares a connection no more, because it seems to be dead: the next session at that node dials. Sessions on it keep
    /// it.
    pub fn retire(&self, cluster: &impl Display, node: &NodeName, connection: &Connection) {
        let slot = lock(&self.nodes).get(&(cluster.to_string(), node.clone())).cloned();
        let Some(slot) = slot else { return };
        // While it is locked, it is being dialled already.
        let Ok(mut slot) = slot.try_lock() else { return };
        if slot.live.as_ref().is_some_and(|(live, _)| live.stable_id() == connection.stable_id()) {
            slot.live = None;
        }
    }

    /// Closes every connection, and gives the nodes a moment to acknowledge that.
    pub async fn close(&self) {
        self.dialer.close().await;
    }

    /// A connection; and the stream, where `request` went ahead of the handshake.
    async fn connection(
        &self,
        cluster: &impl Display,
        seat: &SeatAddress,
        request: Option<Request>,
    ) -> Result<(Connection, Option<Opened>), Fault> {
        let began = clock::now();
        let node = Arc::clone(lock(&self.nodes).entry((cluster.to_string(), seat.node.clone())).or_default());
        let mut node = node.lock().await;
        if let Some((connection, certificate)) = &node.live
            && connection.close_reason().is_none()
            && seat.pins.contains(certificate)
        {
            return Ok((connection.clone(), None));
        }
        if let Some((at, fault)) = &node.failed
            && *at >= began
        {
            return Err(fault.clone());
        }
        if let Some(known) = node.known.take()
            && let Some((connection, opened)) = redial(&self.dialer, seat, &known, request).await
        {
            node.live = Some((connection.clone(), known.certificate));
            node.known = Some(known);
            return Ok((connection, opened));
        }
        let config = self.dialer.config(seat)?;
        match self.dialer.dial(seat, &config).await {
            Ok(connection) => {
                let shown = connection.peer_identity().and_then(|id| id.downcast::<Vec<CertificateDer<'_>>>().ok());
                let certificate = shown.and_then(|certs| certs.first().map(|der| pin::sha256(der))).unwrap_or_default();
                let address = connection.remote_address();
                tracing::debug!(node = %seat.node, %address, "node connected");
                let known = Some(KnownNode { address, certificate, config });
                *node = Node { live: Some((connection.clone(), certificate)), known, failed: None };
                Ok((connection, None))
            }
            Err(fault) => {
                *node = Node { live: None, known: None, failed: Some((clock::now(), fault.clone())) };
                Err(fault)
            }
        }
    }
}

/// Renews the ticket of a session. Returns the time for which the session may continue.
///
/// # Errors
/// The node's refusal, or the connection's failure.
pub async fn renew(connection: &Connection, node: &NodeName, ticket: String) -> Result<Duration, Fault> {
    let fault = |what: &str| Fault::new(Code::Internal, format!("node {node}: {what}"));
    let frame = wire::message(Kind::Renew, &Renew { ticket });
    let frame = frame.ok_or_else(|| fault("the new ticket is longer than usher/1 allows"))?;
    let lost = |error: ConnectionError| connection_lost(node, &error);
    let (mut send, recv) = connection.open_bi().await.map_err(lost)?;
    if send.write_chunk(frame).await.is_err() || send.finish().is_err() {
        return Err(fault("the stream of the new ticket was stopped"));
    }
    let mut answer = FrameReader::new(node.clone(), connection.clone(), recv, Decoder::default(), None);
    match answer.next(RENEW_TIMEOUT).await? {
        Some(Frame::Renewed(renewed)) => Ok(Duration::from_secs(renewed.lifetime_s)),
        Some(Frame::Refused(no)) => Err(Fault::from(&no)),
        _ => Err(fault("the answer to the new ticket is not usher/1")),
    }
}
