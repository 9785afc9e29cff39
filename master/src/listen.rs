//! The master's listener. It never waits for a client: a connection that finds no place is closed at once, or an older one of a
//! client that has more leaves for it. Owns the places of handshakes and connections, those kept for clients with a
//! certificate, and the handling of failed accepts; [`connection`] serves what got in.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{service::Routes, transport::server::Connected as _};
use tracing::{debug, warn};
use usher_budget::{Prefix, PrefixLengths};
use usher_certs::Identity;

use crate::{
    calls::{CallBudgets, CallService},
    connection::{self, Opened, Signals},
    metrics::{Level, Metrics},
    peer::{BudgetHolder, Peer},
    places::{Place, Places},
};

/// Pause after an accept that failed for lack of file descriptors or memory, which would fail again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Limit of a TLS handshake and the first bytes of HTTP/2.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Time in which a handshake is kept even if its client begins more: else a crowd behind one address would finish none.
const USUAL_HANDSHAKE: Duration = Duration::from_secs(1);

/// Limits of the listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections, with those in their handshake.
    pub(crate) connections: usize,
    pub(crate) prefixes: PrefixLengths,
    /// Time without a call after which a connection is closed.
    pub(crate) idle: Duration,
}

impl Limits {
    /// Connections in their handshake: an eighth.
    fn handshakes(&self) -> usize {
        (self.connections / 8).max(1)
    }

    /// Connections kept for clients with a certificate: a quarter.
    fn named(&self) -> usize {
        (self.connections / 4).max(1)
    }

    /// Connections of clients without one, and of those with one when theirs are in use.
    fn anonymous(&self) -> usize {
        self.connections.saturating_sub(self.handshakes() + self.named()).max(1)
    }
}

/// A handshake that has a place.
struct Handshake {
    prefix: Prefix,
    began: Instant,
    displaced: CancellationToken,
}

/// A connection that has a place.
struct Member {
    holder: BudgetHolder,
    running: watch::Receiver<usize>,
    displaced: CancellationToken,
}

/// State shared by all connections.
pub(crate) struct Listener {
    tls: TlsAcceptor,
    routes: Routes,
    budgets: Arc<CallBudgets>,
    limits: Limits,
    handshakes: Places<Prefix, Handshake>,
    named: Places<BudgetHolder, Member>,
    anonymous: Places<BudgetHolder, Member>,
    metrics: Arc<Metrics>,
    ending: CancellationToken,
}

impl Listener {
    /// A listener for these services, which ends with `ending`.
    pub(crate) fn new(
        tls: ServerConfig,
        routes: Routes,
        budgets: Arc<CallBudgets>,
        limits: Limits,
        metrics: Arc<Metrics>,
        ending: CancellationToken,
    ) -> Self {
        let handshakes = Places::new(limits.handshakes());
        let (named, anonymous) = (Places::new(limits.named()), Places::new(limits.anonymous()));
        let tls = TlsAcceptor::from(Arc::new(tls));
        Self { tls, routes, budgets, limits, handshakes, named, anonymous, metrics, ending }
    }

    /// Serves the connections of a socket until the master ends, then waits until they are closed.
    pub(crate) async fn serve(self, socket: TcpListener) {
        let listener = Arc::new(self);
        let connections = TaskTracker::new();
        loop {
            let (stream, peer) = tokio::select! {
                biased;
                () = listener.ending.cancelled() => break,
                accepted = accept(&socket) => accepted,
            };
            let prefix = listener.limits.prefixes.prefix(peer.ip());
            let displaced = CancellationToken::new();
            let handshake = Handshake { prefix, began: Instant::now(), displaced: displaced.clone() };
            let is_fresh = |handshake: &Handshake| handshake.began.elapsed() < USUAL_HANDSHAKE;
            let Some((place, other)) = listener.handshakes.enter(prefix, handshake, is_fresh) else {
                listener.metrics.refusals.count("handshakes", &prefix);
                continue;
            };
            if let Some(other) = other {
                listener.metrics.refusals.count("handshakes", &other.prefix);
                other.displaced.cancel();
            }
            connections.spawn(Arc::clone(&listener).handle(stream, place, displaced));
        }
        drop(socket);
        connections.close();
        connections.wait().await;
    }

