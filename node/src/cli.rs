//! `usher node`: flags, environment and file become a [`Config`]. A flag beats the environment, which beats the file,
//! which beats the default. Reads the certificates; starts nothing but through `app`.

mod file;
mod size;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use usher_certs::{
    Identity, Role,
    files::{self, Paths, PemSet},
};
use usher_proto::{Bitrate, NodeName};

use crate::{
    app::{self, Config, Congestion, Master, Offload},
    media::ReplicaConfig,
};
use file::File;
use size::Size;

/// Arguments of `usher node`.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// A master to attach to, HOST[:PORT]; give several to have others to turn to
    #[arg(long, env = "USHER_MASTER", value_name = "HOST[:PORT]", value_delimiter = ',')]
    master: Vec<Master>,
    /// A folder of titles; give several for several volumes
    #[arg(long, env = "USHER_MEDIA", value_name = "DIR")]
    media: Vec<PathBuf>,
    /// The node's name [default: the one in its certificate]
    #[arg(long, env = "USHER_NAME")]
    name: Option<NodeName>,
    /// What the node may send, for example 800mbit, 2.5gbit or 100MB/s [default: 1gbit]
    #[arg(long, env = "USHER_CAPACITY", value_name = "RATE")]
    capacity: Option<Bitrate>,
    /// What one session may be promised, for example 50mbit [default: the capacity]
    #[arg(long, env = "USHER_MAX_SESSION_RATE", value_name = "RATE")]
    max_session_rate: Option<Bitrate>,
    /// Sessions at a time [default: 10000]
    #[arg(long, env = "USHER_MAX_SESSIONS", value_name = "N")]
    max_sessions: Option<usize>,
    /// Network interface on which others' traffic is counted against the capacity, for example eth0
    #[arg(long, env = "USHER_INTERFACE", value_name = "NAME")]
    interface: Option<String>,
    /// What requests may ask for, for example gpu or isp=north; give several to have several
    #[arg(long = "label", env = "USHER_LABELS", value_name = "LABEL", value_delimiter = ',')]
    labels: Vec<String>,
    /// The zone it is in: a network, site or region
    #[arg(long, env = "USHER_ZONE")]
    zone: Option<String>,
    /// UDP address to serve on; give several to serve on several [default: 0.0.0.0:7441]
    #[arg(long, env = "USHER_LISTEN", value_name = "IP:PORT", value_delimiter = ',')]
    listen: Vec<SocketAddr>,
    /// Address at which clients dial it, best first [default: found out]
    #[arg(long, env = "USHER_ADVERTISE", value_name = "IP:PORT", value_delimiter = ',')]
    advertise: Vec<SocketAddr>,
    /// Its certificate
    #[arg(long, env = "USHER_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The certificate's private key
    #[arg(long, env = "USHER_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// The authority's certificate
    #[arg(long, env = "USHER_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Directory with ca.pem, node-NAME.pem and node-NAME.key [default: usher/certs in the configuration directory]
    #[arg(long, env = "USHER_CERTS", value_name = "DIR")]
    certs: Option<PathBuf>,
    /// Directory of the library's index [default: usher/NAME in the state directory]
    #[arg(long, env = "USHER_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Directory of copies that the master orders, apart from the media [default: replicas in the state directory]
    #[arg(long, env = "USHER_REPLICAS", value_name = "DIR")]
    replicas: Option<PathBuf>,
    /// What these copies may take, for example 500GB; 0 takes none [default: 10GB, at most a tenth of the disk's free space]
    #[arg(long, env = "USHER_REPLICA_QUOTA", value_name = "SIZE")]
    replica_quota: Option<Size>,
    /// Life of a media certificate, at most 13d [default: 13d]
    #[arg(long, env = "USHER_MEDIA_CERT_LIFETIME", value_name = "TIME", value_parser = humantime::parse_duration)]
    media_cert_lifetime: Option<Duration>,
    /// Congestion controller [default: cubic]
    #[arg(long, env = "USHER_CONGESTION")]
    congestion: Option<Congestion>,
    /// Whether datagrams leave many a call (UDP segmentation offload) [default: auto]
    #[arg(long, env = "USHER_OFFLOAD")]
    offload: Option<Offload>,
    /// Threads that send media [default: one on each core]
    #[arg(long, env = "USHER_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Connections at a time [default: 4096]
    #[arg(long, env = "USHER_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// How long a client may take to say what it wants [default: 10s]
    #[arg(long, env = "USHER_OPEN_TIMEOUT", value_name = "TIME", value_parser = humantime::parse_duration)]
    open_timeout: Option<Duration>,
    /// How long a reader may take nothing before its session is closed [default: 5m]
    #[arg(long, env = "USHER_STALL_TIMEOUT", value_name = "TIME", value_parser = humantime::parse_duration)]
    stall_timeout: Option<Duration>,
    /// How long a session may outlive its ticket while there is no master to renew it at [default: 6h]
    #[arg(long, env = "USHER_TICKET_GRACE", value_name = "TIME", value_parser = humantime::parse_duration)]
    ticket_grace: Option<Duration>,
    /// How long running sessions may go on after the first request to end [default: 30s]
    #[arg(long, env = "USHER_DRAIN_TIMEOUT", value_name = "TIME", value_parser = humantime::parse_duration)]
    drain_timeout: Option<Duration>,
    /// Take no live feeds in; viewers may still be sent here, and the feed comes from another node
    #[arg(long, env = "USHER_NO_INGEST")]
    no_ingest: bool,
    /// How much of each live feed is kept, for viewers who begin in the past [default: 60s]
    #[arg(long, env = "USHER_LIVE_WINDOW", value_name = "TIME", value_parser = humantime::parse_duration)]
    live_window: Option<Duration>,
    /// Memory that all live feeds together may take, for example 2GB; the oldest of them goes first [default: 512MiB]
    #[arg(long, env = "USHER_LIVE_MEMORY", value_name = "SIZE")]
    live_memory: Option<Size>,
    /// How long a live feed waits for a publisher that left without a word [default: 15s]
    #[arg(long, env = "USHER_LIVE_GRACE", value_name = "TIME", value_parser = humantime::parse_duration)]
    live_grace: Option<Duration>,
    /// A folder of titles where live feeds are recorded that ask for it, as recordings/NAME/TIME; without one none is
    #[arg(long, env = "USHER_RECORDINGS", value_name = "DIR")]
    recordings: Option<PathBuf>,
    /// A TOML file with these settings under the names of their flags
    #[arg(long, env = "USHER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings, certificates and folders, and end
    #[arg(long)]
    check_config: bool,
}

