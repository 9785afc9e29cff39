//! Starts and stops a master: state, listeners, services, ticker. Owns their tasks.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::future::BoxFuture;
use rustix::process::{Resource, getrlimit};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::{ServingStatus, pb::FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTORS};
use tracing::{info, warn};
use usher_certs::{files::PemSet, tls::master_server_config};
use usher_proto::pb::{
    DESCRIPTORS,
    v1::{
        catalog_server::CatalogServer, cluster_server::ClusterServer, registry_server::RegistryServer,
        tickets_server::TicketsServer,
    },
};

use crate::{
    calls::CallBudgets,
    dial_back,
    grpc::{self, CLIENT_MESSAGE, NODE_MESSAGE},
    http,
    listen::{Limits, Listener},
    metrics::Metrics,
    settings::{Config, Switch},
    state::SharedState,
    store,
    update_queue::{self, UpdateQueue},
    viewers::{Viewers, jwks::JwksUrl},
};

/// Connections that wait in the kernel to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Interval between checks of leases and reservations: a twentieth of a lease.
const TICK: Duration = Duration::from_millis(250);

/// Descriptors that connections must leave: listeners, the runtime, metrics, files.
const OTHER_FILES: usize = 128;

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

    /// Waits until the master stops by itself, which happens only after a panic of its listener.
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
pub fn start(config: Config, pem: PemSet) -> BoxFuture<'static, anyhow::Result<MasterHandle>> {
    // Boxed, so that the code of the future is generated in this crate and not again in each binary.
    Box::pin(launch(config, pem))
}

async fn launch(config: Config, pem: PemSet) -> anyhow::Result<MasterHandle> {
    config.check()?;
    let keys_at = JwksUrl::of(&config)?;
    let state_dir = config.state()?;
    let secret = store::cluster_secret(&state_dir)?;
    let viewers = Arc::new(Viewers::new(&config, secret.clone(), &state_dir)?);
    let tls = master_server_config(&pem).context("set up TLS with the master's certificate")?;
    let listener = bind(config.listen).with_context(|| {
        format!(
            "listen on {}: if another process has this address (perhaps another master), end it, or choose another with \
             --listen",
            config.listen
        )
    })?;
    let address = listener.local_addr().context("read the listener's address")?;
    let scraped = http::listen(config.metrics).await?;

    let metrics = Arc::new(Metrics::new());
    let (dials, dial_orders) = dial_back::queue();
    let (lifetime, counts) = (config.session_lifetime.0, Arc::clone(&metrics));
    let decisions = store::decisions(&config.state()?)?;
    let state = Arc::new(SharedState::new(secret, config.balancing()?, lifetime, counts, dials, decisions));
    let (queue, updates) = UpdateQueue::new(update_queue::LENGTH, metrics.load_queue.clone());
    // Ends with the last channel of a node.
    tokio::spawn(update_queue::work(Arc::clone(&state), updates));
    let ending = CancellationToken::new();
    tokio::spawn(dial_back::work(Arc::clone(&state), dial_orders, ending.clone()));
    let scraped_at = scraped.as_ref().and_then(|listener| listener.local_addr().ok());
    let watch =
        scraped.map(|listener| http::serve(listener, config.metrics_host.clone(), Arc::clone(&state), ending.clone()));
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    if let Some(keys_at) = keys_at {
        // Ends with the master.
        tokio::spawn(keys_at.keep_fresh(Arc::clone(&viewers), ending.clone()));
    }
    let budgets = Arc::new(CallBudgets::new(config.call_memory, Arc::clone(&metrics)));
    let tickets = grpc::tickets::TicketsService::new(Arc::clone(&state), Arc::clone(&viewers), config.queue);
    let catalog = grpc::catalog::CatalogService::new(Arc::clone(&state), Arc::clone(&viewers), Arc::clone(&budgets));
    let cluster = grpc::cluster::ClusterService::new(
        Arc::clone(&state),
        Arc::clone(&viewers),
        config.cluster_access,
        Arc::clone(&budgets),
        ending.clone(),
    );
    let registry =
        grpc::registry::RegistryService::new(Arc::clone(&state), queue, config.dial_back == Switch::On, ending.clone());
    let routes = Routes::default()
        .add_service(TicketsServer::new(tickets).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(CatalogServer::new(catalog).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(ClusterServer::new(cluster).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(RegistryServer::new(registry).max_decoding_message_size(NODE_MESSAGE))
        .add_service(health_service)
        .add_service(reflection().build_v1().context("set up reflection")?)
        .add_service(reflection().build_v1alpha().context("set up reflection")?);

    let limits = Limits {
        connections: affordable(config.max_connections),
        prefixes: config.prefix_lengths,
        idle: config.idle_timeout,
    };
    let connections = Listener::new(tls, routes.prepare(), budgets, limits, metrics, ending.clone());
    let ticker = tokio::spawn(tick(state, ending.clone()));
    let updates = ending.clone();
    let serve = async move {
        let stop = async {
            updates.cancelled().await;
            for service in SERVICES {
                health.set_service_status(service, ServingStatus::NotServing).await;
            }
        };
        tokio::join!(connections.serve(listener), stop);
        // Ends with the token; an error is a panic, logged where it happened.
        let _panic = ticker.await;
        if let Some(watch) = watch {
            let _panic = watch.await;
        }
    };
    info!(%address, "master listens");
    Ok(MasterHandle { address, metrics: scraped_at, ending, server: tokio::spawn(serve) })
}

/// The connections for which the system lets this process have descriptors: a failed accept would let all clients wait.
fn affordable(connections: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    let most = files.unwrap_or(usize::MAX).saturating_sub(OTHER_FILES).max(1);
    if connections > most {
        warn!(
            limit = most,
            "--max-connections lowered: the limit of open files (ulimit -n) is too low for {connections}"
        );
    }
    connections.min(most)
}

/// Binds the listener with a queue that holds a crowd: a full queue drops a client's first packet, which it repeats after a
/// second.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
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
