//! A connection, as those who use it hold it.

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use quinn_proto::{ConnectionError, ConnectionStats, Dir, StreamId, VarInt};
use tokio::sync::{Notify, oneshot};

use super::{
    bell::Bell,
    lock, now,
    streams::{RecvStream, SendStream},
    until,
};

/// A connection. When the last of its handles and streams is dropped, it is closed with code 0.
#[derive(Clone)]
pub struct Connection(Arc<Held>);

/// Held by all who use a connection, but not by its driver.
struct Held(Arc<Link>);

impl Drop for Held {
    fn drop(&mut self) {
        if !self.0.lock().machine.is_closed() {
            self.0.close(VarInt::from_u32(0), Bytes::new());
        }
    }
}

/// What the driver of a connection shares with those who use it.
pub(super) struct Link {
    state: Mutex<State>,
    pub(super) mailbox: Arc<Mailbox>,
    /// Streams may be opened, by direction.
    pub(super) opens: [Notify; 2],
    /// Streams have come, by direction.
    pub(super) comes: [Notify; 2],
    closed: Notify,
}

/// What the endpoint brings to a connection. It never waits for one that is at work.
#[derive(Default)]
pub(super) struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    pub(super) bell: Bell,
}

pub(super) enum Mail {
    Event(quinn_proto::ConnectionEvent),
    /// The endpoint closes all of its connections.
    Close(VarInt, Bytes),
    /// Nothing will come any more.
    Lost,
}

impl Mailbox {
    pub(super) fn put(&self, mail: Mail) {
        let mut mails = lock(&self.mail);
        let first = mails.is_empty();
        mails.push(mail);
        drop(mails);
        // Who has not yet looked at the first will see this one too.
        if first {
            self.bell.ring();
        }
    }

    /// Takes everything. Nothing is kept for what comes next: of many connections few have mail at a time.
    pub(super) fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut *lock(&self.mail))
    }
}

/// A connection's state machine, and who waits for it.
pub(super) struct State {
    pub(super) machine: quinn_proto::Connection,
    /// What all streams may have waiting for acknowledgement, where that was set.
    window: Option<u64>,
    /// It was full: nothing is written until half of it is acknowledged.
    full: bool,
    /// Why it is over for those who use it.
    pub(super) error: Option<ConnectionError>,
    /// Who waits for the end of the handshake, if it has none yet.
    pub(super) shaking: Option<oneshot::Sender<bool>>,
    pub(super) writers: HashMap<StreamId, Waker>,
    pub(super) readers: HashMap<StreamId, Waker>,
    /// Who waits for a stream to be acknowledged or stopped.
    pub(super) ends: HashMap<StreamId, Arc<Notify>>,
}

impl State {
    fn set_window(&mut self, bytes: u64) {
        self.window = Some(bytes);
        self.full(self.full);
    }

    /// The window is full, or somebody writes again.
    pub(super) fn full(&mut self, full: bool) {
        self.full = full;
        if let Some(window) = self.window {
            self.machine.set_send_window(if full { window / 2 } else { window });
        }
    }

    /// Whether the peer did not take what was sent before the handshake: the stream is none of this connection then.
    pub(super) fn rejects(&self, early: bool) -> bool {
        let machine = &self.machine;
        early && machine.side().is_client() && !machine.is_handshaking() && !machine.accepted_0rtt()
    }

    /// Wakes those who wait for the end of a stream; who finds that it has not come waits again.
    pub(super) fn end(&mut self, id: StreamId) {
        if let Some(ends) = self.ends.remove(&id) {
            ends.notify_waiters();
        }
    }

    /// Wakes all who wait for streams.
    pub(super) fn wake_streams(&mut self) {
        self.writers.drain().chain(self.readers.drain()).for_each(|(_, waker)| waker.wake());
        self.ends.drain().for_each(|(_, ends)| ends.notify_waiters());
    }
}

impl Link {
    pub(super) fn new(machine: quinn_proto::Connection) -> (Arc<Self>, Connecting) {
        let (shaking, shaken) = oneshot::channel();
        let state = State {
            machine,
            window: None,
            full: false,
            error: None,
            shaking: Some(shaking),
            writers: HashMap::new(),
            readers: HashMap::new(),
            ends: HashMap::new(),
        };
        let link = Arc::new(Self {
            state: Mutex::new(state),
            mailbox: Arc::default(),
            opens: [Notify::new(), Notify::new()],
            comes: [Notify::new(), Notify::new()],
            closed: Notify::new(),
        });
        (link.clone(), Connecting { connection: Some(Connection(Arc::new(Held(link)))), shaken })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The driver has something to do.
    pub(super) fn ring(&self) {
        self.mailbox.bell.ring();
    }

    fn close(&self, code: VarInt, reason: Bytes) {
        self.end(&mut self.lock(), code, reason);
        self.ring();
    }

    /// Closes the connection from this side.
    pub(super) fn end(&self, state: &mut State, code: VarInt, reason: Bytes) {
        state.machine.close(now(), code, reason);
        self.over(state, ConnectionError::LocallyClosed);
    }

    /// Tells everybody that the connection is over. What was said first stands.
    pub(super) fn over(&self, state: &mut State, error: ConnectionError) {
        state.error.get_or_insert(error);
        state.shaking = None;
        state.wake_streams();
        for waits in self.opens.iter().chain(&self.comes).chain([&self.closed]) {
            waits.notify_waiters();
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.remote_address()).finish()
    }
}

impl Connection {
    pub(super) fn link(&self) -> &Link {
        &self.0.0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.link().lock()
    }

    /// Opens a stream both sides may send on, once the peer allows another. The peer hears of it with its first byte.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let (id, early) = self.open(Dir::Bi).await?;
        Ok(self.both(id, early))
    }

