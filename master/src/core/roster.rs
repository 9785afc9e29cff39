//! The roster: nodes, their state and their leases. Owns leases, states and the fencing of old attachments.

mod dials;
mod health;
mod node;
mod reach;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use thiserror::Error;
use usher_proto::{
    BootId, NodeName,
    code::{Code, Fault},
    model::{Hello, Presence, Report},
};

use self::{health::HealthTracker, node::LEASE_REPORTS, reach::Reach};
pub use self::{
    health::PROBE,
    node::{Node, NodeHealth, NodeState},
};
use super::{
    NodeId, Now,
    history::{History, Sample},
    load_estimate::LoadEstimate,
};

/// Default report interval.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Lease duration at the default interval.
pub const LEASE: Duration = REPORT_INTERVAL.saturating_mul(LEASE_REPORTS);

/// Time after its lease that a detached node's copies are kept: a node's restart or a short network outage must not
/// empty the catalog.
pub const GRACE: Duration = Duration::from_secs(30);

/// Time that a detached node is kept for its history.
pub const RECORD: Duration = Duration::from_secs(600);

/// One attachment of one node. Messages of any other attachment are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttachmentId {
    /// The node.
    pub node: NodeId,
    epoch: u64,
}

/// Why a node may not attach.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AttachError {
    /// Another live process uses the name.
    #[error(
        "node `{node}` is already attached by its process {there} at {address}, which is alive; process {here} must wait \
         until that one ends, or use another name"
    )]
    Taken {
        /// The name.
        node: NodeName,
        /// Process that uses the name.
        there: BootId,
        /// Client address of that process; empty if none.
        address: String,
        /// Rejected process.
        here: BootId,
    },
    /// The process has a newer attachment.
    #[error("attachment {here} of node `{node}` is older than its attachment {there}")]
    Older {
        /// The name.
        node: NodeName,
        /// Newest attachment.
        there: u64,
        /// Rejected attachment.
        here: u64,
    },
}

impl From<&AttachError> for Fault {
    fn from(error: &AttachError) -> Self {
        Self::new(Code::Exists, error.to_string()).after(LEASE)
    }
}

/// Why a report was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Ignored {
    /// Its attachment was replaced.
    #[error("its attachment was replaced")]
    Superseded,
    /// It is not newer than the last one.
    #[error("its sequence number or uptime is not above the last one's")]
    Old,
}

/// A change of a node by time alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RosterChange {
    /// Its new state.
    State(NodeState),
    /// Its copies must be dropped.
    CopiesVoid,
    /// It was removed from the roster.
    Forgotten,
}

/// All known nodes.
pub struct Roster {
    interval: Duration,
    /// Whether addresses are dialled before they are offered.
    dial_back: bool,
    names: HashMap<NodeName, NodeId>,
    /// Zone numbers by name.
    zones: HashMap<String, u32>,
    /// By number. Numbers are not reused; a hole is a removed node.
    nodes: Vec<Option<Node>>,
    epochs: u64,
}

impl Default for Roster {
    fn default() -> Self {
        Self::new(REPORT_INTERVAL, false)
    }
}

impl Roster {
    /// A roster of nodes with this report interval. With `dial_back`, only addresses that answered the master are offered.
    pub fn new(interval: Duration, dial_back: bool) -> Self {
        Self { interval, dial_back, names: HashMap::new(), zones: HashMap::new(), nodes: Vec::new(), epochs: 0 }
    }

    /// Lease duration.
    pub fn lease(&self) -> Duration {
        self.interval * LEASE_REPORTS
    }

