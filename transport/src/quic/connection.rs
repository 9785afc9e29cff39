//! Handles of a connection.

use std::{
    any::Any,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use quinn_proto::{ConnectionError, ConnectionStats, Dir, StreamId, VarInt};
use tokio::sync::oneshot;

use super::{
    connection_inner::{ConnectionInner, ConnectionRef, ConnectionState},
    recv_stream::RecvStream,
    send_stream::SendStream,
    wait_for,
};

/// A connection. Dropping the last of its handles and streams closes it with code 0.
#[derive(Clone)]
pub struct Connection(ConnectionRef);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.remote_address()).finish()
    }
}

impl Connection {
    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.0.lock()
    }

    /// Opens a bidirectional stream once the peer allows another. The peer sees it with its first byte.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let (id, early) = self.open(Dir::Bi).await?;
        Ok(self.both(id, early))
    }

    /// Opens a unidirectional stream once the peer allows another.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        let (id, early) = self.open(Dir::Uni).await?;
        Ok(SendStream::new(self.0.clone(), id, early))
    }

    /// Waits for the next bidirectional stream of the peer.
    ///
    /// # Errors
    /// The connection has ended, and all streams that arrived before are taken.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let (id, early) = self.accept(Dir::Bi).await?;
        Ok(self.both(id, early))
    }

    /// Waits for the next unidirectional stream of the peer.
    ///
    /// # Errors
    /// The connection has ended, and all streams that arrived before are taken.
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        let (id, early) = self.accept(Dir::Uni).await?;
        Ok(RecvStream::new(self.0.clone(), id, early))
    }

    fn both(&self, id: StreamId, early: bool) -> (SendStream, RecvStream) {
        (SendStream::new(self.0.clone(), id, early), RecvStream::new(self.0.clone(), id, early))
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
        wait_for(&self.0.available[dir as usize], open).await
    }

    async fn accept(&self, dir: Dir) -> Result<(StreamId, bool), ConnectionError> {
        let accept = || {
            let mut state = self.lock();
            // Streams that arrived before the end are still accepted.
            let Some(id) = state.machine.streams().accept(dir) else { return state.error.clone().map(Err) };
            Some(Ok((id, state.machine.is_handshaking())))
        };
        let accepted = wait_for(&self.0.opened[dir as usize], accept).await;
        if accepted.is_ok() {
            // The peer may open another.
            self.0.wake();
        }
        accepted
    }

    /// Closes the connection at once and sends `code` and `reason` to the peer. Data not delivered yet may be lost.
    pub fn close(&self, code: VarInt, reason: &[u8]) {
        self.0.close(code, Bytes::copy_from_slice(reason));
    }

    /// Waits until the connection has ended and returns why.
    pub async fn closed(&self) -> ConnectionError {
        wait_for(&self.0.closed, || self.close_reason()).await
    }

    /// Why the connection ended; `None` while it is open.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.lock().error.clone()
    }

    /// An identifier, unique among the connections of the process that exist at the time.
    pub fn stable_id(&self) -> usize {
        std::ptr::from_ref::<ConnectionInner>(&self.0).addr()
    }

    /// The peer's address.
    pub fn remote_address(&self) -> SocketAddr {
        self.lock().machine.remote_address()
    }

    /// The smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.lock().machine.rtt()
    }

    /// Counters since the connection began.
    pub fn stats(&self) -> ConnectionStats {
        self.lock().machine.stats()
    }

    /// The peer's proven identity: with rustls its certificates, `Vec<CertificateDer>`.
    pub fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.lock().machine.crypto_session().peer_identity()
    }

    /// Limits the bytes of all streams that await acknowledgement. A writer that finds the window full waits until half of
    /// it is acknowledged, so that it does not wake for each acknowledged packet.
    pub fn set_send_window(&self, bytes: u64) {
        self.lock().set_window(bytes);
    }

    /// Limits the bytes of all streams that the peer may send before they are read.
    pub fn set_receive_window(&self, bytes: VarInt) {
        self.lock().machine.set_receive_window(bytes);
        self.0.wake();
    }

    /// Limits the bidirectional streams that the peer may have open.
    pub fn set_max_concurrent_bi_streams(&self, count: VarInt) {
        self.set_streams(Dir::Bi, count);
    }

    /// Limits the unidirectional streams that the peer may have open.
    pub fn set_max_concurrent_uni_streams(&self, count: VarInt) {
        self.set_streams(Dir::Uni, count);
    }

    fn set_streams(&self, dir: Dir, count: VarInt) {
        self.lock().machine.set_max_concurrent_streams(dir, count);
        self.0.wake();
    }
}

/// A connection whose handshake is under way. Resolves to the connection.
pub struct Connecting {
    /// `None` once it was handed out.
    connection: Option<Connection>,
    handshaken: oneshot::Receiver<bool>,
}

impl Connecting {
    pub(super) fn new(inner: Arc<ConnectionInner>, handshaken: oneshot::Receiver<bool>) -> Self {
        Self { connection: Some(Connection(ConnectionRef::new(inner))), handshaken }
    }

    /// Returns the connection before its handshake ends, for early data (RFC 9001, section 4.6), which an eavesdropper may
    /// replay. A server can always do so; a client only where TLS can resume a session with the peer.
    ///
    /// # Errors
    /// Returns itself when early data is not possible.
    pub fn into_0rtt(mut self) -> Result<(Connection, ZeroRttAccepted), Self> {
        let early = |connection: &mut Connection| {
            let state = connection.lock();
            state.machine.has_0rtt() || state.machine.side().is_server()
        };
        match self.connection.take_if(early) {
            Some(connection) => Ok((connection, ZeroRttAccepted(self.handshaken))),
            None => Err(self),
        }
    }
}

impl Future for Connecting {
    type Output = Result<Connection, ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.handshaken).poll(cx).map(|handshaken| {
            let lost = handshaken.is_err();
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

/// Resolves at the end of the handshake: whether the peer accepted the early data. `false` when the connection was lost.
#[derive(Debug)]
pub struct ZeroRttAccepted(oneshot::Receiver<bool>);

impl Future for ZeroRttAccepted {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        Pin::new(&mut self.0).poll(cx).map(|accepted| accepted.unwrap_or(false))
    }
}
