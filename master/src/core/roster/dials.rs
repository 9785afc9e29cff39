//! Proofs of what nodes claim: which nodes to dial now and what a result means, and the capacity that was proven.

use std::{net::SocketAddr, time::Instant};

use super::{AttachmentId, NodeId, Roster};

impl Roster {
    /// Trusts every node's claimed capacity up to twice the highest rate that was proven, in bit/s.
    pub fn trust(&mut self, proven: u64) {
        self.nodes.iter_mut().flatten().for_each(|node| node.estimate.trust(proven));
    }

    /// Handles a client's report that a node does not answer at its address.
    pub fn handle_hint(&mut self, now: Instant, id: NodeId) {
        let node = self.nodes.get_mut(id.index()).and_then(Option::as_mut);
        if let Some(reach) = node.filter(|node| node.attached()).and_then(|node| node.reach.as_mut()) {
            reach.handle_hint(now);
        }
    }

    /// Handles the result of dialling a node's addresses.
    pub fn handle_dialled(&mut self, now: Instant, attachment: AttachmentId, answered: Vec<SocketAddr>) {
        let Some(node) = self.current(attachment) else { return };
        if let Some(reach) = &mut node.reach {
            reach.handle_dialled(now, &node.hello.presence.addresses, answered);
        }
    }

    /// Handles the start of a session that this cluster issued.
    pub fn handle_begun(&mut self, now: Instant, id: NodeId) {
        let node = self.nodes.get_mut(id.index()).and_then(Option::as_mut);
        if let Some(reach) = node.and_then(|node| node.reach.as_mut()) {
            reach.handle_session(now);
        }
    }

    /// The nodes to dial now; the dials then count as started.
    pub fn poll_dials(&mut self, now: Instant) -> Vec<AttachmentId> {
        let attached = self.nodes.iter_mut().zip(0..).filter_map(|(node, id)| Some((node.as_mut()?, NodeId(id))));
        let due = attached.filter_map(|(node, id)| {
            let dial = node.attached() && node.reach.as_mut()?.poll_dial(now);
            dial.then_some(AttachmentId { node: id, epoch: node.epoch })
        });
        due.collect()
    }
}
