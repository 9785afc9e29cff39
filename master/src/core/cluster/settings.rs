//! Settings of the core, and the orders that it emits.

use std::{collections::HashMap, time::Duration};

use usher_proto::{Fault, NodeName, SessionId, Title, ticket::SessionKey};

use crate::core::{
    NodeId,
    balancer::{RankRule, Zones},
    catalog::ContentKey,
    feeds::RivalPublisher,
    moves::SessionMove,
    replication::{CopyReason, GRACE, Policy},
    roster::{AttachmentId, REPORT_INTERVAL},
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
    /// Bytes of memory that the catalog may take.
    pub catalog_memory: u64,
    /// Limits of single nodes.
    pub limits: HashMap<NodeName, NodeLimits>,
    /// The addresses of nodes are dialled before they are offered.
    pub dial_back: bool,
    /// Key of session ids: sessions that it did not issue are ignored. Without one, as in simulations, every id is taken.
    pub session_key: Option<SessionKey>,
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
            catalog_memory: u64::MAX,
            limits: HashMap::new(),
            dial_back: false,
            session_key: None,
        }
    }
}

/// An operator's limits of what one node may claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// Prefixes of the titles that it may list; none means all titles.
    pub prefixes: Vec<String>,
    /// Most bit/s that it is trusted to send.
    pub max_rate: Option<u64>,
}

impl NodeLimits {
    /// Whether the node may list a title.
    pub fn allow(&self, title: &Title) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| title.as_str().starts_with(prefix.as_str()))
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
    /// End a session whose viewer lost its rights.
    EndRevoked {
        /// The session.
        session: SessionId,
        /// The node.
        node: NodeId,
    },
    /// Probe a silent node.
    Probe(NodeId),
    /// Dial the addresses of a node.
    DialBack(AttachmentId),
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
