//! Starts and stops a master: state, listeners, services, ticker. Owns their tasks.

use std::{net::SocketAddr, sync::Arc, time::Duration};

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
    grpc::{self, CLIENT_MESSAGE, NODE_MESSAGE},
    http, listen,
    metrics::Metrics,
    settings::Config,
    state::SharedState,
    store,
    update_queue::{self, UpdateQueue},
    viewers::{Viewers, jwks::JwksUrl},
};

/// Interval between checks of leases and reservations: a twentieth of a lease.
const TICK: Duration = Duration::from_millis(250);

/// Limit of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Interval of pings on a silent connection, and the time to answer one. Together below two leases, so that the channel
/// of a dead node closes soon after its lease.
const PING: Duration = Duration::from_secs(4);

/// Limit of concurrent calls per connection.
const CALLS: u32 = 256;

/// Limit of header bytes per call.
const HEADERS: u32 = 16 << 10;

/// Time that running calls have to end at shutdown.
const GRACE: Duration = Duration::from_secs(5);

/// Services reported by the health service.
const SERVICES: [&str; 5] = ["", "usher.v1.Tickets", "usher.v1.Catalog", "usher.v1.Cluster", "usher.v1.Registry"];

/// A running master. Dropping it stops the master without waiting.
pub struct MasterHandle {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    ending: CancellationToken,
    server: JoinHandle<()>,
}

impl MasterHandle {
    /// Address of the listener.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Address of the metrics listener, if there is one.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Stops the master: closes channels and watchers, and gives running calls five seconds.
    pub async fn shutdown(mut self) {
        self.ending.cancel();
        if tokio::time::timeout(GRACE, &mut self.server).await.is_err() {
            warn!("calls did not end in time; connections closed");
            self.server.abort();
        }
    }

    /// Waits until the master stops by itself, which happens only if its listener fails.
    pub async fn ended(&mut self) {
        // An error is a panic of the task, logged where it happened.
        let _panic = (&mut self.server).await;
    }
}

impl Drop for MasterHandle {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

/// Starts a master with its certificate and the authority that signs the nodes' certificates; when this returns, the master
/// listens.
///
/// # Errors
/// When a setting is wrong, the key store cannot be read or made, the certificate does not work, or the address is in use.
pub async fn start(config: Config, pem: PemSet) -> anyhow::Result<MasterHandle> {
    config.check()?;
    let keys_at = JwksUrl::of(&config)?;
    let state_dir = config.state()?;
    let secret = store::cluster_secret(&state_dir)?;
    let viewers = Arc::new(Viewers::new(&config, secret.clone(), &state_dir)?);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&pem.cert, &pem.key))
        .client_ca_root(Certificate::from_pem(&pem.ca))
        // Viewers have no certificate; Registry and Cluster check theirs.
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
    let state = SharedState::new(secret, config.balancing()?, config.session_lifetime.0, Arc::clone(&metrics));
    let state = Arc::new(state);
    let (queue, updates) = UpdateQueue::new(update_queue::LENGTH, metrics.load_queue.clone());
    // Ends with the last channel of a node.
    tokio::spawn(update_queue::work(Arc::clone(&state), updates));
    let ending = CancellationToken::new();
    let scraped_at = scraped.as_ref().and_then(|listener| listener.local_addr().ok());
    let watch = scraped.map(|listener| http::serve(listener, Arc::clone(&state), ending.clone()));
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    if let Some(keys_at) = keys_at {
        // Ends with the master.
        tokio::spawn(keys_at.keep_fresh(Arc::clone(&viewers), ending.clone()));
    }
    let tickets = grpc::tickets::TicketsService::new(Arc::clone(&state), Arc::clone(&viewers), config.queue);
    let catalog = grpc::catalog::CatalogService::new(Arc::clone(&state), Arc::clone(&viewers));
    let cluster = grpc::cluster::ClusterService::new(
        Arc::clone(&state),
        Arc::clone(&viewers),
        config.cluster_access,
        ending.clone(),
    );
    let registry = grpc::registry::RegistryService::new(Arc::clone(&state), queue, ending.clone());
    let router = server
        .add_service(TicketsServer::new(tickets).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(CatalogServer::new(catalog).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(ClusterServer::new(cluster).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(RegistryServer::new(registry).max_decoding_message_size(NODE_MESSAGE))
        .add_service(health_service)
        .add_service(reflection().build_v1().context("set up reflection")?)
        .add_service(reflection().build_v1alpha().context("set up reflection")?);

    let incoming = Box::pin(listen::connections(listener, config.max_connections, metrics.connections.clone()));
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
        // Ends with the token; an error is a panic, logged where it happened.
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

/// Runs the periodic work of the state.
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
