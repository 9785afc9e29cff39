//! Dials of the nodes' addresses: orders to the dialler, and its results.

use std::{net::SocketAddr, sync::Arc};

use tracing::{info, warn};
use usher_proto::model::Presence;

use super::{SharedState, StateInner, contact, now};
use crate::core::roster::AttachmentId;

/// A node to dial.
pub(crate) struct DialOrder {
    pub(crate) attachment: AttachmentId,
    pub(crate) presence: Presence,
}

impl SharedState {
    /// Orders a dial. Without an answer the core orders it again.
    pub(super) fn order_dial(&self, inner: &StateInner, attachment: AttachmentId) {
        let Some(node) = inner.cluster.roster().node(attachment.node) else { return };
        let order = DialOrder { attachment, presence: node.hello.presence.clone() };
        let sent = self.dials.try_send(order).is_ok();
        self.metrics.order("dial_back", if sent { "sent" } else { "dropped" });
    }

    /// Handles the result of a dial: only addresses that answered are offered.
    pub(crate) fn dialled(&self, attachment: AttachmentId, answered: Vec<SocketAddr>) {
        let mut inner = self.lock();
        let now = now();
        self.metrics.order("dial_back", if answered.is_empty() { "silent" } else { "answered" });
        inner.dialled(attachment, answered, now);
        self.publish(&mut inner, now);
    }
}

impl StateInner {
    pub(super) fn dialled(&mut self, attachment: AttachmentId, answered: Vec<SocketAddr>, now: crate::core::Now) {
        self.cluster.handle_dialled(now, attachment, answered.clone());
        self.refresh_contact(attachment);
        let Some(channel) = self.channels.get_mut(&attachment.node).filter(|one| one.attachment == attachment) else {
            return;
        };
        let Some(node) = self.cluster.roster().node(attachment.node) else { return };
        let name = node.name();
        let addresses = &node.hello.presence.addresses;
        let silent: Vec<SocketAddr> = addresses.iter().filter(|one| !answered.contains(one)).copied().collect();
        if channel.silent == silent {
            return;
        }
        if silent.is_empty() {
            info!(node = %name, "node answers at its addresses");
        } else {
            warn!(
                node = %name, addresses = ?silent,
                "node does not answer at addresses that it advertises, so clients are not sent there: let UDP through to them, correct --advertise at the node, or start the master with --dial-back off"
            );
        }
        channel.silent = silent;
    }

    /// Renews the contact data of a node after a change of its addresses.
    pub(super) fn refresh_contact(&mut self, attachment: AttachmentId) {
        let node = self.cluster.roster().node(attachment.node);
        if let Some((channel, node)) = self.channels.get_mut(&attachment.node).zip(node)
            && channel.attachment == attachment
        {
            channel.contact = Arc::new(contact(&node.hello, node.offered(), channel.contact.key.clone()));
        }
    }
}
