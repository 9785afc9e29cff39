//! A master and a node as real processes on loopback, and what the kernel says of them.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
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
    log: BufReader<ChildStderr>,
}

impl Part {
    pub(crate) fn start(args: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(usher()?)
            .args(args)
            .args(["--log", "info"])
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped())
            .spawn()
            .context("start usher")?;
        let log = BufReader::new(child.stderr.take().context("stderr is piped")?);
        Ok(Self { child, log })
    }

    /// Reads the log up to a line with `text`, and says when it came.
    pub(crate) fn line_with(&mut self, text: &str) -> anyhow::Result<(String, Instant)> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.log.read_line(&mut line).context("read the log")? == 0 {
                bail!("usher ended before it logged `{text}`");
            }
            if line.contains(text) {
                return Ok((line, Instant::now()));
            }
        }
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes, without what is mapped from files.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("read /proc")?;
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).context("find RssAnon in /proc")?;
        let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse().context("a number")?;
        Ok(kib * 1024)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a client command to its end; its stdout.
pub(crate) fn ask(ca: &Path, args: &[&str]) -> anyhow::Result<Vec<u8>> {
    let said = Command::new(usher()?).args(args).env("USHER_CA", ca).output().context("run usher")?;
    ensure!(said.status.success(), "usher {}: {}", args.join(" "), String::from_utf8_lossy(&said.stderr));
    Ok(said.stdout)
}
