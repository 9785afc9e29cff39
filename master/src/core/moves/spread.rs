//! Levels load: moves sessions from nodes much fuller than the mean to emptier ones, after a node joined or on the
//! operator's order. Finds the moves; the caller starts them at its own pace.
//!
//! Each move brings its two nodes closer together, and no node is filled so far that it would become a source
//! itself: after the moves found, no more are found until the load changes.

use std::collections::BTreeSet;

use rand::Rng;
use usher_proto::SessionId;

use super::{MAX_MOVES, MoveSearch, SessionMove, signed};
use crate::core::NodeId;

/// Excess over the mean, in thousandths of the available rate, at which a node becomes a source of moves.
const START_EXCESS: i64 = 100;

/// Excess at which it stops, and beyond which no target is filled.
const STOP_EXCESS: i64 = START_EXCESS / 2;

/// Nodes that became sources of moves and are still above `STOP_EXCESS`.
pub type SourceNodes = BTreeSet<NodeId>;

/// Finds up to `most` moves to nodes for which `may` is true. `sources` is kept between calls, so that a node that
/// started continues until it is even.
pub fn spread(
    search: &mut MoveSearch<'_>,
    most: usize,
    may: impl Fn(NodeId) -> bool,
    sources: &mut SourceNodes,
    rng: &mut impl Rng,
    steps: &mut Vec<SessionMove>,
) {
    steps.clear();
    let nodes = search.view.roster.nodes().map(|(id, _)| id);
    let nodes: Vec<NodeId> = nodes.filter(|id| search.headroom.of(*id).healthy).collect();
    let (level, available) = nodes.iter().fold((0_i64, 0_i64), |(level, available), node| {
        let load = search.headroom.of(*node).load;
        (level.saturating_add(signed(load.level)), available.saturating_add(signed(load.available.rate)))
    });
    let mean = level / (available / 1000).max(1);
    sources.retain(|node| nodes.contains(node) && search.used(*node, 0) > mean + STOP_EXCESS);
    sources.extend(nodes.iter().filter(|node| search.used(**node, 0) > mean + START_EXCESS));
    // Moves off one node free capacity for sessions of another.
    loop {
        let before = steps.len();
        let mut fullest: Vec<NodeId> = sources.iter().copied().collect();
        fullest.sort_unstable_by_key(|node| (-search.used(*node, 0), *node));
        for node in fullest {
            search.move_from(node, mean, most, &may, rng, steps);
        }
        if steps.len() == before || steps.len() >= most {
            break;
        }
    }
    if steps.len() < most {
        // The remaining nodes found no target.
        sources.clear();
    }
}

impl MoveSearch<'_> {
    /// Used share of a node's available rate after `more` bit/s, in thousandths.
    fn used(&self, node: NodeId, more: i64) -> i64 {
        let load = self.headroom.of(node).load;
        signed(load.level).saturating_add(more) / (signed(load.available.rate) / 1000).max(1)
    }

    fn move_from(
        &mut self,
        from: NodeId,
        mean: i64,
        most: usize,
        may: &impl Fn(NodeId) -> bool,
        rng: &mut impl Rng,
        steps: &mut Vec<SessionMove>,
    ) {
        // Few large sessions rather than many small ones.
        let sessions = self.largest_first(from, Some(MAX_MOVES), |_, rate| rate > 0, rng);
        let taken: BTreeSet<SessionId> = steps.iter().map(|step| step.session).collect();
        for (rate, session, content) in sessions {
            if steps.len() >= most || self.used(from, 0) <= mean + STOP_EXCESS {
                return;
            }
            let Some(place) = self.view.ledger.sessions_of(from, content).filter(|_| !taken.contains(&session)) else {
                continue;
            };
            let more = signed(rate);
            let gap = self.used(from, 0) + self.used(from, -more);
            let closer = |to: NodeId| {
                let after = self.used(to, more);
                after <= mean + STOP_EXCESS && self.used(to, 0) + after < gap
            };
            let seats = self.seats(from, &place, rate).filter(|(to, _)| may(*to) && closer(*to));
            let Some((to, _)) = seats.max_by_key(|(_, after)| *after) else { continue };
            let step = SessionMove { session, from, to, rate };
            self.headroom.take(&step);
            steps.push(step);
        }
    }
}
