//! A master and a node as real processes on loopback, other programs beside them, and what the kernel says of them.

pub(crate) mod usage;

use std::{
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Output, Stdio},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};

/// The binary beside this one: both come from one `cargo build --release`.
pub(crate) fn usher() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("find this program")?.with_file_name("usher");
    ensure!(path.is_file(), "{} is missing: run `cargo build --release` first", path.display());
    Ok(path)
}

/// A running part, ended when dropped.
pub(crate) struct Part {
    child: Child,
    log: Option<BufReader<ChildStderr>>,
}

impl Part {
    /// A part of Usher, with its log.
    pub(crate) fn start(args: &[&str]) -> anyhow::Result<Self> {
        Self::logging(args, "info")
    }

    /// The same, with this much in its log.
    fn logging(args: &[&str], filter: &str) -> anyhow::Result<Self> {
        Self::run(Command::new(usher()?).args(args).args(["--log", filter]).env("NO_COLOR", "1"))
    }

    /// Any program.
    pub(crate) fn run(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_owned();
        let started = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = started.with_context(|| format!("start {}", name.display()))?;
        let log = child.stderr.take().map(BufReader::new);
        Ok(Self { child, log })
    }

    /// Any program that reads what it is given.
    pub(crate) fn fed(command: &mut Command) -> anyhow::Result<(Self, ChildStdin)> {
        let name = command.get_program().to_owned();
        let started = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = started.with_context(|| format!("start {}", name.display()))?;
        let input = child.stdin.take().context("piped")?;
        let log = child.stderr.take().map(BufReader::new);
        Ok((Self { child, log }, input))
    }

    /// What it prints, where that is piped; once.
    pub(crate) fn output(&mut self) -> anyhow::Result<ChildStdout> {
        self.child.stdout.take().context("its output is piped, and nobody has it yet")
    }

    /// Reads the log up to a line with `text`, and says when it came.
    pub(crate) fn line_with(&mut self, text: &str) -> anyhow::Result<(String, Instant)> {
        let log = self.log.as_mut().context("the log was let go")?;
        let mut line = String::new();
        loop {
            line.clear();
            if log.read_line(&mut line).context("read the log")? == 0 {
                bail!("the program ended before it logged `{text}`");
            }
            if line.contains(text) {
                return Ok((line, Instant::now()));
            }
        }
    }

    /// Lets the rest of the log go by unread, so that a long one stops nobody.
    pub(crate) fn hush(&mut self) {
        if let Some(mut log) = self.log.take() {
            std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        }
    }

    /// Asks the program to end, and waits until it has, with all that it started.
    pub(crate) fn terminate(&mut self) -> anyhow::Result<()> {
        let id = i32::try_from(self.id()).ok().and_then(rustix::process::Pid::from_raw).context("a process number")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM).context("ask a program to end")?;
        self.child.wait().context("wait for a program's end")?;
        Ok(())
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait().context("look after a program")?.is_none())
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes, without what is mapped from files.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        usage::resident(&[self.id()])
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The loopback address that a line of a log names.
pub(crate) fn address_in(line: &str) -> anyhow::Result<String> {
    let at = line.find("127.0.0.1:").context("an address in the log")?;
    Ok(line[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect())
}

/// The capacity of a node that may send far more than one machine can, so that what is measured is the machine.
pub(crate) const FAST: &str = "100gbit";

/// What is logged of a start, and nothing of what comes after it.
const START_ONLY: &str = "warn,usher_master::app=info,usher_node::app=info";

/// A master and one node that has hashed its library. Both log their start only.
pub(crate) struct Cluster {
    pub(crate) master: Part,
    pub(crate) node: Part,
    /// The master's, on loopback.
    pub(crate) address: String,
    /// The authority's certificate.
    pub(crate) ca: PathBuf,
}

impl Cluster {
    /// Makes certificates and state in `dir`, which must be there, and waits until all of `media` is offered.
    pub(crate) fn start(dir: &Path, media: &Path) -> anyhow::Result<Self> {
        Self::with(dir, media, &["--capacity", FAST])
    }

    /// The same with a node of these options.
    pub(crate) fn with(dir: &Path, media: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let (certs, media) = (text(dir.join("certs")), text(media.to_owned()));
        let ca = dir.join("certs/ca.pem");
        ask(&ca, &["certs", "init", "--dir", &certs])?;
        ask(&ca, &["certs", "issue", "master", "--dir", &certs])?;
        ask(&ca, &["certs", "issue", "node", "node-1", "--dir", &certs])?;
        let (listen, state) = (["--listen", "127.0.0.1:0", "--certs", &certs], text(dir.join("master")));
        let master = ["master", "--metrics", "off", "--state", &state];
        let mut master = Part::logging(&[&master[..], &listen[..]].concat(), START_ONLY)?;
        let address = address_in(&master.line_with("master listens")?.0)?;
        let state = text(dir.join("node"));
        let node = ["node", "--name", "node-1", "--master", &address, "--media", &media, "--state", &state];
        let limits = ["--max-sessions", "1000000", "--replica-quota", "0"];
        let mut node = Part::logging(&[&node[..], &listen[..], &limits[..], options].concat(), START_ONLY)?;
        let (line, _) = node.line_with("library is scanned")?;
        let titles = line.split_once(" titles=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        let titles = titles.context("a number of titles in the log")?;
        node.line_with("library is hashed")?;
        master.hush();
        node.hush();
        wait_for_titles(&ca, &address, titles)?;
        wait_for_hashes(&ca, &address, titles)?;
        Ok(Self { master, node, address, ca })
    }
}

/// Runs a client command to its end; its stdout.
pub(crate) fn ask(ca: &Path, args: &[&str]) -> anyhow::Result<Vec<u8>> {
    let said = Command::new(usher()?).args(args).env("USHER_CA", ca).output().context("run usher")?;
    ensure!(said.status.success(), "usher {}: {}", args.join(" "), String::from_utf8_lossy(&said.stderr));
    Ok(said.stdout)
}

/// Asks the master until it knows that many titles; when it did.
pub(crate) fn wait_for_titles(ca: &Path, address: &str, titles: u32) -> anyhow::Result<Instant> {
    loop {
        let nodes = ask(ca, &["nodes", "--json", &format!("usher://{address}")])?;
        let nodes: serde_json::Value = serde_json::from_slice(&nodes).context("read the list of nodes")?;
        if nodes[0]["titles"] == titles {
            return Ok(Instant::now());
        }
    }
}

/// Asks the master until every title has its content id.
pub(crate) fn wait_for_hashes(ca: &Path, address: &str, titles: u32) -> anyhow::Result<()> {
    loop {
        let list = ask(ca, &["ls", "--json", &format!("usher://{address}")])?;
        let list: serde_json::Value = serde_json::from_slice(&list).context("read the list of titles")?;
        let list = list.as_array().context("a list")?;
        let hashed = list.iter().filter(|title| title["content_id"].as_str().is_some_and(|id| id.len() == 64));
        if hashed.count() as u64 == u64::from(titles) {
            return Ok(());
        }
    }
}

/// What client programs took together.
pub(crate) struct Run {
    /// In the order of the commands.
    pub(crate) outputs: Vec<Output>,
    /// From the first one's start to the last one's end, in seconds.
    pub(crate) wall: f64,
    /// Their processor time, in seconds.
    pub(crate) busy: f64,
}

/// Runs programs at once, to their ends. One that fails fails all.
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
