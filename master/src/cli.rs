//! `usher master`: flag over environment over file over default, checked before anything starts.

use std::{
    env, fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use usher_certs::{
    Identity, Role,
    files::{self, Paths},
};
use usher_proto::MASTER_PORT;

use crate::app::{self, ClusterAccess, Config, DEFAULT_QUEUE};

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
    /// Config file (TOML) with these settings, `-` written as `_`
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
        let file = match &self.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
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
        let text = format!("certs = {:?}\nqueue = 7\ncluster-access = \"admin\"\n", dir.path());
        fs::write(&file, text).expect("written");
        let args = Args { config: Some(file), state: Some("s".into()), queue: Some(9), ..Args::default() };
        let config = args.config().expect("good");
        assert_eq!((config.queue, config.cluster_access), (9, ClusterAccess::Admin));
        assert_eq!(config.listen, ([0, 0, 0, 0], 7440).into());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        certs(dir.path());
        let path = |name: &str| Some(dir.path().join(name));
        fs::write(dir.path().join("typo.toml"), "qeue = 7\n").expect("written");
        let good = || Args { certs: Some(dir.path().into()), state: Some("s".into()), ..Args::default() };
        assert!(good().config().is_ok());
        for (args, word) in [
            (Args { config: path("typo.toml"), ..good() }, "qeue"),
            (Args { config: path("none.toml"), ..good() }, "none.toml"),
            (Args { certs: path("none"), ..good() }, "none"),
            (Args { cert: path("node-n.pem"), key: path("node-n.key"), ..good() }, "node n"),
            (Args { cert: path("master.pem"), key: path("node-n.key"), ..good() }, "node-n.key"),
            (Args { queue: Some(usize::MAX), ..good() }, "queue"),
        ] {
            let error = format!("{:#}", args.config().expect_err(word));
            assert!(error.contains(word), "{error}");
        }
    }
}
