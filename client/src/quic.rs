//! QUIC to the nodes: one endpoint a process and address family, one connection a node, one stream a session.
//!
//! Trust is by the pins of a seat alone. Refuses to know what the frames mean.

mod comeback;
mod feed;
mod incoming;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use quinn::{
    ClientConfig, ConnectionError, IdleTimeout, TransportConfig, TransportErrorCode, VarInt,
    crypto::rustls::QuicClientConfig,
};
use rustls::pki_types::CertificateDer;
use tokio::{runtime::Handle, sync::mpsc, task::AbortHandle};
use usher_certs::{pin, tls};
use usher_proto::{
    Code, Fault, NodeName,
    buffers::Buffers,
    model::SeatAddress,
    pb::wire::{Open, Renew},
    tree::GROUP,
    wire::{self, Decoder, Frame, Kind},
};
pub use usher_transport::Congestion;
use usher_transport::{Connection, Endpoint, FIRST_GUESS, SendStream, Threads};

use self::comeback::{Begun, Known, stays};
pub(crate) use self::feed::{Heard, News};
pub(crate) use self::incoming::{Alarm, Batch, Due, Incoming, Patience};
use crate::{
    clock,
    core::{limit::Limit, table::clean, url::Address, vigil::KEEP_ALIVE},
};

/// Between the starts of dials to a node's addresses (RFC 8305, section 5: "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);

/// How long a node may take to answer a dial: lost first packets are sent again after 0.3 s, 0.9 s and 2.1 s.
const DIAL: Duration = Duration::from_secs(5);

/// A connection on which nothing was heard for so long is gone, though all that ran on it may have gone on elsewhere.
const IDLE: Duration = Duration::from_secs(8);

/// How long a node may take to answer to a new ticket.
const RENEWAL: Duration = Duration::from_secs(5);

/// Bytes that one stream may have in flight or unread: 1.3 Gbit/s at 12 ms, and what a stalled stream costs in memory.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// Bytes of all streams that may be handed to a connection and not acknowledged: 80 Mbit/s at 100 ms. What is more waits
/// where the newest group still overtakes it.
const SEND_WINDOW: u64 = 1 << 20;

/// Buffers of groups that are kept for use again: two sessions' worth of what is on its way to a disk.
const BUFFERS: usize = 64;

/// Batches that wait for the one who takes them, besides the one that is gathered.
pub(crate) const WAITING: usize = 1;

/// TLS asks for a name even where pins decide; nodes ignore it.
const SERVER_NAME: &str = "node.usher";

/// What TLS calls a certificate that this side does not take (RFC 8446, section 6.2: `certificate_unknown`).
const UNPINNED: u8 = 46;

/// A rate limit that streams share.
pub(crate) type Throttle = Arc<Mutex<Limit>>;

/// A node as one master names it.
type Key = (Address, NodeName);

/// The connections of a process.
pub(crate) struct Pool {
    congestion: Congestion,
    buffers: Buffers,
    endpoints: Mutex<Endpoints>,
    nodes: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<Slot>>>>,
    /// Where the groups of feeds go, by connection.
    routes: feed::Routes,
}

/// What runs on the media thread, which starts with the first of it: sockets are read, packets decrypted and streams
/// gathered there, so that no packet is handed from core to core before its bytes are together.
#[derive(Default)]
struct Endpoints {
    thread: Option<Threads>,
    /// Where all of that runs instead, under a clock that is paused.
    #[cfg(test)]
    home: Option<Handle>,
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
}

/// One node's connection, dialled by one session at a time while the others wait for it.
#[derive(Default)]
struct Slot {
    live: Option<(Connection, [u8; 32])>,
    /// What came of the last connection that was made: enough to come back without a round trip.
    known: Option<Known>,
    /// When the last dial failed, and why: those that waited for it need not try again.
    failed: Option<(Instant, Fault)>,
}

