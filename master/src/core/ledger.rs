//! The ledger: every session that holds a reservation or runs, and its rate on its node.
//!
//! A reservation holds from the decision until the node reports that the session started or was refused, or until it
//! expires. Without reservations, all requests between two reports would choose the same free node. Running sessions
//! are kept so that they can be moved. Weighing a node's own reports is `load_estimate`'s part.
//!
//! A reservation without a session is soft: it may be released for a client that holds less, see `release`. Its ticket
//! stays valid, and the node admits it while it has capacity.

mod expiry;
mod release;
mod session_table;
mod sources;
mod surplus;
#[cfg(test)]
mod tests;
mod unredeemed;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::{Duration, Instant},
};

use usher_proto::{SessionId, ticket::Purpose};

use self::{
    release::LateTickets,
    session_table::{SessionTable, Slot},
    sources::Sources,
    surplus::SurplusSeats,
    unredeemed::Unredeemed,
};
pub use self::{
    session_table::{ContentRef, NodeSessions},
    sources::{Holding, Source},
    surplus::OVERLAP,
};
use super::{NodeId, Now, catalog::ContentKey};

/// Lifetime of a reservation. A client dials within two seconds and the node reports it within 0.2 s, so five seconds
/// cover every live client. The ticket is valid for longer (`usher_proto::ticket::LIFETIME_SECS`), and a late client is
/// admitted if the node has capacity. Holding the rate as long as the ticket would let every client that leaves
/// block it for a minute.
pub const RESERVATION: Duration = Duration::from_secs(5);

/// Lifetime of a reservation of a client that wastes more of them than it uses: time for a round trip around the world.
pub const SHORT_RESERVATION: Duration = Duration::from_secs(1);

/// Unconfirmed changes of one node's load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingLoad {
    /// Bit/s of tickets and incoming moves that the node has not confirmed.
    pub rate: u64,
    /// Number of these.
    pub tickets: u32,
    /// Bit/s of sessions ordered away whose end the node has not reported.
    pub leaving: u64,
}

/// State of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// A ticket was issued, and the node has not reported the session.
    Reserved,
    /// It runs.
    Running,
    /// It runs, and was ordered to another node.
    Moving(NodeId),
}

/// A session as other modules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The node where it runs or holds a reservation.
    pub node: NodeId,
    /// Bit/s.
    pub rate: u64,
    /// Where it stands.
    pub state: SessionState,
    /// Number of times it was moved.
    pub moves: u8,
    /// Play or fetch.
    pub purpose: Purpose,
}

/// A session ordered away from a node that has not reported its end.
struct Departure {
    node: NodeId,
    rate: u64,
    expires: Instant,
}

/// A reservation to make, or a session that started.
#[derive(Clone, Copy, Debug)]
pub struct Booking {
    /// Its id.
    pub session: SessionId,
    /// Its node.
    pub node: NodeId,
    /// Its content, if known.
    pub content: Option<ContentKey>,
    /// Bit/s.
    pub rate: u64,
    /// Play or fetch.
    pub purpose: Purpose,
}

/// All sessions, and the unconfirmed load of each node.
#[derive(Default)]
pub struct Ledger {
    table: SessionTable,
    leaving: HashMap<SessionId, Departure>,
    /// By expiry, soonest first; entries that ended early remain until then.
    order: BinaryHeap<Reverse<(Instant, SessionId)>>,
    promised: Vec<PendingLoad>,
    sources: Sources,
    unredeemed: Unredeemed,
    late: LateTickets,
    surplus: SurplusSeats,
}

impl Ledger {
    /// Reserves a session's rate on a node for a client; `None` is a client that is not accounted. An earlier reservation
    /// of the session is released.
    pub fn reserve(&mut self, now: Now, booking: Booking, source: Option<Source>) {
        let Booking { session, node, content, rate, purpose } = booking;
        self.release(session);
        let wasteful = source.is_some_and(|source| self.sources.is_wasteful(now.instant, source));
        let expires = now.instant + if wasteful { SHORT_RESERVATION } else { RESERVATION };
        self.promise(node, rate);
        let (state, moves, reserved) = (SessionState::Reserved, 0, rate);
        let slot =
            Slot { session, node, rate, reserved, state, moves, purpose, expires: Some(expires), source, fresh: true };
        self.insert(slot, content);
        self.order.push(Reverse((expires, session)));
    }

    /// Removes a session. Returns whether it was known.
    pub fn release(&mut self, session: SessionId) -> bool {
        let Some(slot) = self.take(session) else { return false };
        match slot.state {
            SessionState::Reserved => self.unpromise(slot.node, slot.rate),
            SessionState::Moving(to) => self.unpromise(to, slot.rate),
            SessionState::Running => {}
        }
        true
    }

