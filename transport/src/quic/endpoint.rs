//! An endpoint: a socket, and the connections over it.

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

use bytes::{Bytes, BytesMut};
use quinn::{AsyncUdpSocket, udp::RecvMeta};
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionError, ConnectionHandle, DatagramEvent, EcnCodepoint, EndpointConfig,
    EndpointEvent, ServerConfig, Transmit, VarInt,
};
use tokio::{runtime::Handle, sync::Notify};
use tracing::{Instrument as _, error};

use super::{
    bell::Bell,
    connection::{Connecting, Link, Mail, Mailbox},
    driver::{Driver, try_send},
    lock, now, until,
};

/// What the kernel gives at once: one call's datagrams for each of these.
const BATCH: usize = 16;

/// Calls of one turn: then the connections have theirs.
const CALLS: usize = 8;

/// Bytes of the datagrams that the kernel may join (generic receive offload).
const JOINED: usize = 64 * 1024;

/// A socket and its connections. Without handles it lives on until its last connection is over.
#[derive(Clone)]
pub struct Endpoint(Arc<Held>);

/// Held by the handles, but not by the driver.
struct Held(Arc<Hub>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.unheld.store(true, Ordering::SeqCst);
        self.0.bell.ring();
    }
}

/// What the driver of an endpoint shares with its handles and connections.
pub(super) struct Hub {
    socket: Arc<dyn AsyncUdpSocket>,
    v6: bool,
    /// Where connections are moved, and who receives.
    home: Handle,
    /// Connections are moved where they are accepted.
    roams: bool,
    state: Mutex<State>,
    bell: Bell,
    unheld: AtomicBool,
    comes: Notify,
    idle: Notify,
}

struct State {
    machine: quinn_proto::Endpoint,
    mailboxes: HashMap<ConnectionHandle, Arc<Mailbox>>,
    /// Who wants in.
    waiting: VecDeque<quinn_proto::Incoming>,
    /// Said to all connections that are there and that would begin.
    closing: Option<(VarInt, Bytes)>,
    /// Nothing is received any more.
    lost: bool,
}

impl Hub {
    pub(super) fn socket(&self) -> &Arc<dyn AsyncUdpSocket> {
        &self.socket
    }

    /// A connection tells something; what it is to know then.
    pub(super) fn told(&self, handle: ConnectionHandle, event: EndpointEvent) -> Option<quinn_proto::ConnectionEvent> {
        let mut state = lock(&self.state);
        if event.is_drained() {
            state.mailboxes.remove(&handle);
            if state.mailboxes.is_empty() {
                self.idle.notify_waiters();
                self.bell.ring();
            }
        }
        state.machine.handle_event(handle, event)
    }

    /// A connection begins, and is moved from here on.
    fn begin(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        handle: ConnectionHandle,
        machine: quinn_proto::Connection,
    ) -> Connecting {
        let (link, connecting) = Link::new(machine);
        if let Some((code, reason)) = &state.closing {
            link.mailbox.put(Mail::Close(*code, reason.clone()));
        }
        if state.lost {
            link.mailbox.put(Mail::Lost);
        }
        state.mailboxes.insert(handle, link.mailbox.clone());
        // A runtime that has ended drops the driver at once, and that tells the endpoint.
        drop(state);
        let home = if self.roams { Handle::current() } else { self.home.clone() };
        let _at_home = home.enter();
        drop(home.spawn(Driver::new(link, self.clone(), handle).in_current_span()));
        connecting
    }

    /// Answers to what is no connection's. Without room it is dropped, as it might be on the way.
    fn respond(&self, transmit: &Transmit, bytes: &[u8]) {
        try_send(self, transmit, bytes);
    }

