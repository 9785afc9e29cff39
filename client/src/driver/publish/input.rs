//! What is published, as it is read on a thread of its own. Refuses to know what it is.

use std::{
    io::{ErrorKind, Read},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::mpsc, time};
use usher_proto::{Code, Fault};

/// Read at once: what a pipe holds.
const READ: usize = 64 * 1024;

/// Of a file at once, so that what is sent keeps its time: seven packets of a transport stream.
const STEP: usize = 7 * 188;

/// Reads that wait to be taken.
const WAITING: usize = 4;

/// Shorter waits are not worth it.
const LEAST: Duration = Duration::from_millis(2);

/// See the module.
pub(crate) struct Input {
    reads: mpsc::Receiver<std::io::Result<Bytes>>,
    /// For messages.
    name: String,
    paced: bool,
    rest: Bytes,
    due: Option<time::Instant>,
}

impl Input {
    /// Begins to read. What is `paced` is taken in small steps, each when it is time for it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn read(from: impl Read + Send + 'static, name: &str, paced: bool) -> Result<Self, Fault> {
        let (sender, reads) = mpsc::channel(WAITING);
        // Not one of the runtime's: a read from a pipe may never return.
        let thread = std::thread::Builder::new().name("input".to_owned());
        thread
            .spawn(move || read(from, &sender))
            .map_err(|error| Fault::new(Code::Internal, format!("start a thread: {error}")))?;
        Ok(Self { reads, name: name.to_owned(), paced, rest: Bytes::new(), due: None })
    }

    /// Whether it is sent at the media's own speed.
    pub(super) fn is_paced(&self) -> bool {
        self.paced
    }

    /// What comes next is due at this time; answers whether that is worth a wait.
    pub(super) fn wait_until(&mut self, now: Instant, due: Instant) -> bool {
        let waits = due.saturating_duration_since(now) >= LEAST;
        self.due = waits.then(|| due.into());
        waits
    }

    /// What was read next; `None` at the end. Loses nothing when it is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        if let Some(due) = self.due {
            time::sleep_until(due).await;
            self.due = None;
        }
        if self.rest.is_empty() {
            match self.reads.recv().await {
                Some(Ok(read)) => self.rest = read,
                Some(Err(error)) => {
                    return Err(Fault::new(Code::Disk, format!("read {}: {error}", self.name)));
                }
                None => return Ok(None),
            }
        }
        let step = if self.paced { STEP.min(self.rest.len()) } else { self.rest.len() };
        Ok(Some(self.rest.split_to(step)))
    }
}

/// Reads until the end, or until nobody takes it.
fn read(mut from: impl Read, sender: &mpsc::Sender<std::io::Result<Bytes>>) {
    let mut buffer = vec![0; READ];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => Ok(Bytes::copy_from_slice(buffer.get(..len).unwrap_or_default())),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        if sender.blocking_send(read).is_err() || failed {
            return;
        }
    }
}
