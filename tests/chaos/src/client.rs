//! One client of a run, a real `usher play` or `usher fetch`: starts it, reads its standard error, and checks its exit code
//! and every byte of its output. Faults are left to `faults`.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{ChildStderr, ChildStdout, Command},
    task, time,
};
use usher_proto::{Bitrate, tree::GROUP};

use crate::{
    cluster::Cluster,
    core::{gap, playout::Player},
    library::{self, Title},
    sync::lock,
};

/// A client that has not ended by then has failed: each may go without progress for [`TIMEOUT`], more than once.
const CLIENT_LIMIT: Duration = Duration::from_secs(240);

/// The `--timeout` of a client.
const TIMEOUT: &str = "60s";

/// Time between two lines of progress of a fetch.
const PROGRESS: Duration = Duration::from_millis(250);

/// Lines of a client's standard error that are kept.
const LINES: usize = 200;

/// Task of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Plays: paced, to its standard output.
    Play,
    /// Fetches to a file, at most at this rate.
    Fetch(Bitrate),
}

/// The parameters of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientSpec {
    pub(crate) slot: usize,
    pub(crate) round: usize,
    pub(crate) task: Task,
    /// The title's number.
    pub(crate) title: usize,
}

/// The result of one client.
pub(crate) struct ClientRun {
    pub(crate) spec: ClientSpec,
    /// The title's name.
    pub(crate) title: String,
    /// Times at which bytes arrived.
    pub(crate) arrivals: Vec<Instant>,
    /// The time between arrivals without any fault.
    pub(crate) spacing: Duration,
    /// The serving node since each time, and the reason; several names for a fetch from several nodes.
    pub(crate) nodes: Vec<(Instant, String)>,
    pub(crate) stalls: u32,
    pub(crate) stalled_for: Duration,
    pub(crate) failure: Option<Failure>,
}

/// Failure of a client.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) what: String,
    /// The client's command line.
    pub(crate) command: String,
    /// The last lines of its standard error, with times since its start.
    pub(crate) tail: String,
    /// The files that it left.
    pub(crate) folder: PathBuf,
}

/// Kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Its output differs from its source.
    Bytes,
    /// It ended with an error, or did not end.
    End,
}

impl ClientRun {
    /// Whether this node served it at that time.
    pub(crate) fn was_served_by(&self, node: &str, at: Instant) -> bool {
        let last = self.nodes.partition_point(|(since, _)| *since <= at).checked_sub(1);
        last.is_some_and(|last| names(&self.nodes[last].1).any(|name| name == node))
    }

    /// Whether this node served it at any time of `from..=to`.
    pub(crate) fn was_served_by_between(&self, node: &str, from: Instant, to: Instant) -> bool {
        let within = |at: &Instant| (from..=to).contains(at);
        self.was_served_by(node, from)
            || self.nodes.iter().any(|(at, text)| within(at) && names(text).any(|name| name == node))
    }

    /// Whether it changed from one node to another within `from..=to`.
    pub(crate) fn changed(&self, from: Instant, to: Instant) -> bool {
        self.nodes.windows(2).any(|pair| pair[0].1 != pair[1].1 && (from..=to).contains(&pair[1].0))
    }
}

/// The names in `node-1 (moved there by node-2)` or `node-1, node-2`.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('(').next().unwrap_or_default().split(',').map(str::trim)
}

/// The node that serves a client, from a line of the client's standard error.
fn served_by(line: &str, title: &str) -> Option<String> {
    if line.starts_with('{') {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let node = event["node"].as_str().filter(|node| event["event"] == "progress" && !node.is_empty());
        return node.map(str::to_owned);
    }
    line.strip_prefix(title)?.strip_prefix(": from ").map(str::to_owned)
}

/// Findings in a client's standard error, and its last lines.
#[derive(Default)]
struct StderrLog {
    nodes: Vec<(Instant, String)>,
    /// Progress of a fetch: times and bytes.
    progress: Vec<(Instant, u64)>,
    lines: std::collections::VecDeque<(Instant, String)>,
}

