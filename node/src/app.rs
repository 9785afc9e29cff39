//! Puts a node together, runs it, and takes it down politely. Owns its configuration; refuses to know command lines.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rand::RngExt as _;
use tokio::{sync::watch, task::JoinHandle};
use tracing::{debug, info, warn};
use usher_certs::{Role, files::PemSet, media::MAX_MEDIA_LIFETIME};
use usher_proto::{
    Bitrate, BootId, NodeName, id,
    model::{Equipment, PROTOCOL},
};

use crate::{
    attach::Dialer,
    context::NodeContext,
    core::guard::{Limits, MAX_SESSIONS},
    drain::Drain,
    interface::Interface,
    live::{self, Recorder},
    media::{self, Library},
    presence::Presence,
    quic::{self, Server},
    report::Reporter,
    services::Services,
};

pub use crate::attach::{Master, MasterError};
pub use usher_transport::{Congestion, Offload};

/// The port of the media listener when none is given.
pub const PORT: u16 = 7441;

/// What a node runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Masters, tried in turn; at least one.
    pub masters: Vec<Master>,
    /// The folders of its titles; at least one.
    pub media: Vec<PathBuf>,
    /// Its certificate, key and authority. The certificate names the node.
    pub identity: PemSet,
    /// What it may send.
    pub capacity: Bitrate,
    /// What one session may be promised; `None` for no limit but the capacity.
    pub max_session_rate: Option<Bitrate>,
    /// Sessions at a time.
    pub max_sessions: usize,
    /// The network interface whose other traffic counts against the capacity; `None` to count none.
    pub interface: Option<String>,
    /// What requests may ask for, for example `gpu` or `isp=north`; at most 32.
    pub labels: Vec<String>,
    /// Its zone; empty for none.
    pub zone: String,
    /// UDP addresses to listen on; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Addresses at which clients dial it; empty to find out.
    pub advertise: Vec<SocketAddr>,
    /// The library's index; its folder is made when missing.
    pub index: PathBuf,
    /// The folder of copies that the master orders, and what they may take.
    pub replicas: media::ReplicaConfig,
    /// Life of a media certificate, at most 13 days.
    pub media_cert_lifetime: Duration,
    /// The congestion controller of its connections.
    pub congestion: Congestion,
    /// How datagrams are given to the kernel.
    pub offload: Offload,
    /// Threads that send; 0 for one on each core.
    pub threads: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// How long a client may take for its Open message.
    pub open_timeout: Duration,
    /// How long a reader may take nothing before its session is closed.
    pub stall_timeout: Duration,
    /// How long after its ticket's end a session may run while there is no master to renew it at.
    pub ticket_grace: Duration,
    /// How long running sessions may go on after the first request to end.
    pub drain_timeout: Duration,
    /// Whether feeds may be sent here.
    pub ingest: bool,
    /// How much of each feed is kept for viewers who begin in the past.
    pub live_window: Duration,
    /// Bytes of memory that all feeds together may take.
    pub live_memory: u64,
    /// How long a feed waits for a publisher that left without a word.
    pub live_grace: Duration,
    /// A folder of titles where feeds are recorded; `None` to record none.
    pub recordings: Option<PathBuf>,
}

