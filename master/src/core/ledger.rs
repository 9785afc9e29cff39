//! The ledger: every session that the master promised a place or knows to run, and what that takes of each node.
//!
//! A promise holds from the decision until the node tells that the session began or was turned away, or until it
//! expires. Without it, every request between two words of a node would see the same free node. A session that runs is
//! kept so that it can be moved. Refuses to know how a node's own word is weighed: that is `books`.

mod session_table;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use usher_proto::{SessionId, ticket::Purpose};

pub use self::session_table::{ContentRef, NodeSessions};
use self::session_table::{SessionTable, Slot};
use super::{NodeId, Now, catalog::ContentKey};

/// How long a promise is held. A client dials within a second or two, and the node tells that within 0.2 s more, so
/// that five seconds hold the place of every client that is alive. The ticket itself is good for longer
/// (`usher_proto::ticket::LIFETIME_SECS`): one that comes later is still honoured if the node has room. Holding the
/// place as long as the ticket would let every client that walks away keep its rate from others for a minute.
pub const RESERVATION: Duration = Duration::from_secs(5);

/// What one node was promised to and will be rid of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingLoad {
    /// Bit/s of tickets, and of moves to it, that it has not told of yet.
    pub rate: u64,
    /// Their number.
    pub tickets: u32,
    /// Bit/s of sessions that were ordered away and that it has not told the end of.
    pub leaving: u64,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// A ticket was given, and its node has told nothing of it.
    Reserved,
    /// It runs.
    Running,
    /// It runs, and was ordered to another node.
    Moving(NodeId),
}

/// One session, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Where it is, or has a place.
    pub node: NodeId,
    /// Bit/s.
    pub rate: u64,
    /// Where it stands.
    pub state: SessionState,
    /// How often it was moved.
    pub moves: u8,
    /// Play or fetch.
    pub purpose: Purpose,
}

/// A session that was ordered away from a node which has not told its end yet.
struct Departure {
    node: NodeId,
    rate: u64,
    expires: Instant,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    table: SessionTable,
    leaving: HashMap<SessionId, Departure>,
    /// In order of expiry, since all are held equally long; what ended early is still in it.
    order: VecDeque<(Instant, SessionId)>,
    promised: Vec<PendingLoad>,
}

impl Ledger {
    /// Holds `rate` bit/s of a node for a session. A session that already holds a place gives that one up.
    pub fn reserve(
        &mut self,
        now: Now,
        session: SessionId,
        node: NodeId,
        content: Option<ContentKey>,
        rate: u64,
        purpose: Purpose,
    ) {
        self.release(session);
        let expires = now.instant + RESERVATION;
        self.promise(node, rate);
        let slot =
            Slot { session, node, rate, state: SessionState::Reserved, moves: 0, purpose, expires: Some(expires) };
        self.table.insert(slot, content);
        self.order.push_back((expires, session));
    }

    /// Forgets a session: it will never be, or is over. False when it is not known.
    pub fn release(&mut self, session: SessionId) -> bool {
        let Some(slot) = self.table.remove(session) else { return false };
        match slot.state {
            SessionState::Reserved => self.unpromise(slot.node, slot.rate),
            SessionState::Moving(to) => self.unpromise(to, slot.rate),
            SessionState::Running => {}
        }
        true
    }

    /// A node told that a session began there. Its place elsewhere, or its promise, ends with that.
    pub fn handle_begun(
        &mut self,
        node: NodeId,
        session: SessionId,
        content: Option<ContentKey>,
        rate: u64,
        purpose: Purpose,
    ) {
        let moves = self.table.find(session).map_or(0, |slot| slot.moves);
        self.release(session);
        let slot = Slot { session, node, rate, state: SessionState::Running, moves, purpose, expires: None };
        self.table.insert(slot, content);
    }

    /// A node told that a session is over there; its rate, if it was known to run there.
    pub fn handle_ended(&mut self, node: NodeId, session: SessionId) -> Option<u64> {
        let left = self.leaving.get(&session).is_some_and(|leaving| leaving.node == node);
        if left {
            self.end_departure(session);
        }
        let slot = self.table.find(session).filter(|slot| slot.node == node)?;
        let (rate, state) = (slot.rate, slot.state);
        match state {
            // Its ticket may have been for an alternate, and the promise stands for that.
            SessionState::Reserved => return None,
            SessionState::Running => {
                self.table.remove(session);
            }
            SessionState::Moving(to) => {
                // The old seat is empty, the new one is promised. No departure that tells how long sessions last.
                self.table.change(session, |slot| (slot.node, slot.state) = (to, SessionState::Reserved));
                return None;
            }
        }
        Some(rate)
    }

