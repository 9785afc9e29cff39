//! Spreading load evenly: sessions from nodes that are much fuller than the mean to nodes that are emptier, after a node
//! joined or when the operator says so. Finds the moves; the caller makes them, at its pace.
//!
//! Each move brings its two nodes closer together, and no node is filled to where it would give sessions away itself:
//! when the moves that are found have been made, none are found again until the load has changed.

use std::{cmp::Reverse, collections::BTreeSet};

use rand::{Rng, RngExt as _};
use usher_proto::SessionId;

use super::{MAX_MOVES, MoveSearch, SessionMove, signed};
use crate::core::{NodeId, ledger::ContentRef};

/// A node whose use is this much above the mean begins to give sessions away, in thousandths of what it can give.
const UNEVEN: i64 = 100;

/// It stops when it has come down to this much above the mean, and nobody is filled beyond that.
const EVEN: i64 = UNEVEN / 2;

/// Nodes that began to give and have not come down yet.
pub type Givers = BTreeSet<NodeId>;

/// At most `most` moves, to nodes that `may` be given any. `giving` is kept from one call to the next, so that who
/// began to give goes on until it is even.
pub fn spread(
    search: &mut MoveSearch<'_>,
    most: usize,
    may: impl Fn(NodeId) -> bool,
    giving: &mut Givers,
    rng: &mut impl Rng,
    steps: &mut Vec<SessionMove>,
) {
    steps.clear();
    let nodes = search.view.roster.nodes().map(|(id, _)| id);
    let nodes: Vec<NodeId> = nodes.filter(|id| search.headroom.of(*id).well).collect();
    let (level, available) = nodes.iter().fold((0_i64, 0_i64), |(level, available), node| {
        let load = search.headroom.of(*node).load;
        (level.saturating_add(signed(load.level)), available.saturating_add(signed(load.available.rate)))
    });
    let mean = level / (available / 1000).max(1);
    giving.retain(|node| nodes.contains(node) && search.used(*node, 0) > mean + EVEN);
    giving.extend(nodes.iter().filter(|node| search.used(**node, 0) > mean + UNEVEN));
    // What one gives makes room for what another found no room for.
    loop {
        let before = steps.len();
        let mut fullest: Vec<NodeId> = giving.iter().copied().collect();
        fullest.sort_unstable_by_key(|node| (-search.used(*node, 0), *node));
        for node in fullest {
            search.give(node, mean, most, &may, rng, steps);
        }
        if steps.len() == before || steps.len() >= most {
            break;
        }
    }
    if steps.len() < most {
        // Who still has more found nothing to do about it.
        giving.clear();
    }
}

impl MoveSearch<'_> {
    /// How much of what a node can give would be taken with `more` bit/s, in thousandths.
    fn used(&self, node: NodeId, more: i64) -> i64 {
        let load = self.headroom.of(node).load;
        signed(load.level).saturating_add(more) / (signed(load.available.rate) / 1000).max(1)
    }

    fn give(
        &mut self,
        from: NodeId,
        mean: i64,
        most: usize,
        may: &impl Fn(NodeId) -> bool,
        rng: &mut impl Rng,
        steps: &mut Vec<SessionMove>,
    ) {
        let mut sessions: Vec<(Reverse<u64>, u32, SessionId, ContentRef)> = Vec::new();
        for content in self.view.ledger.contents(from) {
            let Some(place) = self.view.ledger.sessions_of(from, *content) else { continue };
            let movable = place.movable(MAX_MOVES).filter(|(_, rate)| *rate > 0);
            sessions.extend(movable.map(|(session, rate)| (Reverse(rate), rng.random(), session, *content)));
        }
        // Few large ones rather than many small ones.
        sessions.sort_unstable_by_key(|(rate, lot, ..)| (*rate, *lot));
        let taken: BTreeSet<SessionId> = steps.iter().map(|step| step.session).collect();
        for (Reverse(rate), _, session, content) in sessions {
            if steps.len() >= most || self.used(from, 0) <= mean + EVEN {
                return;
            }
            let Some(place) = self.view.ledger.sessions_of(from, content).filter(|_| !taken.contains(&session)) else {
                continue;
            };
            let more = signed(rate);
            let gap = self.used(from, 0) + self.used(from, -more);
            let closer = |to: NodeId| {
                let after = self.used(to, more);
                after <= mean + EVEN && self.used(to, 0) + after < gap
            };
            let seats = self.seats(from, &place, rate).filter(|(to, _)| may(*to) && closer(*to));
            let Some((to, _)) = seats.max_by_key(|(_, after)| *after) else { continue };
            let step = SessionMove { session, from, to, rate };
            self.headroom.take(&step);
            steps.push(step);
        }
    }
}
