//! The interface of a fetch to its caller: the sink, the events and the outcome.

use std::{ops, time::Duration};

use usher_proto::{ContentId, Fault, NodeName, Title};

use crate::core::assembler::Chunk;

/// The bytes of a transfer, known before the first of them is received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferInfo {
    /// The title.
    pub title: Title,
    /// Its content id; `None` while no node has hashed the title.
    pub content: Option<ContentId>,
    /// Size of the whole title in bytes.
    pub size: u64,
    /// The wanted bytes of it.
    pub range: ops::Range<u64>,
}

/// Destination of a title's verified bytes.
pub trait Sink: Send {
    /// Prepares for a transfer. Returns the number of groups of the wanted range that an earlier run verified under the
    /// same content id and the sink still holds; 0 if that is not known.
    fn begin(&mut self, info: &TransferInfo) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Writes the next bytes, in order and without gaps: those that `make` returns. `make` may take a while and is best
    /// called on the thread that writes. Returns the second value of `make`.
    fn write<T: Send + 'static>(
        &mut self,
        make: impl FnOnce() -> (Vec<Chunk>, T) + Send + 'static,
    ) -> impl Future<Output = Result<T, Fault>> + Send;

    /// Completes the transfer: every byte of the range was written and verified.
    fn finish(&mut self, content: ContentId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Stops for now, and keeps what a later run can use.
    fn pause(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// An event of a running fetch.
#[derive(Clone, Debug)]
pub enum FetchEvent {
    /// A node begins to send.
    Seated {
        /// The node.
        node: NodeName,
        /// Why this node: the master's reason, the node that failed before it, or the node that moved the session there.
        reason: String,
        /// The transfer.
        info: TransferInfo,
    },
    /// The nodes that send at once, from now on.
    Sources(Vec<NodeName>),
    /// Bytes were received.
    Progress {
        /// Verified bytes of the wanted range.
        verified: u64,
        /// Bytes written to the sink; some of them may not be verified yet.
        received: u64,
        /// Bytes of the wanted range.
        total: u64,
    },
    /// A seat or the master failed; another is tried.
    SeatFailed(Fault),
}

/// A finished transfer.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The title.
    pub title: Title,
    /// Its content id, against which every byte was verified.
    pub content: ContentId,
    /// Bytes of the wanted range.
    pub bytes: u64,
    /// Bytes of it that the sink held from an earlier run.
    pub resumed: u64,
    /// The node that sent the last bytes; `None` if the sink held all of them.
    pub node: Option<NodeName>,
    /// Why that node: the master's reason, the node that failed before it, or the node that moved the session there.
    pub reason: String,
    /// Id of the last request to the master, for `usher explain --request`; empty if none was needed.
    pub request_id: String,
    /// Time that the transfer took.
    pub elapsed: Duration,
}
