//! One node of the roster: its own reports, its state and its health.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use usher_proto::{
    NodeName,
    model::{Hello, Report},
};

use super::{health::HealthTracker, reach::Reach};
use crate::core::{Now, history::History, load_estimate::LoadEstimate};

/// Report intervals in a lease, so that a lost report or a short pause does not end it.
pub(super) const LEASE_REPORTS: u32 = 5;

/// Half report intervals of silence after which a node is probed before it is chosen: two and a half intervals.
const UNSURE_HALVES: u32 = 5;

/// Half report intervals of silence after which a node is a last resort: three and a half intervals.
pub(super) const SUSPECT_HALVES: u32 = 7;

/// State of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Attached, reporting, accepting sessions.
    Serving,
    /// Accepts no new sessions.
    Draining,
    /// Its lease expired while its channel is open.
    Stale,
    /// Its channel is closed.
    Gone,
}

impl NodeState {
    /// The state's name in events and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stale => "stale",
            Self::Gone => "gone",
        }
    }
}

/// Whether a node can receive a session, by its state and reliability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeHealth {
    /// It can.
    Well,
    /// Its last message is old: probe it first.
    Unsure,
    /// It is silent, or clients report that it does not answer.
    Suspect,
    /// It failed repeatedly.
    Held,
    /// It accepts no new sessions.
    Draining,
    /// Its channel is closed, its lease expired, or its load or catalog is unknown.
    Down,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its first message, with its current presence.
    pub hello: Hello,
    /// Its state.
    pub state: NodeState,
    /// Time of its last attachment.
    pub attached_at: Now,
    /// Last report of this process.
    pub report: Report,
    /// Time of that report; `None` before the first.
    pub reported_at: Option<Instant>,
    /// Its egress over time.
    pub history: History,
    /// Estimate of its load.
    pub estimate: LoadEstimate,
    /// Files that it does not offer.
    pub rejected_files: u32,
    /// Of these, files whose bytes changed since they were hashed.
    pub damaged_files: u32,
    /// Number of drains started while attached.
    pub drains: u32,
    /// Number of its zone; equal for equal zones.
    pub zone: u32,
    pub(super) epoch: u64,
    /// Time of its last message, or of the attachment.
    pub(super) last_sign: Instant,
    pub(super) health: HealthTracker,
    /// Answers of its addresses; `None` if they are not dialled.
    pub(super) reach: Option<Reach>,
    pub(super) interval: Duration,
    /// Whether its load is known: it reported, or has just started.
    pub(super) load_known: bool,
    /// Whether this process has sent its whole catalog. Until then its copies are those of the previous process and may
    /// be missing.
    pub(crate) catalog_known: bool,
    /// Time at which its channel closed.
    pub(super) left: Option<Instant>,
    /// Whether its copies were dropped.
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

    /// Returns the node's health.
    pub fn health(&self, now: Instant) -> NodeHealth {
        if self.state == NodeState::Draining {
            return NodeHealth::Draining;
        }
        let known = self.load_known && self.catalog_known && self.offered().next().is_some();
        let silence = now.saturating_duration_since(self.last_sign);
        if self.state != NodeState::Serving || !known || self.lease_end() <= now {
            NodeHealth::Down
        } else if self.health.is_held(now) {
            NodeHealth::Held
        } else if self.is_lost() || self.health.is_suspect(now) || silence * 2 >= self.interval * SUSPECT_HALVES {
            NodeHealth::Suspect
        } else if silence * 2 >= self.interval * UNSURE_HALVES {
            NodeHealth::Unsure
        } else {
            NodeHealth::Well
        }
    }

    /// The addresses that clients receive, best first.
    pub fn offered(&self) -> impl Iterator<Item = SocketAddr> {
        let answers = |address: &&SocketAddr| self.reach.as_ref().is_none_or(|reach| reach.answered(address));
        self.hello.presence.addresses.iter().filter(answers).copied()
    }

    /// Whether it answered at its addresses, and does not any more.
    pub fn is_lost(&self) -> bool {
        self.reach.as_ref().is_some_and(Reach::is_lost)
    }

    /// Handles a change of its addresses.
    pub(super) fn advertised(&mut self, now: Instant) {
        if let Some(reach) = &mut self.reach {
            reach.handle_addresses(now, &self.hello.presence.addresses);
        }
    }

    /// Whether it can receive new sessions.
    pub fn can_serve(&self, now: Instant) -> bool {
        matches!(self.health(now), NodeHealth::Well | NodeHealth::Unsure)
    }

    /// Bit/s of the last report, less the elastic part of fetches.
    pub fn measured(&self) -> u64 {
        self.report.egress.0.saturating_sub(self.report.elastic.0)
    }

    /// Highest rate of one session, bit/s.
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

    /// The state that its presence requests.
    pub(super) fn requested_state(&self) -> NodeState {
        if self.hello.presence.draining { NodeState::Draining } else { NodeState::Serving }
    }

    pub(super) fn change_state(&mut self, state: NodeState) -> Option<NodeState> {
        let changed = self.state != state;
        self.state = state;
        changed.then_some(state)
    }
}
