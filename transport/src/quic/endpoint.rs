//! An endpoint: a socket, the connections over it, and the driver that receives for them.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{SocketAddr, SocketAddrV6},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use quinn::{AsyncUdpSocket, udp::RecvMeta};
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionError, ConnectionHandle, EndpointConfig, ServerConfig, VarInt,
};
use tokio::{runtime::Handle, sync::Notify};
use tracing::{Instrument as _, error};

use super::{
    connection::Connecting,
    connection_inner::{ConnectionInner, Message},
    driver::ConnectionDriver,
    endpoint_inner::{EndpointInner, EndpointState},
    lock, wait_for,
    waker::DriverWaker,
};
use crate::clock::now;

/// Messages received in one system call, each of up to [`MESSAGE_BYTES`].
const BATCH: usize = 16;

/// System calls of one poll; then the runtime's connections get their turn.
const CALLS_PER_POLL: usize = 8;

/// Bytes of datagrams that the kernel may join into one message (generic receive offload).
const MESSAGE_BYTES: usize = 64 * 1024;

/// A socket and its connections. It outlives its last handle until its last connection has ended.
#[derive(Clone)]
pub struct Endpoint(Arc<EndpointRef>);

/// A reference that the handles hold, and the driver does not.
struct EndpointRef(Arc<EndpointInner>);

impl Drop for EndpointRef {
    fn drop(&mut self) {
        self.0.is_unreferenced.store(true, Ordering::SeqCst);
        self.0.waker.wake();
    }
}

/// Begins a connection and spawns its driver.
fn begin(
    endpoint: &Arc<EndpointInner>,
    mut state: MutexGuard<'_, EndpointState>,
    handle: ConnectionHandle,
    machine: quinn_proto::Connection,
) -> Connecting {
    let (connection, handshaken) = ConnectionInner::new(machine);
    if let Some((code, reason)) = &state.closing {
        connection.mailbox.post(Message::Close(*code, reason.clone()));
    }
    if state.is_lost {
        connection.mailbox.post(Message::Lost);
    }
    state.mailboxes.insert(handle, connection.mailbox.clone());
    // A runtime that has ended drops the driver at once, which takes the endpoint's lock.
    drop(state);
    let runtime = if endpoint.is_server { Handle::current() } else { endpoint.runtime.clone() };
    let _entered = runtime.enter();
    let driver = ConnectionDriver::new(connection.clone(), endpoint.clone(), handle);
    drop(runtime.spawn(driver.in_current_span()));
    Connecting::new(connection, handshaken)
}

impl Endpoint {
    /// Creates an endpoint over a socket that receives on `runtime`. Connections of a server are driven on the runtime that
    /// accepts them, those of a client on `runtime`.
    ///
    /// # Errors
    /// The socket has no local address.
    pub fn new(runtime: &Handle, socket: Arc<dyn AsyncUdpSocket>, server: Option<ServerConfig>) -> io::Result<Self> {
        let is_v6 = socket.local_addr()?.is_ipv6();
        let is_server = server.is_some();
        let config = EndpointConfig::default();
        let payload = usize::try_from(config.get_max_udp_payload_size()).unwrap_or(MESSAGE_BYTES);
        let size = if socket.max_receive_segments() > 1 { MESSAGE_BYTES } else { payload.min(MESSAGE_BYTES) };
        let machine = quinn_proto::Endpoint::new(Arc::new(config), server.map(Arc::new), !socket.may_fragment(), None);
        let state = EndpointState {
            machine,
            mailboxes: HashMap::new(),
            waiting: VecDeque::new(),
            closing: None,
            is_lost: false,
        };
        let inner = Arc::new(EndpointInner {
            socket,
            is_v6,
            runtime: runtime.clone(),
            is_server,
            state: Mutex::new(state),
            waker: DriverWaker::default(),
            is_unreferenced: AtomicBool::new(false),
            incoming: Notify::new(),
            idle: Notify::new(),
        });
        let driver = EndpointDriver { inner: inner.clone(), buffer: vec![0; size * BATCH].into() };
        drop(runtime.spawn(driver.in_current_span()));
        Ok(Self(Arc::new(EndpointRef(inner))))
    }

    fn inner(&self) -> &Arc<EndpointInner> {
        &self.0.0
    }

    /// Dials a peer. TLS verifies it by `name`, as the configuration says.
    ///
    /// # Errors
    /// The address, the name or the configuration is invalid, or the endpoint is closed.
    pub fn connect_with(&self, config: ClientConfig, to: SocketAddr, name: &str) -> Result<Connecting, ConnectError> {
        let inner = self.inner();
        let mut state = lock(&inner.state);
        if state.is_lost || state.closing.is_some() {
            return Err(ConnectError::EndpointStopping);
        }
        let address = match to {
            SocketAddr::V6(_) if !inner.is_v6 => return Err(ConnectError::InvalidRemoteAddress(to)),
            SocketAddr::V4(v4) if inner.is_v6 => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
            to => to,
        };
        let (handle, machine) = state.machine.connect(now(), config, address, name)?;
        Ok(begin(inner, state, handle, machine))
    }

