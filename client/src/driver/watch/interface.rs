//! The interface of a watch to its caller: the order, the sink, the events and the statistics.

use std::time::Duration;

use bytes::Bytes;
use usher_proto::{Fault, NodeName, Title};

use crate::driver::Order;

/// The group of a feed with which a viewer begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// The last complete group.
    #[default]
    LastWhole,
    /// The group that is being published.
    Newest,
    /// The group that was published this long ago.
    Back(Duration),
}

/// A wanted feed.
#[derive(Clone, Debug)]
pub(crate) struct WatchOrder {
    pub(crate) title: Title,
    /// The request to the master.
    pub(crate) order: Order,
    pub(crate) start: StartAt,
    /// Groups are dropped once the viewer falls behind by more than this.
    pub(crate) latency: Duration,
    /// Wanted length of media; `None` for all.
    pub(crate) duration: Option<Duration>,
}

/// Destination of a feed's media.
pub trait FeedSink: Send {
    /// Writes the next media, verified and in order.
    ///
    /// # Errors
    /// A [`Fault`] ends the feed for this viewer.
    fn write(&mut self, media: Vec<Bytes>) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// An event of a watched feed.
#[derive(Clone, Debug)]
pub enum FeedEvent {
    /// A node begins to send.
    Seated {
        /// The node.
        node: NodeName,
        /// Why this node: the master's reason, the node that failed before it, or the node that moved the session there.
        reason: String,
    },
    /// Media was written.
    Progress(FeedStats),
    /// A seat or the master failed; another is tried.
    SeatFailed(Fault),
}

/// Statistics of a watched feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedStats {
    /// Groups that were written completely.
    pub groups: u64,
    /// Groups that were not, though later ones were.
    pub dropped: u64,
    /// Media written, in bytes.
    pub bytes: u64,
    /// Media written up to the end of the last complete group, in bytes.
    pub whole: u64,
}
