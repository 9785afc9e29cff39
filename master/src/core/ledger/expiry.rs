//! The passage of time in the ledger: reservations and moves expire, and surplus seats are due.

use std::{cmp::Reverse, time::Instant};

use usher_proto::SessionId;

use super::{Ledger, NodeId, SessionState};

impl Ledger {
    /// Expires reservations and moves. Returns the number expired.
    pub fn handle_timeout(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        while let Some(Reverse((expires, session))) = self.order.peek().copied() {
            if expires > now && self.expiry(now, session) == Some(expires) {
                break;
            }
            self.order.pop();
            self.count_wasted(now, session);
            if self.leaving.get(&session).is_some_and(|leaving| leaving.expires <= now) {
                self.end_departure(session);
            }
            let slot = self.table.find(session).filter(|slot| slot.expires.is_some_and(|at| at <= now));
            match slot.map(|slot| slot.state) {
                Some(SessionState::Reserved) => {
                    self.expire(now, session);
                    ended += 1;
                }
                Some(SessionState::Moving(_)) => ended += usize::from(self.cancel_move(session)),
                Some(SessionState::Running) | None => {}
            }
        }
        ended
    }

    /// Time of the next expiry, or of the clean-up of an ended entry.
    pub fn next_timeout(&self) -> Option<Instant> {
        let expiry = self.order.peek().map(|Reverse((expires, _))| *expires);
        expiry.into_iter().chain(self.surplus.next_timeout()).min()
    }

    /// Next seat that must end, since its session runs elsewhere as well.
    pub fn poll_surplus(&mut self, now: Instant) -> Option<(SessionId, NodeId)> {
        self.surplus.poll(now)
    }

    fn expiry(&self, now: Instant, session: SessionId) -> Option<Instant> {
        let leaving = self.leaving.get(&session).map(|leaving| leaving.expires);
        let slot = || self.table.find(session)?.expires;
        leaving.or_else(slot).or_else(|| self.late.due(now, session))
    }
}
