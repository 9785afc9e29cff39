//! `usher demo`: an authority, a master and nodes in one process, and a fetch from them. Uses the crates as any program
//! could: the same configuration, client and certificates.

mod clips;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::sync::mpsc;
use usher_certs::{
    Identity, Role, San,
    files::{self, PemSet},
};
use usher_client::{Authority, Client, Options, Url, cli::FetchArgs};
use usher_master::app as master;
use usher_node::app as node;
use usher_proto::{Bitrate, MASTER_PORT, pb::v1};

use crate::signals;

/// Capacity of each node of the demo.
const CAPACITY: Bitrate = Bitrate(1_000_000_000);

/// Time for the demo's own parts to start.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Serve this folder instead of the included clips; repeat it for further nodes
    #[arg(long, value_name = "DIR")]
    media: Vec<PathBuf>,
    /// Exit after the fetch
    #[arg(long)]
    once: bool,
}

/// The running cluster.
struct Demo {
    nodes: Vec<node::Running>,
    master: master::MasterHandle,
    dir: TempDir,
}

pub(crate) async fn run(args: Args, mut shutdown: mpsc::Receiver<()>) -> anyhow::Result<()> {
    let demo = tokio::select! {
        demo = Box::pin(Demo::start(&args.media)) => demo?,
        _ = shutdown.recv() => return Ok(()),
    };
    let done = tokio::select! {
        done = Box::pin(demo.show(args.once)) => done,
        _ = shutdown.recv() => Ok(()),
    };
    if done.is_ok() && !args.once {
        eprintln!("\nThe cluster keeps running. Press Ctrl-C to stop it.");
        shutdown.recv().await;
        eprintln!();
    }
    demo.stop().await?;
    done
}

/// A command that writes a test picture in real time.
const FEED: &str = "ffmpeg -v error -re -f lavfi -i testsrc2 -c:v libx264 -preset ultrafast -g 50 -f mpegts -";

impl Demo {
    /// Makes an authority in a temporary folder, and starts a master and a node for each folder.
    async fn start(own: &[PathBuf]) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("usher-demo-").tempdir().context("make a temporary folder")?;
        let certs = dir.path().join("certs");
        files::init(&certs, "demo", false).context("make the authority")?;
        let issue = |role, name: &str| {
            let identity = Identity::new(role, name).context("name a part of the demo")?;
            let paths = files::issue(&certs, &identity, &San::loopback(), &certs, false);
            paths.and_then(|paths| files::read_pem(&paths.cert, &paths.key, &paths.ca))
        };
        let identity = issue(Role::Master, "master").context("issue the master's certificate")?;
        let master = start_master(identity, &dir.path().join("master")).await?;

        issue(Role::Publisher, "demo").context("issue the publisher's certificate")?;

