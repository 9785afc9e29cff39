//! Moves sessions off overloaded nodes between requests. Finds the moves; the caller starts them.

use rand::Rng;

use super::{MoveSearch, SessionMove};
use crate::core::NodeId;

/// Targets keep this share of the cluster's mean margin, in per cent: a move to the next node to overflow would only be
/// the first of two.
const SPARE: i64 = 60;

/// Finds moves off the overloaded ones of `nodes`.
pub fn shed(search: &mut MoveSearch<'_>, nodes: &[NodeId], rng: &mut impl Rng, steps: &mut Vec<SessionMove>) {
    steps.clear();
    let least = mean_margin(search) * SPARE / 100;
    for node in nodes {
        search.unload(*node, least, rng, steps);
    }
}

fn mean_margin(search: &MoveSearch<'_>) -> i64 {
    let margins = search.view.roster.nodes().filter_map(|(id, node)| {
        let headroom = search.headroom.of(id);
        let margin = node.estimate.margin(headroom.load.available.rate, headroom.load.level, 0, &search.view.common);
        headroom.healthy.then_some(margin)
    });
    let (sum, count) = margins.fold((0_i64, 0), |(sum, count), margin| (sum.saturating_add(margin), count + 1));
    sum.checked_div(count).unwrap_or(0)
}
