//! `usher master`: flag over environment over file over default, checked before anything starts.

mod balancing;

use std::{
    env, fs,
    future::Future,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use usher_certs::{
    Identity, Role,
    files::{self, Paths},
};
use usher_proto::MASTER_PORT;

use self::balancing::Switches;
use crate::app::{
    self, ClusterAccess, Config, DEFAULT_CONNECTIONS, DEFAULT_LIFETIME, DEFAULT_QUEUE, METRICS_PORT, MetricsAt,
};

/// What a session's lifetime may be: tickets count seconds, and who gives a month means for ever.
const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);

/// Arguments of `usher master`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Address to listen on (TCP) [default: 0.0.0.0:7440]
    #[arg(long, env = "USHER_LISTEN", value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Directory of the certificates [default: usher/certs in the configuration directory]
    #[arg(long, env = "USHER_CERTS", value_name = "DIR")]
    certs: Option<PathBuf>,
    /// The master's certificate [default: master.pem in the certificates' directory]
    #[arg(long, env = "USHER_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key [default: master.key there]
    #[arg(long, env = "USHER_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The authority's certificate [default: ca.pem there]
    #[arg(long, env = "USHER_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Directory of the key store [default: usher/master in the state directory]
    #[arg(long, env = "USHER_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Who may list and watch the nodes
    #[arg(long, env = "USHER_CLUSTER_ACCESS", value_name = "WHO")]
    cluster_access: Option<ClusterAccess>,
    /// Requests that may wait for a decision [default: 1024]
    #[arg(long, env = "USHER_QUEUE", value_name = "N")]
    queue: Option<usize>,
    /// Connections at once; further ones wait [default: 4096]
    #[arg(long, env = "USHER_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// Address to serve metrics on (HTTP), or off [default: 127.0.0.1:7441]
    #[arg(long, env = "USHER_METRICS", value_name = "IP:PORT|off", value_parser = metrics_at)]
    metrics: Option<MetricsAt>,
    /// How long a session may run until its client has renewed its ticket, or off for ever [default: 10m]
    #[arg(long, env = "USHER_SESSION_LIFETIME", value_name = "TIME|off", value_parser = lifetime)]
    session_lifetime: Option<Lifetime>,
    #[command(flatten)]
    switches: Switches,
    /// Config file (TOML) with these settings as keys; [[link]] and [[copies]] stand only there
    #[arg(long, env = "USHER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings and the certificates, and end
    #[arg(long)]
    check_config: bool,
}

/// The config file.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    listen: Option<SocketAddr>,
    certs: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
    state: Option<PathBuf>,
    cluster_access: Option<ClusterAccess>,
    queue: Option<usize>,
    max_connections: Option<usize>,
    metrics: Option<String>,
    session_lifetime: Option<String>,
    #[serde(default)]
    link: Vec<balancing::Link>,
    #[serde(default)]
    copies: Vec<balancing::Copies>,
    moves: Option<balancing::Switch>,
    rebalance: Option<balancing::Switch>,
    masters: Option<u64>,
    rule: Option<balancing::Rule>,
    min_copies: Option<u32>,
    repair_after: Option<String>,
    replication: Option<balancing::Switch>,
}

/// An address, or "off".
fn metrics_at(text: &str) -> Result<MetricsAt, String> {
    if text == "off" {
        return Ok(MetricsAt::Off);
    }
    let address = text.parse().map_err(|_| format!("`{text}` is no address for metrics: write IP:PORT, or off"))?;
    Ok(MetricsAt::Given(address))
}

/// How long a session may run on a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lifetime(Option<Duration>);

/// A time of whole seconds, or "off" or 0 for ever.
fn lifetime(text: &str) -> Result<Lifetime, String> {
    if matches!(text, "off" | "0") {
        return Ok(Lifetime(None));
    }
    let time = humantime::parse_duration(text).ok().filter(|time| LIFETIMES.contains(time));
    let wrong = || format!("`{text}` is no lifetime of sessions: write a time of 1s to 30d, for example 10m, or off");
    time.map(|time| Lifetime(Some(time))).ok_or_else(wrong)
}

/// Runs `usher master` until `shutdown`.
///
/// # Errors
/// What is wrong with the settings, the certificates, the key store or the address.
pub async fn run(args: Args, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let check = args.check_config;
    let config = args.config()?;
    if check {
        eprintln!("the master's settings are good; it would listen on {}", config.listen);
        return Ok(());
    }
    let mut running = app::start(config).await?;
    tokio::select! {
        () = shutdown => {
            running.shutdown().await;
            Ok(())
        }
        () = running.ended() => anyhow::bail!("the master's listener failed; the log says why"),
    }
}

