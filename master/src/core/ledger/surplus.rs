//! Sessions that run at two nodes at once: all seats of an answer carry the same session, and a client should use one
//! of them. A change of seats overlaps for a moment, so the surplus seat ends only after a while.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use usher_proto::SessionId;

use super::NodeId;

/// Time that a session may run at two nodes: a client that fails over leaves the old node as soon as the new one
/// delivers, and nodes report within 0.2 s.
pub const OVERLAP: Duration = Duration::from_secs(3);

/// A further seat of a session that runs elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SurplusSeat {
    pub(super) node: NodeId,
    /// Bit/s.
    pub(super) rate: u64,
    /// Time by which it must have ended.
    pub(super) due: Instant,
}

/// All surplus seats.
#[derive(Default)]
pub(super) struct SurplusSeats {
    seats: HashMap<SessionId, Vec<SurplusSeat>>,
    /// By time; seats that ended early stay here until then.
    order: VecDeque<(Instant, SessionId, NodeId)>,
}

impl SurplusSeats {
    pub(super) fn insert(&mut self, now: Instant, session: SessionId, node: NodeId, rate: u64) {
        let due = now + OVERLAP;
        self.remove(session, node);
        self.seats.entry(session).or_default().push(SurplusSeat { node, rate, due });
        self.order.push_back((due, session, node));
    }

    /// Removes a seat. Returns it if it was known.
    pub(super) fn remove(&mut self, session: SessionId, node: NodeId) -> Option<SurplusSeat> {
        let seats = self.seats.get_mut(&session)?;
        let at = seats.iter().position(|seat| seat.node == node)?;
        let seat = seats.swap_remove(at);
        if seats.is_empty() {
            self.seats.remove(&session);
        }
        Some(seat)
    }

    /// Takes any seat of a session whose other seat ended.
    pub(super) fn take(&mut self, session: SessionId) -> Option<SurplusSeat> {
        let node = self.seats.get(&session)?.last()?.node;
        self.remove(session, node)
    }

    /// Removes the seats on a node for which `keep` is false.
    pub(super) fn retain(&mut self, node: NodeId, keep: impl Fn(SessionId) -> bool) {
        self.seats.retain(|session, seats| {
            seats.retain(|seat| seat.node != node || keep(*session));
            !seats.is_empty()
        });
    }

    /// The next seat that must end now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<(SessionId, NodeId)> {
        while let Some((due, session, node)) = self.order.front().copied().filter(|(due, ..)| *due <= now) {
            self.order.pop_front();
            let seats = self.seats.get(&session).into_iter().flatten();
            // The seat may have ended, and begun again later.
            if seats.into_iter().any(|seat| (seat.node, seat.due) == (node, due)) {
                self.remove(session, node);
                return Some((session, node));
            }
        }
        None
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.order.front().map(|(due, ..)| *due)
    }
}
