//! Fairness among clients when holders are full: unredeemed reservations of heavier clients make room, capacity that
//! becomes free is kept for lighter clients that wait, and a refusal counts as demand once.

use usher_proto::SessionId;

use super::{Cluster, decide::Choice};
use crate::core::{
    NodeId, Now,
    balancer::{Candidate, HolderCounts, NoChoice, Verdict},
    catalog::ContentKey,
    journal::Selection,
    ledger::{PendingLoad, Source},
};

/// Full holders examined for reservations to release, those with the smallest deficit first.
const BLOCKED: usize = 8;

impl Cluster {
    /// Finds the full holder where the fewest bit/s of unredeemed reservations make room for a client. Fills `found` with
    /// the reservations to release. Nodes in `refusing` just refused the client, so their load is not known well enough.
    /// A node uses no more of its reserve afterwards than before, unless `with_reserve`.
    pub(super) fn find_releases(
        &self,
        now: Now,
        (source, rate, with_reserve): (Option<Source>, u64, bool),
        ranked: &[Candidate],
        refusing: &[NodeId],
        found: &mut Vec<SessionId>,
    ) -> Option<usize> {
        found.clear();
        let is_full = |one: &Candidate| matches!(one.verdict, Verdict::Full | Verdict::Cold);
        let limit = |one: &Candidate| {
            let upper = one.available.upper_limit();
            if with_reserve { upper } else { one.level.clamp(one.available.rate, upper) }
        };
        let full = ranked.iter().enumerate().filter(|(_, one)| {
            is_full(one) && !refusing.contains(&one.node) && limit(one) >= rate && self.ledger.is_soft(one.node)
        });
        let mut blocked: Vec<(u64, usize)> =
            full.map(|(at, one)| (one.level.saturating_sub(one.available.rate), at)).collect();
        blocked.sort_unstable();
        let masters = self.common.masters;
        blocked.into_iter().take(BLOCKED).map(|(_, at)| at).find(|at| {
            let (node, limit) = (ranked[*at].node, limit(&ranked[*at]));
            let Some(known) = self.roster.node(node) else { return false };
            let fits = |pending: PendingLoad| {
                known.estimate.level(now.instant, pending, masters).saturating_add(rate) <= limit
            };
            self.ledger.find_releasable(now.instant, node, (source, rate), fits, found)
        })
    }

    /// Leaves capacity to lighter clients that wait: a usable holder without more than that counts as full. Returns
    /// whether one of them waits for a full holder, so that no session is moved and no reserve is spent for this client.
    pub(super) fn yield_to_lighter(
        &self,
        now: Now,
        source: Option<Source>,
        rate: u64,
        ranked: &mut [Candidate],
        count: &mut HolderCounts,
    ) -> bool {
        let Some(source) = source else { return false };
        let weight = self.weight(now, source).saturating_add(rate);
        let (mut yields, mut changed) = (false, false);
        for one in ranked.iter_mut() {
            let kept = self.refused.kept(now.instant, one.node, source, weight);
            let taken = one.level.saturating_add(rate).saturating_add(kept) > one.available.rate;
            match one.verdict {
                Verdict::Fit if kept > 0 && taken => {
                    one.verdict = Verdict::Full;
                    (count.fit, count.full) = (count.fit.saturating_sub(1), count.full + 1);
                    (yields, changed) = (true, true);
                }
                Verdict::Full | Verdict::Cold => yields |= kept > 0,
                _ => {}
            }
        }
        if changed {
            ranked.sort_by_key(|one| one.verdict.order());
        }
        yields
    }

    /// Handles the outcome of a request for the client that asked: whether it waits, and what its refusal says about
    /// demand. One that hoards does neither.
    pub(super) fn account_outcome(
        &mut self,
        now: Now,
        source: Option<Source>,
        key: Option<ContentKey>,
        choice: &Choice,
    ) {
        let (at, rate) = (now.instant, choice.rate.0);
        let refused = matches!(choice.seat, Err(NoChoice::Full { .. }))
            && source.is_none_or(|source| !self.ledger.is_hoarding(at, source, rate));
        if refused
            && let Some((planner, key)) = self.planner.as_mut().zip(key)
            && self.refused.counts(at, source, key)
        {
            planner.handle_request(at, key, rate);
            planner.handle_refusal(at, key);
        }
        let Some(source) = source else { return };
        let ranked = std::mem::take(&mut self.scratch.ranked);
        if choice.seat.is_ok() {
            self.refused.handle_served(source, ranked.iter().map(|one| one.node));
        } else if refused {
            let weight = self.weight(now, source).saturating_add(rate);
            for one in ranked.iter().filter(|one| matches!(one.verdict, Verdict::Full | Verdict::Cold)) {
                // Capacity that was kept for a client in vain is a reservation that it did not use.
                if let Some((idle, rate)) = self.refused.handle_refused(at, one.node, source, (weight, rate)) {
                    self.ledger.handle_wasted(at, idle, rate);
                }
            }
        }
        self.scratch.ranked = ranked;
    }

    /// Releases the reservations that a decision found.
    pub(super) fn release_found(&mut self, now: Now, how: Selection) {
        if let Selection::Released(_) = how {
            for session in self.scratch.released.drain(..) {
                self.ledger.displace(now.instant, session);
            }
        }
    }

    /// Bit/s that a client holds or wasted lately.
    fn weight(&self, now: Now, source: Source) -> u64 {
        self.ledger.unused(now.instant, source).saturating_add(self.ledger.holding(source).running)
    }
}
