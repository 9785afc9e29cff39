//! The QUIC server: sockets, handshakes, connections. One task per connection and one per session, all on the thread of
//! the connection. Sessions are in `quic/session.rs`.

mod ending;
mod feed;
mod header;
mod ranges;
mod scope;
mod session;
mod settings;
mod title;
mod uses;
mod writer;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use quinn::{ConnectionError, ServerConfig, TransportConfig, crypto::rustls::QuicServerConfig};
use tokio::time;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, debug_span, info};
use usher_budget::{Permit, Prefix};
use usher_certs::media::MediaCertResolver;
use usher_proto::{Code, wire::MAX_STREAMS};
use usher_session::GroupRouter;
use usher_transport::{Congestion, Connection, Endpoint, INITIAL_RTT, Incoming, Threads, ZeroRttAccepted};

pub(crate) use self::settings::{HANDSHAKE, NEVER_USED, QuicSettings, UNUSED};
use self::{ending::code, scope::ConnectionScope, uses::Uses};
use crate::{budgets::Budgets, send_window::SendWindow, services::Services};

/// Sessions of one connection at a time until half as many are open: quinn keeps memory for streams that may come.
const FIRST_STREAMS: u32 = 8;

/// Bytes that a client may send on one stream before they are read: a publisher sends groups at 32 Mbit/s over 250 ms.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// The same for all streams of a connection, until a publisher is admitted on it: Open messages fit.
const CONNECTION_WINDOW: u32 = 1600 * 1024;

/// Time after which a silent connection is lost; the client keeps it alive.
const IDLE: Duration = Duration::from_secs(30);

/// Number of handshakes in progress from which on a client must prove its address first (RFC 9000, section 8.1.2).
const RETRY_FROM: u64 = 64;

