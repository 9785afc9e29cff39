//! The interface of a publisher to its caller: the feed, the events and the statistics.

use std::time::Duration;

use usher_media::cut::Format;
use usher_proto::{Bitrate, Fault, NodeName, Title, id::PublisherId, model::Medium};

/// A feed to publish.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Name of the feed, `live/NAME`.
    pub title: Title,
    /// Identifies this run of the publisher.
    pub publisher: PublisherId,
    /// Expected rate; 0 if not known.
    pub rate: Bitrate,
    /// The publisher's zone; empty if unknown.
    pub zone: String,
    /// Ends another publisher of the feed.
    pub take_over: bool,
    /// The node records the feed as a title.
    pub record: bool,
    /// The feed fails after this time without a node.
    pub timeout: Duration,
    /// The container; `None` to detect it.
    pub format: Option<Format>,
}

impl Publication {
    /// A feed with this name; the other fields have their defaults.
    pub fn new(title: Title) -> Self {
        Self {
            title,
            publisher: PublisherId(rand::random()),
            rate: Bitrate(0),
            zone: String::new(),
            take_over: false,
            record: false,
            timeout: Duration::from_secs(30),
            format: None,
        }
    }
}

/// An event of a published feed.
#[derive(Clone, Debug)]
pub enum PublishEvent {
    /// The tracks of the input are known.
    Medium(Medium),
    /// A node receives the feed.
    Seated {
        /// The node.
        node: NodeName,
        /// Why this node: the master's reason, the node that failed before it, or the node that moved the feed there.
        reason: String,
    },
    /// A seat or the master failed; another is tried.
    SeatFailed(Fault),
    /// The input is odd, or media was lost.
    Warning(String),
    /// Statistics, once a second.
    Progress(PublishStats),
}

/// Statistics of a published feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishStats {
    /// The node that receives it, if any.
    pub node: Option<NodeName>,
    /// Rate of the input since the statistics before.
    pub rate: Bitrate,
    /// Media read, in bytes.
    pub bytes: u64,
    /// Groups that were begun.
    pub groups: u64,
    /// Groups that were given up.
    pub given_up: u64,
    /// Media that no node has acknowledged, in bytes.
    pub waiting: u64,
    /// Time since the beginning.
    pub elapsed: Duration,
}
