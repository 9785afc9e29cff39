//! The ledger: every session that the master promised a place or knows to run, and what that takes of each node.
//!
//! A promise holds from the decision until the node tells that the session began or was turned away, or until it
//! expires. Without it, every request between two words of a node would see the same free node. A session that runs is
//! kept so that it can be moved. Refuses to know how a node's own word is weighed: that is `books`.

mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use usher_proto::{SessionId, ticket::Purpose};

pub use self::table::{Place, WorkRef};
use self::table::{Slot, Table};
use super::{NodeId, Now, catalog::Work};

/// How long a promise is held. A client dials within a second or two, and the node tells that within 0.2 s more, so
/// that five seconds hold the place of every client that is alive. The ticket itself is good for longer
/// (`usher_proto::ticket::LIFETIME_SECS`): one that comes later is still honoured if the node has room. Holding the
/// place as long as the ticket would let every client that walks away keep its rate from others for a minute.
pub const RESERVATION: Duration = Duration::from_secs(5);

/// What one node was promised to and will be rid of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    /// Bit/s of tickets, and of moves to it, that it has not told of yet.
    pub rate: u64,
    /// Their number.
    pub tickets: u32,
    /// Bit/s of sessions that were ordered away and that it has not told the end of.
    pub leaving: u64,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A ticket was given, and its node has told nothing of it.
    Promised,
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
    pub state: State,
    /// How often it was moved.
    pub moves: u8,
    /// Play or fetch.
    pub purpose: Purpose,
}

/// A session that was ordered away from a node which has not told its end yet.
struct Leaving {
    node: NodeId,
    rate: u64,
    expires: Instant,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    table: Table,
    leaving: HashMap<SessionId, Leaving>,
    /// In order of expiry, since all are held equally long; what ended early is still in it.
    order: VecDeque<(Instant, SessionId)>,
    promised: Vec<Promised>,
}

impl Ledger {
    /// Holds `rate` bit/s of a node for a session. A session that already holds a place gives that one up.
    pub fn reserve(
        &mut self,
        now: Now,
        session: SessionId,
        node: NodeId,
        work: Option<Work>,
        rate: u64,
        purpose: Purpose,
    ) {
        self.release(session);
        let expires = now.instant + RESERVATION;
        self.promise(node, rate);
        let slot = Slot { session, node, rate, state: State::Promised, moves: 0, purpose, expires: Some(expires) };
        self.table.insert(slot, work);
        self.order.push_back((expires, session));
    }

    /// Forgets a session: it will never be, or is over. False when it is not known.
    pub fn release(&mut self, session: SessionId) -> bool {
        let Some(slot) = self.table.remove(session) else { return false };
        match slot.state {
            State::Promised => self.unpromise(slot.node, slot.rate),
            State::Moving(to) => self.unpromise(to, slot.rate),
            State::Running => {}
        }
        true
    }

    /// A node told that a session began there. Its place elsewhere, or its promise, ends with that.
    pub fn begun(&mut self, node: NodeId, session: SessionId, work: Option<Work>, rate: u64, purpose: Purpose) {
        let moves = self.table.find(session).map_or(0, |slot| slot.moves);
        self.release(session);
        let slot = Slot { session, node, rate, state: State::Running, moves, purpose, expires: None };
        self.table.insert(slot, work);
    }

    /// A node told that a session is over there; its rate, if it was known to run there.
    pub fn ended(&mut self, node: NodeId, session: SessionId) -> Option<u64> {
        let left = self.leaving.get(&session).is_some_and(|leaving| leaving.node == node);
        if left {
            self.gone(session);
        }
        let slot = self.table.find(session).filter(|slot| slot.node == node)?;
        let (rate, state) = (slot.rate, slot.state);
        match state {
            // Its ticket may have been for an alternate, and the promise stands for that.
            State::Promised => return None,
            State::Running => {
                self.table.remove(session);
            }
            State::Moving(to) => {
                // The old seat is empty, the new one is promised. No departure that tells how long sessions last.
                self.table.change(session, |slot| (slot.node, slot.state) = (to, State::Promised));
                return None;
            }
        }
        Some(rate)
    }

    /// A node turned a session away; true if it had been promised that node's rate.
    pub fn turned(&mut self, node: NodeId, session: SessionId) -> bool {
        let Some(slot) = self.table.find(session) else { return false };
        match slot.state {
            State::Promised if slot.node == node => self.release(session),
            State::Moving(to) if to == node => self.stays(session),
            _ => false,
        }
    }