    /// A node turned a session away; true if it had been promised that node's rate.
    pub fn handle_refused(&mut self, node: NodeId, session: SessionId) -> bool {
        let Some(slot) = self.table.find(session) else { return false };
        match slot.state {
            SessionState::Reserved if slot.node == node => self.release(session),
            SessionState::Moving(to) if to == node => self.cancel_move(session),
            _ => false,
        }
    }

    /// Orders a session that runs to another node: its rate is promised there, and will be free here.
    pub fn start_move(&mut self, now: Now, session: SessionId, to: NodeId) -> bool {
        let Some(slot) = self.table.find(session).filter(|slot| slot.state == SessionState::Running) else {
            return false;
        };
        let (from, rate) = (slot.node, slot.rate);
        let expires = now.instant + RESERVATION;
        self.table.change(session, |slot| {
            slot.state = SessionState::Moving(to);
            slot.moves = slot.moves.saturating_add(1);
            slot.expires = Some(expires);
        });
        self.promise(to, rate);
        // Of a move before this one, whose end was not told yet.
        self.end_departure(session);
        self.promised_mut(from).leaving += rate;
        self.leaving.insert(session, Departure { node: from, rate, expires });
        self.order.push_back((expires, session));
        true
    }

    /// A session that was ordered away stays where it is.
    pub fn cancel_move(&mut self, session: SessionId) -> bool {
        let Some(slot) = self.table.find(session) else { return false };
        let (SessionState::Moving(to), rate) = (slot.state, slot.rate) else { return false };
        self.unpromise(to, rate);
        self.end_departure(session);
        self.table.change(session, |slot| (slot.state, slot.expires) = (SessionState::Running, None));
        true
    }

    /// Forgets every session that runs on a node but those that `keep` names: it has told them all.
    pub fn retain(&mut self, node: NodeId, keep: impl Fn(SessionId) -> bool) {
        for session in self.table.session_ids(node) {
            let running = self.table.find(session).is_some_and(|slot| slot.state != SessionState::Reserved);
            if running && !keep(session) {
                self.handle_ended(node, session);
            }
        }
    }

    /// Forgets all that a node was promised and all that ran there: it is a new process.
    pub fn release_all(&mut self, node: NodeId) {
        for session in self.table.session_ids(node) {
            self.release(session);
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

    /// Ends the promises that have expired; tells how many.
    pub fn handle_timeout(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        while let Some((expires, session)) = self.order.front().copied() {
            if expires > now && self.expiry(session) == Some(expires) {
                break;
            }
            self.order.pop_front();
            if self.leaving.get(&session).is_some_and(|leaving| leaving.expires <= now) {
                self.end_departure(session);
            }
            let slot = self.table.find(session).filter(|slot| slot.expires.is_some_and(|at| at <= now));
            match slot.map(|slot| slot.state) {
                Some(SessionState::Reserved) => ended += usize::from(self.release(session)),
                Some(SessionState::Moving(_)) => ended += usize::from(self.cancel_move(session)),
                Some(SessionState::Running) | None => {}
            }
        }
        ended
    }

    /// When the next promise expires, or an ended one can be forgotten.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.order.front().map(|(expires, _)| *expires)
    }

    /// What a node was promised and will be rid of.
    pub fn pending_load(&self, node: NodeId) -> PendingLoad {
        self.promised.get(node.index()).copied().unwrap_or_default()
    }

    /// A session.
    pub fn session(&self, session: SessionId) -> Option<Session> {
        let Slot { node, rate, state, moves, purpose, .. } = *self.table.find(session)?;
        Some(Session { node, rate, state, moves, purpose })
    }

    /// What a session plays, if that is known.
    pub fn content(&self, session: SessionId) -> Option<ContentKey> {
        self.table.content(session)
    }

    /// The works of which a node has sessions, for those who look for one to move.
    pub fn contents(&self, node: NodeId) -> &[ContentRef] {
        self.table.contents(node)
    }

    /// A work, and its sessions on one node.
    pub fn sessions_of(&self, node: NodeId, content: ContentRef) -> Option<NodeSessions<'_>> {
        self.table.sessions_of(node, content)
    }

    /// Sessions that run on a node, on their way elsewhere or not.
    pub fn running(&self, node: NodeId) -> usize {
        self.contents(node)
            .iter()
            .filter_map(|content| self.sessions_of(node, *content))
            .map(|place| place.taken())
            .sum()
    }

    /// Sessions known.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn expiry(&self, session: SessionId) -> Option<Instant> {
        let leaving = self.leaving.get(&session).map(|leaving| leaving.expires);
        leaving.or_else(|| self.table.find(session)?.expires)
    }

    /// The old place of a moved session is empty.
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
