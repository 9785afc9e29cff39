//! The input of a published feed, read on a thread of its own. Leaves its format to `usher_media`.

use std::{
    io::{ErrorKind, Read},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::mpsc, time};
use usher_proto::{Code, Fault};

/// Bytes of one read: the capacity of a pipe.
const READ_MAX: usize = 64 * 1024;

/// Bytes of a paced input that are taken at once: seven packets of a transport stream.
const STEP: usize = 7 * 188;

/// Reads that wait in the queue.
const WAITING: usize = 4;

/// Shorter waits are skipped.
const MIN_WAIT: Duration = Duration::from_millis(2);

/// The input of a published feed.
pub struct MediaInput {
    reads: mpsc::Receiver<std::io::Result<Bytes>>,
    /// For messages.
    name: String,
    paced: bool,
    rest: Bytes,
    due: Option<time::Instant>,
}

impl MediaInput {
    /// Begins to read `from`, which messages call `name`. A `paced` input, such as a file, is sent at the speed at which it
    /// plays.
    ///
    /// # Errors
    /// [`Code::Internal`] when no thread can be started.
    pub fn read(from: impl Read + Send + 'static, name: &str, paced: bool) -> Result<Self, Fault> {
        let (sender, reads) = mpsc::channel(WAITING);
        // Not a thread of the runtime: a read from a pipe may never return.
        let thread = std::thread::Builder::new().name("input".to_owned());
        thread
            .spawn(move || read(from, &sender))
            .map_err(|error| Fault::new(Code::Internal, format!("start a thread: {error}")))?;
        Ok(Self { reads, name: name.to_owned(), paced, rest: Bytes::new(), due: None })
    }

    /// Whether it is sent at the speed at which it plays.
    pub(super) fn is_paced(&self) -> bool {
        self.paced
    }

    /// Delays the next bytes until this time; returns false where the wait is too short to matter.
    pub(super) fn wait_until(&mut self, now: Instant, due: Instant) -> bool {
        let waits = due.saturating_duration_since(now) >= MIN_WAIT;
        self.due = waits.then(|| due.into());
        waits
    }

    /// The next bytes; `None` at the end. Cancel safe.
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

/// Reads until the end, or until the receiver is dropped.
fn read(mut from: impl Read, sender: &mpsc::Sender<std::io::Result<Bytes>>) {
    let mut buffer = vec![0; READ_MAX];
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
