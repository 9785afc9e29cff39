//! Starts and stops a master: state, listeners, services, ticker. Owns their tasks.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{net::TcpListener, task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic_health::{ServingStatus, pb::FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS};
use tracing::{error, info, warn};
use usher_certs::files::PemSet;
use usher_proto::pb::{
    DESCRIPTORS,
    v1::{
        catalog_server::CatalogServer, cluster_server::ClusterServer, registry_server::RegistryServer,
        tickets_server::TicketsServer,
    },
};

use crate::{
    core::{
        balancer::{RankRule, ZoneLink, Zones},
        cluster::Settings,
        replication::{self, Policy},
    },
    grpc::{self, CLIENT_MESSAGE, NODE_MESSAGE},
    http, listen,
    metrics::Metrics,
    state::SharedState,
    store,
    update_queue::{self, UpdateQueue},
};

/// How often leases and reservations are looked at: a twentieth of a lease.
const TICK: Duration = Duration::from_millis(250);

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How often a silent connection is asked for a sign of life, and how long it may take to give one. Together below two
/// leases, so that the channel of a dead node is closed soon after it became stale.
const PING: Duration = Duration::from_secs(4);

/// Calls at once on one connection.
const CALLS: u32 = 256;

/// Bytes of headers of one call.
const HEADERS: u32 = 16 << 10;

/// How long calls that run may take to end when the master does.
const GRACE: Duration = Duration::from_secs(5);

/// Every service, for health.
const SERVICES: [&str; 5] = ["", "usher.v1.Tickets", "usher.v1.Catalog", "usher.v1.Cluster", "usher.v1.Registry"];

/// Requests that may wait for a decision, unless the operator says otherwise.
pub const DEFAULT_QUEUE: usize = 1024;

/// Connections at once, unless the operator says otherwise: a viewer holds one for seconds, a node for as long as it
/// is attached, and each takes a file descriptor and some 50 kB.
pub const DEFAULT_CONNECTIONS: usize = 4096;

/// Where metrics are served unless the operator says otherwise.
pub const METRICS_PORT: u16 = 7441;

/// Whether sessions that run are moved unless the operator says otherwise.
pub const DEFAULT_MOVES: bool = true;

/// How long a session may run before its ticket is renewed, unless the operator says otherwise: what a client who may
/// watch no longer goes on watching at most.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(10 * 60);

/// Where metrics are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricsAt {
    /// Nowhere.
    #[default]
    Off,
    /// Here, unless another process has the address.
    Usual(SocketAddr),
    /// Here, or the master does not start. Port 0 takes a free one.
    Given(SocketAddr),
}

/// How nodes are chosen, and what is done about sessions and copies that are not where they should be.
#[derive(Clone, Debug)]
pub struct Balancing {
    /// Sessions that run may be sent to another node: to make room, and away from a node that drains.
    pub moves: bool,
    /// Sessions are sent to nodes that have just joined, when the others are much fuller.
    pub rebalance: bool,
    /// Masters that decide at once.
    pub masters: u64,
    /// What is better among the nodes that may be chosen.
    pub rule: RankRule,
    /// What it costs to leave a zone, where the operator names a price.
    pub links: Vec<ZoneLink>,
    /// Copies are made of titles that are in demand, or have too few.
    pub replication: bool,
    /// How many copies titles should have.
    pub copies: Policy,
    /// How long copies may be missing before they are made anew.
    pub repair_after: Duration,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            moves: DEFAULT_MOVES,
            rebalance: true,
            masters: 1,
            rule: RankRule::default(),
            links: Vec::new(),
            replication: true,
            copies: Policy::default(),
            repair_after: replication::GRACE,
        }
    }
}

impl From<Balancing> for Settings {
    fn from(balancing: Balancing) -> Self {
        let Balancing { moves, rebalance, masters, rule, links, replication, copies, repair_after: grace } = balancing;
        let zones = Zones::new(links);
        Self { moves, rebalance, masters, rule, zones, replication, copies, grace, ..Self::default() }
    }
}

/// Who may call the `Cluster` service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClusterAccess {
    /// Everyone who reaches the master.
    #[default]
    Open,
    /// Who has a certificate from `usher certs issue admin`.
    Admin,
}

/// What a master needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen (TCP). Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The master's certificate and key, and the authority that signs the nodes' certificates.
    pub tls: PemSet,
    /// Directory of the key store; made when it does not exist.
    pub state: PathBuf,
    /// Who may call the `Cluster` service.
    pub cluster_access: ClusterAccess,
    /// Requests that may wait for a decision; see [`DEFAULT_QUEUE`].
    pub queue: usize,
    /// Connections at once; see [`DEFAULT_CONNECTIONS`].
    pub connections: usize,
    /// Where metrics are served.
    pub metrics: MetricsAt,
    /// How long a session may run until its ticket is renewed, in whole seconds; `None` for ever. See
    /// [`DEFAULT_LIFETIME`].
    pub session_lifetime: Option<Duration>,
    /// How nodes are chosen.
    pub balancing: Balancing,
}

