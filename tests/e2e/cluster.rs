//! A whole cluster of real processes on loopback, in a folder that goes with the test.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::process::{Process, Said, clip, eventually, run, usher};

/// Figure 4 of "Dynamic Load Balancing of Video Requests".
pub(crate) const FIGURE_4: [(&str, &[&str]); 3] = [
    ("node-1", &["A.mp4", "B.mp4", "C.mp4", "D.mp4"]),
    ("node-2", &["B.mp4", "E.mp4", "F.webm", "G.ts", "H.mp4"]),
    ("node-3", &["B.mp4", "E.mp4", "H.mp4", "J.mp4"]),
];

pub(crate) struct Cluster {
    dir: TempDir,
    pub(crate) master: Process,
    pub(crate) nodes: Vec<(String, Process)>,
    /// HOST:PORT of the master.
    pub(crate) address: String,
    /// What its master is started with, beside what every master is.
    flags: Vec<String>,
}

impl Cluster {
    /// An authority and a master, no nodes.
    pub(crate) fn empty() -> Self {
        Self::with_master(&[])
    }

    /// The same, with further flags for the master.
    pub(crate) fn with_master(flags: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let certs = dir.path().join("certs");
        run(usher().args(["certs", "init", "--dir"]).arg(&certs)).expect(0);
        run(usher().args(["certs", "issue", "master", "--dir"]).arg(&certs)).expect(0);
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (master, address) = start_master(dir.path(), "127.0.0.1:0", &flags);
        Self { dir, master, nodes: Vec::new(), address, flags }
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

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn certs(&self) -> PathBuf {
        self.path().join("certs")
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.certs().join("ca.pem")
    }

    /// The folder that a node serves.
    pub(crate) fn media(&self, node: &str) -> PathBuf {
        self.path().join(node).join("media")
    }

    /// Puts a file into a node's folder: complete at once, as a rename.
    pub(crate) fn add(&self, node: &str, title: &str, from: impl AsRef<Path>) {
        let target = self.media(node).join(title);
        fs::create_dir_all(target.parent().expect("a title lies in a folder")).expect("a folder");
        let draft = self.path().join("draft");
        fs::copy(from.as_ref(), &draft).unwrap_or_else(|e| panic!("{}: {e}", from.as_ref().display()));
        fs::rename(draft, target).expect("renamed into the folder");
    }

    /// Puts a film of that many MiB into a node's folder: a clip with a free box behind it, which readers of MP4 skip.
    /// It is more than any window of a connection holds, so that a slow reader keeps its session running.
    pub(crate) fn add_film(&self, node: &str, title: &str, mib: u32) {
        let mut data = fs::read(clip("B.mp4")).expect("a clip");
        let free = mib << 20;
        data.extend_from_slice(&free.to_be_bytes());
        data.extend_from_slice(b"free");
        data.extend((8..free).map(|i| (i % 251) as u8));
        let film = self.path().join("film");
        fs::write(&film, data).expect("written");
        self.add(node, title, film);
    }

    /// The certificate and key of an operator.
    pub(crate) fn operator(&self) -> [String; 4] {
        let (cert, key) = (self.certs().join("admin-boss.pem"), self.certs().join("admin-boss.key"));
        if !cert.exists() {
            run(usher().args(["certs", "issue", "admin", "boss", "--dir"]).arg(self.certs())).expect(0);
        }
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        ["--cert".to_owned(), text(cert), "--key".to_owned(), text(key)]
    }

    /// A command of that operator.
    pub(crate) fn operate(&self, args: &[&str]) -> Command {
        let mut command = self.usher(args);
        command.args(self.operator());
        command
    }

    /// A node as `usher nodes --json` shows it; null when the master does not know it, or is not there.
    pub(crate) fn seen(&self, node: &str) -> serde_json::Value {
        let said = self.run(&["nodes", "--json", "--timeout", "1s"]);
        let nodes: Vec<serde_json::Value> = serde_json::from_str(&said.out).unwrap_or_default();
        nodes.into_iter().find(|one| one["name"] == node).unwrap_or_default()
    }

    /// The command line of a node, with its own certificate.
    pub(crate) fn node_command(&self, node: &str, extra: &[&str]) -> Command {
        if !self.certs().join(format!("node-{node}.pem")).exists() {
            run(usher().args(["certs", "issue", "node", node, "--dir"]).arg(self.certs())).expect(0);
        }
        fs::create_dir_all(self.media(node)).expect("a folder");
        let mut command = usher();
        command.args(["node", "--master", &self.address, "--name", node, "--listen", "127.0.0.1:0"]);
        command.arg("--certs").arg(self.certs()).arg("--media").arg(self.media(node)).args(extra);
        if !extra.contains(&"--state") {
            command.arg("--state").arg(self.path().join(node).join("state"));
        }
        command
    }

    pub(crate) fn start_node(&mut self, node: &str, extra: &[&str]) {
        let process = Process::start(&mut self.node_command(node, extra));
        self.nodes.retain(|(name, _)| name != node);
        self.nodes.push((node.to_owned(), process));
    }

    pub(crate) fn node(&mut self, node: &str) -> &mut Process {
        &mut self.nodes.iter_mut().find(|(name, _)| name == node).expect("a node that runs").1
    }

    /// Ends the master at once, if it runs.
    pub(crate) fn kill_master(&mut self) {
        // It may be dead already.
        drop(self.master.child().kill());
        self.master.wait();
    }

    /// Ends the master at once and starts it again on the same port.
    pub(crate) fn restart_master(&mut self) {
        self.kill_master();
        let (master, address) = start_master(self.dir.path(), &self.address, &self.flags);
        (self.master, self.address) = (master, address);
    }

    /// A client command, with this cluster's authority.
    pub(crate) fn usher(&self, args: &[&str]) -> Command {
        let mut command = usher();
        command.args(args).env("USHER_CA", self.ca()).env("USHER_MASTER", &self.address).current_dir(self.path());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Said {
        run(&mut self.usher(args))
    }

    pub(crate) fn url(&self, title: &str) -> String {
        format!("usher://{}/{title}", self.address)
    }

    /// The catalog as `usher ls --json` prints it.
    pub(crate) fn titles(&self) -> Vec<serde_json::Value> {
        let said = self.run(&["ls", "--json", &self.url("")]).expect(0);
        said.json().as_array().expect("a list").clone()
    }

    /// Waits until the master knows that many copies, all hashed.
    pub(crate) fn settled(&self, copies: usize) {
        eventually(&format!("{copies} hashed copies are known"), || {
            let titles = self.titles();
            let hashed = titles.iter().all(|title| title["content_id"].as_str().is_some_and(|id| id.len() == 64));
            let known: usize = titles.iter().map(|title| title["nodes"].as_array().map_or(0, Vec::len)).sum();
            hashed && known == copies
        });
    }

    /// Names of the nodes that hold a title; `None` when there is no such title.
    pub(crate) fn holders(&self, title: &str) -> Option<Vec<String>> {
        let titles = self.titles();
        let title = titles.iter().find(|entry| entry["title"] == title)?;
        let nodes = title["nodes"].as_array().expect("a list of nodes");
        Some(nodes.iter().filter_map(|node| node.as_str().map(str::to_owned)).collect())
    }

    /// Starts a client command whose stderr is read line by line.
    pub(crate) fn start(&self, args: &[impl AsRef<OsStr>]) -> Process {
        Process::start(self.usher(&[]).args(args))
    }

    /// The same, with its stdout for the test to read.
    pub(crate) fn start_piped(&self, args: &[&str]) -> Process {
        Process::start(self.usher(args).stdout(Stdio::piped()))
    }
}

fn start_master(dir: &Path, listen: &str, flags: &[String]) -> (Process, String) {
    let mut command = usher();
    command.args(["master", "--listen", listen, "--certs"]).arg(dir.join("certs"));
    command.arg("--state").arg(dir.join("master-state")).args(flags);
    let mut master = Process::start(&mut command);
    let address = address(&master.line_with("master listens"));
    (master, address)
}

/// The address that a log line tells.
pub(crate) fn address(line: &str) -> String {
    let start = line.find("127.0.0.1:").unwrap_or_else(|| panic!("no address in `{line}`"));
    line[start..].chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect()
}
