//! Starts, runs and stops a node. Knows its settings, not the command line.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures::future::BoxFuture;
use rand::RngExt as _;
use tokio::{sync::watch, task::JoinHandle};
use tracing::{debug, info, warn};
use usher_certs::files::PemSet;
use usher_proto::{BootId, NodeName};

use crate::{
    attach::Dialer,
    budgets::Budgets,
    context::NodeContext,
    drain::Drain,
    live::{self, Recorder},
    media::{self, Library},
    presence::Presence,
    quic::{self, Server},
    report::Reporter,
    services::Services,
    settings::Config,
};

pub use crate::attach::{Master, MasterError};
pub use usher_transport::{Congestion, Offload};

/// Name of the index in the state folder.
const INDEX: &str = "index.redb";

/// The folders of titles: the operator's, and that of recordings, unless it is one of them.
fn volumes(mut media: Vec<PathBuf>, recordings: Option<PathBuf>) -> Vec<PathBuf> {
    let real = |folder: &Path| folder.canonicalize().ok();
    if let Some(folder) = recordings
        && !media.iter().any(|other| real(other) == real(&folder))
    {
        media.push(folder);
    }
    media
}

/// Opens the folder of recordings before the library, which then finds rescued recordings.
async fn recorder(folder: PathBuf) -> anyhow::Result<Arc<Recorder>> {
    tokio::task::spawn_blocking(move || Recorder::open(folder)).await.context("look for unfinished recordings")?
}

/// Starts a node as `identity`. It serves at once, and attaches to a master as soon as there is one.
///
/// # Errors
/// Names the setting, file, folder or address that is wrong.
pub fn start(config: Config, identity: PemSet) -> BoxFuture<'static, anyhow::Result<Running>> {
    // Boxed, so that the code of the future is generated in this crate and not again in each binary.
    Box::pin(launch(config, identity))
}

async fn launch(config: Config, identity: PemSet) -> anyhow::Result<Running> {
    let name = config.check(&identity)?;
    let state = config.state(name.as_str())?;
    usher_files::private_folder(&state, INDEX).with_context(|| format!("make state folder {}", state.display()))?;
    let (admission, interface, equipment) = (config.admission(), config.interface()?, config.equipment()?);
    // Before the library, so that a port in use is reported at once.
    let sockets = quic::bind(&config.listen)?;
    let recorder = match &config.recordings {
        Some(folder) => Some(recorder(folder.clone()).await?),
        None => None,
    };
    let (index, replicas) = (state.join(INDEX), Some(config.replicas(&state)));
    let volumes = volumes(config.media, config.recordings);
    let library = Library::open(media::LibraryConfig { volumes, index, replicas }).await?;
    let feeds = live::FeedSettings {
        ingest: !config.no_ingest,
        window: config.live_window,
        memory: config.live_memory,
        grace: config.live_grace,
    };
    let context = NodeContext::new(name, library, admission);
    let budgets = Budgets::new(config.prefix_lengths, config.max_connections);
    let services = Services::new(context.clone(), feeds, budgets);
    if let Some(recorder) = recorder {
        services.live.record_with(recorder);
    }

    // The addresses are known once the sockets are bound, which needs the certificate.
    let settings = quic::QuicSettings {
        congestion: config.congestion,
        offload: config.offload,
        threads: match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        },
        open_timeout: config.open_timeout,
        stall_timeout: config.stall_timeout,
        handshake_timeout: quic::HANDSHAKE,
        never_used: quic::NEVER_USED,
        unused: quic::UNUSED,
        ticket_grace: config.ticket_grace,
    };
    let presence = Presence::new(context.name.as_str(), config.media_cert_lifetime, config.advertise)?;
    let server = Server::start(&services, presence.resolver(), sockets, settings)?;
    let addresses = server.local_addrs()?;
    let presence = Arc::new(presence.listening_on(addresses.clone()));

    let (attached, watch) = watch::channel(false);
    let drain = Arc::new(Drain::new(services.clone(), presence.clone()));
    let dialer = Dialer { masters: config.masters, identity, presence: presence.clone() };
    let reporter = Reporter {
        services: services.clone(),
        drain: drain.clone(),
        presence: presence.clone(),
        dialer,
        boot: BootId(rand::rng().random()),
        zone: config.zone,
        capacity: config.capacity,
        equipment,
        interface,
        attached,
    };
    info!(node = %context.name, listen = ?addresses, capacity = %config.capacity, "node started");
    let (rotation, deadlines) = (presence, drain.clone());
    let tasks = vec![
        tokio::spawn(reporter.run()),
        tokio::spawn(async move { deadlines.keep().await }),
        tokio::spawn(async move { rotation.keep().await }),
        tokio::spawn(log_library(context.library.clone())),
    ];
    Ok(Running { services, server, drain, addresses, attached: watch, tasks })
}