    /// Attaches a node and replaces its older attachment. Returns the attachment, and whether the process is new:
    /// tickets issued for the previous process are then void.
    pub fn handle_attach(&mut self, now: Now, hello: Hello) -> Result<(AttachmentId, bool), AttachError> {
        let known = self.id(&hello.node);
        if let Some(node) = known.and_then(|id| self.node(id)) {
            let same = node.hello.boot == hello.boot;
            if !same && node.attached() && node.lease_end() > now.instant {
                let address = node.hello.presence.addresses.first().map(ToString::to_string).unwrap_or_default();
                let (there, here) = (node.hello.boot, hello.boot);
                return Err(AttachError::Taken { node: hello.node, there, address, here });
            }
            if same && hello.attachment <= node.hello.attachment {
                let there = node.hello.attachment;
                return Err(AttachError::Older { node: hello.node, there, here: hello.attachment });
            }
        }
        self.epochs += 1;
        let epoch = self.epochs;
        let id = known.unwrap_or_else(|| {
            // 2^32 names would each need a certificate.
            let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
            self.nodes.push(None);
            self.names.insert(hello.node.clone(), id);
            id
        });
        let slot = &mut self.nodes[id.index()];
        let fresh = slot.as_ref().is_none_or(|node| node.hello.boot != hello.boot);
        let old = slot.take();
        let started = hello.attachment == 1;
        let next = u32::try_from(self.zones.len()).unwrap_or(u32::MAX);
        let zone = *self.zones.entry(hello.zone.clone()).or_insert(next);
        let mut node = Node {
            zone,
            estimate: LoadEstimate::new(now.instant, hello.capacity.0),
            health: HealthTracker::default(),
            reach: self.dial_back.then(|| Reach::new(now.instant)),
            interval: self.interval,
            hello,
            state: NodeState::Serving,
            attached_at: now,
            report: Report::default(),
            reported_at: None,
            history: History::default(),
            rejected_files: 0,
            damaged_files: 0,
            drains: 0,
            epoch,
            last_sign: now.instant,
            // A new process carries no load. One that was attached to a master before carries an unknown load until it
            // reports.
            load_known: started,
            catalog_known: false,
            left: None,
            copies_void: false,
        };
        if let Some(old) = old {
            (node.history, node.health) = (old.history, old.health);
            if !fresh {
                if old.hello.capacity == node.hello.capacity {
                    node.estimate = old.estimate;
                }
                (node.report, node.reported_at, node.load_known) = (old.report, old.reported_at, old.load_known);
                (node.rejected_files, node.damaged_files) = (old.rejected_files, old.damaged_files);
                node.drains = old.drains;
                node.reach = old.reach;
                node.advertised(now.instant);
                node.catalog_known = old.catalog_known;
            }
        }
        node.state = node.requested_state();
        *slot = Some(node);
        Ok((AttachmentId { node: id, epoch }, fresh))
    }

    /// Handles the end of a channel. Returns false if the attachment was already replaced.
    pub fn handle_detach(&mut self, now: Now, attachment: AttachmentId) -> bool {
        let Some(node) = self.current(attachment) else { return false };
        if node.state == NodeState::Serving {
            node.health.handle_failure(now.instant);
        }
        node.state = NodeState::Gone;
        node.left = Some(now.instant);
        true
    }

    /// Handles a report and renews the lease. Returns the state if it changed.
    pub fn handle_report(
        &mut self,
        now: Now,
        attachment: AttachmentId,
        report: Report,
    ) -> Result<Option<NodeState>, Ignored> {
        let node = self.current(attachment).ok_or(Ignored::Superseded)?;
        let older = report.sequence <= node.report.sequence || report.uptime_ms < node.report.uptime_ms;
        if node.reported_at.is_some() && older {
            return Err(Ignored::Old);
        }
        node.history.push(Sample { at: now, egress: report.egress.0, sessions: report.sessions });
        node.report = report;
        node.estimate.handle_report(now.instant, &node.report);
        node.reported_at = Some(now.instant);
        node.note_sign_of_life(now.instant);
        node.load_known = true;
        Ok(node.change_state(node.requested_state()))
    }

    /// Handles the committed rate and the ended bit/s of a session update. Returns the state if it changed.
    pub fn handle_sessions(
        &mut self,
        now: Instant,
        attachment: AttachmentId,
        uptime: Duration,
        committed: u64,
        ended: u64,
    ) -> Option<NodeState> {
        let node = self.current(attachment)?;
        node.estimate.handle_committed(now, uptime, committed, ended);
        node.load_known = true;
        self.handle_sign_of_life(now, attachment)
    }

