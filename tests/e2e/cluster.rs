//! The cluster of these tests: the kit's, with the shipped clips and with panics in place of errors.

use std::{
    ffi::OsStr,
    fs,
    ops::{Deref, DerefMut},
    path::Path,
    process::{Command, Stdio},
};

use usher_certs::Role;
use usher_kit::Process;
use usher_media::samples::padded;

use crate::parts::{USHER, clip};

/// Figure 4 of "Dynamic Load Balancing of Video Requests".
pub(crate) const FIGURE_4: [(&str, &[&str]); 3] = [
    ("node-1", &["A.mp4", "B.mp4", "C.mp4", "D.mp4"]),
    ("node-2", &["B.mp4", "E.mp4", "F.webm", "G.ts", "H.mp4"]),
    ("node-3", &["B.mp4", "E.mp4", "H.mp4", "J.mp4"]),
];

pub(crate) struct Cluster(usher_kit::Cluster);

impl Deref for Cluster {
    type Target = usher_kit::Cluster;

    fn deref(&self) -> &usher_kit::Cluster {
        &self.0
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut usher_kit::Cluster {
        &mut self.0
    }
}

impl Cluster {
    /// An authority and a master, no nodes.
    pub(crate) fn empty() -> Self {
        Self::with_master(&[])
    }

    /// The same, with further flags for the master.
    pub(crate) fn with_master(flags: &[&str]) -> Self {
        Self(usher_kit::Cluster::start(Path::new(USHER), flags).expect("a master"))
    }

    /// A master and nodes with copies of the shipped clips, all hashed and known to the master.
    pub(crate) fn with(nodes: &[(&str, &[&str])]) -> Self {
        let mut cluster = Self::empty();
        for (node, clips) in nodes {
            for name in *clips {
                cluster.add(node, name, clip(name));
            }
            cluster.start_node(node, &[]);
        }
        let copies: usize = nodes.iter().map(|(_, clips)| clips.len()).sum();
        cluster.settled(copies);
        cluster
    }

    pub(crate) fn figure_4() -> Self {
        Self::with(&FIGURE_4)
    }

    /// Puts a file into a node's folder: complete at once, as a rename.
    pub(crate) fn add(&self, node: &str, title: &str, from: impl AsRef<Path>) {
        self.0.add(node, title, from.as_ref()).expect("a title");
    }

    /// Puts a film of more than `mib` MiB into a node's folder: a clip with padding. It is more than any window of a
    /// connection holds, so that a slow reader keeps its session running.
    pub(crate) fn add_film(&self, node: &str, title: &str, mib: u32) {
        let padding: Vec<u8> = (0..mib << 20).map(|i| (i % 251) as u8).collect();
        let film = self.path().join("film");
        fs::write(&film, padded(&fs::read(clip("B.mp4")).expect("a clip"), &padding)).expect("written");
        self.add(node, title, film);
    }

    /// The options that show an operator's certificate.
    pub(crate) fn operator(&self) -> [String; 4] {
        self.certify(Role::Admin, "operator-1").expect("a certificate")
    }

    /// A command of that operator.
    pub(crate) fn operate(&self, args: &[&str]) -> Command {
        self.0.operate(args).expect("a certificate")
    }

    /// A node as `usher nodes --json` shows it; null when the master does not know it, or does not answer.
    pub(crate) fn seen(&self, node: &str) -> serde_json::Value {
        self.roster().unwrap_or_default().into_iter().find(|one| one["name"] == node).unwrap_or_default()
    }

    /// The command line of a node, with its own certificate.
    pub(crate) fn node_command(&self, node: &str, flags: &[&str]) -> Command {
        self.0.node_command(node, flags).expect("a certificate")
    }

    pub(crate) fn start_node(&mut self, node: &str, flags: &[&str]) {
        self.spawn_node(node, flags).expect("a node");
    }

    /// Kills the master, if it runs.
    pub(crate) fn kill_master(&mut self) {
        self.master.kill().expect("the master ends");
    }

    /// Kills the master and starts it again on the same port.
    pub(crate) fn restart_master(&mut self) {
        self.0.restart_master().expect("a master");
    }

    /// The catalog as `usher ls --json` prints it.
    pub(crate) fn titles(&self) -> Vec<serde_json::Value> {
        self.catalog().expect("a catalog")
    }

    /// Waits until the master knows that many copies, all hashed.
    #[track_caller]
    pub(crate) fn settled(&self, copies: usize) {
        self.wait_for_copies(copies).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Names of the nodes that hold a title; `None` when there is no such title.
    pub(crate) fn holders(&self, title: &str) -> Option<Vec<String>> {
        let titles = self.titles();
        let title = titles.iter().find(|entry| entry["title"] == title)?;
        let nodes = title["nodes"].as_array().expect("a list of nodes");
        Some(nodes.iter().filter_map(|node| node.as_str().map(str::to_owned)).collect())
    }

    /// Starts a client command whose standard error is read line by line.
    pub(crate) fn start(&self, args: &[impl AsRef<OsStr>]) -> Process {
        Process::start(self.usher(&[""; 0]).args(args))
    }

    /// The same, with its standard output for the test to read.
    pub(crate) fn start_piped(&self, args: &[&str]) -> Process {
        Process::start(self.usher(args).stdout(Stdio::piped()))
    }
}