/// Runs `usher node` until asked to end twice, or once and no session runs; see [`app::serve`].
///
/// # Errors
/// Names what is wrong and what to do.
pub async fn run(args: Args, requests: tokio::sync::mpsc::Receiver<()>) -> anyhow::Result<()> {
    let check_only = args.check_config;
    let config = config(args)?;
    let name = config.check()?;
    if check_only {
        tracing::info!(node = %name, "the configuration is good");
        return Ok(());
    }
    app::serve(config, requests).await
}

/// The first list that says something.
fn list<T>(args: Vec<T>, file: Vec<T>, default: impl FnOnce() -> Vec<T>) -> Vec<T> {
    [args, file].into_iter().find(|list| !list.is_empty()).unwrap_or_else(default)
}

fn config(args: Args) -> anyhow::Result<Config> {
    let file = match &args.config {
        Some(path) => File::read(path)?,
        None => File::default(),
    };
    let identity = identity(&args, &file)?;
    let name = identity.identity().context("read the node's certificate")?.name;
    let state = match args.state.or(file.state) {
        Some(state) => state,
        None => state_dir()?.join("usher").join(&name),
    };
    let masters = list(args.master, file.master, Vec::new);
    let media = list(args.media, file.media, Vec::new);
    let default = Config::new(masters, media, identity, state.join("index.redb"));
    Ok(Config {
        capacity: args.capacity.or(file.capacity).unwrap_or(default.capacity),
        max_session_rate: args.max_session_rate.or(file.max_session_rate),
        max_sessions: args.max_sessions.or(file.max_sessions).unwrap_or(default.max_sessions),
        interface: args.interface.or(file.interface),
        labels: list(args.labels, file.labels, Vec::new),
        replicas: ReplicaConfig {
            folder: args.replicas.or(file.replicas).unwrap_or(default.replicas.folder),
            quota: args.replica_quota.or(file.replica_quota).map(|size| size.0),
        },
        zone: args.zone.or(file.zone).unwrap_or_default(),
        listen: list(args.listen, file.listen, || default.listen.clone()),
        advertise: list(args.advertise, file.advertise, Vec::new),
        media_cert_lifetime: args
            .media_cert_lifetime
            .or(file.media_cert_lifetime)
            .unwrap_or(default.media_cert_lifetime),
        congestion: args.congestion.or(file.congestion).unwrap_or(default.congestion),
        offload: args.offload.or(file.offload).unwrap_or(default.offload),
        threads: args.threads.or(file.threads).unwrap_or(default.threads),
        max_connections: args.max_connections.or(file.max_connections).unwrap_or(default.max_connections),
        open_timeout: args.open_timeout.or(file.open_timeout).unwrap_or(default.open_timeout),
        stall_timeout: args.stall_timeout.or(file.stall_timeout).unwrap_or(default.stall_timeout),
        ticket_grace: args.ticket_grace.or(file.ticket_grace).unwrap_or(default.ticket_grace),
        ingest: !(args.no_ingest || file.no_ingest),
        live_window: args.live_window.or(file.live_window).unwrap_or(default.live_window),
        live_memory: args.live_memory.or(file.live_memory).map_or(default.live_memory, |size| size.0),
        live_grace: args.live_grace.or(file.live_grace).unwrap_or(default.live_grace),
        recordings: args.recordings.or(file.recordings),
        drain_timeout: args.drain_timeout.or(file.drain_timeout).unwrap_or(default.drain_timeout),
        ..default
    })
}

