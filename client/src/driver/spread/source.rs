//! One source: an open session that takes further ranges. Refuses to know which.

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
use usher_transport::{Connection, SendStream};

use super::{
    super::{
        About,
        join::{Ask, Joined, Way, join},
        renewal::{self, Renewal},
        stream::HASHING,
    },
    Found,
};
use crate::{
    core::{sources::Id, vigil::Terms},
    quic::{Batch, Due, Patience, Reader},
};

/// A source that is on its way, and the groups that it is to send first.
pub(super) struct Joining {
    pub(super) id: Id,
    pub(super) found: Found,
    pub(super) groups: Range<u64>,
}

/// A source that sends.
pub(super) struct Source {
    pub(super) id: Id,
    pub(super) at: SeatAddress,
    pub(super) reason: String,
    pub(super) moves: u32,
    send: SendStream,
    /// Away while a batch is checked.
    pub(super) verifier: Option<Verifier>,
    due: Due,
    pub(super) connection: Connection,
    _reader: Reader,
    _renewal: Option<Renewal>,
}

/// The wanted bytes of these groups.
fn bytes(groups: &Range<u64>, about: &About) -> Range<u64> {
    (groups.start * GROUP).max(about.range.start)..(groups.end * GROUP).min(about.range.end)
}

impl Joining {
    /// Opens the session.
    pub(super) fn open(
        &self,
        way: Way,
        about: &About,
        timeout: Duration,
    ) -> impl Future<Output = Result<Joined, Fault>> + Send + use<> {
        let (at, about, range) = (self.found.at.clone(), about.clone(), bytes(&self.groups, about));
        let wide = self.groups.start * GROUP..(self.groups.end * GROUP).min(about.size);
        let ask = Ask { range, wide, request_id: self.found.request_id.clone(), more: true };
        async move { join(&way, &at, ask, &about, timeout).await }
    }

    /// The source that it is now; what it sends goes to `batches`.
    pub(super) fn into_source(
        self,
        joined: Joined,
        way: &Way,
        terms: Terms,
        timeout: Duration,
        batches: mpsc::Sender<Batch>,
    ) -> Result<Source, Fault> {
        let Self { id, found: Found { at, reason, moves, .. }, groups } = self;
        let lost = || Fault::new(Code::Internal, "our side of the stream is missing");
        let send = joined.send.ok_or_else(lost)?;
        let due: Due = Arc::new(AtomicU64::new(groups.end - groups.start));
        // While nothing is asked of it, the connection's keep-alive tells whether it lives.
        let patience = Patience { due: timeout, done: timeout.max(HASHING), groups: Arc::clone(&due), terms };
        let connection = joined.incoming.connection().clone();
        let renewal = renewal::keep(way, &connection, &at);
        let reader = way.pool.gather(joined.incoming, id, patience, batches)?;
        let verifier = Some(joined.verifier);
        let (_reader, _renewal) = (reader, renewal);
        Ok(Source { id, at, reason, moves, send, verifier, due, connection, _reader, _renewal })
    }
}

impl Source {
    /// Asks for these groups too.
    pub(super) fn ask(&mut self, groups: Range<u64>, about: &About) -> Result<(), Fault> {
        let node = &self.at.node;
        let fault = |why: &dyn std::fmt::Display| Fault::new(Code::Network, format!("ask node {node} for more: {why}"));
        let bytes = bytes(&groups, about);
        let range = ByteRange { start: bytes.start, end: bytes.end };
        let frame = wire::message(Kind::Range, &range).ok_or_else(|| fault(&"the range is too long"))?;
        // Before the node can answer.
        let verifier = self.verifier.as_mut().ok_or_else(|| fault(&"its batch is being checked"))?;
        verifier.extend(bytes).map_err(|error| fault(&error))?;
        self.due.fetch_add(groups.end - groups.start, Ordering::Relaxed);
        match self.send.write_chunk(frame).now_or_never() {
            // A node that ended the session says why on its own side.
            Some(Ok(()) | Err(_)) => Ok(()),
            // A few ranges always fit what a node lets be sent: this one does not keep to the protocol.
            None => Err(fault(&"it does not read what it is asked")),
        }
    }

    /// Nothing more is wanted.
    pub(super) fn finish(&mut self) {
        if self.send.finish().is_err() {
            tracing::trace!("the stream had ended already");
        }
    }
}
