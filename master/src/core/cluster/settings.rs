//! Settings of the core, and the orders that it emits.

use std::time::Duration;

use usher_proto::{Fault, SessionId, Title};

use crate::core::{
    NodeId,
    balancer::{RankRule, Zones},
    catalog::ContentKey,
    feeds::RivalPublisher,
    moves::SessionMove,
    replication::{CopyReason, GRACE, Policy},
    roster::REPORT_INTERVAL,
};

/// Settings of the core.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How candidates are compared.
    pub rule: RankRule,
    /// Prices of leaving a zone.
    pub zones: Zones,
    /// Number of masters that decide concurrently.
    pub masters: u64,
    /// Sessions are moved to free capacity, and off overloaded nodes.
    pub moves: bool,
    /// Sessions are moved to nodes that have just joined if the others are much fuller.
    pub rebalance: bool,
    /// A node filled only by a short burst of background traffic may be chosen.
    pub bursts: bool,
    /// How often nodes report.
    pub report_interval: Duration,
    /// Titles in demand, or with too few copies, are copied.
    pub replication: bool,
    /// Wanted number of copies per title.
    pub copies: Policy,
    /// Time that copies may be missing before they are replaced.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rule: RankRule::default(),
            zones: Zones::default(),
            masters: 1,
            moves: true,
            rebalance: true,
            bursts: true,
            report_interval: REPORT_INTERVAL,
            replication: true,
            copies: Policy::default(),
            grace: GRACE,
        }
    }
}

/// An order to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Relay a feed from one of these nodes, best first, each under its session id.
    Relay {
        /// The relaying node.
        node: NodeId,
        /// The feed.
        title: Title,
        /// Bit/s, reserved at the first upstream.
        rate: u64,
        /// Upstreams and session ids.
        upstreams: Vec<(NodeId, SessionId)>,
    },
    /// No upstream is available.
    NoRelay {
        /// The node that asked.
        node: NodeId,
        /// The feed.
        title: Title,
        /// Why.
        why: Fault,
    },
    /// End a publisher's session, since a newer publisher was placed elsewhere.
    EndPublisher(RivalPublisher),
    /// End the seat of a session that also runs at another node.
    EndSurplus {
        /// The session.
        session: SessionId,
        /// The node.
        node: NodeId,
    },
    /// Probe a silent node.
    Probe(NodeId),
    /// Move a session to another node.
    Move(SessionMove),
    /// Copy a title from one node to another.
    Replicate {
        /// The content.
        key: ContentKey,
        /// A node with a complete copy.
        from: NodeId,
        /// A node without a copy.
        to: NodeId,
        /// Upper limit, bit/s.
        rate: u64,
        /// Reason, for the log.
        why: CopyReason,
    },
    /// Remove a copy that was made by order.
    Evict {
        /// The content.
        key: ContentKey,
        /// The node.
        node: NodeId,
    },
    /// Hash a copy again because a client received wrong bytes.
    Recheck {
        /// The content.
        key: ContentKey,
        /// The node.
        node: NodeId,
    },
}