/// The running server.
pub(crate) struct Server {
    endpoints: Vec<Endpoint>,
    services: Arc<Services>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    /// Starts to accept on these sockets.
    ///
    /// # Errors
    /// Names the socket that cannot be served.
    pub(crate) fn start(
        services: &Arc<Services>,
        resolver: Arc<MediaCertResolver>,
        sockets: Vec<UdpSocket>,
        settings: QuicSettings,
    ) -> anyhow::Result<Self> {
        let config = server_config(resolver, settings.congestion)?;
        let threads = Arc::new(Threads::start(settings.threads).context("start the threads that send")?);
        let mut server = Self {
            endpoints: Vec::new(),
            services: services.clone(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        server.tasks.spawn_on(
            {
                let (context, stop) = (services.context.clone(), server.stop.clone());
                async move {
                    let run = async { tokio::join!(context.scheduler.run(), context.follow_readers()) };
                    stop.run_until_cancelled(run).await.unwrap_or_default()
                }
            },
            threads.handle(0),
        );
        for (number, socket) in sockets.into_iter().enumerate() {
            let address = socket.local_addr().context("read the address of the QUIC socket")?;
            let here = threads.handle(number);
            let endpoint = usher_transport::endpoint(here, socket, Some(config.clone()), settings.offload)
                .with_context(|| format!("serve QUIC on udp {address}"))?;
            let acceptor = Acceptor {
                services: services.clone(),
                settings,
                threads: threads.clone(),
                tasks: server.tasks.clone(),
                stop: server.stop.clone(),
            };
            server.tasks.spawn_on(acceptor.accept(endpoint.clone()), here);
            server.endpoints.push(endpoint);
        }
        Ok(server)
    }

    /// The bound addresses, in the order of the sockets.
    pub(crate) fn local_addrs(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let addresses = self.endpoints.iter().map(Endpoint::local_addr).collect::<Result<_, _>>();
        addresses.context("read the address of the QUIC socket")
    }

    /// Ends every session and connection, and waits for them.
    pub(crate) async fn close(&self) {
        // Sessions first: while their data waits, the congestion controller would delay the close too, and quinn soon
        // forgets a closed connection.
        self.stop.cancel();
        drop(time::timeout(ending::CLOSE_ACK_TIMEOUT * 2, self.services.context.idle()).await);
        self.tasks.close();
        for endpoint in &self.endpoints {
            endpoint.close(code(Code::Draining), b"the node is shutting down");
        }
        self.tasks.wait().await;
        for endpoint in &self.endpoints {
            // Lets the last packets out; a peer that does not answer is not waited for.
            drop(time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await);
        }
    }
}

/// Binds every address, in the same order.
///
/// # Errors
/// Names the address that cannot be bound.
pub(crate) fn bind(listen: &[SocketAddr]) -> anyhow::Result<Vec<UdpSocket>> {
    listen.iter().map(|address| usher_transport::bind(*address)).collect()
}

fn server_config(resolver: Arc<MediaCertResolver>, congestion: Congestion) -> anyhow::Result<ServerConfig> {
    let tls = usher_certs::tls::media_server_config(resolver).context("set up TLS for media")?;
    let tls = QuicServerConfig::try_from(tls).context("set up TLS for QUIC")?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(FIRST_STREAMS.into())
        .max_concurrent_uni_streams(0_u32.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .max_idle_timeout(Some(IDLE.try_into().context("set the idle timeout")?))
        .datagram_receive_buffer_size(None)
        .initial_rtt(INITIAL_RTT)
        .congestion_controller_factory(congestion.factory());
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Accepts connections.
struct Acceptor {
    services: Arc<Services>,
    settings: QuicSettings,
    threads: Arc<Threads>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Acceptor {
    async fn accept(self, endpoint: Endpoint) {
        let budgets = &self.services.budgets;
        while let Some(incoming) = endpoint.accept().await {
            let (peer, proved) = (incoming.remote_address(), incoming.remote_address_validated());
            if !budgets.has_connections() {
                debug!(%peer, "too many connections: refused");
                incoming.refuse();
            } else if budgets.handshakes() >= RETRY_FROM && incoming.may_retry() && !proved {
                incoming.retry();
            } else if let Some(permit) = budgets.handshake(budgets.prefix(peer.ip()), proved) {
                let span = debug_span!("connection", %peer);
                let (services, settings, stop) = (self.services.clone(), self.settings, self.stop.clone());
                let place = self.threads.take_slot();
                let there = place.handle().clone();
                let connection = async move {
                    // Accepted on its own thread: the driver of a connection runs where it is made.
                    let Some((connection, shaken)) = accept(incoming) else { return };
                    let handshake = async {
                        let shaken = finish_handshake(&services.budgets, settings, &connection, shaken).await;
                        drop(permit);
                        shaken
                    };
                    // The place among the connections is held for as long as it is served.
                    let (_held, ()) = tokio::join!(handshake, serve(&services, settings, &connection, &stop));
                    drop(place);
                };
                self.tasks.spawn_on(connection.instrument(span), &there);
            } else {
                incoming.refuse();
            }
        }
    }
}

/// Waits for the end of the handshake, and takes a place among the connections for the address, which is proved by then.
/// Closes a connection that gets none, or whose handshake takes too long.
async fn finish_handshake(
    budgets: &Budgets,
    settings: QuicSettings,
    connection: &Connection,
    shaken: ZeroRttAccepted,
) -> Option<Permit<Prefix>> {
    let peer = connection.remote_address();
    if time::timeout(settings.handshake_timeout, shaken).await.is_err() {
        debug!(%peer, "handshake took too long: connection closed");
        connection.close(code(Code::Timeout), b"the handshake took too long");
        return None;
    }
    match budgets.connection(budgets.prefix(peer.ip())) {
        Ok(place) => {
            info!(%peer, "connection opened");
            Some(place)
        }
        Err(fault) => {
            connection.close(code(fault.code), fault.message.as_bytes());
            None
        }
    }
}

/// Starts a connection, and returns when its handshake is over. A returning client sends its first Open in early data,
/// which is served at once: tickets are redeemed once, so a replay of it is refused.
fn accept(incoming: Incoming) -> Option<(Connection, ZeroRttAccepted)> {
    let connecting = incoming.accept().inspect_err(|error| debug!(%error, "handshake refused")).ok()?;
    // Never an error at the accepting side.
    connecting.into_0rtt().ok()
}

/// Serves the sessions of a connection until it is lost; waits for all of them.
async fn serve(services: &Arc<Services>, settings: QuicSettings, connection: &Connection, stop: &CancellationToken) {
    let uses = Uses::default();
    let (stop, cut) = (stop.child_token(), services.context.disconnected());
    let scope = ConnectionScope {
        gone: stop.child_token(),
        stop: stop.clone(),
        connection: connection.clone(),
        prefix: services.budgets.prefix(connection.remote_address().ip()),
        router: GroupRouter::default(),
        window: Arc::new(SendWindow::new(connection.clone(), services.context.viewers.clone())),
        uses: uses.clone(),
    };
    let sessions = TaskTracker::new();
    let mut several = false;
    let router = scope.router.clone();
    let unused = uses.unused(settings.never_used, settings.unused);
    tokio::pin!(unused, cut);
    let error = loop {
        let accepted = tokio::select! {
            accepted = connection.accept_bi() => accepted,
            // Only once a publisher is admitted.
            Ok(group) = connection.accept_uni() => {
                sessions.spawn(router.clone().route(group).in_current_span());
                continue;
            }
            () = &mut unused => {
                connection.close(code(Code::Cancelled), b"idle");
                break ConnectionError::LocallyClosed;
            }
            () = &mut cut => {
                stop.cancel();
                break ConnectionError::LocallyClosed;
            }
        };
        match accepted {
            Ok((mut send, mut receive)) => {
                let place = match services.budgets.stream(scope.prefix) {
                    Ok(place) => place,
                    Err(fault) => {
                        drop(send.reset(code(fault.code)));
                        drop(receive.stop(code(fault.code)));
                        continue;
                    }
                };
                let session = session::run(services.clone(), settings, (send, receive), place, scope.clone());
                sessions.spawn(session.in_current_span());
                if !several && sessions.len() >= FIRST_STREAMS as usize / 2 {
                    several = true;
                    connection.set_max_concurrent_bi_streams(MAX_STREAMS.into());
                }
            }
            Err(error) => break error,
        }
    };
    debug!(%error, "connection ended");
    scope.gone.cancel();
    sessions.close();
    sessions.wait().await;
    if stop.is_cancelled() {
        connection.close(code(Code::Draining), b"the node was drained");
    }
}

#[cfg(test)]
mod tests;
