//! A cluster with feeds: a master, nodes and publishers as real processes on loopback.

use std::{
    ops::Deref,
    process::{Command, Stdio},
    sync::Arc,
};

use usher_certs::Role;
use usher_kit::Process;

use super::clip::{Clip, Playing};
use crate::cluster::{FAST, start_fed, usher};

/// Log filter: starts, and faults.
const LOG: &str = "warn,usher_master::app=info,usher_node::app=info,usher_node::report=info,usher_node::attach=info";

/// The certificate that publishes here.
const PUBLISHER: &str = "bench";

/// A master and nodes; all are killed when dropped.
pub(crate) struct TestCluster(usher_kit::Cluster);

impl Deref for TestCluster {
    type Target = usher_kit::Cluster;

    fn deref(&self) -> &usher_kit::Cluster {
        &self.0
    }
}

impl TestCluster {
    /// Starts a master and nodes of these flags, one for each list, and waits until all serve.
    pub(crate) fn start(nodes: &[&[&str]]) -> anyhow::Result<Self> {
        let mut cluster = usher_kit::Cluster::start(&usher()?, &["--metrics", "off", "--log", LOG])?;
        cluster.master.ignore_log();
        for (flags, number) in nodes.iter().zip(1..) {
            let limits = ["--capacity", FAST, "--max-sessions", "1000000", "--replica-quota", "0", "--log", LOG];
            let node = cluster.spawn_node(&format!("node-{number}"), &[&limits[..], flags].concat())?;
            node.find("node started")?;
            node.ignore_log();
        }
        cluster.wait_for_nodes(nodes.len())?;
        Ok(Self(cluster))
    }

    /// A node's process number, counted from 0.
    pub(crate) fn node_id(&self, node: usize) -> u32 {
        self.nodes[node].1.id()
    }

    /// Kills a node, counted from 0.
    pub(crate) fn kill_node(&mut self, node: usize) {
        drop(self.0.nodes.remove(node));
    }

    /// The URL of a feed.
    pub(crate) fn feed_url(&self, name: &str) -> String {
        self.url(&title(name))
    }

    /// Begins to publish a feed, and waits until the master lists it.
    pub(crate) fn publish(&self, name: &str, clip: &Arc<Clip>) -> anyhow::Result<Publisher> {
        let url = self.feed_url(name);
        let mut command = self.usher(&["publish", &url, "--format", "mpegts", "--progress", "none", "--log", "warn"]);
        command.args(self.certify(Role::Publisher, PUBLISHER)?);
        let publisher = Publisher::start(&mut command, clip)?;
        while !self.catalog()?.iter().any(|entry| entry["title"] == title(name).as_str()) {}
        Ok(publisher)
    }
}

/// A program that is given a clip as it plays.
pub(crate) struct Publisher {
    pub(crate) playing: Playing,
    _process: Process,
}

impl Publisher {
    /// Starts a program that reads from its standard input.
    pub(crate) fn start(command: &mut Command, clip: &Arc<Clip>) -> anyhow::Result<Self> {
        let (mut process, input) = start_fed(command.stdout(Stdio::null()))?;
        process.ignore_log();
        Ok(Self { playing: clip.play(input), _process: process })
    }
}

/// A feed's title: one that this bench may publish.
pub(crate) fn title(name: &str) -> String {
    format!("live/{PUBLISHER}/{name}")
}
