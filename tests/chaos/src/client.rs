//! One client of a run, a real `usher play` or `usher fetch`: started, listened to, and judged by its exit code and by
//! every byte that it gave out. Faults are left to `faults`.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdout, Command},
    task, time,
};
use usher_proto::{Bitrate, tree::GROUP};

use crate::{
    cluster::Cluster,
    core::{gap, playout::Player},
    library::{self, Title},
};

/// After this long a client has been forgotten: each may go without progress for [`TIMEOUT`], more than once.
const FORGOTTEN: Duration = Duration::from_secs(240);

/// Limit that a client is given.
const TIMEOUT: &str = "60s";

/// Between two lines of progress of a fetch.
const PROGRESS: Duration = Duration::from_millis(250);

/// Lines of a client's standard error that are kept.
const LINES: usize = 200;

/// A client's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Paced, to its standard output.
    Play,
    /// To a file, no faster than this.
    Fetch(Bitrate),
}

/// A client to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) slot: usize,
    pub(crate) round: usize,
    pub(crate) task: Task,
    /// Its number.
    pub(crate) title: usize,
}

/// A client that was.
pub(crate) struct Life {
    pub(crate) job: Job,
    /// The title's name.
    pub(crate) title: String,
    /// When bytes came.
    pub(crate) arrivals: Vec<Instant>,
    /// The time between arrivals that there is without any fault.
    pub(crate) spacing: Duration,
    /// Which node served it from when on, and why; several names for a fetch from several.
    pub(crate) nodes: Vec<(Instant, String)>,
    pub(crate) stalls: u32,
    pub(crate) still: Duration,
    /// The kind of failure.
    pub(crate) wrong: Option<Wrong>,
}

/// Why a client failed.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) kind: WrongKind,
    pub(crate) what: String,
    /// How to start it.
    pub(crate) command: String,
    /// The last lines of its standard error, with times since its start.
    pub(crate) tail: String,
    /// The files that it left.
    pub(crate) folder: PathBuf,
}

/// Kind of wrong outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongKind {
    /// Its output is not its source.
    Bytes,
    /// It did not end well.
    End,
}

impl Life {
    /// Whether this node served it at that time.
    pub(crate) fn was_served_by(&self, node: &str, at: Instant) -> bool {
        let last = self.nodes.partition_point(|(since, _)| *since <= at).checked_sub(1);
        last.is_some_and(|last| names(&self.nodes[last].1).any(|name| name == node))
    }

    /// Whether this node served it at any time in between.
    pub(crate) fn met(&self, node: &str, from: Instant, to: Instant) -> bool {
        let within = |at: &Instant| (from..=to).contains(at);
        self.was_served_by(node, from)
            || self.nodes.iter().any(|(at, who)| within(at) && names(who).any(|name| name == node))
    }

    /// Whether it went from one node to another in between.
    pub(crate) fn changed(&self, from: Instant, to: Instant) -> bool {
        self.nodes.windows(2).any(|pair| pair[0].1 != pair[1].1 && (from..=to).contains(&pair[1].0))
    }
}

/// The names in `node-1 (moved there by node-2)` or `node-1, node-2`.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('(').next().unwrap_or_default().split(',').map(str::trim)
}

/// The node that serves a client, by the client's standard error.
fn served_by(line: &str, title: &str) -> Option<String> {
    if line.starts_with('{') {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let told = matches!(event["event"].as_str(), Some("progress"));
        return event["node"].as_str().filter(|node| told && !node.is_empty()).map(str::to_owned);
    }
    line.strip_prefix(title)?.strip_prefix(": from ").map(str::to_owned)
}

/// The lines of a client's standard error.
#[derive(Default)]
struct Heard {
    nodes: Vec<(Instant, String)>,
    /// Times and bytes of a fetch's progress.
    progress: Vec<(Instant, u64)>,
    lines: std::collections::VecDeque<(Instant, String)>,
}