impl Args {
    /// The settings of flags, environment, file and defaults together. The environment is clap's part.
    fn config(self) -> anyhow::Result<Config> {
        let mut file = match &self.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let balancing = self.switches.over(&mut file)?;
        let connections = self.max_connections.or(file.max_connections).unwrap_or(DEFAULT_CONNECTIONS);
        ensure!(
            (1..=1_000_000).contains(&connections),
            "--max-connections {connections}: a master takes at least 1 connection, and at most 1000000"
        );
        let in_file = file.metrics.as_deref().map(metrics_at).transpose().map_err(anyhow::Error::msg)?;
        let old = file.session_lifetime.as_deref().map(lifetime).transpose().map_err(anyhow::Error::msg);
        let old = old.context("session-lifetime")?;
        let session_lifetime = self.session_lifetime.or(old).map_or(Some(DEFAULT_LIFETIME), |lifetime| lifetime.0);
        let usual = MetricsAt::Usual(([127, 0, 0, 1], METRICS_PORT).into());
        let queue = self.queue.or(file.queue).unwrap_or(DEFAULT_QUEUE);
        // More permits than this, a semaphore does not hold; and no master wants a millionth waiter.
        ensure!(queue <= 1_000_000, "a queue of {queue} is too long; at most 1000000 requests may wait");
        let paths = match (self.cert.or(file.cert), self.key.or(file.key), self.ca.or(file.ca)) {
            (Some(cert), Some(key), Some(ca)) => Paths { cert, key, ca },
            (cert, key, ca) => {
                ensure!(cert.is_some() == key.is_some(), "give the certificate and its key together: --cert and --key");
                let dir = self.certs.or(file.certs).map_or_else(files::default_dir, Ok)?;
                // The files of a master are the same whatever its name.
                let usual = Paths::of(&dir, &Identity { role: Role::Master, name: "master".into() });
                let Paths { cert: usual_cert, key: usual_key, ca: usual_ca } = usual;
                Paths { cert: cert.unwrap_or(usual_cert), key: key.unwrap_or(usual_key), ca: ca.unwrap_or(usual_ca) }
            }
        };
        let tls = files::read_pem(&paths.cert, &paths.key, &paths.ca)?;
        let identity = tls.identity().with_context(|| format!("read {}", paths.cert.display()))?;
        ensure!(
            identity.role == Role::Master,
            "{} is the certificate of {identity}; a master needs one from `usher certs issue master`",
            paths.cert.display()
        );
        Ok(Config {
            listen: self.listen.or(file.listen).unwrap_or_else(|| ([0, 0, 0, 0], MASTER_PORT).into()),
            tls,
            state: self.state.or(file.state).map_or_else(default_state, Ok)?,
            cluster_access: self.cluster_access.or(file.cluster_access).unwrap_or_default(),
            queue,
            connections,
            metrics: self.metrics.or(in_file).unwrap_or(usual),
            session_lifetime,
            balancing,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = fs::read_to_string(path).with_context(|| format!("read config file {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("read config file {}", path.display()))
}

/// As the XDG base directory specification has it.
fn default_state() -> anyhow::Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").filter(|dir| dir.is_absolute());
    let state = state.or_else(|| set("HOME").map(|home| home.join(".local/state")));
    let state = state.context("find the state directory: HOME is not set; say it with --state or USHER_STATE")?;
    Ok(state.join("usher/master"))
}

#[cfg(test)]
mod tests {
    use usher_certs::files::{init, issue};

    use super::*;

    fn certs(dir: &Path) {
        init(dir, "test", false).expect("an authority");
        for (role, name) in [(Role::Master, "master"), (Role::Node, "n")] {
            issue(dir, &Identity::new(role, name).expect("a name"), &[], dir, false).expect("issued");
        }
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let dir = tempfile::tempdir().expect("a directory");
        certs(dir.path());
        let file = dir.path().join("master.toml");
        let settings = "queue = 7\ncluster-access = \"admin\"\nsession-lifetime = \"90s\"";
        fs::write(&file, format!("certs = {:?}\n{settings}\n", dir.path())).expect("written");
        let args = Args { config: Some(file), state: Some("s".into()), queue: Some(9), ..Args::default() };
        let config = args.config().expect("good");
        assert_eq!((config.queue, config.cluster_access), (9, ClusterAccess::Admin));
        assert_eq!(config.listen, ([0, 0, 0, 0], 7440).into());
        assert_eq!(config.session_lifetime, Some(Duration::from_secs(90)));
        assert_eq!((lifetime("off"), lifetime("0")), (Ok(Lifetime(None)), Ok(Lifetime(None))));
        assert_eq!(lifetime("1h"), Ok(Lifetime(Some(Duration::from_secs(3600)))));
        assert!(["", "10", "0s", "31d", "-1m"].iter().all(|text| lifetime(text).is_err()));
    }

    #[test]
    fn the_balancing_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        certs(dir.path());
        let file = dir.path().join("master.toml");
        let text = r#"
            moves = "off"
            rebalance = "off"
            masters = 3
            rule = "headroom"
            min-copies = 2
            repair-after = "90s"
            metrics = "off"
            [[link]]
            from = "a"
            to = "b"
            price = 0.05
            [[copies]]
            prefix = "films/"
            min = 3
            max = 5
        "#;
        fs::write(&file, text).expect("written");
        let args = Args { certs: Some(dir.path().into()), state: Some("s".into()), ..Args::default() };
        let config = Args { config: Some(file), ..args.clone() }.config().expect("good");
        let balancing = config.balancing;
        assert_eq!((balancing.moves, balancing.masters, balancing.replication), (false, 3, true));
        assert!(!balancing.rebalance && crate::app::Balancing::default().rebalance);
        assert_eq!((balancing.rule, balancing.links[0].price), (crate::core::balancer::RankRule::Headroom, 50));
        let bounds = |title| balancing.copies.of(title);
        assert_eq!((bounds("x").min, bounds("films/x").min, bounds("films/x").max), (2, 3, Some(5)));
        assert_eq!(balancing.repair_after.as_secs(), 90);
        assert_eq!(config.metrics, MetricsAt::Off);
        let usual = args.config().expect("good");
        assert_eq!(usual.balancing.repair_after.as_secs(), 300);
        assert_eq!(usual.session_lifetime, Some(DEFAULT_LIFETIME));
        assert_eq!(usual.metrics, MetricsAt::Usual(([127, 0, 0, 1], 7441).into()));
        assert_eq!(metrics_at("127.0.0.1:0"), Ok(MetricsAt::Given(([127, 0, 0, 1], 0).into())));
        assert!(metrics_at("7441").is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        certs(dir.path());
        let path = |name: &str| Some(dir.path().join(name));
        let written = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("written");
            Some(path)
        };
        fs::write(dir.path().join("typo.toml"), "qeue = 7\n").expect("written");
        let good = || Args { certs: Some(dir.path().into()), state: Some("s".into()), ..Args::default() };
        assert!(good().config().is_ok());
        for (args, word) in [
            (Args { config: path("typo.toml"), ..good() }, "qeue"),
            (Args { config: path("absent.toml"), ..good() }, "absent.toml"),
            (Args { certs: path("none"), ..good() }, "none"),
            (Args { cert: path("node-n.pem"), key: path("node-n.key"), ..good() }, "node n"),
            (Args { cert: path("master.pem"), key: path("node-n.key"), ..good() }, "node-n.key"),
            (Args { queue: Some(usize::MAX), ..good() }, "queue"),
            (Args { max_connections: Some(0), ..good() }, "--max-connections"),
            (
                Args { config: written("price.toml", "[[link]]\nfrom = \"a\"\nto = \"b\"\nprice = 1.5\n"), ..good() },
                "1.5",
            ),
            (
                Args { config: written("home.toml", "[[link]]\nfrom = \"a\"\nto = \"a\"\nprice = 0.5\n"), ..good() },
                "itself",
            ),
            (
                Args { config: written("zone.toml", "[[link]]\nfrom = \"\"\nto = \"a\"\nprice = 0.5\n"), ..good() },
                "zone",
            ),
            (
                Args { config: written("max.toml", "[[copies]]\nprefix = \"a/\"\nmin = 3\nmax = 2\n"), ..good() },
                "at least 3",
            ),
            (
                Args { config: written("two.toml", &"[[copies]]\nprefix = \"a/\"\nmin = 3\n".repeat(2)), ..good() },
                "twice",
            ),
            (Args { config: written("none.toml", "[[copies]]\nprefix = \"a/\"\n"), ..good() }, "min"),
            (Args { config: written("masters.toml", "masters = 0\n"), ..good() }, "masters"),
            (Args { config: written("metrics.toml", "metrics = \"on\"\n"), ..good() }, "metrics"),
            (Args { config: written("min.toml", "min-copies = 100000\n"), ..good() }, "copies"),
            (Args { config: written("soon.toml", "repair-after = \"soon\"\n"), ..good() }, "repair-after"),
            (Args { config: written("life.toml", "session-lifetime = \"10\"\n"), ..good() }, "session-lifetime"),
            (Args { config: written("long.toml", "repair-after = \"1y\"\n"), ..good() }, "30d"),
        ] {
            let error = format!("{:#}", args.config().expect_err(word));
            assert!(error.contains(word), "{error}");
        }
    }
}
