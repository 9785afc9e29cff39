//! Real processes: started, read line by line, signalled by their own number, and ended when dropped.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{PATIENCE, eventually};

/// A running program whose standard error is read line by line.
pub struct Process {
    child: Child,
    /// Lines not looked at yet, each with the time it was read. `None` after [`Process::ignore_log`].
    lines: Option<Receiver<(String, Instant)>>,
    seen: Vec<String>,
}

impl Process {
    /// Starts a command and reads its standard error. Other streams are as the command says.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        Self::spawn_with(command, None)
    }

    /// Like [`Process::spawn`]; appends the log to a file, too.
    ///
    /// # Errors
    /// When the program does not start, or the file cannot be opened.
    pub fn spawn_logged(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().append(true).create(true).open(log);
        Self::spawn_with(command, Some(file.with_context(|| format!("open {}", log.display()))?))
    }

    fn spawn_with(command: &mut Command, log: Option<File>) -> anyhow::Result<Self> {
        let name = command.get_program().to_owned();
        let context = || format!("start {}", name.display());
        let mut child = command.stderr(Stdio::piped()).spawn().with_context(context)?;
        let stderr = child.stderr.take().with_context(context)?;
        let (sender, lines) = channel();
        thread::spawn(move || read(stderr, log, &sender));
        Ok(Self { child, lines: Some(lines), seen: Vec::new() })
    }

    /// Starts a command and reads its standard error; panics when it does not start.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        Self::spawn(command).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Waits for a line that contains `text`, from the beginning of the log. Returns it and the time it was read; a line
    /// that was seen before has the present time.
    ///
    /// # Errors
    /// When the program ends without such a line, or does not write it within [`PATIENCE`].
    pub fn find(&mut self, text: &str) -> anyhow::Result<(String, Instant)> {
        self.find_within(text, PATIENCE)
    }

    /// Like [`Process::find`], with another limit.
    ///
    /// # Errors
    /// When the program ends without such a line, or does not write it in time.
    pub fn find_within(&mut self, text: &str, limit: Duration) -> anyhow::Result<(String, Instant)> {
        if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
            return Ok((line.clone(), Instant::now()));
        }
        let lines = self.lines.as_ref().context("the log is ignored")?;
        let deadline = Instant::now() + limit;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((line, at)) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return Ok((line, at));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no line with `{text}` in time; seen:\n{}", self.seen.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("ended without a line with `{text}`; seen:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// Waits for a line that contains `text`, from the beginning of the log; panics when there is none.
    #[track_caller]
    pub fn line_with(&mut self, text: &str) -> String {
        self.find(text).unwrap_or_else(|error| panic!("{error:#}")).0
    }

    /// The log so far.
    pub fn seen(&mut self) -> String {
        self.seen.extend(self.lines.iter().flat_map(Receiver::try_iter).map(|(line, _)| line));
        self.seen.join("\n")
    }

    /// Drops the rest of the log as it comes: a long one would fill memory.
    pub fn ignore_log(&mut self) {
        self.lines = None;
    }

    /// Sends a signal to this process alone.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn try_signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        kill_process(id.context("a process number")?, signal).context("send a signal")
    }

    /// Sends a signal to this process alone; panics when it is gone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.try_signal(signal).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// The exit status, if the process has ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("look after a process")
    }

    /// Whether the process still runs.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.try_wait()?.is_none())
    }

    /// Waits for the end; the exit code, or 128 + the signal. Panics after [`PATIENCE`].
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let mut status = None;
        eventually("the process ends", || {
            status = self.try_wait().unwrap_or_else(|error| panic!("{error:#}"));
            status.is_some()
        });
        status.map(code).unwrap_or_default()
    }

    /// Kills the process, and waits until it has ended. One that has ended is left as it is.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("kill a process")?;
        self.child.wait().context("wait for the end of a process")?;
        Ok(())
    }

    /// Asks the process to end, and waits until it has, with all that it started.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.try_signal(Signal::TERM)?;
        self.child.wait().context("wait for the end of a process")?;
        Ok(())
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process as the standard library sees it, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended needs neither.
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("--- {} wrote:\n{}\n---", self.child.id(), self.seen());
        }
    }
}

/// Reads a log to its end, so that the program never waits for its reader.
fn read(stderr: ChildStderr, mut log: Option<File>, lines: &Sender<(String, Instant)>) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(log) = &mut log {
            // A log that cannot be written is missing in a report, and nothing else.
            drop(writeln!(log, "{line}"));
        }
        // An ignored log has no receiver.
        drop(lines.send((line, Instant::now())));
    }
}

/// The exit code, or 128 + the signal.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Exit code and output of a command that has ended.
pub struct Output {
    /// The exit code, or 128 + the signal.
    pub code: i32,
    /// Standard output as text.
    pub out: String,
    /// Standard error as text.
    pub err: String,
    /// Standard output as bytes.
    pub raw: Vec<u8>,
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: code(output.status),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            raw: output.stdout,
        }
    }
}

impl Output {
    /// Itself; panics unless the command ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Standard output as JSON; panics when it is not.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in:\n{}", self.out))
    }
}

/// Runs a command to its end; panics when it does not start.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{}: {error}", command.get_program().to_string_lossy())).into()
}
