//! What was promised and not yet seen: one entry per ticket, from the decision until the node reports the session
//! begun (or refused), or until it expires. Without it, every request between two reports would see the same free
//! node. Refuses to know nodes as more than numbers, and why an entry ends.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use usher_proto::SessionId;

use super::{NodeId, Now};

/// How long a reservation is held. A client dials within a second or two and the node reports it within one more, so
/// that ten seconds hold the place of every client that is alive. The ticket itself is good for longer
/// (`usher_proto::ticket::LIFETIME_SECS`): one that comes later is still honoured if the node has room, and is then
/// counted by the node's own `committed`. Holding the place as long as the ticket would let every client that walks
/// away keep its rate from others for a minute.
pub const RESERVATION: Duration = Duration::from_secs(10);

struct Entry {
    node: NodeId,
    rate: u64,
    expires: Instant,
}

/// What one node was promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    /// Bit/s.
    pub rate: u64,
    /// Tickets.
    pub tickets: u32,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    entries: HashMap<SessionId, Entry>,
    /// In order of expiry, since all are held equally long; entries that ended early are still in it.
    order: VecDeque<(Instant, SessionId)>,
    promised: Vec<Promised>,
}

impl Ledger {
    /// Holds `rate` bit/s of a node for a session. A session that already holds a place gives that one up.
    pub fn reserve(&mut self, now: Now, session: SessionId, node: NodeId, rate: u64) {
        self.release(session);
        let expires = now.instant + RESERVATION;
        if self.promised.len() <= node.index() {
            self.promised.resize_with(node.index() + 1, Promised::default);
        }
        let promised = &mut self.promised[node.index()];
        promised.rate = promised.rate.saturating_add(rate);
        promised.tickets += 1;
        self.entries.insert(session, Entry { node, rate, expires });
        self.order.push_back((expires, session));
    }

    /// Ends a reservation: the session was seen, or will never be. False when there is none.
    pub fn release(&mut self, session: SessionId) -> bool {
        let Some(entry) = self.entries.remove(&session) else { return false };
        if let Some(promised) = self.promised.get_mut(entry.node.index()) {
            promised.rate = promised.rate.saturating_sub(entry.rate);
            promised.tickets = promised.tickets.saturating_sub(1);
        }
        true
    }

    /// Ends all reservations on a node: its tickets are void.
    pub fn release_all(&mut self, node: NodeId) {
        self.entries.retain(|_, entry| entry.node != node);
        if let Some(promised) = self.promised.get_mut(node.index()) {
            *promised = Promised::default();
        }
    }

    /// Ends the reservations that have expired; tells how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        while let Some((expires, session)) = self.order.front().copied() {
            let current = self.entries.get(&session).is_some_and(|entry| entry.expires == expires);
            if current && expires > now {
                break;
            }
            self.order.pop_front();
            if current {
                ended += usize::from(self.release(session));
            }
        }
        ended
    }

    /// When the next reservation expires, or an ended one can be forgotten.
    pub fn deadline(&self) -> Option<Instant> {
        self.order.front().map(|(expires, _)| *expires)
    }

    /// What a node was promised and has not reported.
    pub fn promised(&self, node: NodeId) -> Promised {
        self.promised.get(node.index()).copied().unwrap_or_default()
    }

    /// Reservations held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> Now {
        Now { instant: Instant::now(), unix_ms: 0 }
    }

    #[test]
    fn a_reservation_ends_once() {
        let (now, node) = (start(), NodeId(3));
        let mut ledger = Ledger::default();
        ledger.reserve(now, SessionId(1), node, 5);
        ledger.reserve(now, SessionId(2), node, 7);
        assert_eq!(ledger.promised(node), Promised { rate: 12, tickets: 2 });
        assert!(ledger.release(SessionId(1)) && !ledger.release(SessionId(1)));
        assert_eq!(ledger.promised(node), Promised { rate: 7, tickets: 1 });
        let late = now.after(RESERVATION);
        assert_eq!(ledger.expire((now.instant + RESERVATION) - Duration::from_millis(1)), 0);
        assert_eq!(ledger.expire(late.instant), 1);
        assert_eq!((ledger.promised(node), ledger.deadline(), ledger.is_empty()), (Promised::default(), None, true));
    }

    proptest! {
        /// Against the list of what was reserved and how it ended.
        #[test]
        fn the_sums_are_the_entries(steps in proptest::collection::vec((0_u8..5, 0_u128..12, 0_u32..3, 1_u64..100), 0..200)) {
            let mut now = start();
            let mut ledger = Ledger::default();
            let mut truth: HashMap<u128, (NodeId, u64, Instant)> = HashMap::new();
            for (what, session, node, rate) in steps {
                match what {
                    0 | 1 => {
                        ledger.reserve(now, SessionId(session), NodeId(node), rate);
                        truth.insert(session, (NodeId(node), rate, now.instant + RESERVATION));
                    }
                    2 => prop_assert_eq!(ledger.release(SessionId(session)), truth.remove(&session).is_some()),
                    3 => {
                        now = now.after(Duration::from_secs(rate / 10));
                        ledger.expire(now.instant);
                        truth.retain(|_, entry| entry.2 > now.instant);
                    }
                    _ => {
                        ledger.release_all(NodeId(node));
                        truth.retain(|_, entry| entry.0 != NodeId(node));
                    }
                }
                prop_assert_eq!(ledger.len(), truth.len());
                for node in (0..3).map(NodeId) {
                    let mine = truth.values().filter(|entry| entry.0 == node);
                    let sum = mine.clone().map(|entry| entry.1).sum::<u64>();
                    let tickets = u32::try_from(mine.count()).expect("few");
                    prop_assert_eq!(ledger.promised(node), Promised { rate: sum, tickets });
                }
            }
            ledger.expire(now.after(RESERVATION).instant);
            prop_assert!(ledger.is_empty() && ledger.deadline().is_none());
            prop_assert!((0..3).all(|node| ledger.promised(NodeId(node)) == Promised::default()));
        }
    }
}