impl Config {
    /// A node of these masters, folders, identity and index, and the defaults of the command line for the rest.
    pub fn new(masters: Vec<Master>, media: Vec<PathBuf>, identity: PemSet, index: PathBuf) -> Self {
        let folder = index.parent().unwrap_or_else(|| Path::new("")).join("replicas");
        Self {
            masters,
            media,
            identity,
            capacity: Bitrate(1_000_000_000),
            max_session_rate: None,
            max_sessions: MAX_SESSIONS,
            interface: None,
            labels: Vec::new(),
            zone: String::new(),
            listen: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))],
            advertise: Vec::new(),
            index,
            replicas: media::ReplicaConfig { folder, quota: None },
            media_cert_lifetime: MAX_MEDIA_LIFETIME,
            congestion: Congestion::default(),
            offload: Offload::default(),
            threads: 0,
            max_connections: 4096,
            open_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(5 * 60),
            ticket_grace: Duration::from_secs(6 * 3600),
            drain_timeout: Duration::from_secs(30),
            ingest: true,
            live_window: Duration::from_secs(60),
            live_memory: 512 << 20,
            live_grace: live::GRACE,
            recordings: None,
        }
    }

    /// Checks all that can be checked without starting, and returns the node's name.
    ///
    /// # Errors
    /// Names what is wrong and what to do.
    pub fn check(&self) -> anyhow::Result<NodeName> {
        let identity = self.identity.identity().context("read the node's certificate")?;
        ensure!(
            identity.role == Role::Node,
            "the certificate is for the role {}; issue one with `usher certs issue node NAME`",
            identity.role
        );
        ensure!(!self.masters.is_empty(), "no master is given; name one with --master HOST");
        ensure!(!self.media.is_empty(), "no media folder is given; name one with --media DIR");
        ensure!(self.media.len() <= usize::from(u16::MAX), "more media folders than a node can number");
        for folder in &self.media {
            check_folder(folder)?;
        }
        if let Some(folder) = &self.recordings {
            Recorder::check(folder)?;
        }
        ensure!(!self.listen.is_empty(), "no address to listen on; give one with --listen");
        for address in &self.advertise {
            let good = address.port() != 0 && !address.ip().is_unspecified();
            ensure!(good, "{address} cannot be dialled; correct --advertise");
        }
        id::zone(&self.zone).context("check --zone")?;
        ensure!(self.max_connections > 0, "a node needs at least one connection; correct --max-connections");
        ensure!(self.max_sessions > 0, "a node needs at least one session; correct --max-sessions");
        self.interface()?;
        self.equipment()?;
        let lifetime = self.media_cert_lifetime;
        if lifetime < Duration::from_secs(1) || lifetime > MAX_MEDIA_LIFETIME {
            bail!("a media certificate lives for 1 s to 13 days, not {} s", lifetime.as_secs());
        }
        NodeName::parse(&identity.name).context("read the name in the node's certificate")
    }
}

impl Config {
    fn limits(&self) -> Limits {
        Limits { capacity: self.capacity, sessions: self.max_sessions, session_rate: self.max_session_rate }
    }

    fn interface(&self) -> anyhow::Result<Option<Interface>> {
        self.interface.as_deref().map(Interface::find).transpose()
    }

    /// What the master is told that the node can do, as the master will check it.
    fn equipment(&self) -> anyhow::Result<Equipment> {
        let equipment = Equipment {
            protocols: vec![PROTOCOL.to_owned()],
            labels: self.labels.clone(),
            live_ingest: self.ingest,
            records: self.ingest && self.recordings.is_some(),
            max_session: self.max_session_rate,
        };
        Equipment::try_from(equipment.to_pb()).context("check --label and --max-session-rate")
    }
}

fn check_folder(folder: &Path) -> anyhow::Result<()> {
    let folder_text = folder.display();
    let metadata = std::fs::metadata(folder).with_context(|| format!("look at media folder {folder_text}"))?;
    ensure!(metadata.is_dir(), "{folder_text} is not a folder; name one with --media DIR");
    std::fs::read_dir(folder).with_context(|| format!("read media folder {folder_text}"))?;
    Ok(())
}

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

/// Before the library: what is rescued of earlier recordings is there when it looks.
async fn recorder(folder: PathBuf) -> anyhow::Result<Arc<Recorder>> {
    tokio::task::spawn_blocking(move || Recorder::open(folder)).await.context("look for unfinished recordings")?
}