/// Finds and reads the node's certificate, key and authority.
fn identity(args: &Args, file: &File) -> anyhow::Result<PemSet> {
    let name = args.name.as_ref().or(file.name.as_ref());
    // A directory on the command line beats files that the file names, unless some of them are on it too.
    let file_counts = args.certs.is_none() || args.cert.is_some() || args.key.is_some();
    let of_file = |path: &Option<PathBuf>| path.clone().filter(|_| file_counts);
    let cert = args.cert.clone().or_else(|| of_file(&file.cert));
    let key = args.key.clone().or_else(|| of_file(&file.key));
    let ca = args.ca.clone().or_else(|| of_file(&file.ca));
    let dir = || match args.certs.as_ref().or(file.certs.as_ref()) {
        Some(dir) => anyhow::Ok(dir.clone()),
        None => Ok(files::default_dir()?),
    };
    let paths = match (cert, key) {
        (Some(cert), Some(key)) => {
            let ca = match ca {
                Some(ca) => ca,
                None => dir()?.join(files::CA_CERT),
            };
            Paths { cert, key, ca }
        }
        (None, None) => {
            let paths = in_directory(&dir()?, name)?;
            Paths { ca: ca.unwrap_or(paths.ca), ..paths }
        }
        (Some(_), None) => bail!("--cert is given without --key: give both, or a directory with --certs"),
        (None, Some(_)) => bail!("--key is given without --cert: give both, or a directory with --certs"),
    };
    let pem = files::read_pem(&paths.cert, &paths.key, &paths.ca)?;
    let found = pem.identity().with_context(|| format!("read {}", paths.cert.display()))?;
    ensure!(
        found.role == Role::Node,
        "{} is a certificate for the role {}; issue one with `usher certs issue node NAME`",
        paths.cert.display(),
        found.role
    );
    if let Some(name) = name {
        ensure!(
            found.name == name.as_str(),
            "--name is {name}, but {} is the certificate of {}",
            paths.cert.display(),
            found.name
        );
    }
    Ok(pem)
}

/// The files of the node `name`, or of the only node there.
fn in_directory(dir: &std::path::Path, name: Option<&NodeName>) -> anyhow::Result<Paths> {
    let of =
        |name: &str| anyhow::Ok(Paths::of(dir, &Identity::new(Role::Node, name).context("check the node's name")?));
    if let Some(name) = name {
        return of(name.as_str());
    }
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("look for a node's certificate in {}", dir.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let file = entry.ok()?.file_name().into_string().ok()?;
            Some(file.strip_prefix("node-")?.strip_suffix(".pem")?.to_owned())
        })
        .collect();
    names.sort_unstable();
    match names.as_slice() {
        [only] => of(only),
        [] => bail!("no node's certificate in {}; make one with `usher certs issue node NAME`", dir.display()),
        several => bail!("{} has certificates of {}; choose with --name", dir.display(), several.join(", ")),
    }
}

/// Where programs keep what they can make again, by the XDG base directory specification.
fn state_dir() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_STATE_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .context("find a place for the index: HOME is not set; say it with --state")
}

#[cfg(test)]
mod tests;