/// Logs when the library is scanned and hashed.
async fn log_library(library: Library) {
    library.scanned().await;
    let stats = library.stats();
    info!(
        titles = stats.titles,
        rejected_files = stats.rejected_files,
        probed_files = stats.probed_files,
        "library is scanned"
    );
    library.hashed().await;
    info!(hashed_bytes = library.stats().hashed_bytes, "library is hashed");
}

/// A running node. Dropping it leaves it running until the runtime ends; [`Running::shutdown`] takes it down.
pub struct Running {
    pub(crate) services: Arc<Services>,
    server: Server,
    drain: Arc<Drain>,
    addresses: Vec<SocketAddr>,
    attached: watch::Receiver<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// The first listening address.
    pub fn local_addr(&self) -> SocketAddr {
        // The configuration has at least one address.
        self.addresses.first().copied().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }

    /// Name of the node.
    pub fn name(&self) -> &NodeName {
        &self.services.context.name
    }

    /// Library of the node.
    pub fn library(&self) -> &Library {
        &self.services.context.library
    }

    /// Number of active sessions.
    pub fn sessions(&self) -> usize {
        self.services.context.meter().sessions()
    }

    /// Waits until a master has the whole catalog.
    pub async fn attached(&self) {
        // Fails only when the task that attaches has ended at shutdown.
        drop(self.attached.clone().wait_for(|attached| *attached).await);
    }

    /// Refuses new sessions, reports that to the master, which moves active sessions, and ends the remaining ones after
    /// `left`.
    pub fn drain(&self, left: Duration) {
        self.drain.end(left);
    }

    /// Waits until no session is active.
    pub async fn idle(&self) {
        self.services.context.idle().await;
    }

    /// Ends the remaining sessions and everything else. Clients receive DRAINING.
    pub async fn shutdown(self) {
        self.drain.end_now();
        self.server.close().await;
        self.services.live.close().await;
        for task in self.tasks {
            task.abort();
            // Ends with the cancellation above.
            drop(task.await);
        }
        self.services.puller.close().await;
        self.services.context.library.close().await;
        info!(node = %self.services.context.name, "node ended");
    }
}

/// Serves until a request to end: the first drains, and ends the remaining sessions at the drain timeout; a second ends
/// them at once. A closed `requests` counts as one request.
///
/// # Errors
/// As [`start`].
pub async fn serve(
    config: Config,
    identity: PemSet,
    mut requests: tokio::sync::mpsc::Receiver<()>,
) -> anyhow::Result<()> {
    let timeout = config.drain_timeout;
    let running = start(config, identity).await?;
    // `None` is the closed channel.
    if requests.recv().await.is_none() {
        debug!("the channel for requests to end is closed");
    }
    info!(sessions = running.sessions(), "shutting down; a second request ends it at once");
    running.drain(timeout);
    tokio::select! {
        () = running.idle() => {}
        () = running.drain.over() => {}
        Some(()) = requests.recv() => warn!(sessions = running.sessions(), "ending at once"),
    }
    running.shutdown().await;
    Ok(())
}