/// Starts a node. It serves at once, and attaches to a master as soon as there is one.
///
/// # Errors
/// Names the setting, file, folder or address that is wrong.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let name = config.check()?;
    if let Some(folder) = config.index.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make state folder {}", folder.display()))?;
    }
    let (limits, interface, equipment) = (config.limits(), config.interface()?, config.equipment()?);
    // Before the library: a port in use is told at once.
    let sockets = quic::bind(&config.listen)?;
    let recorder = match &config.recordings {
        Some(folder) => Some(recorder(folder.clone()).await?),
        None => None,
    };
    let (volumes, replicas) = (volumes(config.media, config.recordings), Some(config.replicas));
    let library = Library::open(media::LibraryConfig { volumes, index: config.index, replicas }).await?;
    let feeds = live::FeedSettings {
        ingest: config.ingest,
        window: config.live_window,
        memory: config.live_memory,
        grace: config.live_grace,
    };
    let context = NodeContext::new(name, library, limits);
    let services = Services::new(context.clone(), feeds);
    if let Some(recorder) = recorder {
        services.live.record_with(recorder);
    }

    // The addresses are known once the sockets are bound, and the certificate is needed for that.
    let settings = quic::QuicSettings {
        congestion: config.congestion,
        offload: config.offload,
        threads: match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        },
        max_connections: config.max_connections,
        open_timeout: config.open_timeout,
        stall_timeout: config.stall_timeout,
        unused: quic::UNUSED,
        ticket_grace: config.ticket_grace,
    };
    let presence = Presence::new(context.name.as_str(), config.media_cert_lifetime, config.advertise)?;
    let server = Server::start(&services, presence.resolver(), sockets, settings)?;
    let addresses = server.local_addrs()?;
    let presence = Arc::new(presence.listening_on(addresses.clone()));

    let (attached, watch) = watch::channel(false);
    let drain = Arc::new(Drain::new(services.clone(), presence.clone()));
    let dialer = Dialer { masters: config.masters, identity: config.identity, presence: presence.clone() };
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

/// Tells the operator when the library is ready, and what that took.
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
    /// The first address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        // There is one for each address of the configuration, which has at least one.
        self.addresses.first().copied().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }

    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.services.context.name
    }

    /// Its library.
    pub fn library(&self) -> &Library {
        &self.services.context.library
    }

    /// Sessions that run now.
    pub fn sessions(&self) -> usize {
        self.services.context.meter().sessions()
    }

    /// Waits until a master has its whole catalog.
    pub async fn attached(&self) {
        // Fails only when the task that attaches has ended, as at shutdown: nothing to wait for then.
        drop(self.attached.clone().wait_for(|attached| *attached).await);
    }

    /// Takes no new sessions from here on, and tells the master, which sends those that run elsewhere; ends what still
    /// runs after `left`.
    pub fn drain(&self, left: Duration) {
        self.drain.end(left);
    }

    /// Waits until no session runs.
    pub async fn idle(&self) {
        self.services.context.idle().await;
    }

    /// Ends what still runs, and everything else. Clients learn that the node is draining.
    pub async fn shutdown(self) {
        self.drain.end_now();
        self.server.close().await;
        self.services.live.close().await;
        for task in self.tasks {
            task.abort();
            // Ends with the cancellation just asked for.
            drop(task.await);
        }
        self.services.puller.close().await;
        self.services.context.library.close().await;
        info!(node = %self.services.context.name, "node ended");
    }
}

/// Serves until asked to end: the first request drains, and ends at the drain timeout what still runs then; a second one
/// ends at once. A closed `requests` counts as one request.
///
/// # Errors
/// As [`start`].
pub async fn serve(config: Config, mut requests: tokio::sync::mpsc::Receiver<()>) -> anyhow::Result<()> {
    let patience = config.drain_timeout;
    let running = start(config).await?;
    // `None` is the closed channel.
    if requests.recv().await.is_none() {
        debug!("nobody is left to ask for an end");
    }
    info!(sessions = running.sessions(), "asked to end; ask again to end at once");
    running.drain(patience);
    tokio::select! {
        () = running.idle() => {}
        () = running.drain.over() => {}
        Some(()) = requests.recv() => warn!(sessions = running.sessions(), "ending at once"),
    }
    running.shutdown().await;
    Ok(())
}