/// Runs a client to its end.
pub(crate) async fn run_client(cluster: &Cluster, spec: ClientSpec, startup: Duration) -> anyhow::Result<ClientRun> {
    let title = &cluster.library.titles[spec.title];
    let folder = cluster.path().join(format!("clients/{}-{}", spec.slot, spec.round));
    fs::create_dir_all(&folder).context("make a client's folder")?;
    let output = folder.join("output");
    let mut command = command(cluster, spec, title, &output);
    let command_line = shell_command(&command);
    let began = Instant::now();
    let mut child = command.stderr(Stdio::piped()).spawn().context("start a client")?;
    let log = Arc::new(Mutex::new(StderrLog::default()));
    let stderr = child.stderr.take().context("a client's standard error")?;
    let reader = tokio::spawn(read_stderr(stderr, title.name.clone(), log.clone()));
    let mut player = Player::new(title.rate, title.size, startup);
    let (truth, out) = (cluster.library.truth(title), child.stdout.take());
    let runs = async {
        let played = match out {
            Some(out) => Some(compare(out, &truth, &mut player).await?),
            None => None,
        };
        anyhow::Ok((played, child.wait().await.context("wait for a client")?))
    };
    let ran = time::timeout(CLIENT_LIMIT, runs).await;
    if ran.is_err() {
        child.kill().await.context("end a client")?;
    }
    // It ends with the pipe, when the client has ended.
    reader.await.context("read a client's standard error")?;
    let mut log = std::mem::take(&mut *lock(&log));
    let tail = log.lines.iter().map(|(at, line)| format!("{:8.3} {line}\n", (*at - began).as_secs_f64()));
    let tail: String = tail.collect();
    if let Some(logs) = &cluster.logs {
        let file = logs.join(format!("{}-{}", spec.slot, spec.round));
        fs::write(&file, format!("{command_line}\n{tail}")).with_context(|| format!("write {}", file.display()))?;
    }
    let (kind, what, arrivals) = match ran {
        Err(_) => {
            let text = format!("it did not end within {} s", CLIENT_LIMIT.as_secs());
            (FailureKind::End, Some(text), Vec::new())
        }
        Ok(ran) => {
            let (played, status) = ran?;
            let ended = (!status.success()).then(|| format!("it ended with {status}"));
            let (arrivals, difference) = match played {
                Some(played) => played.check(title),
                None => (advances(&log.progress), check_file(output.clone(), title).await?),
            };
            match ended {
                Some(text) => (FailureKind::End, Some(text), arrivals),
                None => (FailureKind::Bytes, difference, arrivals),
            }
        }
    };
    let failure = match what {
        Some(what) => {
            fs::write(folder.join("stderr"), &tail).context("keep a client's standard error")?;
            Some(Failure { kind, what, command: command_line, tail, folder })
        }
        None => {
            fs::remove_dir_all(&folder).context("remove a client's folder")?;
            None
        }
    };
    log.nodes.dedup_by(|next, last| next.1 == last.1);
    Ok(ClientRun {
        spec,
        title: title.name.clone(),
        arrivals,
        spacing: spacing(spec.task, title),
        nodes: log.nodes,
        stalls: player.stalls(),
        stalled_for: player.stalled_for(),
        failure,
    })
}

fn command(cluster: &Cluster, spec: ClientSpec, title: &Title, output: &Path) -> Command {
    let mut command = cluster.client();
    let url = cluster.url(&title.name);
    match spec.task {
        Task::Play => command.args(["play", &url, "--player", "-"]).stdout(Stdio::piped()),
        Task::Fetch(rate) => {
            let rate = format!("{}kbit", rate.0 / 1000);
            command.args(["fetch", &url, "--progress", "json", "--limit-rate", &rate, "--output"]).arg(output);
            command.stdout(Stdio::null())
        }
    };
    command.args(["--verbose", "--timeout", TIMEOUT]);
    if cluster.logs.is_some() {
        command.args(["--log", "usher_client=debug"]);
    }
    command
}

/// The command as a line for a shell.
fn shell_command(command: &Command) -> String {
    let command = command.as_std();
    let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    let program = command.get_program().to_string_lossy().into_owned();
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}

/// The longest time between two arrivals of a delivery without faults.
fn spacing(task: Task, title: &Title) -> Duration {
    match task {
        Task::Play => gap::paced_spacing(title.rate),
        Task::Fetch(rate) => PROGRESS + rate.time_for(GROUP).unwrap_or_default(),
    }
}

/// Reads lines to the end.
async fn read_stderr(stderr: ChildStderr, title: String, log: Arc<Mutex<StderrLog>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let now = Instant::now();
        let mut log = lock(&log);
        if let Some(node) = served_by(&line, &title) {
            let known = log.nodes.last().is_some_and(|(_, last)| *last == node);
            if !known {
                log.nodes.push((now, node));
            }
        }
        if let Some(bytes) = progress(&line) {
            log.progress.push((now, bytes));
        }
        if log.lines.len() == LINES {
            log.lines.pop_front();
        }
        log.lines.push_back((now, line));
    }
}