    /// Waits for the next connection attempt; `None` when the endpoint is closed.
    pub async fn accept(&self) -> Option<Incoming> {
        let inner = self.inner();
        let next = || {
            let mut state = lock(&inner.state);
            let incoming = state.waiting.pop_front();
            (incoming.is_some() || state.is_lost || state.closing.is_some()).then_some(incoming)
        };
        let incoming = wait_for(&inner.incoming, next).await?;
        Some(Incoming { incoming: Some(incoming), inner: inner.clone() })
    }

    /// Closes every connection and refuses new ones.
    pub fn close(&self, code: VarInt, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        let mut state = lock(&self.inner().state);
        for mailbox in state.mailboxes.values() {
            mailbox.post(Message::Close(code, reason.clone()));
        }
        state.closing = Some((code, reason));
        drop(state);
        self.inner().incoming.notify_waiters();
    }

    /// Waits until every connection has ended and its peer was informed, or the time for that has passed.
    pub async fn wait_idle(&self) {
        let inner = self.inner();
        wait_for(&inner.idle, || lock(&inner.state).mailboxes.is_empty().then_some(())).await;
    }

    /// The bound address.
    ///
    /// # Errors
    /// The socket has no local address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner().socket.local_addr()
    }

    /// Number of connections that have not ended.
    pub fn open_connections(&self) -> usize {
        lock(&self.inner().state).machine.open_connections()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.inner().socket).finish()
    }
}

/// A connection attempt. Dropping it refuses the peer.
pub struct Incoming {
    /// `None` once it is decided.
    incoming: Option<quinn_proto::Incoming>,
    inner: Arc<EndpointInner>,
}

impl Incoming {
    fn get(&self) -> &quinn_proto::Incoming {
        self.incoming.as_ref().expect("only methods that consume it decide it")
    }

    /// Accepts the connection, which is driven on the current runtime.
    ///
    /// # Errors
    /// The peer's first packet is invalid.
    pub fn accept(mut self) -> Result<Connecting, ConnectionError> {
        let Some(incoming) = self.incoming.take() else { return Err(ConnectionError::LocallyClosed) };
        let mut state = lock(&self.inner.state);
        let mut answer = Vec::new();
        match state.machine.accept(incoming, now(), &mut answer, None) {
            Ok((handle, machine)) => Ok(begin(&self.inner, state, handle, machine)),
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.inner.respond(&transmit, &answer);
                }
                Err(error.cause)
            }
        }
    }

    /// Refuses the peer.
    pub fn refuse(self) {
        drop(self);
    }

    /// Asks the peer to prove its address first, or refuses it if it was asked before; see [`Self::may_retry`].
    pub fn retry(mut self) {
        let Some(incoming) = self.incoming.take() else { return };
        let mut answer = Vec::new();
        let retried = lock(&self.inner.state).machine.retry(incoming, &mut answer);
        match retried {
            Ok(transmit) => self.inner.respond(&transmit, &answer),
            Err(error) => self.incoming = Some(error.into_incoming()),
        }
    }

    /// Whether the peer may be asked to prove its address.
    pub fn may_retry(&self) -> bool {
        self.get().may_retry()
    }

    /// Whether the peer has proved its address.
    pub fn remote_address_validated(&self) -> bool {
        self.get().remote_address_validated()
    }

    /// The address that the peer claims.
    pub fn remote_address(&self) -> SocketAddr {
        self.get().remote_address()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            let mut answer = Vec::new();
            let transmit = lock(&self.inner.state).machine.refuse(incoming, &mut answer);
            self.inner.respond(&transmit, &answer);
        }
    }
}

/// The driver of an endpoint: receives and routes datagrams.
struct EndpointDriver {
    inner: Arc<EndpointInner>,
    buffer: Box<[u8]>,
}

impl EndpointDriver {
    /// Receives until nothing is left or the limit of a poll is reached; `true` in the latter case.
    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Self { inner, buffer } = self;
        let mut parts = buffer.chunks_exact_mut(buffer.len() / BATCH).map(IoSliceMut::new);
        let mut parts: [IoSliceMut<'_>; BATCH] = std::array::from_fn(|_| parts.next().expect("as many"));
        let mut metas = [RecvMeta::default(); BATCH];
        for _ in 0..CALLS_PER_POLL {
            let count = match inner.socket.poll_recv(cx, &mut parts, &mut metas) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(count)) => count,
                // An unauthenticated ICMP message about a datagram sent earlier.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Poll::Ready(Err(error)) => return Err(error),
            };
            let mut state = lock(&inner.state);
            for (meta, part) in metas.iter().zip(&parts).take(count) {
                inner.handle_datagrams(&mut state, meta, &part[..meta.len]);
            }
        }
        Ok(true)
    }
}

impl Future for EndpointDriver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.waker.register(cx);
        match self.receive(cx) {
            Ok(true) => cx.waker().wake_by_ref(),
            Ok(false) => {}
            Err(error) => {
                error!(%error, "QUIC socket failed; the endpoint is lost");
                return Poll::Ready(());
            }
        }
        if self.inner.is_unused() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for EndpointDriver {
    fn drop(&mut self) {
        let mut state = lock(&self.inner.state);
        state.is_lost = true;
        state.mailboxes.values().for_each(|mailbox| mailbox.post(Message::Lost));
        while let Some(incoming) = state.waiting.pop_front() {
            state.machine.ignore(incoming);
        }
        drop(state);
        self.inner.incoming.notify_waiters();
    }
}
