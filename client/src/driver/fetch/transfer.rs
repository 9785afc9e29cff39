//! Progress of one title's transfer, whichever nodes send it.

use usher_proto::{ContentId, Fault, NodeName};

use super::{
    interface::{FetchEvent, TransferInfo},
    spread::Spread,
};
use crate::{core::assembler::Assembler, driver::Connector};

/// The way to the nodes and the observer of a fetch.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) connector: &'a Connector,
    pub(crate) observer: &'a (dyn Fn(&FetchEvent) + Send + Sync),
}

/// A title that the master has described.
pub(super) struct Transfer {
    pub(super) info: TransferInfo,
    pub(super) assembler: Assembler,
    /// Bytes that the sink held from an earlier run.
    pub(super) resumed: u64,
    /// Bytes written to the sink.
    pub(super) received: u64,
    /// Assignments of groups to nodes, once several may send.
    pub(super) spread: Option<Spread>,
    /// A node serves one range a session: each session asks for all missing bytes.
    pub(super) one_range: bool,
}

impl Transfer {
    /// The content, once every wanted byte of it is verified.
    pub(super) fn complete(&self) -> Option<ContentId> {
        self.info.content.filter(|_| self.assembler.is_complete())
    }

    /// Reports how far the transfer is.
    pub(super) fn report(&self, context: Context<'_>) {
        let (verified, total) = (self.assembler.progress(), self.assembler.total());
        (context.observer)(&FetchEvent::Progress { verified, received: self.received, total });
    }

    /// Reports the node that begins to send.
    pub(super) fn report_seat(&self, context: Context<'_>, node: NodeName, reason: String) {
        (context.observer)(&FetchEvent::Seated { node, reason, info: self.info.clone() });
    }
}

/// Why the sources of a transfer ended before it was complete.
pub(super) enum SpreadEnd {
    /// The last node, or the connection to it, failed.
    Source(Fault),
    /// The sink failed: no other node helps.
    Sink(Fault),
}
