//! A request to the core, and its decision or refusal with their explanations.

use std::{fmt, time::Duration};

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
    ledger::Source,
    viewers::TokenViewer,
};

/// Retry delay of a viewer that has all that its token permits: nodes report the end of a session within 0.2 s.
const VIEWER_RETRY: Duration = Duration::from_secs(1);

/// A request for a seat.
#[derive(Clone, Copy, Debug)]
pub struct SeatRequest<'a> {
    /// Requested title or content.
    pub what: &'a What,
    /// Play or fetch.
    pub purpose: Purpose,
    /// Byte range.
    pub range: Range,
    /// Rate to reserve, if not the title's own.
    pub rate: Option<Bitrate>,
    /// Nodes that must not be chosen.
    pub exclude: &'a [NodeName],
    /// The client's zone; empty if unknown.
    pub zone: &'a str,
    /// Features that the node must have.
    pub needs: &'a Requirements,
    /// Names the request in the journal; 0 for none.
    pub tag: u64,
    /// Seats that failed. Full ones may be chosen again after a move frees capacity.
    pub failed: &'a [Failed],
    /// Whether silent nodes may be chosen before they answer a probe.
    pub unsure: bool,
    /// The viewer, if it has an identity: its token limits titles, sessions and rate.
    pub viewer: Option<&'a TokenViewer>,
    /// The client that asks; `None` is one that is not told from others, and that competes with none.
    pub source: Option<Source>,
}

impl<'a> SeatRequest<'a> {
    /// The requested feed, if it is one.
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
            viewer: None,
            source: None,
        }
    }
}

/// A decision. The first seat's rate is reserved under the session's id.
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
    /// Other usable nodes, best first.
    pub alternates: [Option<NodeId>; ALTERNATES],
    /// Free bit/s of the first seat before this request.
    pub headroom: u64,
    /// The rule that found the seat.
    pub how: Selection,
    /// Whether the node may exceed its capacity by a tenth for it, since only transient background traffic fills it.
    pub burst: bool,
    /// Number of holders by verdict.
    pub count: HolderCounts,
    /// The upstream of the chosen node, if that does not carry the feed yet.
    pub relay: Option<NodeId>,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// No node could be chosen.
    #[error("`{what}`: {why}")]
    NoChoice {
        /// The title or content.
        what: What,
        /// Why.
        why: NoChoice,
    },
    /// The viewer has as many sessions as its token permits.
    #[error("`{what}`: the token permits {most} sessions at once, and all of them run; end one first")]
    ViewerSessions {
        /// The title or content.
        what: What,
        /// Most sessions.
        most: u32,
    },
    /// The viewer's sessions together would exceed the rate that its token permits.
    #[error("`{what}` needs {rate}, and the token permits {most} to all sessions together; end one first")]
    ViewerRate {
        /// The title or content.
        what: What,
        /// Rate of the new session.
        rate: Bitrate,
        /// Most.
        most: Bitrate,
    },
    /// The range is outside the title.
    #[error("the range begins at byte {start}, and `{what}` has {size}")]
    Range {
        /// The title or content.
        what: What,
        /// First requested byte.
        start: u64,
        /// Size of the title in bytes.
        size: u64,
    },
}

impl From<&Refused> for Fault {
    fn from(error: &Refused) -> Self {
        let message = error.to_string();
        match error {
            Refused::NoChoice { why, .. } => Self { message, ..Self::from(why) },
            Refused::ViewerSessions { .. } => Self::new(Code::BudgetExceeded, message).after(VIEWER_RETRY),
            // A title that alone is too much for the token stays so.
            Refused::ViewerRate { rate, most, .. } if rate > most => Self::new(Code::Denied, message),
            Refused::ViewerRate { .. } => Self::new(Code::BudgetExceeded, message).after(VIEWER_RETRY),
            Refused::Range { .. } => Self::new(Code::BadRange, message),
        }
    }
}

/// Explanation of the choice of the first seat.
pub struct DecisionReason<'a> {
    pub(super) decision: &'a Decision,
    pub(super) node: &'a str,
    pub(super) capacity: Bitrate,
    /// Upstream of a node that does not carry the feed yet.
    pub(super) relay: Option<&'a str>,
}

impl fmt::Display for DecisionReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { decision, node, capacity, relay } = self;
        let free = Bitrate(decision.headroom);
        if let Some(relay) = relay {
            write!(f, "the feed is relayed from {relay}; ")?;
        }
        match decision.how {
            Selection::Only => return write!(f, "the only holder: {free} of {capacity} free on {node}"),
            Selection::Best => write!(f, "farthest from full: {free} of {capacity} free on {node}; ")?,
            Selection::Panic => write!(f, "no holder is healthy, most headroom on {node}; ")?,
            Selection::Released(1) => write!(f, "released 1 unredeemed reservation of another client on {node}; ")?,
            Selection::Released(count) => {
                write!(f, "released {count} unredeemed reservations of other clients on {node}; ")?;
            }
            Selection::Moved(1) => write!(f, "a session moves away to make room on {node}; ")?,
            Selection::Moved(steps) => write!(f, "{steps} sessions move away to make room on {node}; ")?,
            Selection::Cold => write!(f, "every holder is full, and {node} uses its reserve; ")?,
            Selection::Burst => write!(f, "{node} is full only by a short burst of background traffic; ")?,
        }
        write!(f, "{} of {} holders could serve", decision.count.fit, decision.count.holders)?;
        match decision.count.unfit() {
            unfit if unfit.is_empty() => Ok(()),
            unfit => write!(f, " ({unfit})"),
        }
    }
}
