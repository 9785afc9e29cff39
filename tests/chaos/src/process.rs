//! Programs of a run: started, written down, signalled by their own number, and ended when dropped. Refuses to know what
//! they are.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::oneshot,
    task::JoinHandle,
    time,
};

/// How long a program may take to say that it has started; the slowest shared machine needs less.
const START: Duration = Duration::from_secs(60);

/// A running server. It is killed when dropped.
pub(crate) struct Part {
    child: Child,
    log: JoinHandle<()>,
}

impl Part {
    /// Starts a program whose standard error is appended to `log`, and waits for a line with `text`, which it returns.
    pub(crate) async fn start(command: &mut Command, log: &Path, text: &'static str) -> anyhow::Result<(Self, String)> {
        let name = command.as_std().get_program().to_owned();
        let what = || format!("start {}", name.display());
        let file = File::options().append(true).create(true).open(log).with_context(what)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(what)?;
        let stderr = child.stderr.take().with_context(what)?;
        let (told, said) = oneshot::channel();
        let part = Self { child, log: tokio::spawn(write_down(stderr, file, text, told)) };
        match time::timeout(START, said).await {
            Ok(Ok(line)) => Ok((part, line)),
            _ => bail!("{} did not say `{text}`; its log is\n{}", name.display(), std::fs::read_to_string(log)?),
        }
    }

    /// Sends a signal, to this program only.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(id.context("the program has ended")?, signal).context("send a signal")
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.wait().await.context("wait for a program's end")
    }

    /// Kills it, and waits until it has ended.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill a program")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.log.abort();
    }
}

/// Copies lines to a file, and tells of the first one with `text`.
async fn write_down(stderr: tokio::process::ChildStderr, mut file: File, text: &str, told: oneshot::Sender<String>) {
    let mut lines = BufReader::new(stderr).lines();
    let mut told = Some(told);
    while let Ok(Some(line)) = lines.next_line().await {
        // A log that cannot be written is missing in a report, and nothing else.
        drop(writeln!(file, "{line}"));
        if line.contains(text)
            && let Some(told) = told.take()
        {
            drop(told.send(line));
        }
    }
}

/// The program under test, without the settings of whoever runs this.
pub(crate) fn usher(path: &Path) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("USHER_")) {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
    command
}
