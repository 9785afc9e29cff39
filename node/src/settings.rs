//! The settings of a node, each described once: [`Config`] is what the command line, the environment and the TOML file
//! fill. Owns their names, defaults and checks, and finds the node's certificate; starts nothing.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::ArgAction;
use serde::Deserialize;
use usher_budget::PrefixLengths;
use usher_certs::{
    Identity, Role,
    files::{self, Paths, PemSet},
    media::MAX_MEDIA_LIFETIME,
};
use usher_proto::{
    Bitrate, NodeName, id,
    model::{Equipment, PROTOCOL},
};
use usher_settings::{Settings, de, size, state_dir};
use usher_transport::{Congestion, Offload};

use crate::{
    attach::Master,
    core::admission::{AdmissionControl, MAX_SESSIONS},
    interface::Interface,
    live::{self, Recorder},
    media::ReplicaConfig,
};

/// The port of the media listener when none is given.
pub const PORT: u16 = 7441;

/// Settings of a node.
#[derive(Clone, Debug, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Master to attach to; with several, the node tries them in turn
    #[arg(long = "master", env = "USHER_MASTER", value_name = "HOST[:PORT]", value_delimiter = ',')]
    #[serde(rename = "master", deserialize_with = "de::texts")]
    pub masters: Vec<Master>,
    /// Folder of titles; repeat it for several volumes
    #[arg(long, env = "USHER_MEDIA", value_name = "DIR")]
    pub media: Vec<PathBuf>,
    /// Name of the node [default: the name in its certificate]
    #[arg(long, env = "USHER_NAME")]
    #[serde(deserialize_with = "de::text_or_none")]
    pub name: Option<NodeName>,
    /// Rate that the node may send, for example 800mbit, 2.5gbit or 100MB/s [default: 1gbit]
    #[arg(long, env = "USHER_CAPACITY", value_name = "RATE")]
    #[serde(deserialize_with = "de::text")]
    pub capacity: Bitrate,
    /// Highest rate of one session, for example 50mbit [default: the capacity]
    #[arg(long, env = "USHER_MAX_SESSION_RATE", value_name = "RATE")]
    #[serde(deserialize_with = "de::text_or_none")]
    pub max_session_rate: Option<Bitrate>,
    /// Maximum number of sessions at a time [default: 10000]
    #[arg(long, env = "USHER_MAX_SESSIONS", value_name = "N")]
    pub max_sessions: usize,
    /// Network interface whose other traffic counts against the capacity, for example eth0 [default: none]
    #[arg(long, env = "USHER_INTERFACE", value_name = "NAME")]
    pub interface: Option<String>,
    /// Property that requests may require, for example gpu or isp=north; repeat it for several, at most 32
    #[arg(long = "label", env = "USHER_LABELS", value_name = "LABEL", value_delimiter = ',')]
    #[serde(alias = "label")]
    pub labels: Vec<String>,
    /// Zone of the node: a network, site or region [default: none]
    #[arg(long, env = "USHER_ZONE")]
    pub zone: String,
    /// UDP address to serve on; repeat it for several, port 0 takes a free one [default: 0.0.0.0:7441]
    #[arg(long, env = "USHER_LISTEN", value_name = "IP:PORT", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// Address that clients dial; repeat it for several, best first [default: found by the node]
    #[arg(long, env = "USHER_ADVERTISE", value_name = "IP:PORT", value_delimiter = ',')]
    pub advertise: Vec<SocketAddr>,
    /// The node's certificate (PEM)
    #[arg(long, env = "USHER_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, env = "USHER_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Certificate of the cluster's authority (PEM)
    #[arg(long, env = "USHER_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Directory with ca.pem, node-NAME.pem and node-NAME.key [default: usher/certs in the configuration directory]
    #[arg(long, env = "USHER_CERTS", value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// Directory of the library's index [default: usher/NAME in the state directory]
    #[arg(long, env = "USHER_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Directory of the copies that the master orders [default: replicas in the --state directory]
    #[arg(long, env = "USHER_REPLICAS", value_name = "DIR")]
    pub replicas: Option<PathBuf>,
    /// Disk space for these copies, for example 500GB; 0 for no copies [default: 10GB, at most a tenth of the free space]
    #[arg(long, env = "USHER_REPLICA_QUOTA", value_name = "SIZE", value_parser = size)]
    #[serde(deserialize_with = "de::size_or_none")]
    pub replica_quota: Option<u64>,
    /// Lifetime of a media certificate, 1s to 13d [default: 13d]
    #[arg(long, env = "USHER_MEDIA_CERT_LIFETIME", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub media_cert_lifetime: Duration,
    /// Congestion controller of the connections to clients [default: cubic]
    #[arg(long, env = "USHER_CONGESTION")]
    pub congestion: Congestion,
    /// Send many datagrams in one system call (UDP segmentation offload) [default: auto]
    #[arg(long, env = "USHER_OFFLOAD")]
    pub offload: Offload,
    /// Threads that send media; 0 for one on each core [default: 0]
    #[arg(long, env = "USHER_THREADS", value_name = "N")]
    pub threads: usize,
    /// Maximum number of connections at a time [default: 4096]
    #[arg(long, env = "USHER_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: usize,
    /// Lengths of the address prefixes that count as one client each, for IPv4 and IPv6 [default: 32,64]
    #[arg(long, env = "USHER_PREFIX_LENGTHS", value_name = "IPV4,IPV6")]
    #[serde(deserialize_with = "de::text")]
    pub prefix_lengths: PrefixLengths,
    /// Time for a client to send its Open message [default: 10s]
    #[arg(long, env = "USHER_OPEN_TIMEOUT", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub open_timeout: Duration,
    /// Time without progress after which the session of a client that reads nothing is closed [default: 5m]
    #[arg(long, env = "USHER_STALL_TIMEOUT", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub stall_timeout: Duration,
    /// Time that a session may outlive its ticket while no master can renew it [default: 6h]
    #[arg(long, env = "USHER_TICKET_GRACE", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub ticket_grace: Duration,
    /// Time for running sessions to end after SIGTERM or the first Ctrl-C [default: 30s]
    #[arg(long, env = "USHER_DRAIN_TIMEOUT", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub drain_timeout: Duration,
    /// Refuse live feeds from publishers; viewers still get feeds here, through other nodes
    #[arg(long, env = "USHER_NO_INGEST", action = ArgAction::Set, num_args = 0, default_missing_value = "true")]
    pub no_ingest: bool,
    /// Length of each live feed that is kept for viewers who start in the past [default: 60s]
    #[arg(long, env = "USHER_LIVE_WINDOW", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub live_window: Duration,
    /// Memory for all live feeds together, for example 2GB; when it is full, the oldest groups go [default: 512MiB]
    #[arg(long, env = "USHER_LIVE_MEMORY", value_name = "SIZE", value_parser = size)]
    #[serde(deserialize_with = "de::size")]
    pub live_memory: u64,
    /// Time that a live feed waits for a publisher whose connection was lost [default: 15s]
    #[arg(long, env = "USHER_LIVE_GRACE", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub live_grace: Duration,
    /// Folder of titles for recordings of live feeds, as recordings/NAME/TIME; without it the node records nothing
    #[arg(long, env = "USHER_RECORDINGS", value_name = "DIR")]
    pub recordings: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            masters: Vec::new(),
            media: Vec::new(),
            name: None,
            capacity: Bitrate(1_000_000_000),
            max_session_rate: None,
            max_sessions: MAX_SESSIONS,
            interface: None,
            labels: Vec::new(),
            zone: String::new(),
            listen: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))],
            advertise: Vec::new(),
            cert: None,
            key: None,
            ca: None,
            certs: None,
            state: None,
            replicas: None,
            replica_quota: None,
            media_cert_lifetime: MAX_MEDIA_LIFETIME,
            congestion: Congestion::default(),
            offload: Offload::default(),
            threads: 0,
            max_connections: 4096,
            prefix_lengths: PrefixLengths::default(),
            open_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(5 * 60),
            ticket_grace: Duration::from_secs(6 * 3600),
            drain_timeout: Duration::from_secs(30),
            no_ingest: false,
            live_window: Duration::from_secs(60),
            live_memory: 512 << 20,
            live_grace: live::GRACE,
            recordings: None,
        }
    }
}

