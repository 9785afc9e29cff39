//! What the operator, or a simulation, may set of the core; and what the core wants carried out.

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

/// What may be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is better among the nodes that may be chosen.
    pub rule: RankRule,
    /// What it costs to leave a zone.
    pub zones: Zones,
    /// Masters that decide at once.
    pub masters: u64,
    /// Sessions are moved to make room, and away from nodes that have too much.
    pub moves: bool,
    /// Sessions are moved to nodes that have just joined, when the others are much fuller.
    pub rebalance: bool,
    /// A node that is full only by a short burst of others' traffic may be chosen.
    pub bursts: bool,
    /// How often nodes report.
    pub report_interval: Duration,
    /// Titles are copied when they are in demand, or have too few copies.
    pub replication: bool,
    /// How many copies titles should have.
    pub copies: Policy,
    /// How long copies may be missing before they are made anew.
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

/// What is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Get a feed from one of these nodes, the best first, each under a session of this id.
    Relay {
        /// Where to.
        node: NodeId,
        /// Which.
        title: Title,
        /// Bit/s, reserved at the first of them.
        rate: u64,
        /// Where from.
        upstreams: Vec<(NodeId, SessionId)>,
    },
    /// There is nobody to get a feed from.
    NoRelay {
        /// Who wants it.
        node: NodeId,
        /// Which.
        title: Title,
        /// Why.
        why: Fault,
    },
    /// End a publisher's session: another one was sent elsewhere.
    EndPublisher(RivalPublisher),
    /// Ask a node for a sign of life.
    Probe(NodeId),
    /// Send a session to another node.
    Move(SessionMove),
    /// Copy a title from one node to another.
    Replicate {
        /// What.
        key: ContentKey,
        /// A node that has it whole.
        from: NodeId,
        /// A node that has none of it.
        to: NodeId,
        /// Bit/s, at most.
        rate: u64,
        /// For people.
        why: CopyReason,
    },
    /// Remove a copy that was ordered once.
    Evict {
        /// What.
        key: ContentKey,
        /// Where.
        node: NodeId,
    },
    /// Hash a copy anew, of which a client got wrong bytes.
    Recheck {
        /// What.
        key: ContentKey,
        /// Where.
        node: NodeId,
    },
}