        let mut demo = Self { nodes: Vec::new(), master, dir };
        for (number, folder) in demo.folders(own)?.into_iter().enumerate() {
            let name = format!("node-{}", number + 1);
            let identity = issue(Role::Node, &name).with_context(|| format!("issue the certificate of {name}"))?;
            let node = Box::pin(demo.start_node(&name, folder, identity)).await;
            demo.nodes.push(node.with_context(|| format!("start {name}"))?);
        }
        Ok(demo)
    }

    /// The folders to serve: the user's, or those of figure 4 with the clips.
    fn folders(&self, own: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
        if !own.is_empty() {
            return Ok(own.to_vec());
        }
        let folders = clips::LAYOUT.iter().enumerate().map(|(number, letters)| {
            let folder = self.dir.path().join(format!("node-{}", number + 1)).join("media");
            clips::write(letters, &folder).map(|()| folder)
        });
        folders.collect()
    }

    async fn start_node(&self, name: &str, folder: PathBuf, identity: PemSet) -> anyhow::Result<node::Running> {
        let master = self.address().parse().context("name the master")?;
        let mut config = usher_node::Config::new(vec![master], vec![folder], self.dir.path().join(name));
        config.capacity = CAPACITY;
        config.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        config.drain_timeout = Duration::ZERO;
        Box::pin(node::start(config, identity)).await
    }

    fn address(&self) -> String {
        format!("localhost:{}", self.master.local_addr().port())
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("certs").join(files::CA_CERT)
    }

    /// Fetches a title, and suggests commands to try.
    async fn show(&self, once: bool) -> anyhow::Result<()> {
        let titles = tokio::time::timeout(PATIENCE, self.titles()).await;
        let titles = titles.context("the nodes did not register with the master within 60 s")??;
        eprintln!("A cluster on this machine: master at {}, {} nodes.", self.address(), self.nodes.len());
        for node in &self.nodes {
            let name = node.name().as_str();
            let held = titles.iter().filter(|title| title.nodes.iter().any(|holder| holder == name));
            let held: Vec<&str> = held.map(|title| title.title.as_str()).collect();
            eprintln!("  {name}  {}{}", held.iter().take(8).copied().collect::<Vec<_>>().join("  "), more(held.len()));
        }
        let wanted = titles.iter().find(|title| title.title == "B.mp4").or_else(|| titles.first());
        let Some(wanted) = wanted else {
            bail!(
                "there is no title to fetch: none of the folders holds media that can be served (MP4, Matroska, WebM, MPEG-TS)"
            );
        };
        let url = Url { master: self.address().parse()?, path: wanted.title.clone() };
        eprintln!("\nFetching {} from the best of {} holders:", wanted.title, wanted.nodes.len());
        let target = self.dir.path().join("fetched");
        fs::create_dir_all(&target).context("make a folder for the fetched title")?;
        Box::pin(FetchArgs::one(&url, target, self.ca()).run(signals::shutdown)).await?;
        if !once {
            self.suggest(&url.to_string());
        }
        Ok(())
    }

    /// The master's titles, once it knows all that the nodes hold, with content ids.
    async fn titles(&self) -> anyhow::Result<Vec<v1::Title>> {
        for node in &self.nodes {
            node.attached().await;
            node.library().hashed().await;
        }
        let held: u64 = self.nodes.iter().map(|node| node.library().stats().titles).sum();
        let authority = Authority::load(Some(self.ca()))?;
        let client = Client::new(self.address().parse()?, authority, Options::default())?;
        // The master has the catalog within a fraction of a second, but announces changes of nodes only.
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            let titles = client.list("", usize::MAX).await?;
            let known: usize = titles.iter().map(|title| title.nodes.len()).sum();
            if known as u64 >= held && titles.iter().all(|title| !title.content_id.is_empty()) {
                client.close().await;
                return Ok(titles);
            }
        }
    }

    fn suggest(&self, url: &str) {
        let folder = std::env::current_exe().ok().and_then(|path| path.parent().map(shell_word)).unwrap_or_default();
        let (ca, address, url) = (shell_word(&self.ca()), self.address(), shell_word(Path::new(url)));
        eprintln!("\nCommands to try in another terminal while the cluster runs:");
        for command in [
            // The other commands need no path, master or authority after this one.
            format!("export PATH={folder}:$PATH USHER_MASTER={address} USHER_CA={ca}"),
            "usher ls".to_owned(),
            "usher nodes".to_owned(),
            format!("usher locate {url}"),
            format!("usher fetch {url} --force"),
            format!("usher fetch 'usher://{address}/*' -o ./usher-demo/ --force"),
            format!("usher play {url}"),
            format!("{FEED} | usher publish live/demo -"),
            "usher play live/demo".to_owned(),
            format!("grpcurl -cacert {ca} {address} list"),
            format!("grpcurl -cacert {ca} {address} usher.v1.Cluster/ListNodes"),
        ] {
            eprintln!("  $ {command}");
        }
    }

    /// Stops the nodes first, so that none tries to reach a stopped master.
    async fn stop(self) -> anyhow::Result<()> {
        for node in self.nodes {
            Box::pin(node.shutdown()).await;
        }
        self.master.shutdown().await;
        self.dir.close().context("remove the temporary folder")
    }
}

async fn start_master(identity: PemSet, state: &Path) -> anyhow::Result<master::MasterHandle> {
    let config = |port| usher_master::Config {
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        state: Some(state.to_owned()),
        metrics: usher_master::MetricsAt::Off,
        // Everything is on this machine and ends with the demo.
        viewers: Some(usher_master::ViewerAccess::Open),
        cluster_access: usher_master::ClusterAccess::Open,
        ..usher_master::Config::default()
    };
    match Box::pin(master::start(config(MASTER_PORT), identity.clone())).await {
        Ok(master) => Ok(master),
        // Another master may have the port; the demo needs no particular one.
        Err(_) => Box::pin(master::start(config(0), identity)).await.context("start the master"),
    }
}

/// The number of names beyond the first eight.
fn more(count: usize) -> String {
    if count > 8 { format!("  and {} more", count - 8) } else { String::new() }
}

/// Quotes a path for POSIX shells.
fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=,@%+".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