/// Runs a client to its end.
pub(crate) async fn live(cluster: &Cluster, job: Job, startup: Duration) -> anyhow::Result<Life> {
    let title = &cluster.library.titles[job.title];
    let folder = cluster.path().join(format!("clients/{}-{}", job.slot, job.round));
    fs::create_dir_all(&folder).context("make a client's folder")?;
    let output = folder.join("output");
    let mut command = command(cluster, job, title, &output);
    let written = words(&command);
    let began = Instant::now();
    let mut child = command.stderr(Stdio::piped()).spawn().context("start a client")?;
    let heard = Arc::new(Mutex::new(Heard::default()));
    let listens = listen(child.stderr.take().context("a client's standard error")?, title.name.clone(), heard.clone());
    let listener = tokio::spawn(listens);
    let mut player = Player::new(title.rate, title.size, startup);
    let (truth, out) = (cluster.library.truth(title), child.stdout.take());
    let runs = async {
        let seen = match out {
            Some(out) => Some(watch(out, &truth, &mut player).await?),
            None => None,
        };
        anyhow::Ok((seen, end(&mut child).await?))
    };
    let ran = time::timeout(FORGOTTEN, runs).await;
    if ran.is_err() {
        child.kill().await.context("end a client")?;
    }
    // It ends with the pipe, when the client has ended.
    listener.await.context("listen to a client")?;
    let mut heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    let tail = heard.lines.iter().map(|(at, line)| format!("{:8.3} {line}\n", (*at - began).as_secs_f64()));
    let tail: String = tail.collect();
    if let Some(logs) = &cluster.logs {
        let file = logs.join(format!("{}-{}", job.slot, job.round));
        fs::write(&file, format!("{written}\n{tail}")).with_context(|| format!("write {}", file.display()))?;
    }
    let (kind, what, arrivals) = match ran {
        Err(_) => {
            let text = format!("it did not end within {} s", FORGOTTEN.as_secs());
            (WrongKind::End, Some(text), Vec::new())
        }
        Ok(ran) => {
            let (seen, status) = ran?;
            let ended = (!status.success()).then(|| format!("it ended with {status}"));
            let (arrivals, wrong) = match seen {
                Some(seen) => seen.judge(title),
                None => (moved(&heard.progress), check(output.clone(), title).await?),
            };
            match ended {
                Some(text) => (WrongKind::End, Some(text), arrivals),
                None => (WrongKind::Bytes, wrong, arrivals),
            }
        }
    };
    let wrong = match what {
        Some(what) => {
            fs::write(folder.join("stderr"), &tail).context("keep what a client wrote")?;
            Some(Wrong { kind, what, command: written, tail, folder })
        }
        None => {
            fs::remove_dir_all(&folder).context("remove a client's folder")?;
            None
        }
    };
    heard.nodes.dedup_by(|next, last| next.1 == last.1);
    Ok(Life {
        job,
        title: title.name.clone(),
        arrivals,
        spacing: spacing(job.task, title),
        nodes: heard.nodes,
        stalls: player.stalls(),
        still: player.still(),
        wrong,
    })
}