    /// Datagrams have arrived.
    fn arrived(&self, state: &mut State, meta: &RecvMeta, bytes: &[u8]) {
        let now = now();
        let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        let mut bytes = BytesMut::from(bytes);
        let mut answer = Vec::new();
        while !bytes.is_empty() {
            let datagram = bytes.split_to(meta.stride.clamp(1, bytes.len()));
            answer.clear();
            match state.machine.handle(now, meta.addr, meta.dst_ip, ecn, datagram, &mut answer) {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if let Some(mailbox) = state.mailboxes.get(&handle) {
                        mailbox.put(Mail::Event(event));
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) if state.closing.is_none() => {
                    state.waiting.push_back(incoming);
                    self.comes.notify_waiters();
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let transmit = state.machine.refuse(incoming, &mut answer);
                    self.respond(&transmit, &answer);
                }
                Some(DatagramEvent::Response(transmit)) => self.respond(&transmit, &answer),
                None => {}
            }
        }
    }
}

impl Endpoint {
    /// An endpoint over a socket, which is received from on the runtime `home`. A server's connections are moved where
    /// they are accepted; a client's at home, whoever dials.
    ///
    /// # Errors
    /// What the socket has against telling its address.
    pub fn over(home: &Handle, socket: Arc<dyn AsyncUdpSocket>, server: Option<ServerConfig>) -> io::Result<Self> {
        let v6 = socket.local_addr()?.is_ipv6();
        let roams = server.is_some();
        let config = EndpointConfig::default();
        let payload = usize::try_from(config.get_max_udp_payload_size()).unwrap_or(JOINED);
        let room = if socket.max_receive_segments() > 1 { JOINED } else { payload.min(JOINED) };
        let machine = quinn_proto::Endpoint::new(Arc::new(config), server.map(Arc::new), !socket.may_fragment(), None);
        let state = State { machine, mailboxes: HashMap::new(), waiting: VecDeque::new(), closing: None, lost: false };
        let hub = Arc::new(Hub {
            socket,
            v6,
            home: home.clone(),
            roams,
            state: Mutex::new(state),
            bell: Bell::default(),
            unheld: AtomicBool::new(false),
            comes: Notify::new(),
            idle: Notify::new(),
        });
        let driver = Receiver { hub: hub.clone(), buffer: vec![0; room * BATCH].into() };
        drop(home.spawn(driver.in_current_span()));
        Ok(Self(Arc::new(Held(hub))))
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.0.0
    }

    /// Dials. TLS verifies the peer as the configuration says, by this name.
    ///
    /// # Errors
    /// What is wrong with the address, the name or the configuration, or that the endpoint is closed.
    pub fn connect_with(&self, config: ClientConfig, to: SocketAddr, name: &str) -> Result<Connecting, ConnectError> {
        let hub = self.hub();
        let mut state = lock(&hub.state);
        if state.lost || state.closing.is_some() {
            return Err(ConnectError::EndpointStopping);
        }
        let address = match to {
            SocketAddr::V6(_) if !hub.v6 => return Err(ConnectError::InvalidRemoteAddress(to)),
            SocketAddr::V4(v4) if hub.v6 => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
            to => to,
        };
        let (handle, machine) = state.machine.connect(now(), config, address, name)?;
        Ok(hub.begin(state, handle, machine))
    }

    /// The next peer that wants in; `None` when the endpoint is closed.
    pub async fn accept(&self) -> Option<Incoming> {
        let hub = self.hub();
        let next = || {
            let mut state = lock(&hub.state);
            let incoming = state.waiting.pop_front();
            (incoming.is_some() || state.lost || state.closing.is_some()).then_some(incoming)
        };
        let incoming = until(&hub.comes, next).await?;
        Some(Incoming { incoming: Some(incoming), hub: hub.clone() })
    }

    /// Closes every connection, and lets nobody in any more.
    pub fn close(&self, code: VarInt, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        let mut state = lock(&self.hub().state);
        for mailbox in state.mailboxes.values() {
            mailbox.put(Mail::Close(code, reason.clone()));
        }
        state.closing = Some((code, reason));
        drop(state);
        self.hub().comes.notify_waiters();
    }

    /// Waits until nothing is left of any connection: until their peers know that they are over, or would know by now.
    pub async fn wait_idle(&self) {
        let hub = self.hub();
        until(&hub.idle, || lock(&hub.state).mailboxes.is_empty().then_some(())).await;
    }

