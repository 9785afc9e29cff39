//! A request to the core, and what is decided of it: the decision or the refusal, and the words that explain them.

use std::fmt;

use thiserror::Error;
use usher_proto::{
    Bitrate, ContentId, NodeName, SessionId, Title,
    code::{Code, Fault},
    model::{Failed, Range, Requirements, Resolve, What},
    ticket::Purpose,
};

use crate::core::{
    NodeId,
    balancer::{ALTERNATES, HolderCounts, NoChoice},
    journal::Selection,
};

/// A request as the core sees it.
#[derive(Clone, Copy, Debug)]
pub struct SeatRequest<'a> {
    /// Which title.
    pub what: &'a What,
    /// What it is wanted for.
    pub purpose: Purpose,
    /// Which bytes of it.
    pub range: Range,
    /// The rate to reserve, if not the title's own.
    pub rate: Option<Bitrate>,
    /// Nodes that must not be chosen.
    pub exclude: &'a [NodeName],
    /// The client's zone, empty if unknown.
    pub zone: &'a str,
    /// What the node must be able to do.
    pub needs: &'a Requirements,
    /// Names the request in the journal; 0 for none.
    pub tag: u64,
    /// Seats that did not serve; those that were full may be chosen again once room is made.
    pub failed: &'a [Failed],
    /// Nodes that have been silent for a while may be chosen before they answered a probe.
    pub unsure: bool,
}

impl<'a> SeatRequest<'a> {
    /// The feed that is wanted, if it is one.
    pub(super) fn feed(&self) -> Option<&'a Title> {
        match self.what {
            What::Title(title) if title.is_live() => Some(title),
            _ => None,
        }
    }
}

impl<'a> From<&'a Resolve> for SeatRequest<'a> {
    fn from(resolve: &'a Resolve) -> Self {
        let Resolve { what, purpose, range, rate, exclude, zone, needs, failed, .. } = resolve;
        Self {
            what,
            purpose: *purpose,
            range: *range,
            rate: *rate,
            exclude,
            zone,
            needs,
            failed,
            tag: 0,
            unsure: false,
        }
    }
}

/// What was decided. The first seat's rate is reserved under the session's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The session.
    pub session: SessionId,
    /// The title on the chosen nodes.
    pub title: Title,
    /// The content, once hashed.
    pub content: Option<ContentId>,
    /// Bytes.
    pub size: u64,
    /// Bit/s reserved on the first seat.
    pub rate: Bitrate,
    /// The chosen node.
    pub first: NodeId,
    /// Others that could serve, best first.
    pub alternates: [Option<NodeId>; ALTERNATES],
    /// Bit/s that the first had free before this request.
    pub room: u64,
    /// Which rule found it.
    pub how: Selection,
    /// The node may promise a tenth more than its capacity for it: what fills it is others' traffic, which changes.
    pub burst: bool,
    /// Where the holders stand.
    pub count: HolderCounts,
    /// The node that the chosen one gets a feed from, if it does not carry it yet.
    pub relay: Option<NodeId>,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Nothing could be chosen.
    #[error("`{what}`: {why}")]
    NoChoice {
        /// The title or content.
        what: What,
        /// Why.
        why: NoChoice,
    },
    /// The range is not in the title.
    #[error("the range begins at byte {start}, and `{what}` has {size}")]
    Range {
        /// The title or content.
        what: What,
        /// First byte asked for.
        start: u64,
        /// Bytes of the title.
        size: u64,
    },
}

impl From<&Refused> for Fault {
    fn from(error: &Refused) -> Self {
        let message = error.to_string();
        match error {
            Refused::NoChoice { why, .. } => Self { message, ..Self::from(why) },
            Refused::Range { .. } => Self::new(Code::BadRange, message),
        }
    }
}

/// Why the first seat was chosen, for people.
pub struct DecisionReason<'a> {
    pub(super) decision: &'a Decision,
    pub(super) node: &'a str,
    pub(super) capacity: Bitrate,
    /// Where it gets a feed from that it does not carry yet.
    pub(super) relay: Option<&'a str>,
}

impl fmt::Display for DecisionReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { decision, node, capacity, relay } = self;
        let free = Bitrate(decision.room);
        if let Some(relay) = relay {
            write!(f, "the feed comes there from {relay}; ")?;
        }
        match decision.how {
            Selection::Only => return write!(f, "the only holder: {free} of {capacity} free on {node}"),
            Selection::Best => write!(f, "farthest from full: {free} of {capacity} free on {node}; ")?,
            Selection::Panic => write!(f, "all holders are in doubt, most room on {node}; ")?,
            Selection::Moved(1) => write!(f, "a session moves away to make room on {node}; ")?,
            Selection::Moved(steps) => write!(f, "{steps} sessions move away to make room on {node}; ")?,
            Selection::Cold => write!(f, "every holder is full, and {node} gives of its reserve; ")?,
            Selection::Burst => write!(f, "{node} is full only by a short burst of other traffic; ")?,
        }
        write!(f, "{} of {} holders could serve", decision.count.fit, decision.count.holders)?;
        match decision.count.unfit() {
            unfit if unfit.is_empty() => Ok(()),
            unfit => write!(f, " ({unfit})"),
        }
    }
}