    /// Opens a stream that this side alone sends on, in the same way.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        let (id, early) = self.open(Dir::Uni).await?;
        Ok(SendStream::new(self.clone(), id, early))
    }

    /// The next stream of the peer that both sides may send on.
    ///
    /// # Errors
    /// The connection is over, and all streams that had come are taken.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let (id, early) = self.accept(Dir::Bi).await?;
        Ok(self.both(id, early))
    }

    /// The next stream that the peer alone sends on.
    ///
    /// # Errors
    /// The connection is over, and all streams that had come are taken.
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        let (id, early) = self.accept(Dir::Uni).await?;
        Ok(RecvStream::new(self.clone(), id, early))
    }

    fn both(&self, id: StreamId, early: bool) -> (SendStream, RecvStream) {
        (SendStream::new(self.clone(), id, early), RecvStream::new(self.clone(), id, early))
    }

    async fn open(&self, dir: Dir) -> Result<(StreamId, bool), ConnectionError> {
        let open = || {
            let mut state = self.lock();
            if let Some(error) = &state.error {
                return Some(Err(error.clone()));
            }
            let id = state.machine.streams().open(dir)?;
            Some(Ok((id, state.machine.side().is_client() && state.machine.is_handshaking())))
        };
        until(&self.link().opens[dir as usize], open).await
    }

    async fn accept(&self, dir: Dir) -> Result<(StreamId, bool), ConnectionError> {
        let accept = || {
            let mut state = self.lock();
            // What had come before the end is still there.
            let Some(id) = state.machine.streams().accept(dir) else { return state.error.clone().map(Err) };
            Some(Ok((id, state.machine.is_handshaking())))
        };
        let accepted = until(&self.link().comes[dir as usize], accept).await;
        if accepted.is_ok() {
            // The peer may open another.
            self.link().ring();
        }
        accepted
    }

    /// Ends the connection at once, and tells the peer why. What was not yet delivered may not be any more.
    pub fn close(&self, code: VarInt, reason: &[u8]) {
        self.link().close(code, Bytes::copy_from_slice(reason));
    }

    /// Waits until the connection is over: why.
    pub async fn closed(&self) -> ConnectionError {
        until(&self.link().closed, || self.close_reason()).await
    }

    /// Why the connection is over; `None` while it is not.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.lock().error.clone()
    }

    /// Tells this connection from all others of the process that exist at the time.
    pub fn stable_id(&self) -> usize {
        std::ptr::from_ref(self.link()).addr()
    }

    /// Where the peer is.
    pub fn remote_address(&self) -> SocketAddr {
        self.lock().machine.remote_address()
    }

    /// The round trip, smoothed.
    pub fn rtt(&self) -> Duration {
        self.lock().machine.rtt()
    }

    /// What was counted since the beginning.
    pub fn stats(&self) -> ConnectionStats {
        self.lock().machine.stats()
    }

    /// Who the peer proved to be; with rustls its certificates, `Vec<CertificateDer>`.
    pub fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.lock().machine.crypto_session().peer_identity()
    }

    /// Bytes of all streams that may be sent or waiting, and not acknowledged. Whoever finds it full waits until half of
    /// it is acknowledged, so that nobody writes a packet's worth for each that is.
    pub fn set_send_window(&self, bytes: u64) {
        self.lock().set_window(bytes);
    }

    /// Bytes of all streams that the peer may send ahead of their being read.
    pub fn set_receive_window(&self, bytes: VarInt) {
        self.lock().machine.set_receive_window(bytes);
        self.link().ring();
    }

    /// Streams that the peer may have open, of those that both sides may send on.
    pub fn set_max_concurrent_bi_streams(&self, count: VarInt) {
        self.set_streams(Dir::Bi, count);
    }

    /// The same of those that the peer alone sends on.
    pub fn set_max_concurrent_uni_streams(&self, count: VarInt) {
        self.set_streams(Dir::Uni, count);
    }

    fn set_streams(&self, dir: Dir, count: VarInt) {
        self.lock().machine.set_max_concurrent_streams(dir, count);
        self.link().ring();
    }
}

/// A connection whose handshake is under way.
pub struct Connecting {
    /// Until it was given out.
    connection: Option<Connection>,
    shaken: oneshot::Receiver<bool>,
}

impl Connecting {
    /// The connection as it is, for early data (RFC 9001, section 4.6), which an eavesdropper may send again. At the side
    /// that accepts always; at the other only where TLS remembers the peer.
    ///
    /// # Errors
    /// Gives itself back when there is nothing to be early with.
    pub fn into_0rtt(mut self) -> Result<(Connection, ZeroRttAccepted), Self> {
        let early = |connection: &mut Connection| {
            let state = connection.lock();
            state.machine.has_0rtt() || state.machine.side().is_server()
        };
        match self.connection.take_if(early) {
            Some(connection) => Ok((connection, ZeroRttAccepted(self.shaken))),
            None => Err(self),
        }
    }
}

impl Future for Connecting {
    type Output = Result<Connection, ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.shaken).poll(cx).map(|shaken| {
            // Whether early data was taken matters to nobody here.
            let lost = shaken.is_err();
            let connection = self.connection.take().ok_or(ConnectionError::LocallyClosed)?;
            let error = connection.close_reason().filter(|_| lost);
            error.map_or(Ok(connection), Err)
        })
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connecting").field(&self.connection).finish()
    }
}

/// Waits for the end of a handshake: whether the peer took the early data. `false` too when the connection was lost.
#[derive(Debug)]
pub struct ZeroRttAccepted(oneshot::Receiver<bool>);

impl Future for ZeroRttAccepted {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        Pin::new(&mut self.0).poll(cx).map(|accepted| accepted.unwrap_or(false))
    }
}
