//! A master and nodes as real processes, each node behind a relay of its own, and what they are asked. Refuses to know
//! which fault comes when.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::{process::Command, sync::Mutex, time};
use usher_certs::{
    Identity, Role,
    files::{init, issue},
};
use usher_relay::{Door, Settings as Link, UdpRelay};

use crate::{
    core::plan::ROLLING,
    library::{Library, Title},
    process::{Part, usher},
    settings::Settings,
};

/// Between two looks at what the master knows.
const LOOK: Duration = Duration::from_millis(250);

/// The operator's name.
const OPERATOR: &str = "chaos";

/// All processes of a run but its clients, and their folder. It goes when dropped.
pub(crate) struct Cluster {
    dir: TempDir,
    program: PathBuf,
    capacity: u64,
    /// Where the master listens, also after it was started again.
    pub(crate) address: String,
    master: Mutex<Part>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) library: Library,
    /// Where all that clients write is kept.
    pub(crate) logs: Option<PathBuf>,
}

/// One node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) part: Mutex<Part>,
    /// What clients reach it through.
    pub(crate) relay: UdpRelay,
    door: Door,
}

impl Cluster {
    /// Writes the titles, starts everything and waits until the master knows every copy.
    pub(crate) async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("usher-chaos-").tempdir().context("make a temporary folder")?;
        ensure!(settings.nodes >= 3, "{} nodes are too few: titles have three copies", settings.nodes);
        let library = Library::write(&dir.path().join("truth"), &settings.load, settings.nodes, settings.seed)?;
        let certs = dir.path().join("certs");
        init(&certs, "chaos", false)?;
        issue(&certs, &Identity::new(Role::Master, "master")?, &[], &certs, false)?;
        issue(&certs, &Identity::new(Role::Admin, OPERATOR)?, &[], &certs, false)?;
        let (master, address) = start_master(&settings.usher, dir.path(), "127.0.0.1:0").await?;
        let mut nodes = Vec::new();
        for number in 0..settings.nodes {
            let name = format!("node-{}", number + 1);
            issue(&certs, &Identity::new(Role::Node, &name)?, &[], &certs, false)?;
            let media = dir.path().join(&name).join("media");
            fs::create_dir_all(&media).context("make a folder of media")?;
            for title in library.titles.iter().filter(|title| title.holders.contains(&number)) {
                library.copy(title, &media)?;
            }
            let relay = UdpRelay::start(Link::default(), Link::default());
            let door = relay.door().await?;
            let command = node_command(&settings.usher, dir.path(), &name, &address, &door, settings.load.capacity);
            let part = start_node(command, dir.path(), &name, &door).await?;
            nodes.push(Node { name, part: Mutex::new(part), relay, door });
        }
        let (program, capacity, logs) = (settings.usher.clone(), settings.load.capacity, settings.logs.clone());
        if let Some(logs) = &logs {
            fs::create_dir_all(logs).context("make a folder for logs")?;
        }
        let cluster = Self { dir, program, capacity, address, master: Mutex::new(master), nodes, library, logs };
        ensure!(cluster.settled(Duration::from_secs(120)).await, "the master never knew every copy");
        Ok(cluster)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The file of a node's copy.
    pub(crate) fn copy_of(&self, title: &Title, node: usize) -> PathBuf {
        self.media_of(node).join(&title.name)
    }

    /// The folder that a node serves.
    pub(crate) fn media_of(&self, node: usize) -> PathBuf {
        self.path().join(&self.nodes[node].name).join("media")
    }

    /// Kills the master, and starts it again after a while, with nothing but its key store.
    pub(crate) async fn restart_master(&self, down: Duration) -> anyhow::Result<()> {
        let mut master = self.master.lock().await;
        master.kill().await?;
        time::sleep(down).await;
        *master = start_master(&self.program, self.path(), &self.address).await?.0;
        Ok(())
    }

    /// Starts a node that has ended.
    pub(crate) async fn start_again(&self, node: &Node, part: &mut Part) -> anyhow::Result<()> {
        let Node { name, door, .. } = node;
        let command = node_command(&self.program, self.path(), name, &self.address, door, self.capacity);
        *part = start_node(command, self.path(), name, door).await?;
        Ok(())
    }

    /// A client's command, with this cluster's authority.
    pub(crate) fn client(&self) -> Command {
        let mut command = usher(&self.program);
        command.env("USHER_CA", self.path().join("certs/ca.pem")).current_dir(self.path());
        command
    }