    /// Handles a refusal of the node, which limits its committed rate.
    pub fn handle_limit(&mut self, now: Instant, attachment: AttachmentId, limit: u64) {
        if let Some(node) = self.current(attachment) {
            node.estimate.handle_limit(now, limit);
        }
    }

    /// Renews the lease after any message. Returns the state if it changed.
    pub fn handle_sign_of_life(&mut self, now: Instant, attachment: AttachmentId) -> Option<NodeState> {
        let node = self.current(attachment)?;
        node.note_sign_of_life(now);
        node.change_state(node.requested_state())
    }

    /// Records a probe. Returns false if the node is detached or a probe is already pending.
    pub fn start_probe(&mut self, now: Instant, id: NodeId) -> bool {
        let node = self.nodes.get_mut(id.index()).and_then(Option::as_mut);
        let Some(node) = node.filter(|node| node.attached() && !node.health.is_probing(now)) else { return false };
        node.health.handle_probe(now);
        true
    }

    /// Handles a change of presence. Returns the state if it changed; `None` also if the attachment was replaced.
    pub fn handle_presence(&mut self, now: Instant, attachment: AttachmentId, presence: Presence) -> Option<NodeState> {
        let node = self.current(attachment)?;
        node.drains += u32::from(presence.draining && !node.hello.presence.draining);
        node.hello.presence = presence;
        node.advertised(now);
        // A stale node stays stale until it reports.
        if node.state == NodeState::Stale { None } else { node.change_state(node.requested_state()) }
    }

    /// Whether an attachment is its node's current one.
    pub fn is_current(&self, attachment: AttachmentId) -> bool {
        self.node(attachment.node).is_some_and(|node| node.epoch == attachment.epoch && node.attached())
    }

    /// The node of a current attachment.
    pub fn current(&mut self, attachment: AttachmentId) -> Option<&mut Node> {
        let node = self.nodes.get_mut(attachment.node.index())?.as_mut()?;
        (node.epoch == attachment.epoch && node.attached()).then_some(node)
    }

    /// Expires leases and removes long-gone nodes.
    pub fn handle_timeout(&mut self, now: Now) -> Vec<(NodeId, RosterChange)> {
        let (mut changes, lease) = (Vec::new(), self.lease());
        for (slot, id) in self.nodes.iter_mut().zip(0..) {
            let Some(node) = slot else { continue };
            let id = NodeId(id);
            match node.left {
                None if node.state != NodeState::Stale && node.lease_end() <= now.instant => {
                    node.state = NodeState::Stale;
                    node.health.handle_failure(now.instant);
                    changes.push((id, RosterChange::State(NodeState::Stale)));
                }
                None => {}
                Some(left) if left + RECORD <= now.instant => {
                    self.names.remove(&node.hello.node);
                    *slot = None;
                    changes.push((id, RosterChange::Forgotten));
                }
                Some(left) if left + lease + GRACE <= now.instant && !node.copies_void => {
                    node.copies_void = true;
                    changes.push((id, RosterChange::CopiesVoid));
                }
                Some(_) => {}
            }
        }
        changes
    }

    /// Time of the next change by time alone.
    pub fn next_timeout(&self) -> Option<Instant> {
        let deadlines = self.nodes.iter().flatten().filter_map(|node| match node.left {
            None => (node.state != NodeState::Stale).then(|| node.lease_end()),
            Some(left) if node.copies_void => Some(left + RECORD),
            Some(left) => Some(left + self.lease() + GRACE),
        });
        let attached = self.nodes.iter().flatten().filter(|node| node.attached());
        deadlines.chain(attached.filter_map(|node| node.reach.as_ref()?.next_timeout())).min()
    }

    /// Number of a node by name.
    pub fn id(&self, name: &NodeName) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    /// A node by number.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())?.as_ref()
    }

    /// Whether a node's channel is open.
    pub fn attached(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(Node::attached)
    }

    /// All nodes, in no particular order.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().zip(0..).filter_map(|(node, id)| Some((NodeId(id), node.as_ref()?)))
    }
}
