//! A cluster with feeds: a master, nodes and publishers as real processes on loopback.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::Context as _;
use tempfile::TempDir;
use usher_certs::{
    Identity, Role,
    files::{init, issue},
};

use super::clip::{Clip, Playing};
use crate::cluster::{Part, address_in, ask, usher};

/// What is logged: starts, and what goes wrong.
const LOG: &str = "warn,usher_master::app=info,usher_node::app=info,usher_node::control=info";

/// The certificate that publishes here.
const PUBLISHER: &str = "bench";

/// A master and nodes; all ends when dropped.
pub(crate) struct Hall {
    pub(crate) nodes: Vec<Part>,
    /// The master's, on loopback.
    pub(crate) address: String,
    /// The authority's certificate.
    pub(crate) ca: PathBuf,
    _master: Part,
    dir: TempDir,
}

impl Hall {
    /// Starts a master and nodes of these flags, one for each list.
    pub(crate) fn open(nodes: &[&[&str]]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("make a temporary folder")?;
        let certs = dir.path().join("certs");
        init(&certs, "bench", false)?;
        issue(&certs, &Identity::new(Role::Master, "master")?, &[], &certs, false)?;
        issue(&certs, &Identity::new(Role::Publisher, PUBLISHER)?, &[], &certs, false)?;
        let (ca, certs_text) = (certs.join("ca.pem"), text(&certs));
        let common = ["--listen", "127.0.0.1:0", "--certs", &certs_text];
        let state = text(&dir.path().join("master"));
        let mut master = start(&[&["master", "--metrics", "off", "--state", &state][..], &common].concat())?;
        let address = address_in(&master.line_with("master listens")?.0)?;
        master.hush();
        let mut started = Vec::new();
        for (flags, number) in nodes.iter().zip(1..) {
            let name = format!("node-{number}");
            issue(&certs, &Identity::new(Role::Node, &name)?, &[], &certs, false)?;
            let (media, state) = (dir.path().join(&name).join("media"), text(&dir.path().join(&name).join("state")));
            std::fs::create_dir_all(&media).context("make a media folder")?;
            let media = text(&media);
            let node = ["node", "--name", &name, "--master", &address, "--media", &media, "--state", &state];
            let limits = ["--capacity", "100gbit", "--max-sessions", "1000000", "--replica-quota", "0"];
            let mut node = start(&[&node[..], &common, &limits, flags].concat())?;
            node.line_with("node started")?;
            node.hush();
            started.push(node);
        }
        let hall = Self { nodes: started, address, ca, _master: master, dir };
        hall.wait_for(nodes.len())?;
        Ok(hall)
    }

    /// Asks the master until it knows that many nodes.
    fn wait_for(&self, nodes: usize) -> anyhow::Result<()> {
        loop {
            let list = ask(&self.ca, &["nodes", "--json", &format!("usher://{}", self.address)])?;
            let list: serde_json::Value = serde_json::from_slice(&list).context("read the list of nodes")?;
            if list.as_array().context("a list")?.len() >= nodes {
                return Ok(());
            }
        }
    }

    /// A feed's URL.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("usher://{}/{}", self.address, title(name))
    }

    /// Begins to publish a feed, and waits until it is on the air.
    pub(crate) fn publish(&self, name: &str, clip: &Arc<Clip>) -> anyhow::Result<Publisher> {
        let mut command = Command::new(usher()?);
        command.args(["publish", &self.url(name), "--format", "mpegts", "--progress", "none", "--log", "warn"]);
        let certs = self.dir.path().join("certs");
        command.arg("--ca").arg(&self.ca).arg("--cert").arg(certs.join(format!("publisher-{PUBLISHER}.pem")));
        command.arg("--key").arg(certs.join(format!("publisher-{PUBLISHER}.key")));
        let publisher = Publisher::start(&mut command, clip)?;
        self.on_the_air(name)?;
        Ok(publisher)
    }

    /// Asks the master until the feed is there.
    fn on_the_air(&self, name: &str) -> anyhow::Result<()> {
        loop {
            let list = ask(&self.ca, &["ls", "--json", &format!("usher://{}", self.address)])?;
            let list: serde_json::Value = serde_json::from_slice(&list).context("read the list of titles")?;
            if list.as_array().context("a list")?.iter().any(|entry| entry["title"] == title(name).as_str()) {
                return Ok(());
            }
        }
    }
}

/// A program that is given a clip as it plays.
pub(crate) struct Publisher {
    pub(crate) playing: Playing,
    _part: Part,
}

impl Publisher {
    /// Starts a program that reads from its standard input.
    pub(crate) fn start(command: &mut Command, clip: &Arc<Clip>) -> anyhow::Result<Self> {
        let (mut part, input) = Part::fed(command.stdout(Stdio::null()))?;
        part.hush();
        Ok(Self { playing: clip.play(input), _part: part })
    }
}

/// A feed's title: one that this bench may publish.
pub(crate) fn title(name: &str) -> String {
    format!("live/{PUBLISHER}/{name}")
}

fn start(args: &[&str]) -> anyhow::Result<Part> {
    Part::run(Command::new(usher()?).args(args).args(["--log", LOG]).env("NO_COLOR", "1"))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