    /// Orders a session that runs to another node: its rate is promised there, and will be free here.
    pub fn depart(&mut self, now: Now, session: SessionId, to: NodeId) -> bool {
        let Some(slot) = self.table.find(session).filter(|slot| slot.state == State::Running) else { return false };
        let (from, rate) = (slot.node, slot.rate);
        let expires = now.instant + RESERVATION;
        self.table.change(session, |slot| {
            slot.state = State::Moving(to);
            slot.moves = slot.moves.saturating_add(1);
            slot.expires = Some(expires);
        });
        self.promise(to, rate);
        // Of a move before this one, whose end was not told yet.
        self.gone(session);
        self.promised_mut(from).leaving += rate;
        self.leaving.insert(session, Leaving { node: from, rate, expires });
        self.order.push_back((expires, session));
        true
    }

    /// A session that was ordered away stays where it is.
    pub fn stays(&mut self, session: SessionId) -> bool {
        let Some(slot) = self.table.find(session) else { return false };
        let (State::Moving(to), rate) = (slot.state, slot.rate) else { return false };
        self.unpromise(to, rate);
        self.gone(session);
        self.table.change(session, |slot| (slot.state, slot.expires) = (State::Running, None));
        true
    }

    /// Forgets every session that runs on a node but those that `keep` names: it has told them all.
    pub fn retain(&mut self, node: NodeId, keep: impl Fn(SessionId) -> bool) {
        for session in self.table.sessions_of(node) {
            let running = self.table.find(session).is_some_and(|slot| slot.state != State::Promised);
            if running && !keep(session) {
                self.ended(node, session);
            }
        }
    }

    /// Forgets all that a node was promised and all that ran there: it is a new process.
    pub fn release_all(&mut self, node: NodeId) {
        for session in self.table.sessions_of(node) {
            self.release(session);
        }
        // Moves to it are void.
        for session in self.table.moving_to(node) {
            self.stays(session);
        }
        self.leaving.retain(|_, leaving| leaving.node != node);
        if let Some(promised) = self.promised.get_mut(node.index()) {
            *promised = Promised::default();
        }
    }

    /// Ends the promises that have expired; tells how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        while let Some((expires, session)) = self.order.front().copied() {
            if expires > now && self.due(session) == Some(expires) {
                break;
            }
            self.order.pop_front();
            if self.leaving.get(&session).is_some_and(|leaving| leaving.expires <= now) {
                self.gone(session);
            }
            let slot = self.table.find(session).filter(|slot| slot.expires.is_some_and(|at| at <= now));
            match slot.map(|slot| slot.state) {
                Some(State::Promised) => ended += usize::from(self.release(session)),
                Some(State::Moving(_)) => ended += usize::from(self.stays(session)),
                Some(State::Running) | None => {}
            }
        }
        ended
    }

    /// When the next promise expires, or an ended one can be forgotten.
    pub fn deadline(&self) -> Option<Instant> {
        self.order.front().map(|(expires, _)| *expires)
    }

    /// What a node was promised and will be rid of.
    pub fn promised(&self, node: NodeId) -> Promised {
        self.promised.get(node.index()).copied().unwrap_or_default()
    }

    /// A session.
    pub fn session(&self, session: SessionId) -> Option<Session> {
        let Slot { node, rate, state, moves, purpose, .. } = *self.table.find(session)?;
        Some(Session { node, rate, state, moves, purpose })
    }

    /// What a session plays, if that is known.
    pub fn work(&self, session: SessionId) -> Option<Work> {
        self.table.work(session)
    }

    /// The works of which a node has sessions, for those who look for one to move.
    pub fn works(&self, node: NodeId) -> &[WorkRef] {
        self.table.works(node)
    }

    /// A work, and its sessions on one node.
    pub fn place(&self, node: NodeId, work: WorkRef) -> Option<Place<'_>> {
        self.table.place(node, work)
    }

    /// Sessions that run on a node, on their way elsewhere or not.
    pub fn running(&self, node: NodeId) -> usize {
        self.works(node).iter().filter_map(|work| self.place(node, *work)).map(|place| place.taken()).sum()
    }

    /// Sessions known.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn due(&self, session: SessionId) -> Option<Instant> {
        let leaving = self.leaving.get(&session).map(|leaving| leaving.expires);
        leaving.or_else(|| self.table.find(session)?.expires)
    }

    /// The old place of a moved session is empty.
    fn gone(&mut self, session: SessionId) {
        if let Some(Leaving { node, rate, .. }) = self.leaving.remove(&session) {
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

    fn promised_mut(&mut self, node: NodeId) -> &mut Promised {
        if self.promised.len() <= node.index() {
            self.promised.resize_with(node.index() + 1, Promised::default);
        }
        &mut self.promised[node.index()]
    }
}