    /// Handles a session's start on a node; ends its reservation or its place elsewhere. A session that runs elsewhere
    /// and does not move here has a surplus seat: the other one, unless the node only `lists` all of its sessions.
    /// Returns whether this redeemed a ticket of this master.
    pub fn handle_begun(&mut self, now: Instant, begun: Booking, lists: bool) -> bool {
        let Booking { session, node, content, rate, purpose } = begun;
        let before = self.table.find(session).copied();
        let late = self.redeem_late(now, session);
        let runs_elsewhere = |slot: &Slot| match slot.state {
            SessionState::Reserved => false,
            SessionState::Running => slot.node != node,
            SessionState::Moving(to) => slot.node != node && to != node,
        };
        if let Some(other) = before.filter(runs_elsewhere) {
            if lists {
                self.surplus.insert(now, session, node, rate);
                return false;
            }
            self.surplus.insert(now, session, other.node, other.rate);
        }
        self.surplus.remove(session, node);
        self.release(session);
        let (source, moves) = before.map_or((late, 0), |slot| (slot.source, slot.moves));
        // A node that states a higher rate than it was given would pass for one that delivers it.
        let rate = before.map_or(rate, |slot| rate.min(slot.rate));
        let (state, reserved, expires) = (SessionState::Running, rate, None);
        let slot = Slot { session, node, rate, reserved, state, moves, purpose, expires, source, fresh: false };
        self.insert(slot, content);
        late.is_some() || before.is_some_and(|slot| slot.fresh)
    }

    /// Handles a change of the bit/s that a node reserves for a session that runs there.
    pub fn handle_rate_changed(&mut self, node: NodeId, session: SessionId, rate: u64) {
        let here = |slot: &&Slot| slot.node == node && slot.state == SessionState::Running;
        if self.table.find(session).filter(here).is_some() {
            self.change(session, |slot| slot.reserved = rate.min(slot.rate));
        }
    }

    /// Handles a session's end on a node. Returns its reserved rate if it was running there.
    pub fn handle_ended(&mut self, node: NodeId, session: SessionId) -> Option<u64> {
        let left = self.leaving.get(&session).is_some_and(|leaving| leaving.node == node);
        if left {
            self.end_departure(session);
        }
        if let Some(seat) = self.surplus.remove(session, node) {
            return Some(seat.rate);
        }
        let slot = self.table.find(session).filter(|slot| slot.node == node)?;
        let (rate, state) = (slot.reserved, slot.state);
        match state {
            // The ticket may have been for an alternate, and the reservation belongs to that.
            SessionState::Reserved => return None,
            SessionState::Running => self.leave(session),
            SessionState::Moving(to) => {
                // The old seat is free and the new one reserved. A move says nothing about session durations.
                self.change(session, |slot| (slot.node, slot.state) = (to, SessionState::Reserved));
                return None;
            }
        }
        Some(rate)
    }

    /// Ends the place of a session. One that also runs elsewhere continues there.
    fn leave(&mut self, session: SessionId) {
        let (content, slot) = (self.table.content(session), self.table.find(session).copied());
        self.release(session);
        if let Some(seat) = self.surplus.take(session)
            && let Some(slot) = slot
        {
            let (node, rate, state) = (seat.node, seat.rate, SessionState::Running);
            self.insert(Slot { node, rate, reserved: rate, state, expires: None, fresh: false, ..slot }, content);
        }
    }

    /// Handles a node's refusal of a session. Returns whether a reservation was released.
    pub fn handle_refused(&mut self, now: Instant, node: NodeId, session: SessionId) -> bool {
        let Some(slot) = self.table.find(session) else {
            // Its client tried.
            self.redeem_late(now, session);
            return false;
        };
        match slot.state {
            SessionState::Reserved if slot.node == node => self.release(session),
            SessionState::Moving(to) if to == node => self.cancel_move(session),
            _ => false,
        }
    }

    /// Starts the move of a running session: reserves its rate at the target and marks it as leaving its node.
    pub fn start_move(&mut self, now: Now, session: SessionId, to: NodeId) -> bool {
        let Some(slot) = self.table.find(session).filter(|slot| slot.state == SessionState::Running) else {
            return false;
        };
        let (from, rate, leaving) = (slot.node, slot.rate, slot.reserved);
        let expires = now.instant + RESERVATION;
        self.change(session, |slot| {
            slot.state = SessionState::Moving(to);
            slot.moves = slot.moves.saturating_add(1);
            slot.expires = Some(expires);
        });
        self.promise(to, rate);
        // An earlier move of the session whose end was not reported.
        self.end_departure(session);
        self.promised_mut(from).leaving += leaving;
        self.leaving.insert(session, Departure { node: from, rate: leaving, expires });
        self.order.push(Reverse((expires, session)));
        true
    }

