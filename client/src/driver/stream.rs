//! One open session that brings what is wanted in order: what comes of it is verified, put together and handed to the
//! sink. Refuses to know what is done after a loss.

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
use usher_transport::Connection;

use super::{
    Ongoing, Sink,
    check::{Last, Passed, check},
    join::{Joined, Way},
    renewal::{self, Renewal},
    words::{blame, failure, seat_of},
};
use crate::{
    core::vigil::Terms,
    quic::{Alarm, Batch, Patience, Reader, WAITING},
};

/// How long a node may take to hash a title that it has sent: 600 GB at 1 GB/s, or 60 GB on a slow disk.
pub(super) const HASHING: Duration = Duration::from_secs(600);

/// See the module.
pub(super) struct Stream {
    pub(super) at: SeatAddress,
    /// Why this seat.
    pub(super) why: String,
    pub(super) connection: Connection,
    setup: SetupInfo,
    /// Away while a batch is checked.
    verifier: Option<Verifier>,
    batches: mpsc::Receiver<Batch>,
    /// Its node has sent the session on, and stops at this byte.
    until: Option<u64>,
    _reader: Reader,
    _renewal: Option<Renewal>,
}

/// What a batch meant.
pub(super) struct Taken {
    /// Something new was verified, or at least handed out.
    pub(super) progress: bool,
    pub(super) alarm: Option<Alarm>,
    /// Where the session goes on, or why that cannot be used; and from which byte.
    pub(super) moved: Option<(Result<SeatAddress, Fault>, u64)>,
    pub(super) end: Option<Ended>,
}

/// How a stream ended.
pub(super) enum Ended {
    /// Everything is there, and of this content.
    Done(ContentId),
    /// All came that the node meant to send before the session goes on elsewhere.
    SentOn,
    /// Too early.
    Lost(Fault),
}

impl Stream {
    /// Begins to gather what comes.
    pub(super) fn new(
        way: &Way,
        at: SeatAddress,
        why: String,
        joined: Joined,
        terms: Terms,
        timeout: Duration,
    ) -> Result<Self, Fault> {
        let Joined { incoming, setup, verifier, .. } = joined;
        let connection = incoming.connection().clone();
        let due = tree::groups(setup.range.end) - setup.range.start / GROUP;
        // All media came, and the node hashes what it sent; the connection's keep-alive tells whether it lives.
        let done = if setup.content.is_none() { timeout.max(HASHING) } else { timeout };
        let patience = Patience { due: timeout, done, groups: Arc::new(AtomicU64::new(due)), terms };
        let (send, batches) = mpsc::channel(WAITING);
        let reader = way.pool.gather(incoming, 0, patience, send)?;
        let renewal = renewal::keep(way, &connection, &at);
        let verifier = Some(verifier);
        Ok(Self { at, why, connection, setup, verifier, batches, until: None, _reader: reader, _renewal: renewal })
    }

    /// Whether what it brings is verified as it comes.
    pub(super) fn is_hashed(&self) -> bool {
        self.setup.content.is_some()
    }

    /// What comes next. Loses nothing when it is dropped.
    pub(super) async fn next(&mut self) -> Batch {
        self.batches.recv().await.unwrap_or_else(|| {
            let died = Fault::new(Code::Internal, "the task that reads died");
            Batch { end: Some(Err(died)), ..Batch::default() }
        })
    }

    /// Verifies a batch and writes it, on the thread that writes, while it is in its cache. The error is the sink's.
    pub(super) async fn take<S: Sink>(
        &mut self,
        batch: Batch,
        ongoing: &mut Ongoing,
        sink: &mut S,
    ) -> Result<Taken, Fault> {
        let lost = || Fault::new(Code::Internal, "what verifies is gone");
        let mut held = self.verifier.take().ok_or_else(lost)?;
        let mut assembler = std::mem::take(&mut ongoing.assembler);
        let before = (assembler.progress(), ongoing.received);
        let hashed = self.is_hashed();
        let make = move || {
            let Passed { mut groups, moved, alarm, last } = check(&mut held, batch);
            if hashed {
                // It began where the session before it was slow, and not silent: some came twice.
                groups.retain(|group| group.index >= assembler.next());
            }
            let (pieces, wrong) = assembler.take_all(groups);
            let bytes: u64 = pieces.iter().map(|piece| piece.data.len() as u64).sum();
            (pieces, (held, assembler, bytes, wrong, moved, alarm, last))
        };
        let (held, assembler, bytes, wrong, moved, alarm, last) = sink.write(make).await?;
        (self.verifier, ongoing.assembler) = (Some(held), assembler);
        ongoing.received += bytes;
        let moved = moved.map(|moved| {
            let until = moved.until;
            self.until = Some(until);
            (seat_of(&self.at, moved), until)
        });
        let end = match (wrong, last) {
            (Some(error), _) => Some(Ended::Lost(blame(&self.at, error.into()))),
            (None, last) => last.map(|last| self.ended(last, ongoing)),
        };
        let progress = before != (ongoing.assembler.progress(), ongoing.received);
        Ok(Taken { progress, alarm, moved, end })
    }

    fn ended(&self, last: Last, ongoing: &mut Ongoing) -> Ended {
        match last {
            Last::Done(content) => {
                ongoing.assembler.confirm();
                Ended::Done(content)
            }
            Last::Early(_) if self.has_all(ongoing) => Ended::SentOn,
            last => Ended::Lost(failure(&self.at, last)),
        }
    }

    /// Whether everything came that the node meant to send when it sent the session on.
    fn has_all(&self, ongoing: &Ongoing) -> bool {
        self.until.is_some_and(|until| ongoing.assembler.next() >= tree::groups(until))
    }
}