/// Ends the task that reads a stream when it is dropped.
pub(crate) struct Reader(AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pool {
    /// No connections yet.
    pub(crate) fn new(congestion: Congestion) -> Self {
        Self {
            congestion,
            buffers: Buffers::new(GROUP as usize, BUFFERS),
            endpoints: Mutex::default(),
            nodes: Mutex::default(),
            routes: feed::Routes::default(),
        }
    }

    /// The connections of this endpoint, which lives in the present runtime.
    #[cfg(test)]
    pub(crate) fn on(endpoint: Endpoint) -> Self {
        let pool = Self::new(Congestion::default());
        let endpoints = Endpoints { home: Some(Handle::current()), v4: Some(endpoint), ..Endpoints::default() };
        *lock(&pool.endpoints) = endpoints;
        pool
    }

    /// Gathers the rest of a stream into batches, marked with the number of the stream, until the reader is dropped.
    pub(crate) fn gather(
        &self,
        incoming: Incoming,
        stream: u32,
        patience: Patience,
        batches: mpsc::Sender<Batch>,
    ) -> Result<Reader, Fault> {
        let mut endpoints = lock(&self.endpoints);
        let thread =
            endpoints.thread().map_err(|error| Fault::new(Code::Internal, format!("start a thread: {error}")))?;
        Ok(Reader(thread.spawn(incoming.gather(stream, patience, batches)).abort_handle()))
    }

    /// Dials a seat, or finds that it was dialled: then a session there takes one round trip.
    pub(crate) async fn reach(&self, master: &Address, seat: &SeatAddress) -> Result<(), Fault> {
        self.connection(master, seat, None).await.map(drop)
    }

    /// Opens a session at a seat that `master` named: dials or shares a connection, sends `open`. Where more may follow, as
    /// `open` says, our side of the stream stays open and comes along.
    pub(crate) async fn open(
        &self,
        master: &Address,
        seat: &SeatAddress,
        open: &Open,
        throttle: Option<Throttle>,
    ) -> Result<(Incoming, Option<SendStream>), Fault> {
        let request = wire::message(Kind::Open, open)
            .ok_or_else(|| Fault::new(Code::BadRequest, "the ticket is longer than usher/1 allows"))?;
        let (connection, begun) = self.connection(master, seat, Some((request.clone(), stays(open)))).await?;
        let (send, recv) = match begun {
            Some(begun) => begun,
            None => comeback::begin(&connection, seat, request, stays(open)).await?,
        };
        let decoder = Decoder::into_buffers(self.buffers.clone());
        let incoming = Incoming::new(seat.node.clone(), connection, recv, decoder, throttle);
        Ok((incoming, stays(open).then_some(send)))
    }

    /// The connection seems to be dead: who opens a session at that node next dials it anew. Sessions that have it keep
    /// it.
    pub(crate) fn doubt(&self, master: &Address, node: &NodeName, connection: &Connection) {
        let slot = lock(&self.nodes).get(&(master.clone(), node.clone())).cloned();
        let Some(slot) = slot else { return };
        // While it is locked, it is being dialled already.
        let Ok(mut slot) = slot.try_lock() else { return };
        if slot.live.as_ref().is_some_and(|(live, _)| live.stable_id() == connection.stable_id()) {
            slot.live = None;
        }
    }

    /// Says goodbye to every node.
    pub(crate) async fn close(&self) {
        let endpoints = std::mem::take(&mut *lock(&self.endpoints));
        // The thread ends with this function, after the last goodbye.
        for endpoint in [&endpoints.v4, &endpoints.v6].into_iter().flatten() {
            endpoint.close(VarInt::from_u32(Code::Cancelled.quic()), b"done");
            // Waiting is a courtesy to the nodes: without it they would notice by their idle timeout.
            if tokio::time::timeout(Duration::from_millis(300), endpoint.wait_idle()).await.is_err() {
                tracing::debug!("a node did not acknowledge the end of its connection");
            }
        }
    }

    /// A connection; and the stream, where `open` went ahead of the handshake.
    async fn connection(
        &self,
        master: &Address,
        seat: &SeatAddress,
        open: Option<(Bytes, bool)>,
    ) -> Result<(Connection, Option<Begun>), Fault> {
        let asked = clock::now();
        let slot = Arc::clone(lock(&self.nodes).entry((master.clone(), seat.node.clone())).or_default());
        let mut slot = slot.lock().await;
        if let Some((connection, certificate)) = &slot.live
            && connection.close_reason().is_none()
            && seat.pins.contains(certificate)
        {
            return Ok((connection.clone(), None));
        }
        if let Some((at, fault)) = &slot.failed
            && *at >= asked
        {
            return Err(fault.clone());
        }
        if let Some(known) = slot.known.take()
            && let Some((connection, begun)) = self.come_back(seat, &known, open).await
        {
            slot.live = Some((connection.clone(), known.certificate));
            slot.known = Some(known);
            return Ok((connection, begun));
        }
        let config = client_config(seat, self.congestion)?;
        match tokio::time::timeout(DIAL, self.dial(seat, &config)).await {
            Ok(Ok(connection)) => {
                let shown = connection.peer_identity().and_then(|id| id.downcast::<Vec<CertificateDer<'_>>>().ok());
                let certificate = shown.and_then(|certs| certs.first().map(|der| pin::sha256(der))).unwrap_or_default();
                let address = connection.remote_address();
                tracing::debug!(node = %seat.node, %address, "connected");
                let known = Some(Known { address, certificate, config });
                *slot = Slot { live: Some((connection.clone(), certificate)), known, failed: None };
                Ok((connection, None))
            }
            other => {
                let fault = match other {
                    Ok(Err(fault)) => fault,
                    _ => Fault::new(Code::Network, format!("node {} does not answer at {}", seat.node, listed(seat))),
                };
                *slot = Slot { live: None, known: None, failed: Some((clock::now(), fault.clone())) };
                Err(fault)
            }
        }
    }

    /// Dials the addresses one after the other, without waiting for one to fail before the next is tried.
    async fn dial(&self, seat: &SeatAddress, config: &ClientConfig) -> Result<Connection, Fault> {
        let mut addresses = seat.addresses.iter().peekable();
        let mut tries = FuturesUnordered::new();
        let mut last = Fault::new(Code::Network, format!("node {} has no address", seat.node));
        loop {
            match addresses.next() {
                Some(address) => tries.push(self.dial_one(seat, *address, config.clone())),
                None if tries.is_empty() => return Err(last),
                None => {}
            }
            let more = addresses.peek().is_some();
            tokio::select! {
                Some(result) = tries.next() => match result {
                    Ok(connection) => return Ok(connection),
                    Err(fault) => last = fault,
                },
                () = tokio::time::sleep(STAGGER), if more => {}
            }
        }
    }

    async fn dial_one(
        &self,
        seat: &SeatAddress,
        address: SocketAddr,
        config: ClientConfig,
    ) -> Result<Connection, Fault> {
        let fault = |error: &dyn std::fmt::Display| {
            Fault::new(Code::Network, format!("dial node {} at {address}: {error}", seat.node))
        };
        let endpoint = self.endpoint(address).map_err(|error| fault(&error))?;
        let connecting = endpoint.connect_with(config, address, SERVER_NAME).map_err(|error| fault(&error))?;
        connecting.await.map_err(|error| match &error {
            // The seat is of an earlier start of the node, or somebody else answers there.
            ConnectionError::TransportError(told) if told.code == TransportErrorCode::crypto(UNPINNED) => {
                Fault { code: Code::TicketInvalid, ..fault(&clean(&error.to_string())) }
            }
            _ => fault(&clean(&error.to_string())),
        })
    }

    fn endpoint(&self, address: SocketAddr) -> std::io::Result<Endpoint> {
        let mut endpoints = lock(&self.endpoints);
        if let Some(endpoint) = endpoints.of(address) {
            return Ok(endpoint.clone());
        }
        let endpoint = usher_transport::endpoint_towards(address, endpoints.thread()?)?;
        Ok(endpoints.of(address).insert(endpoint).clone())
    }
}

impl Endpoints {
    fn of(&mut self, address: SocketAddr) -> &mut Option<Endpoint> {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    fn thread(&mut self) -> std::io::Result<&Handle> {
        #[cfg(test)]
        if let Some(home) = &self.home {
            return Ok(home);
        }
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => Threads::start(1)?,
        };
        Ok(self.thread.insert(thread).handle(0))
    }
}

/// Lets a session at a seat run on under a new ticket; answers for how long.
///
/// # Errors
/// The node's refusal, or what became of the connection.
pub(crate) async fn renew(connection: &Connection, node: &NodeName, ticket: String) -> Result<Duration, Fault> {
    let fault = |what: &str| Fault::new(Code::Internal, format!("node {node}: {what}"));
    let frame = wire::message(Kind::Renew, &Renew { ticket });
    let frame = frame.ok_or_else(|| fault("the new ticket is longer than usher/1 allows"))?;
    let lost = |error: ConnectionError| connection_fault(node, &error);
    let (mut send, recv) = connection.open_bi().await.map_err(lost)?;
    if send.write_chunk(frame).await.is_err() || send.finish().is_err() {
        return Err(fault("takes no new ticket"));
    }
    let mut answer = Incoming::new(node.clone(), connection.clone(), recv, Decoder::default(), None);
    match answer.next(RENEWAL).await? {
        Some(Frame::Renewed(renewed)) => Ok(Duration::from_secs(renewed.lifetime_s)),
        Some(Frame::Refused(no)) => Err(Fault::from_parts(&no.reason, &clean(&no.message), no.retry_after_ms)),
        _ => Err(fault("does not answer to a new ticket as usher/1 says")),
    }
}

/// Each lock is held for a look-up only, so a panic elsewhere cannot have left it half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn client_config(seat: &SeatAddress, congestion: Congestion) -> Result<ClientConfig, Fault> {
    let fault = |error: &dyn std::fmt::Display| Fault::new(Code::Internal, format!("prepare TLS: {error}"));
    let tls = tls::media_client_config(pin::PinnedVerifier::new(seat.pins.clone())).map_err(|e| fault(&e))?;
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(|e| fault(&e))?));
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .initial_rtt(FIRST_GUESS)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        // Each stream has its own bound; a shared one would let stalled streams hold up the others.
        .receive_window(VarInt::MAX)
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(congestion.factory())
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// What is said of a node that says nothing.
pub(crate) fn silent(node: &NodeName, patience: Duration) -> Fault {
    Fault::new(Code::Timeout, format!("node {node} sent nothing for {} s", patience.as_secs_f32()))
}

fn listed(seat: &SeatAddress) -> String {
    seat.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn connection_fault(node: &NodeName, error: &ConnectionError) -> Fault {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = Code::from_quic(close.error_code.into_inner());
            let said = clean(&String::from_utf8_lossy(&close.reason));
            Fault::new(code, format!("node {node} closed the connection: {} {said}", code.reason()))
        }
        _ => Fault::new(Code::Network, format!("connection to node {node}: {}", clean(&error.to_string()))),
    }
}