fn command(cluster: &Cluster, job: Job, title: &Title, output: &Path) -> Command {
    let mut command = cluster.client();
    let url = cluster.url(&title.name);
    match job.task {
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

/// A command line to paste.
fn words(command: &Command) -> String {
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

async fn end(child: &mut Child) -> anyhow::Result<ExitStatus> {
    child.wait().await.context("wait for a client")
}

/// Reads lines to the end.
async fn listen(stderr: ChildStderr, title: String, heard: Arc<Mutex<Heard>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let now = Instant::now();
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = served_by(&line, &title) {
            let known = heard.nodes.last().is_some_and(|(_, last)| *last == node);
            if !known {
                heard.nodes.push((now, node));
            }
        }
        if let Some(bytes) = progress(&line) {
            heard.progress.push((now, bytes));
        }
        if heard.lines.len() == LINES {
            heard.lines.pop_front();
        }
        heard.lines.push_back((now, line));
    }
}

/// The bytes in a line of progress.
fn progress(line: &str) -> Option<u64> {
    if !line.starts_with('{') {
        return None;
    }
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    (event["event"] == "progress").then(|| event["bytes"].as_u64()).flatten()
}

/// When the bytes of a fetch became more.
fn moved(progress: &[(Instant, u64)]) -> Vec<Instant> {
    let mut most = 0;
    let more = progress.iter().filter(|(_, bytes)| {
        let more = *bytes > most;
        most = most.max(*bytes);
        more
    });
    more.map(|(at, _)| *at).collect()
}

/// The output of a player's pipe.
struct Seen {
    arrivals: Vec<Instant>,
    bytes: u64,
    hash: String,
    /// The first byte that is not the source's.
    differs: Option<u64>,
}

impl Seen {
    fn judge(self, title: &Title) -> (Vec<Instant>, Option<String>) {
        let whole = self.bytes == title.size && self.hash == title.content;
        let differs = self.differs.map_or_else(|| "none".to_owned(), |at| at.to_string());
        let text = || format!("{} bytes of {}, the first that differs: {differs}", self.bytes, title.size);
        let wrong = (!whole).then(text);
        (self.arrivals, wrong)
    }
}

/// Reads a player's input to its end, beside the source.
async fn watch(mut out: ChildStdout, truth: &Path, player: &mut Player) -> anyhow::Result<Seen> {
    let truth = fs::File::open(truth).context("open a title's source")?;
    let (mut got, mut expected) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut hasher = blake3::Hasher::new();
    let mut seen = Seen { arrivals: Vec::new(), bytes: 0, hash: String::new(), differs: None };
    loop {
        let len = out.read(&mut got).await.context("read a client's output")?;
        if len == 0 {
            break;
        }
        let now = Instant::now();
        seen.arrivals.push(now);
        player.take(now, len as u64);
        hasher.update(&got[..len]);
        if seen.differs.is_none() {
            let known = truth.read_at(&mut expected[..len], seen.bytes).context("read a title's source")?;
            let differs = (0..len).find(|at| *at >= known || got[*at] != expected[*at]);
            seen.differs = differs.map(|at| seen.bytes + at as u64);
        }
        seen.bytes += len as u64;
    }
    seen.hash = hasher.finalize().to_hex().to_string();
    Ok(seen)
}

/// The fault of a fetched file, if it has one.
async fn check(output: PathBuf, title: &Title) -> anyhow::Result<Option<String>> {
    let (content, size) = (title.content.clone(), title.size);
    let checks = move || {
        if !output.is_file() {
            return Ok(Some("there is no file".to_owned()));
        }
        let (len, hash) = (fs::metadata(&output).context("look at a file")?.len(), library::hash(&output)?);
        let wrong = len != size || hash != content;
        Ok(wrong.then(|| format!("{len} bytes of {size} with the hash {hash}, not {content}")))
    };
    task::spawn_blocking(checks).await.context("check a file")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_serves_is_read_from_what_is_said() {
        for (line, node) in [
            ("films/1.mp4: from node-1", Some("node-1")),
            ("films/1.mp4: from node-2 (alternate after node-1 failed)", Some("node-2")),
            (r#"{"event":"progress","bytes":5,"node":"node-1, node-3"}"#, Some("node-1, node-3")),
            (r#"{"event":"progress","bytes":5,"node":""}"#, None),
            (r#"{"event":"lost","node":"node-1"}"#, None),
            ("node node-1: the connection was lost; trying again", None),
        ] {
            let said = served_by(line, "films/1.mp4");
            assert_eq!(
                said.as_deref().map(|said| names(said).next().unwrap_or_default().to_owned()).as_deref(),
                node.map(|node| node.split(',').next().unwrap_or_default()),
                "{line}"
            );
        }
        assert_eq!(names("node-1, node-3").collect::<Vec<_>>(), ["node-1", "node-3"]);
    }

    #[test]
    fn progress_is_what_becomes_more() {
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_secs(n);
        let told = [(at(0), 0), (at(1), 5), (at(2), 5), (at(3), 4), (at(4), 6)];
        assert_eq!(moved(&told), [at(1), at(4)]);
        assert_eq!(progress(r#"{"event":"progress","bytes":5}"#), Some(5));
        assert_eq!(progress("hello"), None);
    }
}
