//! The settings of a master, each described once: [`Config`] is what the command line, the environment and the TOML file
//! fill. Owns their names, defaults and checks, and finds the master's certificate; starts nothing.

mod balancing;
mod viewers;

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use usher_budget::PrefixLengths;
use usher_certs::{
    Identity, Role,
    files::{self, Paths, PemSet},
};
use usher_proto::{MASTER_PORT, ticket::LEEWAY_SECS};
use usher_settings::{Settings, de, size, state_dir};
use usher_token::cli::AUDIENCE;

pub use self::{
    balancing::{CopyRule, LinkPrice, NodeClaims, Switch},
    viewers::ViewerAccess,
};
use crate::core::{balancer::RankRule, replication::GRACE};

/// TCP port of the metrics listener when none is given.
const METRICS_PORT: u16 = 7441;

/// Most connections, and most waiting requests, that can be set.
const MAX_WAITING: usize = 1_000_000;

/// Least memory of calls, in bytes: four of the largest for clients without a certificate, one for those with one.
const MIN_CALL_MEMORY: u64 = 32_000_000;

/// Least memory of the catalog, in bytes.
const MIN_CATALOG: u64 = 16 << 20;

/// Range of a session's lifetime. Tickets count whole seconds; a month is as good as for ever.
const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);

