//! A master and nodes as real processes, each node behind its own relay, and the commands that query them. Faults are left
//! to `faults`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{process::Command, sync::Mutex, time};
use usher_kit::{Layout, address_in};
use usher_relay::{Entrance, Settings as Link, UdpRelay};

use crate::{
    core::plan::ROLLING,
    library::{Library, Title},
    process::{Server, client},
    settings::Settings,
};

/// Interval of queries to the master.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The master and the nodes of a run, and their folder, which is removed on drop.
pub(crate) struct Cluster {
    layout: Layout,
    program: PathBuf,
    capacity: u64,
    master: Mutex<Server>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) library: Library,
    /// A folder for the standard error of clients.
    pub(crate) logs: Option<PathBuf>,
}

/// One node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) server: Mutex<Server>,
    /// The relay that clients reach it through.
    pub(crate) relay: UdpRelay,
    entrance: Entrance,
}

impl Cluster {
    /// Writes the titles, starts everything and waits until the master knows every copy.
    pub(crate) async fn start(settings: &Settings) -> anyhow::Result<Self> {
        ensure!(settings.nodes >= 3, "{} nodes are too few: titles have three copies", settings.nodes);
        let mut layout = Layout::new(&settings.usher)?;
        let library = Library::write(&layout.path().join("truth"), &settings.load, settings.nodes, settings.seed)?;
        let (master, address) = start_master(&layout).await?;
        layout.address = address;
        let capacity = settings.load.capacity;
        let mut nodes = Vec::new();
        for number in 0..settings.nodes {
            let name = format!("node-{}", number + 1);
            let media = layout.media(&name);
            fs::create_dir_all(&media).context("make a folder of media")?;
            for title in library.titles.iter().filter(|title| title.holders.contains(&number)) {
                library.copy(title, &media)?;
            }
            let relay = UdpRelay::start(Link::default(), Link::default());
            let entrance = relay.entrance().await?;
            let server = start_node(&layout, &name, &entrance, capacity).await?;
            nodes.push(Node { name, server: Mutex::new(server), relay, entrance });
        }
        let (program, logs) = (settings.usher.clone(), settings.logs.clone());
        if let Some(logs) = &logs {
            fs::create_dir_all(logs).context("make a folder for logs")?;
        }
        let cluster = Self { layout, program, capacity, master: Mutex::new(master), nodes, library, logs };
        ensure!(cluster.settled(Duration::from_secs(120)).await, "the master does not know every copy after 120 s");
        Ok(cluster)
    }

    pub(crate) fn path(&self) -> &Path {
        self.layout.path()
    }

    /// The file of a node's copy.
    pub(crate) fn copy_of(&self, title: &Title, node: usize) -> PathBuf {
        self.media_of(node).join(&title.name)
    }

    /// The folder that a node serves.
    pub(crate) fn media_of(&self, node: usize) -> PathBuf {
        self.layout.media(&self.nodes[node].name)
    }

    /// Kills the master and starts it again after `down`; only its key store survives.
    pub(crate) async fn restart_master(&self, down: Duration) -> anyhow::Result<()> {
        let mut master = self.master.lock().await;
        master.kill().await?;
        time::sleep(down).await;
        *master = start_master(&self.layout).await?.0;
        Ok(())
    }

    /// Starts a node that has ended.
    pub(crate) async fn start_again(&self, node: &Node, server: &mut Server) -> anyhow::Result<()> {
        *server = start_node(&self.layout, &node.name, &node.entrance, self.capacity).await?;
        Ok(())
    }

    /// A title's URL.
    pub(crate) fn url(&self, title: &str) -> String {
        self.layout.url(title)
    }

    /// A client's command, with this cluster's authority.
    pub(crate) fn client(&self) -> Command {
        let mut command = client(&self.program);
        command.env("USHER_CA", self.layout.ca()).current_dir(self.path());
        command
    }

    /// An operator's command.
    pub(crate) fn operator(&self, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::from(self.layout.operate(args)?);
        command.env("NO_COLOR", "1").kill_on_drop(true);
        Ok(command)
    }

    /// Whether the program knows a command.
    pub(crate) async fn knows(&self, command: &str) -> bool {
        let help = client(&self.program).args([command, "--help"]).output().await;
        help.is_ok_and(|output| output.status.success())
    }

    /// Waits until every node serves and the master knows every copy with its content id; `false` after `limit`.
    pub(crate) async fn settled(&self, limit: Duration) -> bool {
        let settles = async {
            while !self.is_settled().await.unwrap_or(false) {
                time::sleep(POLL_INTERVAL).await;
            }
        };
        time::timeout(limit, settles).await.is_ok()
    }

    async fn is_settled(&self) -> anyhow::Result<bool> {
        let root = self.url("");
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
        let output = self.client().args(args).output().await.context("run usher")?;
        ensure!(output.status.success(), "usher {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("read an answer")
    }

    /// Kills all servers and waits until they have ended.
    pub(crate) async fn end(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.server.lock().await.kill().await?;
        }
        self.master.lock().await.kill().await
    }
}

async fn start_master(layout: &Layout) -> anyhow::Result<(Server, String)> {
    let command = layout.master_command(&["--metrics", "off"]);
    let (server, line) = Server::start(command, layout.path().join("master.log"), "master listens").await?;
    Ok((server, address_in(&line)?.to_string()))
}

async fn start_node(layout: &Layout, name: &str, entrance: &Entrance, capacity: u64) -> anyhow::Result<Server> {
    let (advertise, capacity) = (entrance.address().to_string(), format!("{capacity}mbit"));
    let drain = format!("{}s", ROLLING.as_secs());
    let flags = ["--advertise", &advertise, "--capacity", &capacity, "--drain-timeout", &drain];
    let command = layout.node_command(name, &[&flags[..], &["--replica-quota", "200MB"]].concat())?;
    let (server, line) = Server::start(command, layout.path().join(format!("{name}.log")), "node started").await?;
    entrance.forward_to(address_in(&line)?);
    Ok(server)
}
