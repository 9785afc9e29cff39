//! What a node sends on one stream, frame by frame or gathered into batches. Refuses to know what the frames mean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::{ReadError, VarInt};
use tokio::sync::mpsc;
use usher_proto::{
    Code, Fault, NodeName,
    wire::{Decoder, Frame},
};
use usher_transport::{Connection, RecvStream};

use super::{Throttle, connection_fault, lock, silent};
use crate::{
    clock,
    core::vigil::{LOOK, Look, Terms, Vigil},
};

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
    /// The node owes bytes and has fallen silent, or sends too few; it may yet send more.
    pub(crate) alarm: Option<Alarm>,
    /// The stream's end, or its failure.
    pub(crate) end: Option<Result<(), Fault>>,
}

/// What is wrong with a stream that has not failed.
#[derive(Clone, Debug)]
pub(crate) struct Alarm {
    pub(crate) fault: Fault,
    /// Whether a sign of life ends it; a node that is slow gives some all the time.
    pub(crate) silent: bool,
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
    /// What may be expected before that.
    pub(crate) terms: Terms,
}

/// A stream.
pub(crate) struct Incoming {
    node: NodeName,
    connection: Connection,
    recv: RecvStream,
    decoder: Decoder,
    throttle: Option<Throttle>,
}

impl Incoming {
    pub(super) fn new(
        node: NodeName,
        connection: Connection,
        recv: RecvStream,
        decoder: Decoder,
        throttle: Option<Throttle>,
    ) -> Self {
        Self { node, connection, recv, decoder, throttle }
    }

    /// The node that it is from.
    pub(crate) fn node(&self) -> &NodeName {
        &self.node
    }

    /// The connection that it is on.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
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
        let mut vigil = Vigil::new(clock::now(), patience.terms);
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
                None if groups < BATCH => {
                    let waits = (batch.frames.is_empty(), linger);
                    self.more(&patience, &mut vigil, &mut since, waits).await
                }
                None => Some(More::HandOn),
                Some(end) => Some(More::End(end)),
            };
            match end {
                None => continue,
                Some(More::HandOn) => {}
                Some(More::Alarm(alarm)) => batch.alarm = Some(alarm),
                Some(More::End(end)) => batch.end = Some(end),
            }
            let last = batch.end.is_some();
            linger = if groups > 0 { LINGER } else { linger };
            (groups, since) = (0, None);
            let full = std::mem::replace(&mut batch, Batch { stream, ..Batch::default() });
            let alarm = full.alarm.is_some();
            if !alarm {
                // Whoever takes it may take long.
                vigil.resume(clock::now(), self.datagrams());
            }
            if batches.send(full).await.is_err() || last {
                return;
            }
            if !alarm {
                vigil.resume(clock::now(), self.datagrams());
            }
        }
    }

    /// Reads on, for as long as what came may linger, or with patience while nothing did.
    async fn more(
        &mut self,
        patience: &Patience,
        vigil: &mut Vigil,
        since: &mut Option<Instant>,
        (empty, linger): (bool, Duration),
    ) -> Option<More> {
        let due = patience.groups.load(Ordering::Relaxed) > 0;
        let wait = match (empty, *since) {
            (true, _) if due => LOOK,
            (true, _) => patience.done,
            (false, None) => {
                *since = Some(clock::now());
                linger
            }
            (false, Some(since)) => match linger.checked_sub(clock::now().saturating_duration_since(since)) {
                Some(rest) => rest,
                None => return Some(More::HandOn),
            },
        };
        match tokio::time::timeout(wait, self.read()).await {
            Err(_) if empty && due => self.look(patience, vigil),
            // What was asked for meanwhile is owed from now on.
            Err(_) if empty && patience.groups.load(Ordering::Relaxed) > 0 => {
                vigil.resume(clock::now(), self.datagrams());
                None
            }
            Err(_) if empty => Some(More::End(Err(silent(&self.node, patience.done)))),
            Err(_) => Some(More::HandOn),
            Ok(Ok(Some(bytes))) => {
                vigil.bytes(clock::now(), bytes as u64);
                let owed = self.owed(bytes);
                if !owed.is_zero() {
                    tokio::time::sleep(owed).await;
                    vigil.resume(clock::now(), self.datagrams());
                }
                None
            }
            Ok(Ok(None)) => Some(More::End(self.cut())),
            Ok(Err(fault)) => Some(More::End(Err(fault))),
        }
    }

    /// What the connection has received.
    fn datagrams(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Nothing came for a while, and something is owed.
    fn look(&self, patience: &Patience, vigil: &mut Vigil) -> Option<More> {
        let now = clock::now();
        let look = vigil.look(now, self.datagrams(), self.connection.rtt());
        let silence = vigil.silence(now);
        if silence >= patience.due {
            return Some(More::End(Err(silent(&self.node, patience.due))));
        }
        let (fault, silent) = match look {
            Look::Well => return None,
            Look::Silent => (silent(&self.node, silence), true),
            Look::Slow => {
                let text = format!("node {} sends less than half of what it promised", self.node);
                (Fault::new(Code::Timeout, text), false)
            }
        };
        Some(More::Alarm(Alarm { fault, silent }))
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
        let limit = |throttle: &Throttle| lock(throttle).take(clock::now(), bytes as u64);
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
    Alarm(Alarm),
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