/// The byte count of a line of progress.
fn progress(line: &str) -> Option<u64> {
    if !line.starts_with('{') {
        return None;
    }
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    (event["event"] == "progress").then(|| event["bytes"].as_u64()).flatten()
}

/// Times at which a fetch had more bytes than ever before.
fn advances(progress: &[(Instant, u64)]) -> Vec<Instant> {
    let mut most = 0;
    let more = progress.iter().filter(|(_, bytes)| {
        let more = *bytes > most;
        most = most.max(*bytes);
        more
    });
    more.map(|(at, _)| *at).collect()
}

/// The output of a client that plays into a pipe.
struct PlayedOutput {
    arrivals: Vec<Instant>,
    bytes: u64,
    hash: String,
    /// Position of the first byte that differs from the source.
    differs: Option<u64>,
}

impl PlayedOutput {
    /// The arrivals, and the difference from the source if there is one.
    fn check(self, title: &Title) -> (Vec<Instant>, Option<String>) {
        let same = self.bytes == title.size && self.hash == title.content;
        let differs = self.differs.map_or_else(|| "none".to_owned(), |at| at.to_string());
        let text = || format!("{} bytes of {}, the first that differs: {differs}", self.bytes, title.size);
        let difference = (!same).then(text);
        (self.arrivals, difference)
    }
}

/// Reads a client's output to its end and compares it with the source.
async fn compare(mut out: ChildStdout, truth: &Path, player: &mut Player) -> anyhow::Result<PlayedOutput> {
    let truth = fs::File::open(truth).context("open a title's source")?;
    let (mut got, mut expected) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut hasher = blake3::Hasher::new();
    let mut played = PlayedOutput { arrivals: Vec::new(), bytes: 0, hash: String::new(), differs: None };
    loop {
        let len = out.read(&mut got).await.context("read a client's output")?;
        if len == 0 {
            break;
        }
        let now = Instant::now();
        played.arrivals.push(now);
        player.receive(now, len as u64);
        hasher.update(&got[..len]);
        if played.differs.is_none() {
            let known = truth.read_at(&mut expected[..len], played.bytes).context("read a title's source")?;
            let differs = (0..len).find(|at| *at >= known || got[*at] != expected[*at]);
            played.differs = differs.map(|at| played.bytes + at as u64);
        }
        played.bytes += len as u64;
    }
    played.hash = hasher.finalize().to_hex().to_string();
    Ok(played)
}

/// The difference between a fetched file and its source, if there is one.
async fn check_file(output: PathBuf, title: &Title) -> anyhow::Result<Option<String>> {
    let (content, size) = (title.content.clone(), title.size);
    let checks = move || {
        if !output.is_file() {
            return Ok(Some("there is no file".to_owned()));
        }
        let (len, hash) = (fs::metadata(&output).context("read a file's size")?.len(), library::hash(&output)?);
        let differs = len != size || hash != content;
        Ok(differs.then(|| format!("{len} bytes of {size} with the hash {hash}, not {content}")))
    };
    task::spawn_blocking(checks).await.context("check a file")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serving_node_is_read_from_standard_error() {
        for (line, node) in [
            ("films/1.mp4: from node-1", Some("node-1")),
            ("films/1.mp4: from node-2 (alternate after node-1 failed)", Some("node-2")),
            (r#"{"event":"progress","bytes":5,"node":"node-1, node-3"}"#, Some("node-1, node-3")),
            (r#"{"event":"progress","bytes":5,"node":""}"#, None),
            (r#"{"event":"lost","node":"node-1"}"#, None),
            ("node node-1: the connection was lost; trying again", None),
        ] {
            let text = served_by(line, "films/1.mp4");
            assert_eq!(
                text.as_deref().map(|text| names(text).next().unwrap_or_default().to_owned()).as_deref(),
                node.map(|node| node.split(',').next().unwrap_or_default()),
                "{line}"
            );
        }
        assert_eq!(names("node-1, node-3").collect::<Vec<_>>(), ["node-1", "node-3"]);
    }

    #[test]
    fn only_advances_count_as_progress() {
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_secs(n);
        let lines = [(at(0), 0), (at(1), 5), (at(2), 5), (at(3), 4), (at(4), 6)];
        assert_eq!(advances(&lines), [at(1), at(4)]);
        assert_eq!(progress(r#"{"event":"progress","bytes":5}"#), Some(5));
        assert_eq!(progress("hello"), None);
    }
}
