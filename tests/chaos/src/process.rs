//! Servers of a run: the kit's processes with asynchronous waits. Command lines are left to `cluster`.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{task, time};
use usher_kit::{Process, Signal};

/// Interval of checks whether a server has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// A running server. It is killed when dropped.
pub(crate) struct Server(Process);

impl Server {
    /// Starts a program whose log is appended to a file, and waits for a line with `text`, which it returns.
    pub(crate) async fn start(
        mut command: Command,
        log: PathBuf,
        text: &'static str,
    ) -> anyhow::Result<(Self, String)> {
        let start = move || {
            let mut process = Process::spawn_logged(&mut command, &log)?;
            let (line, _) = process.find(text)?;
            process.ignore_log();
            anyhow::Ok((Self(process), line))
        };
        task::spawn_blocking(start).await.context("start a server")?
    }

    /// Sends a signal to this server alone.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.0.try_signal(signal)
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Kills it, and waits until it has ended.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        // The kernel ends a killed process at once.
        self.0.kill()
    }
}

/// The program under test, without the settings of the current user; killed on drop.
pub(crate) fn client(program: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::from(usher_kit::usher(program));
    command.env("NO_COLOR", "1").kill_on_drop(true);
    command
}
