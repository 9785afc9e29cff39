//! What a node sends on one stream, frame by frame or gathered into batches. Refuses to know what the frames mean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::{ReadError, RecvStream, VarInt};
use tokio::sync::mpsc;
use usher_proto::{
    Code, Fault, NodeName,
    wire::{Decoder, Frame},
};

use super::{Throttle, connection_fault, lock, silent};

/// Packets' worth taken from a stream at once: about 20 kB, small enough for a smooth rate limit.
const READ: usize = 16;

/// Groups that are handed on together, 768 KiB: what waking another thread costs is then little beside hashing them.
const BATCH: usize = 12;

/// How long a group may wait for others to be handed on with: less than anyone sees, and as long as it takes for several
/// to come where many streams share a fast link.
const LINGER: Duration = Duration::from_millis(20);

/// The same for the first groups of a stream, for which a viewer waits.
const HASTE: Duration = Duration::from_millis(2);

/// Frames that came one after the other, and why no more do.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Of the stream, as its reader counts them.
    pub(crate) stream: u32,
    pub(crate) frames: Vec<Frame>,
    /// The stream's end, or its failure.
    pub(crate) end: Option<Result<(), Fault>>,
}

/// Groups that a node still owes; while it owes none, silence is no failure.
pub(crate) type Due = Arc<AtomicU64>;

/// How long a node may send nothing.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// While groups are due.
    pub(crate) due: Duration,
    /// Afterwards.
    pub(crate) done: Duration,
    /// How many are.
    pub(crate) groups: Due,
}

/// A stream.
pub(crate) struct Incoming {
    node: NodeName,
    recv: RecvStream,
    decoder: Decoder,
    throttle: Option<Throttle>,
}

impl Incoming {
    pub(super) fn new(node: NodeName, recv: RecvStream, decoder: Decoder, throttle: Option<Throttle>) -> Self {
        Self { node, recv, decoder, throttle }
    }

    /// The next frame; `None` at the end of the stream. A node that sends nothing for `patience` has failed; the time
    /// that the rate limit takes is not its fault.
    pub(crate) async fn next(&mut self, patience: Duration) -> Result<Option<Frame>, Fault> {
        loop {
            if let Some(frame) = self.frame()? {
                return Ok(Some(frame));
            }
            match tokio::time::timeout(patience, self.read()).await.map_err(|_| silent(&self.node, patience))?? {
                Some(bytes) => tokio::time::sleep(self.owed(bytes)).await,
                None => return self.cut().map(|()| None),
            }
        }
    }

    /// Hands on all that comes, until the stream ends, fails, or nobody takes it any more. What nobody takes is not read:
    /// the stream's window fills and the node stops.
    pub(super) async fn gather(mut self, stream: u32, patience: Patience, batches: mpsc::Sender<Batch>) {
        let mut batch = Batch { stream, ..Batch::default() };
        let mut groups = 0;
        let (mut linger, mut since) = (HASTE, None);
        loop {
            let end = loop {
                match self.frame() {
                    Ok(Some(frame)) => {
                        if matches!(frame, Frame::Group(_)) {
                            groups += 1;
                            // Never below zero, even where a node sends what nobody asked for.
                            let one_less = |due: u64| Some(due.saturating_sub(1));
                            let _before = patience.groups.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
                        }
                        batch.frames.push(frame);
                    }
                    Ok(None) => break None,
                    Err(fault) => break Some(Err(fault)),
                }
            };
            let end = match end {
                None if groups < BATCH => self.more(&patience, &mut since, (batch.frames.is_empty(), linger)).await,
                None => Some(More::HandOn),
                Some(end) => Some(More::End(end)),
            };
            match end {
                None => continue,
                Some(More::HandOn) => {}
                Some(More::End(end)) => batch.end = Some(end),
            }
            let last = batch.end.is_some();
            linger = if groups > 0 { LINGER } else { linger };
            (groups, since) = (0, None);
            let full = std::mem::replace(&mut batch, Batch { stream, ..Batch::default() });
            if batches.send(full).await.is_err() || last {
                return;
            }
        }
    }

    /// Reads on, for as long as what came may linger, or with patience while nothing did.
    async fn more(
        &mut self,
        patience: &Patience,
        since: &mut Option<Instant>,
        (empty, linger): (bool, Duration),
    ) -> Option<More> {
        let due = patience.groups.load(Ordering::Relaxed) > 0;
        let patience = if due { patience.due } else { patience.done };
        let wait = match (empty, *since) {
            (true, _) => patience,
            (false, None) => {
                *since = Some(Instant::now());
                linger
            }
            (false, Some(since)) => match linger.checked_sub(since.elapsed()) {
                Some(rest) => rest,
                None => return Some(More::HandOn),
            },
        };
        match tokio::time::timeout(wait, self.read()).await {
            Err(_) if empty => Some(More::End(Err(silent(&self.node, patience)))),
            Err(_) => Some(More::HandOn),
            Ok(Ok(Some(bytes))) => {
                let owed = self.owed(bytes);
                if !owed.is_zero() {
                    tokio::time::sleep(owed).await;
                }
                None
            }
            Ok(Ok(None)) => Some(More::End(self.cut())),
            Ok(Err(fault)) => Some(More::End(Err(fault))),
        }
    }

    fn frame(&mut self) -> Result<Option<Frame>, Fault> {
        self.decoder.next_frame().map_err(|error| garbled(&self.node, &error))
    }

    /// The stream ended: well, unless within a frame.
    fn cut(&self) -> Result<(), Fault> {
        self.decoder.finish().map_err(|error| garbled(&self.node, &error))
    }

    /// Takes what came; answers how many bytes, `None` at the end. Loses nothing when it is dropped.
    async fn read(&mut self) -> Result<Option<usize>, Fault> {
        let mut chunks: [Bytes; READ] = Default::default();
        match self.recv.read_chunks(&mut chunks).await {
            Ok(Some(count)) => {
                let mut bytes = 0;
                for chunk in chunks.into_iter().take(count) {
                    bytes += chunk.len();
                    self.decoder.push_chunk(chunk);
                }
                Ok(Some(bytes))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(self.read_fault(&error)),
        }
    }

    /// How long to wait as the rate limit says; meanwhile the stream's window fills and the node stops.
    fn owed(&self, bytes: usize) -> Duration {
        let limit = |throttle: &Throttle| lock(throttle).take(Instant::now(), bytes as u64);
        self.throttle.as_ref().map_or(Duration::ZERO, limit)
    }

    fn read_fault(&self, error: &ReadError) -> Fault {
        match error {
            ReadError::Reset(code) => {
                let code = Code::from_quic(code.into_inner());
                Fault::new(code, format!("node {} broke the session off: {}", self.node, code.reason()))
            }
            ReadError::ConnectionLost(error) => connection_fault(&self.node, error),
            other => Fault::new(Code::Internal, format!("read from node {}: {other}", self.node)),
        }
    }
}

/// What becomes of what was gathered.
enum More {
    HandOn,
    End(Result<(), Fault>),
}

/// Not `BadRequest`, which is about what this side sent: another node may speak better.
fn garbled(node: &NodeName, error: &dyn std::fmt::Display) -> Fault {
    Fault::new(Code::Internal, format!("node {node}: {error}"))
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.recv.stop(VarInt::from_u32(Code::Cancelled.quic())).is_err() {
            tracing::trace!("the stream had ended already");
        }
    }
}