/// A master that runs. Dropping it ends it without waiting.
pub struct MasterHandle {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    ending: CancellationToken,
    server: JoinHandle<()>,
}

impl MasterHandle {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves metrics, if it does.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Ends it: channels and watchers are told, calls that run may finish within five seconds.
    pub async fn shutdown(mut self) {
        self.ending.cancel();
        if tokio::time::timeout(GRACE, &mut self.server).await.is_err() {
            warn!("calls did not end in time; connections closed");
            self.server.abort();
        }
    }

    /// Waits until it has ended by itself, which it does only when its listener fails.
    pub async fn ended(&mut self) {
        // An error is a panic of the task, which has been logged where it happened.
        let _panic = (&mut self.server).await;
    }
}

impl Drop for MasterHandle {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

/// Starts a master; when this returns, it listens.
///
/// # Errors
/// When the key store cannot be read or made, the certificate does not work, or the address cannot be listened on.
pub async fn start(config: Config) -> anyhow::Result<MasterHandle> {
    let secret = store::cluster_secret(&config.state)?;
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&config.tls.cert, &config.tls.key))
        .client_ca_root(Certificate::from_pem(&config.tls.ca))
        // Viewers have none; Registry and Cluster ask for theirs.
        .client_auth_optional(true)
        .timeout(HANDSHAKE);
    let mut server = Server::builder()
        .tls_config(tls)
        .context("set up TLS with the master's certificate")?
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .max_concurrent_streams(CALLS)
        .http2_max_header_list_size(HEADERS);

    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "listen on {}: if another process has this address (perhaps another master), end it, or choose another with \
             --listen",
            config.listen
        )
    })?;
    let address = listener.local_addr().context("read the listener's address")?;
    let scraped = http::listen(config.metrics).await?;

    let metrics = Arc::new(Metrics::new());
    let state =
        Arc::new(SharedState::new(secret, config.balancing.into(), config.session_lifetime, Arc::clone(&metrics)));
    let (queue, updates) = UpdateQueue::new(update_queue::LENGTH, metrics.load_queue.clone());
    // It ends with the last channel of a node.
    tokio::spawn(update_queue::work(Arc::clone(&state), updates));
    let ending = CancellationToken::new();
    let scraped_at = scraped.as_ref().and_then(|listener| listener.local_addr().ok());
    let watch = scraped.map(|listener| http::serve(listener, Arc::clone(&state), ending.clone()));
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let tickets = grpc::tickets::TicketsService::new(Arc::clone(&state), config.queue);
    let catalog = grpc::catalog::CatalogService::new(Arc::clone(&state));
    let cluster = grpc::cluster::ClusterService::new(Arc::clone(&state), config.cluster_access, ending.clone());
    let registry = grpc::registry::RegistryService::new(Arc::clone(&state), queue, ending.clone());
    let router = server
        .add_service(TicketsServer::new(tickets).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(CatalogServer::new(catalog).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(ClusterServer::new(cluster).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(RegistryServer::new(registry).max_decoding_message_size(NODE_MESSAGE))
        .add_service(health_service)
        .add_service(reflection().build_v1().context("set up reflection")?)
        .add_service(reflection().build_v1alpha().context("set up reflection")?);

    let incoming = Box::pin(listen::connections(listener, config.connections, metrics.connections.clone()));
    let ticker = tokio::spawn(tick(state, ending.clone()));
    let updates = ending.clone();
    let serve = async move {
        let stop = async {
            updates.cancelled().await;
            for service in SERVICES {
                health.set_service_status(service, ServingStatus::NotServing).await;
            }
        };
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, stop).await {
            error!(error = &error as &dyn std::error::Error, "listener failed");
        }
        updates.cancel();
        // It ends with the token; an error is a panic, logged where it happened.
        let _panic = ticker.await;
        if let Some(watch) = watch {
            let _panic = watch.await;
        }
    };
    info!(%address, "master listens");
    Ok(MasterHandle { address, metrics: scraped_at, ending, server: tokio::spawn(serve) })
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(HEALTH_DESCRIPTORS)
}

/// Drives what time alone brings.
async fn tick(state: Arc<SharedState>, ending: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ending.cancelled() => return,
            _ = ticks.tick() => {}
        }
        state.tick();
        while state.sweep() {
            tokio::task::yield_now().await;
        }
    }
}
