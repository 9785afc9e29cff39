//! Gathers the frames of a stream into batches for another thread, and detects stalls of the stream. The meaning of the
//! frames is left to the caller.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use usher_proto::{Code, Fault, wire::Frame};

use crate::{
    clock,
    core::stall::{CHECK_INTERVAL, Expectation, Health, StallDetector},
    fault::silent,
    frames::FrameReader,
};

/// Batches that may wait in a channel, besides the one that is being gathered.
pub const QUEUED_BATCHES: usize = 1;

/// Groups handed on together, 768 KiB: waking another thread then costs little beside hashing them.
const BATCH_GROUPS: usize = 12;

/// How long a group may wait for others of its batch: less than a viewer notices, and long enough for several to arrive
/// where many streams share a fast link.
const LINGER: Duration = Duration::from_millis(20);

/// The same for the first groups of a stream, for which a viewer waits.
const FIRST_LINGER: Duration = Duration::from_millis(2);

/// Consecutive frames of a stream, and the stall or end after them.
#[derive(Debug, Default)]
pub struct Batch {
    /// The number of the stream, as its caller counts them.
    pub stream: u32,
    /// The frames, in order.
    pub frames: Vec<Frame>,
    /// A stall of the stream, which may end.
    pub alarm: Option<Alarm>,
    /// The stream's end, or its failure.
    pub end: Option<Result<(), Fault>>,
}

/// The stall of a stream that has not failed.
#[derive(Clone, Debug)]
pub struct Alarm {
    /// The stall as a fault.
    pub fault: Fault,
    /// Whether any received byte ends the alarm; a slow node sends some all the time.
    pub silent: bool,
}

/// Number of requested groups that have not arrived; while there are none, silence is no failure.
pub type DueGroups = Arc<AtomicU64>;

/// How long a node may send nothing.
#[derive(Clone, Debug)]
pub struct ReadTimeouts {
    /// While groups are due.
    pub due: Duration,
    /// Afterwards.
    pub done: Duration,
    /// Number of groups due.
    pub groups: DueGroups,
    /// The expected rate; an alarm precedes the timeout.
    pub expected: Expectation,
}

/// The next step after a read.
enum Step {
    HandOn,
    Alarm(Alarm),
    End(Result<(), Fault>),
}

/// Reads one stream into batches.
pub(crate) struct BatchReader {
    frames: FrameReader,
    timeouts: ReadTimeouts,
    detector: StallDetector,
    /// When the present batch got its first frame.
    since: Option<Instant>,
    linger: Duration,
}

impl BatchReader {
    pub(crate) fn new(frames: FrameReader, timeouts: ReadTimeouts) -> Self {
        let detector = StallDetector::new(clock::now(), timeouts.expected);
        Self { frames, timeouts, detector, since: None, linger: FIRST_LINGER }
    }

    /// Hands on batches marked with the number `stream`, until the stream ends or fails, or `batches` is closed. While
    /// the channel is full, nothing is read: the stream's window fills and the node stops.
    pub(crate) async fn run(mut self, stream: u32, batches: mpsc::Sender<Batch>) {
        let mut batch = Batch { stream, ..Batch::default() };
        let mut groups = 0;
        loop {
            let end = loop {
                match self.frames.decoded() {
                    Ok(Some(frame)) => {
                        if matches!(frame, Frame::Group(_)) {
                            groups += 1;
                            // Never below zero, even if a node sends groups that were not requested.
                            let one_less = |due: u64| Some(due.saturating_sub(1));
                            let due = &self.timeouts.groups;
                            let _before = due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
                        }
                        batch.frames.push(frame);
                    }
                    Ok(None) => break None,
                    Err(fault) => break Some(Err(fault)),
                }
            };
            let step = match end {
                None if groups < BATCH_GROUPS => self.read(batch.frames.is_empty()).await,
                None => Some(Step::HandOn),
                Some(end) => Some(Step::End(end)),
            };
            match step {
                None => continue,
                Some(Step::HandOn) => {}
                Some(Step::Alarm(alarm)) => batch.alarm = Some(alarm),
                Some(Step::End(end)) => batch.end = Some(end),
            }
            let last = batch.end.is_some();
            self.linger = if groups > 0 { LINGER } else { self.linger };
            (groups, self.since) = (0, None);
            let full = std::mem::replace(&mut batch, Batch { stream, ..Batch::default() });
            let alarm = full.alarm.is_some();
            if !alarm {
                // The receiver may take long.
                self.resume();
            }
            if batches.send(full).await.is_err() || last {
                return;
            }
            if !alarm {
                self.resume();
            }
        }
    }

    fn resume(&mut self) {
        self.detector.handle_resume(clock::now(), self.frames.datagrams());
    }

    fn has_due(&self) -> bool {
        self.timeouts.groups.load(Ordering::Relaxed) > 0
    }

    /// Reads once: for as long as the gathered frames may linger, or with the timeouts while the batch is `empty`.
    async fn read(&mut self, empty: bool) -> Option<Step> {
        let due = self.has_due();
        let wait = match (empty, self.since) {
            (true, _) if due => CHECK_INTERVAL,
            (true, _) => self.timeouts.done,
            (false, None) => {
                self.since = Some(clock::now());
                self.linger
            }
            (false, Some(since)) => match self.linger.checked_sub(clock::now().saturating_duration_since(since)) {
                Some(rest) => rest,
                None => return Some(Step::HandOn),
            },
        };
        match tokio::time::timeout(wait, self.frames.read()).await {
            Err(_) if empty && due => self.check(),
            // Groups requested meanwhile are due from now on.
            Err(_) if empty && self.has_due() => {
                self.resume();
                None
            }
            Err(_) if empty => Some(Step::End(Err(silent(self.frames.node(), self.timeouts.done)))),
            Err(_) => Some(Step::HandOn),
            Ok(Ok(Some(bytes))) => {
                self.detector.handle_bytes(clock::now(), bytes as u64);
                let delay = self.frames.rate_delay(bytes);
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                    self.resume();
                }
                None
            }
            Ok(Ok(None)) => Some(Step::End(self.frames.check_end())),
            Ok(Err(fault)) => Some(Step::End(Err(fault))),
        }
    }

    /// Checks the stream after a time without bytes while groups are due.
    fn check(&mut self) -> Option<Step> {
        let (now, node) = (clock::now(), self.frames.node());
        let health = self.detector.poll_health(now, self.frames.datagrams(), self.frames.connection().rtt());
        let silence = self.detector.silence(now);
        if silence >= self.timeouts.due {
            return Some(Step::End(Err(silent(node, self.timeouts.due))));
        }
        let (fault, silent) = match health {
            Health::Good => return None,
            Health::Silent => (silent(node, silence), true),
            Health::Slow => {
                let text = format!("node {node} sends less than half of the promised rate");
                (Fault::new(Code::Timeout, text), false)
            }
        };
        Some(Step::Alarm(Alarm { fault, silent }))
    }
}