    /// An operator's command.
    pub(crate) fn operator(&self, args: &[&str]) -> Command {
        let mut command = self.client();
        let certs = self.path().join("certs");
        command.args(args).args(["--master", &self.address]);
        command.arg("--cert").arg(certs.join(format!("admin-{OPERATOR}.pem")));
        command.arg("--key").arg(certs.join(format!("admin-{OPERATOR}.key")));
        command
    }

    /// Whether the program knows a command.
    pub(crate) async fn knows(&self, command: &str) -> bool {
        let help = usher(&self.program).args([command, "--help"]).output().await;
        help.is_ok_and(|said| said.status.success())
    }

    /// Waits until every node serves and every copy is known, whole. Whether that came in time.
    pub(crate) async fn settled(&self, patience: Duration) -> bool {
        let settles = async {
            while !self.is_settled().await.unwrap_or(false) {
                time::sleep(LOOK).await;
            }
        };
        time::timeout(patience, settles).await.is_ok()
    }

    async fn is_settled(&self) -> anyhow::Result<bool> {
        let root = format!("usher://{}", self.address);
        let nodes = self.ask(&["nodes", "--json", "--timeout", "2s", &root]).await?;
        let serving = |node: &&serde_json::Value| node["state"] == "serving";
        if nodes.as_array().context("a list of nodes")?.iter().filter(serving).count() < self.nodes.len() {
            return Ok(false);
        }
        let titles = self.ask(&["ls", "--json", "--timeout", "2s", &root]).await?;
        let known = titles.as_array().context("a list of titles")?;
        Ok(self.library.titles.iter().all(|title| {
            let holders = title.holders.iter().map(|node| &self.nodes[*node].name);
            let same =
                |entry: &&serde_json::Value| entry["title"] == *title.name && entry["content_id"] == *title.content;
            known.iter().find(same).and_then(|entry| entry["nodes"].as_array()).is_some_and(|nodes| {
                let mut holders = holders;
                holders.all(|holder| nodes.iter().any(|node| *node == **holder))
            })
        }))
    }

    async fn ask(&self, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        let said = self.client().args(args).output().await.context("run usher")?;
        ensure!(said.status.success(), "usher {}: {}", args.join(" "), String::from_utf8_lossy(&said.stderr));
        serde_json::from_slice(&said.stdout).context("read an answer")
    }

    /// Ends all of it, and waits until it has ended.
    pub(crate) async fn end(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.part.lock().await.kill().await?;
        }
        self.master.lock().await.kill().await
    }
}

async fn start_master(program: &Path, dir: &Path, listen: &str) -> anyhow::Result<(Part, String)> {
    let mut command = usher(program);
    command.args(["master", "--metrics", "off", "--listen", listen, "--certs"]).arg(dir.join("certs"));
    command.arg("--state").arg(dir.join("master"));
    let (part, line) = Part::start(&mut command, &dir.join("master.log"), "master listens").await?;
    Ok((part, address_in(&line)?.to_string()))
}

fn node_command(program: &Path, dir: &Path, name: &str, master: &str, door: &Door, capacity: u64) -> Command {
    let mut command = usher(program);
    command.args(["node", "--name", name, "--master", master, "--listen", "127.0.0.1:0", "--replica-quota", "200MB"]);
    command.args(["--advertise", &door.address().to_string(), "--capacity", &format!("{capacity}mbit")]);
    command.args(["--drain-timeout", &format!("{}s", ROLLING.as_secs())]);
    command.arg("--certs").arg(dir.join("certs"));
    command.arg("--media").arg(dir.join(name).join("media")).arg("--state").arg(dir.join(name).join("state"));
    command
}

async fn start_node(mut command: Command, dir: &Path, name: &str, door: &Door) -> anyhow::Result<Part> {
    let (part, line) = Part::start(&mut command, &dir.join(format!("{name}.log")), "node started").await?;
    door.lead_to(address_in(&line)?);
    Ok(part)
}

/// The address on loopback that a line of a log tells.
fn address_in(line: &str) -> anyhow::Result<SocketAddr> {
    let at = line.find("127.0.0.1:").with_context(|| format!("an address in `{line}`"))?;
    let text: String = line[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
    text.parse().with_context(|| format!("an address in `{text}`"))
}
