//! Reservations without a session, by node and source: the heaviest source of a node first, its oldest reservation
//! first. Every change takes logarithmic time.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use usher_proto::SessionId;

use super::{NodeId, Source};

/// Unredeemed reservations of all nodes.
#[derive(Default)]
pub(super) struct Unredeemed {
    nodes: Vec<NodeTickets>,
}

#[derive(Default)]
struct NodeTickets {
    by_source: HashMap<Source, SourceTickets>,
    /// Bit/s and source.
    heaviest: BTreeSet<(u64, Source)>,
}

#[derive(Default)]
struct SourceTickets {
    rate: u64,
    /// By expiry.
    oldest: BTreeSet<(Instant, SessionId)>,
}

/// A reservation as it is found here.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    pub(super) node: NodeId,
    pub(super) source: Source,
    pub(super) session: SessionId,
    pub(super) rate: u64,
    pub(super) expires: Instant,
}

impl Unredeemed {
    pub(super) fn insert(&mut self, ticket: Ticket) {
        let index = ticket.node.index();
        if self.nodes.len() <= index {
            self.nodes.resize_with(index + 1, NodeTickets::default);
        }
        self.nodes[index].change(ticket.source, |tickets| {
            if tickets.oldest.insert((ticket.expires, ticket.session)) {
                tickets.rate = tickets.rate.saturating_add(ticket.rate);
            }
        });
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        let Some(node) = self.nodes.get_mut(ticket.node.index()) else { return };
        node.change(ticket.source, |tickets| {
            if tickets.oldest.remove(&(ticket.expires, ticket.session)) {
                tickets.rate = tickets.rate.saturating_sub(ticket.rate);
            }
        });
    }

    /// Sources with reservations on a node and their bit/s there, the heaviest first.
    pub(super) fn sources(&self, node: NodeId) -> impl Iterator<Item = (Source, u64)> {
        let node = self.nodes.get(node.index()).into_iter();
        node.flat_map(|node| node.heaviest.iter().rev().map(|(rate, source)| (*source, *rate)))
    }

    /// Reservations of a source on a node, the oldest first.
    pub(super) fn oldest(&self, node: NodeId, source: Source) -> impl Iterator<Item = SessionId> {
        let tickets = self.nodes.get(node.index()).and_then(|node| node.by_source.get(&source)).into_iter();
        tickets.flat_map(|tickets| tickets.oldest.iter().map(|(_, session)| *session))
    }
}

impl NodeTickets {
    fn change(&mut self, source: Source, change: impl FnOnce(&mut SourceTickets)) {
        let tickets = self.by_source.entry(source).or_default();
        self.heaviest.remove(&(tickets.rate, source));
        change(tickets);
        if tickets.oldest.is_empty() {
            self.by_source.remove(&source);
        } else {
            self.heaviest.insert((tickets.rate, source));
        }
    }
}
