//! One source: an open session that is asked for range after range. Leaves the choice of ranges to its owner.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use tokio::sync::mpsc;
use usher_proto::{
    Code, Fault,
    model::SeatAddress,
    pb::v1::ByteRange,
    tree::GROUP,
    verify::Verifier,
    wire::{self, Kind},
};
use usher_session::{
    ReaderTask,
    batch::{Batch, DueGroups, ReadTimeouts},
    core::stall::Expectation,
};
use usher_transport::{Connection, SendStream};

use super::candidate::Candidate;
use crate::{
    core::sources::Id,
    driver::{
        Connector, TransferInfo,
        fetch::join::{OpenTransfer, SessionRequest, join},
        fetch::stream::HASHING,
        renewal::{self, Renewal},
    },
};

/// A source whose session is being opened, and the groups that it is asked for first.
pub(super) struct OpeningSource {
    pub(super) id: Id,
    pub(super) candidate: Candidate,
    pub(super) groups: Range<u64>,
}

/// A source that sends.
pub(super) struct Source {
    pub(super) id: Id,
    pub(super) at: SeatAddress,
    pub(super) reason: String,
    pub(super) moves: u32,
    send: SendStream,
    /// `None` while a batch is being verified.
    pub(super) verifier: Option<Verifier>,
    due: DueGroups,
    pub(super) connection: Connection,
    _reader: ReaderTask,
    _renewal: Option<Renewal>,
}

/// The wanted bytes of these groups.
fn bytes(groups: &Range<u64>, info: &TransferInfo) -> Range<u64> {
    (groups.start * GROUP).max(info.range.start)..(groups.end * GROUP).min(info.range.end)
}

impl OpeningSource {
    /// Opens the session.
    pub(super) fn open(
        &self,
        connector: Connector,
        info: &TransferInfo,
        timeout: Duration,
    ) -> impl Future<Output = Result<OpenTransfer, Fault>> + Send + use<> {
        let (at, info, range) = (self.candidate.at.clone(), info.clone(), bytes(&self.groups, info));
        let wide = self.groups.start * GROUP..(self.groups.end * GROUP).min(info.size);
        let ask = SessionRequest { range, wide, request_id: self.candidate.request_id.clone(), more: true };
        async move { join(&connector, &at, ask, &info, timeout).await }
    }

    /// The open source, which sends to `batches`.
    pub(super) fn into_source(
        self,
        open: OpenTransfer,
        connector: &Connector,
        expected: Expectation,
        timeout: Duration,
        batches: mpsc::Sender<Batch>,
    ) -> Result<Source, Fault> {
        let Self { id, candidate: Candidate { at, reason, moves, .. }, groups } = self;
        let lost = || Fault::new(Code::Internal, "our side of the session's stream is missing");
        let send = open.send.ok_or_else(lost)?;
        let due: DueGroups = Arc::new(AtomicU64::new(groups.end - groups.start));
        // While it owes nothing, the connection's keep-alive shows whether it lives.
        let timeouts = ReadTimeouts { due: timeout, done: timeout.max(HASHING), groups: Arc::clone(&due), expected };
        let connection = open.frames.connection().clone();
        let renewal = renewal::keep(connector, &connection, &at);
        let reader = connector.pool.read_batches(open.frames, id, timeouts, batches)?;
        let verifier = Some(open.verifier);
        let (_reader, _renewal) = (reader, renewal);
        Ok(Source { id, at, reason, moves, send, verifier, due, connection, _reader, _renewal })
    }
}

impl Source {
    /// Asks for these groups, after those that it was asked for before.
    pub(super) fn ask(&mut self, groups: Range<u64>, info: &TransferInfo) -> Result<(), Fault> {
        let node = &self.at.node;
        let fault = |why: &dyn std::fmt::Display| Fault::new(Code::Network, format!("ask node {node} for more: {why}"));
        let bytes = bytes(&groups, info);
        let range = ByteRange { start: bytes.start, end: bytes.end };
        let frame = wire::message(Kind::Range, &range).ok_or_else(|| fault(&"the range is too long"))?;
        // Before the node can answer.
        let verifier = self.verifier.as_mut().ok_or_else(|| fault(&"a batch of it is being verified"))?;
        verifier.extend(bytes).map_err(|error| fault(&error))?;
        self.due.fetch_add(groups.end - groups.start, Ordering::Relaxed);
        match self.send.write_chunk(frame).now_or_never() {
            // A node that ended the session gives the reason on its side of the stream.
            Some(Ok(()) | Err(_)) => Ok(()),
            // A few ranges always fit a node's stream window: this node violates the protocol.
            None => Err(fault(&"it does not read requests")),
        }
    }

    /// Ends our side of the session: no further range is wanted.
    pub(super) fn finish(&mut self) {
        if self.send.finish().is_err() {
            tracing::trace!("stream had ended already");
        }
    }
}