    /// Serves one connection from its handshake to its end.
    async fn handle(self: Arc<Self>, stream: TcpStream, place: Place<Prefix, Handshake>, displaced: CancellationToken) {
        let prefix = *place.owner();
        let shaken = tokio::select! {
            biased;
            () = displaced.cancelled() => return,
            () = self.ending.cancelled() => return,
            shaken = timeout(HANDSHAKE, self.shake(stream)) => shaken,
        };
        drop(place);
        let (opened, peer) = match shaken {
            Ok(Ok(shaken)) => shaken,
            Ok(Err(error)) => return debug!(peer = %prefix, %error, "handshake failed"),
            Err(_) => return debug!(peer = %prefix, "handshake took too long"),
        };
        let certificates = peer.peer_certs();
        let leaf = certificates.as_ref().and_then(|certificates| certificates.first());
        // A certificate that names nobody is refused by the calls that need one.
        let identity = leaf.and_then(|leaf| Identity::from_der(leaf).ok());
        let client = Arc::new(Peer { prefix, identity });
        let (sender, running) = watch::channel(0);
        let Some((_place, displaced)) = self.enter(&client, &running) else { return };
        let _open = OpenConnection::new(&self.metrics.connections);
        let named = client.identity.is_some();
        let calls = CallService::new(self.routes.clone(), Arc::clone(&self.budgets), client, peer, sender);
        let signals = Signals { running, displaced, ending: self.ending.clone(), idle: self.limits.idle };
        connection::serve(opened, calls, named, signals).await;
    }

    async fn shake(&self, stream: TcpStream) -> io::Result<(Opened<TlsStream<TcpStream>>, PeerInfo)> {
        let stream = self.tls.accept(stream).await?;
        let peer = stream.connect_info();
        Ok((connection::open(stream).await?, peer))
    }

    /// Finds a place for a connection. The token is cancelled when it has to leave.
    fn enter(
        &self,
        client: &Peer,
        running: &watch::Receiver<usize>,
    ) -> Option<(Place<BudgetHolder, Member>, CancellationToken)> {
        let holder = client.holder();
        let displaced = CancellationToken::new();
        let member = || Member { holder: holder.clone(), running: running.clone(), displaced: displaced.clone() };
        let in_use = |member: &Member| *member.running.borrow() > 0;
        let kept = client.identity.is_some().then(|| self.named.enter(holder.clone(), member(), in_use)).flatten();
        // As one of many with its prefix: else each certificate would have a share of what is for viewers.
        let entered = kept.or_else(|| self.anonymous.enter(BudgetHolder::Network(client.prefix), member(), in_use));
        let Some((place, other)) = entered else {
            self.metrics.refusals.count("connections", &holder);
            return None;
        };
        if let Some(other) = other {
            self.metrics.refusals.count("connections", &other.holder);
            other.displaced.cancel();
        }
        Some((place, displaced))
    }
}

type PeerInfo = tonic::transport::server::TlsConnectInfo<tonic::transport::server::TcpConnectInfo>;

/// Counts an open connection for its lifetime.
struct OpenConnection(Level);

impl OpenConnection {
    fn new(open: &Level) -> Self {
        open.inc();
        Self(open.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Accepts the next connection. Failures are those of one connection or transient; they never end the listener.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small and awaited. Without the option they are slower, but correct.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "TCP_NODELAY not set");
                }
                return (stream, peer);
            }
            // The client left before the accept.
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                warn!(%error, "accept failed; retrying");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether an accept error concerns one connection only.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_limit() {
        for (connections, parts) in [(4096, [512, 1024, 2560]), (100, [12, 25, 63]), (1, [1, 1, 1])] {
            let limits = Limits { connections, prefixes: PrefixLengths::default(), idle: Duration::ZERO };
            assert_eq!([limits.handshakes(), limits.named(), limits.anonymous()], parts);
        }
    }
}