    /// Cancels a move; the session stays at its node.
    pub fn cancel_move(&mut self, session: SessionId) -> bool {
        let Some(slot) = self.table.find(session) else { return false };
        let (SessionState::Moving(to), rate) = (slot.state, slot.rate) else { return false };
        self.unpromise(to, rate);
        self.end_departure(session);
        self.change(session, |slot| (slot.state, slot.expires) = (SessionState::Running, None));
        true
    }

    /// Removes the running sessions of a node except those for which `keep` is true, after the node listed them all.
    pub fn retain(&mut self, node: NodeId, keep: impl Fn(SessionId) -> bool) {
        for session in self.table.session_ids(node) {
            let running = self.table.find(session).is_some_and(|slot| slot.state != SessionState::Reserved);
            if running && !keep(session) {
                self.handle_ended(node, session);
            }
        }
        self.surplus.retain(node, keep);
    }

    /// Removes all reservations and sessions of a node, which is a new process.
    pub fn release_all(&mut self, node: NodeId) {
        self.surplus.retain(node, |_| false);
        for session in self.table.session_ids(node) {
            self.leave(session);
        }
        // Moves to it are void.
        for session in self.table.moving_to(node) {
            self.cancel_move(session);
        }
        self.leaving.retain(|_, leaving| leaving.node != node);
        if let Some(promised) = self.promised.get_mut(node.index()) {
            *promised = PendingLoad::default();
        }
    }

    /// Unconfirmed changes of a node's load.
    pub fn pending_load(&self, node: NodeId) -> PendingLoad {
        self.promised.get(node.index()).copied().unwrap_or_default()
    }

    /// A session.
    pub fn session(&self, session: SessionId) -> Option<Session> {
        let Slot { node, rate, state, moves, purpose, .. } = *self.table.find(session)?;
        Some(Session { node, rate, state, moves, purpose })
    }

    /// The content of a session, if known.
    pub fn content(&self, session: SessionId) -> Option<ContentKey> {
        self.table.content(session)
    }

    /// Contents with sessions on a node, for searches of sessions to move.
    pub fn contents(&self, node: NodeId) -> &[ContentRef] {
        self.table.contents(node)
    }

    /// The sessions of one content on one node.
    pub fn sessions_of(&self, node: NodeId, content: ContentRef) -> Option<NodeSessions<'_>> {
        self.table.sessions_of(node, content)
    }

    /// Number of sessions that run on a node, moving ones included.
    pub fn running(&self, node: NodeId) -> usize {
        self.contents(node)
            .iter()
            .filter_map(|content| self.sessions_of(node, *content))
            .map(|place| place.taken())
            .sum()
    }

    /// Bit/s of the sessions that run on a node, moving ones included.
    pub fn running_rate(&self, node: NodeId) -> u64 {
        self.table.running_rate(node)
    }

    /// Number of known sessions.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no session is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Inserts a session that is not present.
    fn insert(&mut self, slot: Slot, content: Option<ContentKey>) {
        self.account(&slot, true);
        self.table.insert(slot, content);
    }

    fn take(&mut self, session: SessionId) -> Option<Slot> {
        let slot = self.table.remove(session)?;
        self.account(&slot, false);
        Some(slot)
    }

    fn change(&mut self, session: SessionId, change: impl FnOnce(&mut Slot)) {
        let Some(mut slot) = self.table.find(session).copied() else { return };
        self.account(&slot, false);
        change(&mut slot);
        self.account(&slot, true);
        self.table.change(session, |place| *place = slot);
    }

    /// Ends the departure of a moved session.
    fn end_departure(&mut self, session: SessionId) {
        if let Some(Departure { node, rate, .. }) = self.leaving.remove(&session) {
            let promised = self.promised_mut(node);
            promised.leaving = promised.leaving.saturating_sub(rate);
        }
    }

    fn promise(&mut self, node: NodeId, rate: u64) {
        let promised = self.promised_mut(node);
        promised.rate = promised.rate.saturating_add(rate);
        promised.tickets += 1;
    }

    fn unpromise(&mut self, node: NodeId, rate: u64) {
        let promised = self.promised_mut(node);
        promised.rate = promised.rate.saturating_sub(rate);
        promised.tickets = promised.tickets.saturating_sub(1);
    }

    fn promised_mut(&mut self, node: NodeId) -> &mut PendingLoad {
        if self.promised.len() <= node.index() {
            self.promised.resize_with(node.index() + 1, PendingLoad::default);
        }
        &mut self.promised[node.index()]
    }
}
