//! One node of the roster: what it says of itself, its state, and whether it can be given a session.

use std::time::{Duration, Instant};

use usher_proto::{
    NodeName,
    model::{Hello, Report},
};

use super::health::HealthTracker;
use crate::core::{Now, history::History, load_estimate::LoadEstimate};

/// Reports for which a node's last word is good, so that a lost one or a short pause does not end it.
pub(super) const LEASE_REPORTS: u32 = 5;

/// Half reports of silence after which a node is asked for a sign of life before it is chosen: two and a half.
const UNSURE_HALVES: u32 = 5;

/// Half reports of silence after which it is chosen only if there is no other: three and a half.
pub(super) const SUSPECT_HALVES: u32 = 7;

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Attached, reporting, taking sessions.
    Serving,
    /// Takes no new sessions.
    Draining,
    /// Its lease ran out while its channel is open.
    Stale,
    /// Its channel is closed.
    Gone,
}

impl NodeState {
    /// The state's word in events and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stale => "stale",
            Self::Gone => "gone",
        }
    }
}

/// Whether a node can be given a session, as far as its state and its health go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeHealth {
    /// It can.
    Well,
    /// Its last word is old: it should be asked first.
    Unsure,
    /// Its silence, or clients, say that it does not serve.
    Suspect,
    /// It died often lately.
    Held,
    /// It takes no new sessions.
    Draining,
    /// Its channel is closed, its lease over, or its load or titles are unknown.
    Down,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it said when it attached, its presence kept up to date.
    pub hello: Hello,
    /// Where it stands.
    pub state: NodeState,
    /// When it attached last.
    pub attached_at: Now,
    /// Its last report of this boot.
    pub report: Report,
    /// When that was taken; `None` before the first.
    pub reported_at: Option<Instant>,
    /// Its egress over time.
    pub history: History,
    /// What is believed of its bandwidth.
    pub estimate: LoadEstimate,
    /// Files that it does not offer.
    pub rejected_files: u32,
    /// Those of them whose bytes are not what they were when they were hashed.
    pub damaged_files: u32,
    /// How often it has begun to drain while it was attached.
    pub drains: u32,
    /// Its zone as a number, equal for equal zones.
    pub zone: u32,
    pub(super) epoch: u64,
    /// The last sign of life: a message, or the attachment.
    pub(super) last_sign: Instant,
    pub(super) health: HealthTracker,
    pub(super) interval: Duration,
    /// Its load is known: by a report, or because it has just started.
    pub(super) load_known: bool,
    /// Whether this process has told its whole catalog. Until then its copies are those of the process before it, and
    /// it would not find them.
    pub(crate) catalog_known: bool,
    /// When its channel closed.
    pub(super) left: Option<Instant>,
    /// Its copies are forgotten.
    pub(super) copies_void: bool,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.hello.node
    }

    /// Whether its channel is open.
    pub fn attached(&self) -> bool {
        self.state != NodeState::Gone
    }

    /// Whether it can be given a session.
    pub fn health(&self, now: Instant) -> NodeHealth {
        if self.state == NodeState::Draining {
            return NodeHealth::Draining;
        }
        let dialled = !self.hello.presence.addresses.is_empty();
        let known = self.load_known && self.catalog_known && dialled;
        let silent = now.saturating_duration_since(self.last_sign);
        if self.state != NodeState::Serving || !known || self.lease_end() <= now {
            NodeHealth::Down
        } else if self.health.is_held(now) {
            NodeHealth::Held
        } else if self.health.is_suspect(now) || silent * 2 >= self.interval * SUSPECT_HALVES {
            NodeHealth::Suspect
        } else if silent * 2 >= self.interval * UNSURE_HALVES {
            NodeHealth::Unsure
        } else {
            NodeHealth::Well
        }
    }

    /// Whether it is well enough for new sessions.
    pub fn can_serve(&self, now: Instant) -> bool {
        matches!(self.health(now), NodeHealth::Well | NodeHealth::Unsure)
    }

    /// Bit/s of the last report, less what fetches would give up.
    pub fn measured(&self) -> u64 {
        self.report.egress.0.saturating_sub(self.report.elastic.0)
    }

    /// The highest rate that it may send to one session, bit/s.
    pub fn largest_session(&self) -> u64 {
        let capacity = self.hello.capacity.0;
        self.hello.equipment.max_session.map_or(capacity, |most| most.0.min(capacity))
    }

    pub(super) fn lease_end(&self) -> Instant {
        self.last_sign + self.interval * LEASE_REPORTS
    }

    pub(super) fn note_sign_of_life(&mut self, now: Instant) {
        self.last_sign = now;
        self.health.handle_sign_of_life();
    }

    /// The state that its presence asks for.
    pub(super) fn requested_state(&self) -> NodeState {
        if self.hello.presence.draining { NodeState::Draining } else { NodeState::Serving }
    }

    pub(super) fn change_state(&mut self, state: NodeState) -> Option<NodeState> {
        let changed = self.state != state;
        self.state = state;
        changed.then_some(state)
    }
}