/// Settings of a master.
#[derive(Clone, Debug, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// TCP address to listen on; port 0 takes a free one [default: 0.0.0.0:7440]
    #[arg(long, env = "USHER_LISTEN", value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Directory with ca.pem, master.pem and master.key [default: usher/certs in the configuration directory]
    #[arg(long, env = "USHER_CERTS", value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// The master's certificate (PEM) [default: master.pem in the --certs directory]
    #[arg(long, env = "USHER_CERT", value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Private key of the certificate (PEM) [default: master.key in the --certs directory]
    #[arg(long, env = "USHER_KEY", value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Certificate of the cluster's authority (PEM) [default: ca.pem in the --certs directory]
    #[arg(long, env = "USHER_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Directory of the key store [default: usher/master in the state directory]
    #[arg(long, env = "USHER_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Clients that may list and watch nodes, and ask for explanations: admin or open [default: admin]
    #[arg(long, env = "USHER_CLUSTER_ACCESS", value_name = "WHO")]
    pub cluster_access: ClusterAccess,
    /// Clients that get titles: open (all) or token [default: token with --token-keys or --token-jwks, else open]
    #[arg(long, env = "USHER_VIEWERS", value_name = "WHO")]
    pub viewers: Option<ViewerAccess>,
    /// Public keys of viewers' tokens: PEM, for example token.pem of `usher token keygen`, or a JSON Web Key Set
    #[arg(long, env = "USHER_TOKEN_KEYS", value_name = "FILE")]
    pub token_keys: Option<PathBuf>,
    /// URL of an identity provider's JSON Web Key Set (https), fetched at intervals; needs --token-issuer
    #[arg(long, env = "USHER_TOKEN_JWKS", value_name = "URL")]
    pub token_jwks: Option<String>,
    /// Authority of the certificate at the --token-jwks URL (PEM) [default: those of the system]
    #[arg(long, env = "USHER_TOKEN_JWKS_CA", value_name = "FILE")]
    pub token_jwks_ca: Option<PathBuf>,
    /// Interval between fetches of --token-jwks unless its server says otherwise, 1s to 24h [default: 5m]
    #[arg(long, env = "USHER_TOKEN_JWKS_REFRESH", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub token_jwks_refresh: Duration,
    /// Issuer (claim `iss`) that tokens must have [default: any, if the keys are from --token-keys]
    #[arg(long, env = "USHER_TOKEN_ISSUER", value_name = "NAME")]
    pub token_issuer: Option<String>,
    /// Audience (claim `aud`) that tokens must be for [default: usher]
    #[arg(long, env = "USHER_TOKEN_AUDIENCE", value_name = "NAME")]
    pub token_audience: String,
    /// Clock difference to the tokens' issuer that is allowed for, at most 5m [default: 10s]
    #[arg(long, env = "USHER_TOKEN_LEEWAY", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub token_leeway: Duration,
    /// Maximum number of requests that wait for a decision [default: 1024]
    #[arg(long, env = "USHER_QUEUE", value_name = "N")]
    pub queue: usize,
    /// Maximum number of connections at a time; a quarter is kept for nodes and operators [default: 4096]
    #[arg(long, env = "USHER_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: usize,
    /// Time after which a connection without a running call is closed [default: 1m]
    #[arg(long, env = "USHER_IDLE_TIMEOUT", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub idle_timeout: Duration,
    /// Memory that running calls may use in all [default: 256MB]
    #[arg(long, env = "USHER_CALL_MEMORY", value_name = "SIZE", value_parser = size)]
    #[serde(deserialize_with = "de::size")]
    pub call_memory: u64,
    /// Lengths of the address prefixes that count as one client each, for IPv4 and IPv6 [default: 32,64]
    #[arg(long, env = "USHER_PREFIX_LENGTHS", value_name = "IPV4,IPV6")]
    #[serde(deserialize_with = "de::text")]
    pub prefix_lengths: PrefixLengths,
    /// TCP address to serve metrics on (plain HTTP), or off [default: 127.0.0.1:7441]
    #[arg(long, env = "USHER_METRICS", value_name = "IP:PORT|off")]
    #[serde(deserialize_with = "de::text")]
    pub metrics: MetricsAt,
    /// Names by which the metrics may be requested, beside IP addresses and localhost
    #[arg(long, env = "USHER_METRICS_HOST", value_name = "NAME", value_delimiter = ',')]
    pub metrics_host: Vec<String>,
    /// Time after which a client must have renewed the ticket of its session, 1s to 30d, or off [default: 10m]
    #[arg(long, env = "USHER_SESSION_LIFETIME", value_name = "TIME|off")]
    #[serde(deserialize_with = "de::text")]
    pub session_lifetime: Lifetime,
    /// Move running sessions to other nodes to make room, and away from nodes that drain [default: on]
    #[arg(long, env = "USHER_MOVES", value_name = "on|off", hide_possible_values = true)]
    pub moves: Switch,
    /// Move running sessions to nodes that have just joined, when the others are much fuller [default: on]
    #[arg(long, env = "USHER_REBALANCE", value_name = "on|off", hide_possible_values = true)]
    pub rebalance: Switch,
    /// Number of masters that serve this cluster at the same time, 1 to 64 [default: 1]
    #[arg(long, env = "USHER_MASTERS", value_name = "N")]
    pub masters: u64,
    /// How to rank the nodes that have room for a session [default: margin]
    #[arg(long, env = "USHER_RULE", value_name = "RULE")]
    pub rule: RankRule,
    /// Number of copies that every title should have [default: 1]
    #[arg(long, env = "USHER_MIN_COPIES", value_name = "N")]
    pub min_copies: u32,
    /// Time to wait for missing copies to return before making new ones, for example 1h [default: 5m]
    #[arg(long, env = "USHER_REPAIR_AFTER", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    pub repair_after: Duration,
    /// Copy titles in demand, and titles with too few copies, to nodes with space for copies [default: on]
    #[arg(long, env = "USHER_REPLICATION", value_name = "on|off", hide_possible_values = true)]
    pub replication: Switch,
    /// Offer clients only addresses of nodes that answer the master over QUIC [default: on]
    #[arg(long, env = "USHER_DIAL_BACK", value_name = "on|off", hide_possible_values = true)]
    pub dial_back: Switch,
    /// Memory that the titles of all nodes may take, for example 2GiB; further titles are refused [default: 512MiB]
    #[arg(long, env = "USHER_CATALOG_MEMORY", value_name = "SIZE", value_parser = usher_settings::size)]
    #[serde(deserialize_with = "de::size")]
    pub catalog_memory: u64,
    /// `[[node]]` of the file: limits of what single nodes may claim.
    #[arg(skip)]
    pub node: Vec<NodeClaims>,
    /// `[[link]]` of the file: what it costs to serve clients of one zone from another.
    #[arg(skip)]
    pub link: Vec<LinkPrice>,
    /// `[[copies]]` of the file: how many copies titles with a prefix should have.
    #[arg(skip)]
    pub copies: Vec<CopyRule>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: ([0, 0, 0, 0], MASTER_PORT).into(),
            certs: None,
            cert: None,
            key: None,
            ca: None,
            state: None,
            cluster_access: ClusterAccess::default(),
            viewers: None,
            token_keys: None,
            token_jwks: None,
            token_jwks_ca: None,
            token_jwks_refresh: Duration::from_secs(300),
            token_issuer: None,
            token_audience: AUDIENCE.to_owned(),
            token_leeway: Duration::from_secs(LEEWAY_SECS),
            queue: 1024,
            // A viewer holds a connection for seconds, a node for as long as it is attached; each takes a file descriptor
            // and some 50 kB.
            max_connections: 4096,
            idle_timeout: Duration::from_secs(60),
            // Four thousand usual calls.
            call_memory: 256_000_000,
            prefix_lengths: PrefixLengths::default(),
            metrics: MetricsAt::Usual(([127, 0, 0, 1], METRICS_PORT).into()),
            metrics_host: Vec::new(),
            // A client that loses its right to watch goes on for at most this long.
            session_lifetime: Lifetime(Some(Duration::from_secs(10 * 60))),
            moves: Switch::On,
            rebalance: Switch::On,
            masters: 1,
            rule: RankRule::default(),
            min_copies: 1,
            repair_after: GRACE,
            replication: Switch::On,
            dial_back: Switch::On,
            // About 1.5 million titles of usual length; one node gets at most half of it.
            catalog_memory: 512 << 20,
            node: Vec::new(),
            link: Vec::new(),
            copies: Vec::new(),
        }
    }
}

