//! The measured programs: a cluster of one node, other servers, and clients that run at once. [`usage`]
//! measures them; [`usher_kit`] starts them.

pub(crate) mod usage;

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use usher_kit::{Layout, Process};

/// Limit for a node that scans and hashes a library of any size.
pub(crate) const HASHES: Duration = Duration::from_secs(3600);

/// The binary beside this one: both come from one `cargo build --release`.
pub(crate) fn usher() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("find this program")?.with_file_name("usher");
    ensure!(path.is_file(), "{} is missing: run `cargo build --release` first", path.display());
    Ok(path)
}

/// Starts any program, without input.
pub(crate) fn start(command: &mut Command) -> anyhow::Result<Process> {
    Process::spawn(command.stdin(Stdio::null()))
}

/// Starts any program, and returns its input too.
pub(crate) fn start_fed(command: &mut Command) -> anyhow::Result<(Process, ChildStdin)> {
    let mut process = Process::spawn(command.stdin(Stdio::piped()))?;
    let input = process.child().stdin.take().context("piped")?;
    Ok((process, input))
}

/// Output of a program, where that is piped; once.
pub(crate) fn output(process: &mut Process) -> anyhow::Result<ChildStdout> {
    process.child().stdout.take().context("its output is piped, and not taken yet")
}

/// A capacity far above that of one machine, so that the machine is measured and not the limit.
pub(crate) const FAST: &str = "100gbit";

/// Log filter: only the start of a server.
const START_ONLY: &str = "warn,usher_master::app=info,usher_node::app=info";

/// A master and one node that has hashed its library. Both log their start only.
pub(crate) struct Cluster(usher_kit::Cluster);

impl Deref for Cluster {
    type Target = usher_kit::Cluster;

    fn deref(&self) -> &usher_kit::Cluster {
        &self.0
    }
}

impl Cluster {
    /// Starts a fast node, and waits until all of `media` is offered.
    pub(crate) fn start(media: &Path) -> anyhow::Result<Self> {
        Self::with(media, &["--capacity", FAST])
    }

    /// The same with a node of these options.
    pub(crate) fn with(media: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let mut cluster = usher_kit::Cluster::start(&usher()?, &["--metrics", "off", "--log", START_ONLY])?;
        cluster.master.ignore_log();
        cluster.serve("node-1", media);
        let limits = ["--max-sessions", "1000000", "--replica-quota", "0", "--log", START_ONLY];
        let node = cluster.spawn_node("node-1", &[&limits[..], options].concat())?;
        let (line, _) = node.find_within("library is scanned", HASHES)?;
        let titles = line.split_once(" titles=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        let titles = titles.context("a number of titles in the log")?;
        node.find_within("library is hashed", HASHES)?;
        node.ignore_log();
        wait_for_titles(&cluster, titles)?;
        wait_for_hashes(&cluster, titles)?;
        Ok(Self(cluster))
    }

    /// The node's process number.
    pub(crate) fn node_id(&self) -> u32 {
        self.0.nodes[0].1.id()
    }
}

/// Asks the master until it knows that many titles of the first node; the time when it did.
pub(crate) fn wait_for_titles(layout: &Layout, titles: u32) -> anyhow::Result<Instant> {
    loop {
        if layout.roster()?.first().is_some_and(|node| node["titles"] == titles) {
            return Ok(Instant::now());
        }
    }
}

/// Asks the master until every title has its content id.
pub(crate) fn wait_for_hashes(layout: &Layout, titles: u32) -> anyhow::Result<()> {
    let titles = usize::try_from(titles).context("a small number")?;
    while !layout.is_hashed(titles)? {}
    Ok(())
}

/// Outcome of client programs that ran at once.
pub(crate) struct Run {
    /// In the order of the commands.
    pub(crate) outputs: Vec<Output>,
    /// From the first one's start to the last one's end, in seconds.
    pub(crate) wall: f64,
    /// Their processor time, in seconds.
    pub(crate) busy: f64,
}

/// Runs programs in parallel to their ends. Fails if one fails.
pub(crate) fn run_all(commands: Vec<Command>) -> anyhow::Result<Run> {
    let (before, began) = (usage::children()?, Instant::now());
    let mut running = Vec::new();
    for mut command in commands {
        let name = command.get_program().to_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        running.push((command.spawn().with_context(|| format!("start {}", name.display()))?, name));
    }
    let mut outputs = Vec::new();
    for (child, name) in running {
        let output = child.wait_with_output().context("wait for a client")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}: {}", name.display(), output.status, said.trim_end());
        outputs.push(output);
    }
    Ok(Run { outputs, wall: began.elapsed().as_secs_f64(), busy: usage::children()? - before })
}
