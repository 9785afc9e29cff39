//! One open session that sends all missing bytes of a title in order: its batches are verified, assembled and written to
//! the sink. Leaves the reaction to its end to [`super::single`].

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::mpsc;
use usher_proto::{
    Code, ContentId, Fault,
    model::{SeatAddress, SetupInfo},
    tree::{self, GROUP},
    verify::Verifier,
};
use usher_session::{
    ReaderTask,
    batch::{Alarm, Batch, QUEUED_BATCHES, ReadTimeouts},
    core::stall::Expectation,
    replies::{moved_seat, with_node},
};
use usher_transport::Connection;

use super::{
    Sink,
    check::{CheckedBatch, StreamEnd, check},
    join::OpenTransfer,
    transfer::Transfer,
};
use crate::driver::{
    Connector,
    renewal::{self, Renewal},
};

/// Time that a node may take to hash a title that it has sent: 600 GB at 1 GB/s, or 60 GB on a slow disk.
pub(super) const HASHING: Duration = Duration::from_secs(600);

/// See the module.
pub(super) struct Stream {
    pub(super) at: SeatAddress,
    /// Why this seat.
    pub(super) reason: String,
    pub(super) connection: Connection,
    setup: SetupInfo,
    /// Away while a batch is checked.
    verifier: Option<Verifier>,
    batches: mpsc::Receiver<Batch>,
    /// Its node has moved the session, and stops at this byte.
    until: Option<u64>,
    _reader: ReaderTask,
    _renewal: Option<Renewal>,
}

/// Result of one batch.
pub(super) struct BatchOutcome {
    /// New bytes were verified, or at least written.
    pub(super) progress: bool,
    pub(super) alarm: Option<Alarm>,
    /// The seat that the session is moved to, or why it cannot be used; and the byte at which this node stops.
    pub(super) moved: Option<(Result<SeatAddress, Fault>, u64)>,
    pub(super) end: Option<StreamOutcome>,
}

/// How a stream ended.
pub(super) enum StreamOutcome {
    /// Every byte is verified against this content.
    Done(ContentId),
    /// The node sent all that it announced before the session continues elsewhere.
    SentOn,
    /// Too early.
    Lost(Fault),
}

impl Stream {
    /// Begins to read.
    pub(super) fn new(
        connector: &Connector,
        at: SeatAddress,
        reason: String,
        open: OpenTransfer,
        expected: Expectation,
        timeout: Duration,
    ) -> Result<Self, Fault> {
        let OpenTransfer { frames, setup, verifier, .. } = open;
        let connection = frames.connection().clone();
        let due = tree::groups(setup.range.end) - setup.range.start / GROUP;
        // After the last group the node hashes the title; the connection's keep-alive shows whether it lives.
        let done = if setup.content.is_none() { timeout.max(HASHING) } else { timeout };
        let timeouts = ReadTimeouts { due: timeout, done, groups: Arc::new(AtomicU64::new(due)), expected };
        let (send, batches) = mpsc::channel(QUEUED_BATCHES);
        let reader = connector.pool.read_batches(frames, 0, timeouts, send)?;
        let renewal = renewal::keep(connector, &connection, &at);
        let verifier = Some(verifier);
        Ok(Self { at, reason, connection, setup, verifier, batches, until: None, _reader: reader, _renewal: renewal })
    }

    /// Whether groups are verified as they are received.
    pub(super) fn is_hashed(&self) -> bool {
        self.setup.content.is_some()
    }

    /// Receives the next batch. Cancel safe.
    pub(super) async fn next(&mut self) -> Batch {
        self.batches.recv().await.unwrap_or_else(|| {
            let died = Fault::new(Code::Internal, "the task that reads the stream panicked");
            Batch { end: Some(Err(died)), ..Batch::default() }
        })
    }

    /// Verifies a batch and writes it, on the thread that writes, while it is in that thread's cache. The error is the
    /// sink's.
    pub(super) async fn take<S: Sink>(
        &mut self,
        batch: Batch,
        transfer: &mut Transfer,
        sink: &mut S,
    ) -> Result<BatchOutcome, Fault> {
        let lost = || Fault::new(Code::Internal, "the stream's verifier is in use");
        let mut held = self.verifier.take().ok_or_else(lost)?;
        let mut assembler = std::mem::take(&mut transfer.assembler);
        let before = (assembler.progress(), transfer.received);
        let hashed = self.is_hashed();
        let make = move || {
            let CheckedBatch { mut groups, moved, alarm, last } = check(&mut held, batch);
            if hashed {
                // The session before it was slow, not silent: some groups are received twice.
                groups.retain(|group| group.index >= assembler.next_group());
            }
            let (chunks, wrong) = assembler.handle_groups(groups);
            let bytes: u64 = chunks.iter().map(|chunk| chunk.data.len() as u64).sum();
            (chunks, (held, assembler, bytes, wrong, moved, alarm, last))
        };
        let (held, assembler, bytes, wrong, moved, alarm, last) = sink.write(make).await?;
        (self.verifier, transfer.assembler) = (Some(held), assembler);
        transfer.received += bytes;
        let moved = moved.map(|moved| {
            let until = moved.until;
            self.until = Some(until);
            (moved_seat(&self.at, moved), until)
        });
        let end = match (wrong, last) {
            (Some(error), _) => Some(StreamOutcome::Lost(with_node(&self.at, error.into()))),
            (None, last) => last.map(|last| self.ended(last, transfer)),
        };
        let progress = before != (transfer.assembler.progress(), transfer.received);
        Ok(BatchOutcome { progress, alarm, moved, end })
    }

    fn ended(&self, last: StreamEnd, transfer: &mut Transfer) -> StreamOutcome {
        match last {
            StreamEnd::Done(content) => {
                transfer.assembler.handle_confirmed();
                StreamOutcome::Done(content)
            }
            StreamEnd::Early(_) if self.has_all(transfer) => StreamOutcome::SentOn,
            last => StreamOutcome::Lost(last.into_fault(&self.at)),
        }
    }

    /// Whether the node sent all that it announced when it moved the session.
    fn has_all(&self, transfer: &Transfer) -> bool {
        self.until.is_some_and(|until| transfer.assembler.next_group() >= tree::groups(until))
    }
}
