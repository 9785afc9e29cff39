//! Fair use of what is reserved but not redeemed: which reservations make room for a client that holds less, and what
//! becomes of tickets without a reservation.
//!
//! Clients are compared by the bit/s that they reserved and do not use: their unredeemed reservations and, decaying, those
//! that expired. Running sessions do not count, since a house or a provider with many viewers behind one address must
//! not lose to one client that only reserves. A client makes room for another one only while it has more than the other
//! will have then. So one reservation per client is safe from equal ones, and no two clients take the same place from
//! each other in turns.

use std::time::{Duration, Instant};

use usher_proto::{
    SessionId,
    ticket::{LEEWAY_SECS, LIFETIME_SECS},
};

use super::{Holding, Ledger, NodeId, PendingLoad, Source, session_table::Slot};
use crate::core::recent::RecentMap;

/// Sources examined on one node, those with the most there first.
const MAX_SOURCES: usize = 8;

/// Reservations released for one request: enough for a film of 32 Mbit/s in place of audio titles of 32 kbit/s. Each is
/// released once, so its client has paid for the work by asking for it.
const MAX_RELEASED: usize = 1024;

/// A client hoards if its unused reservations are at least one part in this many of what it asks for.
const UNUSED_SHARE: u64 = 4;

/// Time for which a ticket may be redeemed.
const VALID: Duration = Duration::from_secs(LIFETIME_SECS + LEEWAY_SECS);

/// Tickets without a reservation that are remembered: 5 MB. A session of a forgotten one is not accounted to its source.
const MOST_LATE: usize = 65_536;

/// A valid ticket without a reservation.
#[derive(Clone, Copy)]
struct LateTicket {
    source: Source,
    rate: u64,
    /// Time at which it counts as unused; `None` once it does.
    due: Option<Instant>,
}

/// Valid tickets whose reservations expired or were released.
pub(super) struct LateTickets(RecentMap<SessionId, LateTicket>);

impl Default for LateTickets {
    fn default() -> Self {
        Self(RecentMap::new(VALID, MOST_LATE))
    }
}

impl LateTickets {
    /// Time at which a ticket counts as unused, if it does not yet.
    pub(super) fn due(&self, now: Instant, session: SessionId) -> Option<Instant> {
        self.0.get(now, &session)?.due
    }
}

impl Ledger {
    /// Reservations and sessions of a source.
    pub fn holding(&self, source: Source) -> Holding {
        self.sources.holding(source)
    }

    /// Bit/s that a source reserves or reserved lately without using them.
    pub fn unused(&self, now: Instant, source: Source) -> u64 {
        self.holding(source).unredeemed.saturating_add(self.sources.wasted(now, source))
    }

    /// Whether a source has unused reservations beside the `rate` that it asks for: bit/s beyond a quarter of that, or
    /// some that were just released for others.
    pub fn is_hoarding(&self, now: Instant, source: Source, rate: u64) -> bool {
        self.unused(now, source) >= rate / UNUSED_SHARE || self.sources.was_displaced(now, source)
    }

    /// Counts bit/s that were kept for a client which did not come.
    pub fn handle_wasted(&mut self, now: Instant, source: Source, rate: u64) {
        self.sources.handle_wasted(now, source, rate);
    }

    /// Whether a node has unredeemed reservations of known clients.
    pub fn is_soft(&self, node: NodeId) -> bool {
        self.unredeemed.sources(node).next().is_some()
    }

    /// Finds unredeemed reservations on a node to release for `rate` bit/s of another client, the heaviest client first
    /// and its oldest first, until the node's pending load `fits`. Fills `found`; false if it never fits.
    pub fn find_releasable(
        &self,
        now: Instant,
        node: NodeId,
        (winner, rate): (Option<Source>, u64),
        fits: impl Fn(PendingLoad) -> bool,
        found: &mut Vec<SessionId>,
    ) -> bool {
        found.clear();
        let own = winner.map_or(0, |winner| self.unused(now, winner)).saturating_add(rate);
        let mut pending = self.pending_load(node);
        let sources = || self.unredeemed.sources(node).filter(|(source, _)| Some(*source) != winner).take(MAX_SOURCES);
        let most = sources().fold(0_u64, |sum, (_, rate)| sum.saturating_add(rate));
        if !fits(PendingLoad { rate: pending.rate.saturating_sub(most), ..pending }) {
            return false;
        }
        for (source, _) in sources() {
            let mut unused = self.unused(now, source);
            for session in self.unredeemed.oldest(node, source) {
                let Some(slot) = self.table.find(session) else { continue };
                if unused <= own {
                    break;
                }
                if found.len() == MAX_RELEASED {
                    return false;
                }
                unused = unused.saturating_sub(slot.rate);
                pending.rate = pending.rate.saturating_sub(slot.rate);
                found.push(session);
                if fits(pending) {
                    return true;
                }
            }
        }
        false
    }

    /// Releases an unredeemed reservation for another client. Its ticket stays valid, and counts as unused only if no
    /// session has started when the reservation would have expired.
    pub fn displace(&mut self, now: Instant, session: SessionId) {
        let ticket = self.table.find(session).and_then(Slot::ticket);
        if let Some(ticket) = ticket
            && self.release(session)
        {
            let late = LateTicket { source: ticket.source, rate: ticket.rate, due: Some(ticket.expires) };
            self.late.0.insert(now, session, late);
            self.sources.handle_displaced(now, ticket.source);
        }
    }

    /// Ends an expired reservation. One that no session redeemed was wasted.
    pub(super) fn expire(&mut self, now: Instant, session: SessionId) {
        let ticket = self.table.find(session).and_then(Slot::ticket);
        if self.release(session)
            && let Some(ticket) = ticket
        {
            self.sources.handle_wasted(now, ticket.source, ticket.rate);
            self.late.0.insert(now, session, LateTicket { source: ticket.source, rate: ticket.rate, due: None });
        }
    }

    /// Counts a released ticket as unused once its time has come.
    pub(super) fn count_wasted(&mut self, now: Instant, session: SessionId) {
        if let Some(late) = self.late.0.get_mut(now, &session)
            && late.due.is_some_and(|due| due <= now)
        {
            late.due = None;
            let LateTicket { source, rate, .. } = *late;
            self.sources.handle_wasted(now, source, rate);
        }
    }

    /// Handles the use of a ticket without a reservation. Returns its client, if it was one.
    pub(super) fn redeem_late(&mut self, now: Instant, session: SessionId) -> Option<Source> {
        let late = self.late.0.remove(now, &session)?;
        if late.due.is_none() {
            self.sources.handle_used(now, late.source, late.rate);
        }
        Some(late.source)
    }

    /// Adds a session to what its client holds, or removes it.
    pub(super) fn account(&mut self, slot: &Slot, add: bool) {
        let Some(source) = slot.source else { return };
        let ticket = slot.ticket();
        self.sources.change(source, |holding| match add {
            true => holding.add(ticket.is_some(), slot.reserved),
            false => holding.remove(ticket.is_some(), slot.reserved),
        });
        match (ticket, add) {
            (Some(ticket), true) => self.unredeemed.insert(ticket),
            (Some(ticket), false) => self.unredeemed.remove(ticket),
            (None, _) => {}
        }
    }
}