    /// The address that is bound.
    ///
    /// # Errors
    /// What the socket has against it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.hub().socket.local_addr()
    }

    /// Connections that are not yet over.
    pub fn open_connections(&self) -> usize {
        lock(&self.hub().state).machine.open_connections()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.hub().socket).finish()
    }
}

/// A peer that wants in. Dropped, it is refused.
pub struct Incoming {
    /// Until it is decided.
    incoming: Option<quinn_proto::Incoming>,
    hub: Arc<Hub>,
}

impl Incoming {
    fn get(&self) -> &quinn_proto::Incoming {
        self.incoming.as_ref().expect("it is decided by those alone who take it")
    }

    /// Lets it in: its connection is moved on the present runtime.
    ///
    /// # Errors
    /// Its hello is none.
    pub fn accept(mut self) -> Result<Connecting, ConnectionError> {
        let Some(incoming) = self.incoming.take() else { return Err(ConnectionError::LocallyClosed) };
        let mut state = lock(&self.hub.state);
        let mut answer = Vec::new();
        match state.machine.accept(incoming, now(), &mut answer, None) {
            Ok((handle, machine)) => Ok(self.hub.begin(state, handle, machine)),
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.hub.respond(&transmit, &answer);
                }
                Err(error.cause)
            }
        }
    }

    /// Says no.
    pub fn refuse(self) {
        drop(self);
    }

    /// Has it prove its address first. What cannot be asked for that again is refused; see [`Self::may_retry`].
    pub fn retry(mut self) {
        let Some(incoming) = self.incoming.take() else { return };
        let mut answer = Vec::new();
        let asked = lock(&self.hub.state).machine.retry(incoming, &mut answer);
        match asked {
            Ok(transmit) => self.hub.respond(&transmit, &answer),
            Err(error) => self.incoming = Some(error.into_incoming()),
        }
    }

    /// Whether it may be asked to prove its address.
    pub fn may_retry(&self) -> bool {
        self.get().may_retry()
    }

    /// Whether it has proved its address.
    pub fn remote_address_validated(&self) -> bool {
        self.get().remote_address_validated()
    }

    /// Where it says that it is.
    pub fn remote_address(&self) -> SocketAddr {
        self.get().remote_address()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            let mut answer = Vec::new();
            let transmit = lock(&self.hub.state).machine.refuse(incoming, &mut answer);
            self.hub.respond(&transmit, &answer);
        }
    }
}

/// The driver of an endpoint.
struct Receiver {
    hub: Arc<Hub>,
    buffer: Box<[u8]>,
}

impl Receiver {
    /// Receives until nothing is there, or the turn is over: whether it would go on.
    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Self { hub, buffer } = self;
        let mut parts = buffer.chunks_exact_mut(buffer.len() / BATCH).map(IoSliceMut::new);
        let mut parts: [IoSliceMut<'_>; BATCH] = std::array::from_fn(|_| parts.next().expect("as many"));
        let mut metas = [RecvMeta::default(); BATCH];
        for _ in 0..CALLS {
            let count = match hub.socket.poll_recv(cx, &mut parts, &mut metas) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(count)) => count,
                // Anybody can say that of a datagram that was sent.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Poll::Ready(Err(error)) => return Err(error),
            };
            let mut state = lock(&hub.state);
            for (meta, part) in metas.iter().zip(&parts).take(count) {
                hub.arrived(&mut state, meta, &part[..meta.len]);
            }
        }
        Ok(true)
    }
}

impl Future for Receiver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.hub.bell.answer(cx);
        match self.receive(cx) {
            Ok(true) => cx.waker().wake_by_ref(),
            Ok(false) => {}
            Err(error) => {
                error!(%error, "receive on the QUIC socket");
                return Poll::Ready(());
            }
        }
        let hub = &self.hub;
        if hub.unheld.load(Ordering::SeqCst) && lock(&hub.state).mailboxes.is_empty() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = lock(&self.hub.state);
        state.lost = true;
        state.mailboxes.values().for_each(|mailbox| mailbox.put(Mail::Lost));
        while let Some(incoming) = state.waiting.pop_front() {
            state.machine.ignore(incoming);
        }
        drop(state);
        self.hub.comes.notify_waiters();
    }
}