impl Settings for Config {}

impl Config {
    /// Checks every setting without starting anything.
    ///
    /// # Errors
    /// The first wrong setting, with its remedy.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (1..=MAX_WAITING).contains(&self.max_connections),
            "--max-connections {}: write a number from 1 to {MAX_WAITING}",
            self.max_connections
        );
        ensure!(
            self.call_memory >= MIN_CALL_MEMORY,
            "--call-memory {}B: at least {} MB are needed",
            self.call_memory,
            MIN_CALL_MEMORY / 1_000_000
        );
        ensure!(self.queue <= MAX_WAITING, "--queue {}: at most {MAX_WAITING} requests may wait", self.queue);
        self.check_viewers()?;
        ensure!(
            self.catalog_memory >= MIN_CATALOG,
            "--catalog-memory {}: write at least 16MiB, which is enough for some 40,000 titles",
            self.catalog_memory
        );
        self.balancing().map(drop)
    }

    /// The directory of the key store: the one that is set, or one of the user's.
    ///
    /// # Errors
    /// When none is set and the environment names none.
    pub fn state(&self) -> anyhow::Result<PathBuf> {
        self.state.clone().map_or_else(|| Ok(state_dir()?.join("usher/master")), Ok)
    }

    /// Finds and reads the master's certificate, its key and the authority's certificate.
    ///
    /// # Errors
    /// The missing or wrong file, with its remedy.
    pub fn identity(&self) -> anyhow::Result<PemSet> {
        let paths = match (self.cert.clone(), self.key.clone(), self.ca.clone()) {
            (Some(cert), Some(key), Some(ca)) => Paths { cert, key, ca },
            (cert, key, ca) => {
                ensure!(cert.is_some() == key.is_some(), "give the certificate and its key together: --cert and --key");
                let dir = self.certs.clone().map_or_else(files::default_dir, Ok)?;
                // The files of a master have the same names whatever its own name.
                let usual = Paths::of(&dir, &Identity { role: Role::Master, name: "master".into() });
                Paths { cert: cert.unwrap_or(usual.cert), key: key.unwrap_or(usual.key), ca: ca.unwrap_or(usual.ca) }
            }
        };
        let pem = files::read_pem(&paths.cert, &paths.key, &paths.ca)?;
        let identity = pem.identity().with_context(|| format!("read {}", paths.cert.display()))?;
        ensure!(
            identity.role == Role::Master,
            "{} is the certificate of {identity}; a master needs one from `usher certs issue master`{}",
            paths.cert.display(),
            files::advice_about_environment(&paths.cert)
        );
        Ok(pem)
    }
}

/// Clients that may call the `Cluster` service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClusterAccess {
    /// Every client that reaches the master
    Open,
    /// Clients with a certificate from `usher certs issue admin`
    #[default]
    Admin,
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsAt {
    /// Nowhere.
    Off,
    /// Here, unless another process has the address.
    Usual(SocketAddr),
    /// Here, or the master does not start. Port 0 takes a free one.
    Given(SocketAddr),
}

impl FromStr for MetricsAt {
    type Err = String;

    /// An address, or `off`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let address = text.parse().map_err(|_| format!("`{text}` is no address for metrics: write IP:PORT, or off"))?;
        Ok(Self::Given(address))
    }
}

/// How long a session may run without a renewed ticket, in whole seconds; `None` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(pub Option<Duration>);

impl FromStr for Lifetime {
    type Err = String;

    /// A time, or `off` or `0` for ever.
    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "off" | "0") {
            return Ok(Self(None));
        }
        let time = humantime::parse_duration(text).ok().filter(|time| LIFETIMES.contains(time));
        let wrong =
            || format!("`{text}` is no lifetime of sessions: write a time from 1s to 30d, for example 10m, or off");
        time.map(|time| Self(Some(time))).ok_or_else(wrong)
    }
}
