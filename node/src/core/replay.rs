//! Rejects replayed tickets: each opens one session. Remembers a session id until its ticket has expired. Bounded, and
//! never forgets an id early: a full filter refuses new ids.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use usher_proto::{Code, Fault, SessionId};

/// Default maximum number of ids: a million, 48 MB at worst. Tickets live for a minute, so this is 16,000 new sessions
/// a second.
pub const MAX_IDS: usize = 1_000_000;

/// Ids of redeemed tickets.
#[derive(Debug)]
pub struct ReplayFilter {
    seen: HashSet<SessionId>,
    /// Ids by the Unix second at which they are forgotten.
    order: BTreeSet<(u64, SessionId)>,
    max: usize,
}

impl Default for ReplayFilter {
    fn default() -> Self {
        Self::with_max(MAX_IDS)
    }
}

impl ReplayFilter {
    /// A filter of at most `max` ids.
    pub fn with_max(max: usize) -> Self {
        Self { seen: HashSet::new(), order: BTreeSet::new(), max }
    }

    /// Redeems the ticket of a session at `now`, to be remembered until `forget_at`; both in Unix seconds.
    ///
    /// # Errors
    /// `TICKET_REPLAYED` the second time, `UNAVAILABLE` when the filter is full.
    pub fn redeem(&mut self, now: u64, session: SessionId, forget_at: u64) -> Result<(), Fault> {
        while self.order.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, id)) = self.order.pop_first() {
                self.seen.remove(&id);
            }
        }
        if self.seen.contains(&session) {
            return Err(Fault::new(Code::TicketReplayed, "the ticket was redeemed before; resolve again"));
        }
        if self.seen.len() >= self.max {
            let wait = self.order.first().map_or(0, |(at, _)| at.saturating_sub(now)).clamp(1, 60);
            let fault = Fault::new(Code::Unavailable, "the node's replay filter is full; resolve again");
            return Err(fault.after(Duration::from_secs(wait)));
        }
        self.seen.insert(session);
        self.order.insert((forget_at, session));
        Ok(())
    }

    /// Number of remembered ids.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether no id is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ticket_opens_one_session() {
        let mut replay = ReplayFilter::default();
        let table = [
            (100, 1, 170, None),
            (100, 1, 170, Some(Code::TicketReplayed)),
            (169, 1, 170, Some(Code::TicketReplayed)),
            (169, 2, 175, None),
            // The ticket itself has expired by then, so its id is free.
            (170, 1, 240, None),
            (174, 2, 175, Some(Code::TicketReplayed)),
        ];
        for (now, id, forget_at, fault) in table {
            let result = replay.redeem(now, SessionId(id), forget_at);
            assert_eq!(result.err().map(|fault| fault.code), fault, "session {id} at {now}");
        }
        assert_eq!(replay.len(), 2);
    }

    #[test]
    fn a_full_filter_refuses_and_forgets_nothing() {
        let mut replay = ReplayFilter::with_max(2);
        assert!(replay.redeem(0, SessionId(1), 10).is_ok() && replay.redeem(0, SessionId(2), 20).is_ok());
        let fault = replay.redeem(5, SessionId(3), 30).expect_err("full");
        assert_eq!((fault.code, fault.retry_after), (Code::Unavailable, Some(Duration::from_secs(5))));
        assert_eq!(replay.redeem(5, SessionId(1), 10).map_err(|f| f.code), Err(Code::TicketReplayed));
        assert!(replay.redeem(10, SessionId(3), 30).is_ok());
    }
}
