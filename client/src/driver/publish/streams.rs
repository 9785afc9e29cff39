//! One stream a group, all at once, the newest first. Owns what was handed to which, and what became of it.

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

use crate::core::outbox::{Group, Outbox};

/// Groups that waited may be on their way at a time: a node cuts the oldest of more than 8, and needs room for new ones.
const ABREAST: usize = 4;

/// Groups that may be written at a time. On a way that is slower than the feed there would be more and more.
const MOST: usize = 4;

/// What became of a group's stream.
#[derive(Debug)]
pub(super) struct Ended {
    number: u64,
    how: How,
}

#[derive(Debug)]
enum How {
    /// The node has all of it.
    Arrived,
    /// The node wants no more of it.
    Stopped(VarInt),
    /// The connection is gone, which its session tells.
    Lost,
}

/// The streams to one node.
pub(super) struct Streams {
    connection: Connection,
    subscription: u64,
    /// By the group's number.
    open: BTreeMap<u64, Sent>,
    tasks: FuturesUnordered<JoinHandle<Ended>>,
    /// The first group that was begun here.
    first: Option<u64>,
}

/// What was handed to one. Its task ends with it, and resets the stream unless it has ended.
struct Sent {
    /// Frames, and whether each is the last.
    frames: mpsc::UnboundedSender<(Bytes, bool)>,
    handed: usize,
    /// The node has it, or does not want it.
    over: bool,
    /// Another was newer when it was begun.
    waited: bool,
    /// All of it has been taken by its stream.
    written: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Sent {
    fn is_being_written(&self) -> bool {
        !self.over && !self.written.load(Ordering::Relaxed)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Streams {
    pub(super) fn new(connection: Connection, subscription: u64) -> Self {
        Self { connection, subscription, open: BTreeMap::new(), tasks: FuturesUnordered::new(), first: None }
    }

    /// Hands on what of the groups is new, and forgets what has arrived.
    pub(super) fn send(&mut self, outbox: &mut Outbox) {
        let mut over = Vec::new();
        let newest = outbox.groups().next_back().map_or(0, |group| group.head().sequence);
        let mut waited = self.open.values().filter(|sent| sent.waited && !sent.over).count();
        for group in outbox.groups() {
            let number = group.head().sequence;
            if !self.open.contains_key(&number) {
                // The newest waits for nobody; of the others the oldest are awaited most.
                if number != newest && waited >= ABREAST {
                    continue;
                }
                waited += usize::from(number != newest);
                self.begin(group, number != newest);
            }
            let Some(sent) = self.open.get_mut(&number) else { continue };
            if sent.over {
                if group.is_ended() {
                    over.push(number);
                }
                continue;
            }
            let frames = group.frames();
            for (at, frame) in frames.iter().enumerate().skip(sent.handed) {
                let last = group.is_ended() && at + 1 == frames.len();
                // Who does not take it has ended, and will say so.
                let _ended = sent.frames.send((frame.clone(), last));
            }
            sent.handed = frames.len();
        }
        for number in over {
            outbox.done(number);
            self.open.remove(&number);
        }
        let oldest = outbox.groups().next().map_or(u64::MAX, |group| group.head().sequence);
        // Those before were given up.
        self.open.retain(|number, _| *number >= oldest);
        // On a way that is too slow the newest is what counts; the others begin anew once there is room.
        let written = self.open.iter().rev().filter(|(_, sent)| sent.is_being_written());
        if let Some(slow) = written.map(|(number, _)| *number).nth(MOST) {
            self.open.remove(&slow);
        }
    }

    fn begin(&mut self, group: &Group, waited: bool) {
        let (frames, taken) = mpsc::unbounded_channel();
        let number = group.head().sequence;
        let first = *self.first.get_or_insert(number);
        // Newer groups go first, whichever was begun first.
        let priority = i32::try_from(number.saturating_sub(first)).unwrap_or(i32::MAX - 1);
        let written = Arc::<AtomicBool>::default();
        let to = To { connection: self.connection.clone(), subscription: self.subscription, priority };
        let stream = stream(to, group.head().clone(), taken, Arc::clone(&written));
        let running = tokio::spawn(stream);
        let task = running.abort_handle();
        self.tasks.push(running);
        self.open.insert(number, Sent { frames, handed: 0, over: false, waited, written, task });
    }

    /// The next stream that ended.
    pub(super) async fn next(&mut self) -> Ended {
        loop {
            match self.tasks.next().await {
                Some(Ok(ended)) => return ended,
                // One that was given up has nothing to say.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// A stream ended; whether that is progress.
    pub(super) fn ended(&mut self, ended: &Ended) -> bool {
        match ended.how {
            How::Lost => return false,
            How::Arrived => {}
            How::Stopped(code) => {
                let reason = Code::from_quic(code.into_inner()).reason();
                tracing::debug!(group = ended.number, reason, "the node takes no more of a group");
            }
        }
        if let Some(sent) = self.open.get_mut(&ended.number) {
            sent.over = true;
        }
        true
    }
}

/// Resets the stream when it is dropped before its end: quinn would finish it, as if that were all.
struct Sending(SendStream);

impl Drop for Sending {
    fn drop(&mut self) {
        if self.0.reset(VarInt::from_u32(Code::Cancelled.quic())).is_err() {
            tracing::trace!("the stream had ended already");
        }
    }
}

/// Where a group goes.
struct To {
    connection: Connection,
    subscription: u64,
    priority: i32,
}

type Frames = mpsc::UnboundedReceiver<(Bytes, bool)>;

async fn stream(to: To, head: GroupHead, frames: Frames, written: Arc<AtomicBool>) -> Ended {
    let how = send(to, &head, frames, &written).await;
    Ended { number: head.sequence, how: how.unwrap_or_else(|how| how) }
}

async fn send(to: To, head: &GroupHead, mut frames: Frames, written: &AtomicBool) -> Result<How, How> {
    let failed = |error: WriteError| match error {
        WriteError::Stopped(code) => How::Stopped(code),
        _ => How::Lost,
    };
    let mut stream = Sending(to.connection.open_uni().await.map_err(|_| How::Lost)?);
    let _ended = stream.0.set_priority(to.priority);
    let first = wire::message(Kind::FeedGroup, &head.to_pb(to.subscription)).ok_or(How::Lost)?;
    stream.0.write_chunk(first).await.map_err(failed)?;
    loop {
        let (frame, last) = frames.recv().await.ok_or(How::Lost)?;
        stream.0.write_chunk(frame).await.map_err(failed)?;
        if last {
            break;
        }
    }
    stream.0.finish().map_err(|_| How::Lost)?;
    written.store(true, Ordering::Relaxed);
    match stream.0.stopped().await {
        Ok(None) => Ok(How::Arrived),
        Ok(Some(code)) => Ok(How::Stopped(code)),
        Err(_) => Ok(How::Lost),
    }
}