impl Settings for Config {
    /// A directory on the command line takes precedence over certificate files that the TOML file names, unless some of them
    /// are on the command line too.
    fn replace_groups(&mut self, given: &dyn Fn(&str) -> bool) {
        if given("certs") && !given("cert") && !given("key") {
            (self.cert, self.key, self.ca) = (None, None, None);
        }
    }
}

impl Config {
    /// The defaults, for a node of these masters and media folders that keeps its state in `state`.
    pub fn new(masters: Vec<Master>, media: Vec<PathBuf>, state: PathBuf) -> Self {
        Self { masters, media, state: Some(state), ..Self::default() }
    }

    /// Checks every setting and the node's certificate without starting anything, and returns the node's name.
    ///
    /// # Errors
    /// The first wrong setting, with its remedy.
    pub fn check(&self, pem: &PemSet) -> anyhow::Result<NodeName> {
        let identity = pem.identity().context("read the node's certificate")?;
        ensure!(
            identity.role == Role::Node,
            "the certificate is for the role {}; issue one with `usher certs issue node NAME`",
            identity.role
        );
        ensure!(!self.masters.is_empty(), "no master is given; name one with --master HOST");
        ensure!(!self.media.is_empty(), "no media folder is given; name one with --media DIR");
        ensure!(self.media.len() <= usize::from(u16::MAX), "a node has at most {} media folders", u16::MAX);
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

    /// The directory of the node's state: the one that is set, or one of the user's by the node's name.
    ///
    /// # Errors
    /// When none is set and the environment names none.
    pub(crate) fn state(&self, name: &str) -> anyhow::Result<PathBuf> {
        match &self.state {
            Some(state) => Ok(state.clone()),
            None => Ok(state_dir()?.join("usher").join(name)),
        }
    }

    /// Where copies go, and how many bytes they may take; `state` is the node's state directory.
    pub(crate) fn replicas(&self, state: &Path) -> ReplicaConfig {
        let folder = self.replicas.clone().unwrap_or_else(|| state.join("replicas"));
        ReplicaConfig { folder, quota: self.replica_quota }
    }

    pub(crate) fn admission(&self) -> AdmissionControl {
        AdmissionControl { capacity: self.capacity, sessions: self.max_sessions, session_rate: self.max_session_rate }
    }

    pub(crate) fn interface(&self) -> anyhow::Result<Option<Interface>> {
        self.interface.as_deref().map(Interface::find).transpose()
    }

    /// The node's own description in its Hello, checked as the master will check it.
    pub(crate) fn equipment(&self) -> anyhow::Result<Equipment> {
        let ingest = !self.no_ingest;
        let equipment = Equipment {
            protocols: vec![PROTOCOL.to_owned()],
            labels: self.labels.clone(),
            live_ingest: ingest,
            records: ingest && self.recordings.is_some(),
            max_session: self.max_session_rate,
        };
        Equipment::try_from(equipment.to_pb()).context("check --label and --max-session-rate")
    }

    /// Finds and reads the node's certificate, its key and the authority's certificate.
    ///
    /// # Errors
    /// The missing or wrong file, with its remedy.
    pub fn identity(&self) -> anyhow::Result<PemSet> {
        let dir = || self.certs.clone().map_or_else(files::default_dir, Ok);
        let paths = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let ca = self.ca.clone().map_or_else(|| dir().map(|dir| dir.join(files::CA_CERT)), Ok)?;
                Paths { cert: cert.clone(), key: key.clone(), ca }
            }
            (None, None) => {
                let paths = in_directory(&dir()?, self.name.as_ref())?;
                Paths { ca: self.ca.clone().unwrap_or(paths.ca), ..paths }
            }
            (Some(_), None) => bail!("--cert is given without --key: give both, or a directory with --certs"),
            (None, Some(_)) => bail!("--key is given without --cert: give both, or a directory with --certs"),
        };
        let pem = files::read_pem(&paths.cert, &paths.key, &paths.ca)?;
        let found = pem.identity().with_context(|| format!("read {}", paths.cert.display()))?;
        ensure!(
            found.role == Role::Node,
            "{} is a certificate for the role {}; issue one with `usher certs issue node NAME`{}",
            paths.cert.display(),
            found.role,
            files::advice_about_environment(&paths.cert)
        );
        if let Some(name) = &self.name {
            ensure!(
                found.name == name.as_str(),
                "--name is {name}, but {} is the certificate of {}",
                paths.cert.display(),
                found.name
            );
        }
        Ok(pem)
    }
}

/// The files of the node `name`, or of the only node whose certificate is in `dir`.
fn in_directory(dir: &Path, name: Option<&NodeName>) -> anyhow::Result<Paths> {
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

fn check_folder(folder: &Path) -> anyhow::Result<()> {
    let folder_text = folder.display();
    let metadata = std::fs::metadata(folder).with_context(|| format!("look at media folder {folder_text}"))?;
    ensure!(metadata.is_dir(), "{folder_text} is not a folder; name one with --media DIR");
    std::fs::read_dir(folder).with_context(|| format!("read media folder {folder_text}"))?;
    Ok(())
}
