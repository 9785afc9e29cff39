//! A master and nodes as real processes. Owns their start and restart; [`Layout`] owns their command lines.

use std::ops::{Deref, DerefMut};
use std::path::Path;

use anyhow::Context as _;

use crate::layout::{Layout, address_in};
use crate::process::Process;
use crate::wait::poll;

/// A running cluster; every process is killed when dropped.
pub struct Cluster {
    /// The running nodes by name.
    pub nodes: Vec<(String, Process)>,
    /// The master.
    pub master: Process,
    /// The master's flags beside those of every master.
    flags: Vec<String>,
    layout: Layout,
}

impl Deref for Cluster {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Layout {
        &mut self.layout
    }
}

impl Cluster {
    /// Starts a master with further flags, and waits until it listens. `program` is the `usher` under test.
    ///
    /// # Errors
    /// When a file cannot be written, or the master does not start.
    pub fn start(program: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        let mut layout = Layout::new(program)?;
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let master = start_master(&mut layout, &flags)?;
        Ok(Self { nodes: Vec::new(), master, flags, layout })
    }

    /// Starts a node with further flags. Does not wait for it.
    ///
    /// # Errors
    /// When a file cannot be written, or the program does not start.
    pub fn spawn_node(&mut self, node: &str, flags: &[&str]) -> anyhow::Result<&mut Process> {
        let process = Process::spawn(&mut self.node_command(node, flags)?)?;
        self.nodes.retain(|(name, _)| name != node);
        self.nodes.push((node.to_owned(), process));
        self.nodes.last_mut().map(|(_, process)| process).context("a node was just added")
    }

    /// A running node.
    ///
    /// # Panics
    /// When no such node runs.
    #[track_caller]
    pub fn node(&mut self, node: &str) -> &mut Process {
        let found = self.nodes.iter_mut().find(|(name, _)| name == node);
        &mut found.unwrap_or_else(|| panic!("{node} does not run")).1
    }

    /// Kills the master and starts it again on the same port.
    ///
    /// # Errors
    /// When the master does not start.
    pub fn restart_master(&mut self) -> anyhow::Result<()> {
        self.master.kill()?;
        self.master = start_master(&mut self.layout, &self.flags)?;
        Ok(())
    }

    /// Waits until the master lists that many nodes that serve.
    ///
    /// # Errors
    /// When that does not come true in time.
    pub fn wait_for_nodes(&self, nodes: usize) -> anyhow::Result<()> {
        let serves = |node: &&serde_json::Value| node["state"] == "serving";
        poll(&format!("{nodes} nodes serve"), || Ok(self.roster()?.iter().filter(serves).count() >= nodes))
    }

    /// Waits until the master knows that many copies, all hashed.
    ///
    /// # Errors
    /// When that does not come true in time.
    pub fn wait_for_copies(&self, copies: usize) -> anyhow::Result<()> {
        poll(&format!("{copies} hashed copies are known"), || self.is_hashed(copies))
    }
}

fn start_master(layout: &mut Layout, flags: &[String]) -> anyhow::Result<Process> {
    let mut master = Process::spawn(&mut layout.master_command(flags))?;
    layout.address = address_in(&master.find("master listens")?.0)?.to_string();
    Ok(master)
}
