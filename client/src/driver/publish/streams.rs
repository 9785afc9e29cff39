//! The streams of a feed to one node: one stream a group, several at once, the newest first. Owns what was handed to each
//! stream, and what became of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quinn::{VarInt, WriteError};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
};
use usher_proto::{
    Code,
    feed::GroupHead,
    wire::{self, Kind},
};
use usher_transport::{Connection, SendStream};

use crate::core::outbox::{Outbox, OutgoingGroup};

/// Late groups that are sent at once: a node drops the oldest of more than 8, and needs room for new ones.
const LATE_GROUPS: usize = 4;

/// Groups that are written at once. A path slower than the feed would otherwise collect more and more of them.
const MAX_WRITING: usize = 4;

/// End of a group's stream.
#[derive(Debug)]
pub(super) struct StreamEnded {
    number: u64,
    how: Delivery,
}

#[derive(Debug)]
enum Delivery {
    /// The node acknowledged all of it.
    Arrived,
    /// The node stopped the stream.
    Stopped(VarInt),
    /// The connection failed; its session reports that.
    Lost,
}

/// The streams to one node.
pub(super) struct OutgoingStreams {
    connection: Connection,
    subscription: u64,
    /// By the group's number.
    open: BTreeMap<u64, OutgoingStream>,
    tasks: FuturesUnordered<JoinHandle<StreamEnded>>,
    /// The first group that was sent here.
    first: Option<u64>,
}

/// One stream. Its task ends with it, and resets the stream unless it has ended.
struct OutgoingStream {
    /// Frames, and whether each is the last.
    frames: mpsc::UnboundedSender<(Bytes, bool)>,
    /// Frames handed to the task.
    handed: usize,
    /// The node has the group, or stopped the stream.
    over: bool,
    /// A newer group existed when it was opened.
    late: bool,
    /// All frames were written to the stream.
    written: Arc<AtomicBool>,
    task: AbortHandle,
}

impl OutgoingStream {
    fn is_being_written(&self) -> bool {
        !self.over && !self.written.load(Ordering::Relaxed)
    }
}

impl Drop for OutgoingStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OutgoingStreams {
    pub(super) fn new(connection: Connection, subscription: u64) -> Self {
        Self { connection, subscription, open: BTreeMap::new(), tasks: FuturesUnordered::new(), first: None }
    }

    /// Hands new frames to the streams, and removes groups that have arrived.
    pub(super) fn send(&mut self, outbox: &mut Outbox) {
        let mut over = Vec::new();
        let newest = outbox.groups().next_back().map_or(0, |group| group.head().sequence);
        let mut late = self.open.values().filter(|stream| stream.late && !stream.over).count();
        for group in outbox.groups() {
            let number = group.head().sequence;
            if !self.open.contains_key(&number) {
                // The newest group is sent at once; of the late ones the oldest are needed first.
                if number != newest && late >= LATE_GROUPS {
                    continue;
                }
                late += usize::from(number != newest);
                self.open(group, number != newest);
            }
            let Some(stream) = self.open.get_mut(&number) else { continue };
            if stream.over {
                if group.is_ended() {
                    over.push(number);
                }
                continue;
            }
            let frames = group.frames();
            for (at, frame) in frames.iter().enumerate().skip(stream.handed) {
                let last = group.is_ended() && at + 1 == frames.len();
                // A task that has ended reports that itself.
                let _ended = stream.frames.send((frame.clone(), last));
            }
            stream.handed = frames.len();
        }
        for number in over {
            outbox.handle_done(number);
            self.open.remove(&number);
        }
        let oldest = outbox.groups().next().map_or(u64::MAX, |group| group.head().sequence);
        // Groups before it were given up.
        self.open.retain(|number, _| *number >= oldest);
        // On a slow path the newest groups go first; the others are sent again from their beginning once there is room.
        let writing = self.open.iter().rev().filter(|(_, stream)| stream.is_being_written());
        if let Some(slow) = writing.map(|(number, _)| *number).nth(MAX_WRITING) {
            self.open.remove(&slow);
        }
    }

    fn open(&mut self, group: &OutgoingGroup, late: bool) {
        let (frames, taken) = mpsc::unbounded_channel();
        let number = group.head().sequence;
        let first = *self.first.get_or_insert(number);
        // Newer groups have priority, whichever was opened first.
        let priority = i32::try_from(number.saturating_sub(first)).unwrap_or(i32::MAX - 1);
        let written = Arc::<AtomicBool>::default();
        let to = Destination { connection: self.connection.clone(), subscription: self.subscription, priority };
        let stream = stream(to, group.head().clone(), taken, Arc::clone(&written));
        let running = tokio::spawn(stream);
        let task = running.abort_handle();
        self.tasks.push(running);
        self.open.insert(number, OutgoingStream { frames, handed: 0, over: false, late, written, task });
    }

    /// Waits for the end of a stream. Cancel safe.
    pub(super) async fn next(&mut self) -> StreamEnded {
        loop {
            match self.tasks.next().await {
                Some(Ok(ended)) => return ended,
                // A group that was given up.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Handles the end of a stream; returns whether that is progress.
    pub(super) fn ended(&mut self, ended: &StreamEnded) -> bool {
        match ended.how {
            Delivery::Lost => return false,
            Delivery::Arrived => {}
            Delivery::Stopped(code) => {
                let reason = Code::from_quic(code.into_inner()).reason();
                tracing::debug!(group = ended.number, reason, "node stopped the stream of a group");
            }
        }
        if let Some(stream) = self.open.get_mut(&ended.number) {
            stream.over = true;
        }
        true
    }
}

/// Resets the stream when it is dropped before its end: quinn would finish it, as if the group were complete.
struct ResetOnDrop(SendStream);

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if self.0.reset(VarInt::from_u32(Code::Cancelled.quic())).is_err() {
            tracing::trace!("stream had ended already");
        }
    }
}

/// Where and how urgently a group is sent.
struct Destination {
    connection: Connection,
    subscription: u64,
    priority: i32,
}

type Frames = mpsc::UnboundedReceiver<(Bytes, bool)>;

async fn stream(to: Destination, head: GroupHead, frames: Frames, written: Arc<AtomicBool>) -> StreamEnded {
    let how = send(to, &head, frames, &written).await;
    StreamEnded { number: head.sequence, how: how.unwrap_or_else(|how| how) }
}

async fn send(
    to: Destination,
    head: &GroupHead,
    mut frames: Frames,
    written: &AtomicBool,
) -> Result<Delivery, Delivery> {
    let failed = |error: WriteError| match error {
        WriteError::Stopped(code) => Delivery::Stopped(code),
        _ => Delivery::Lost,
    };
    let mut stream = ResetOnDrop(to.connection.open_uni().await.map_err(|_| Delivery::Lost)?);
    let _ended = stream.0.set_priority(to.priority);
    let first = wire::message(Kind::FeedGroup, &head.to_pb(to.subscription)).ok_or(Delivery::Lost)?;
    stream.0.write_chunk(first).await.map_err(failed)?;
    loop {
        let (frame, last) = frames.recv().await.ok_or(Delivery::Lost)?;
        stream.0.write_chunk(frame).await.map_err(failed)?;
        if last {
            break;
        }
    }
    stream.0.finish().map_err(|_| Delivery::Lost)?;
    written.store(true, Ordering::Relaxed);
    match stream.0.stopped().await {
        Ok(None) => Ok(Delivery::Arrived),
        Ok(Some(code)) => Ok(Delivery::Stopped(code)),
        Err(_) => Ok(Delivery::Lost),
    }
}
