//! Moves that no arrival asks for, about once a second: away from nodes that have more than they can give, away from
//! nodes that drain, and, after a node joined or came back, towards it. Finds them; the caller makes them.

use rand::Rng;

use super::{Search, Step, Wanted, signed};
use crate::core::{NodeId, roster::State};

/// A node that has more than it can give sheds to nodes that keep this part of the cluster's mean margin, in per
/// cent: a move to the next node that overflows would only be the first of two.
const SPARE: i64 = 60;

/// A node whose use is this much above the mean gives sessions away in a rebalance, in per cent of what it can give;
/// it stops at half of that.
const UNEVEN: i64 = 10;

/// How fast a node that drains is emptied.
#[derive(Clone, Copy, Debug)]
pub struct Pace;

impl Pace {
    /// Sessions a second for a node that has so many: all of them in about a minute, and few at a time.
    pub fn of(sessions: usize) -> usize {
        (sessions / 60 + 2).min(60)
    }
}

/// Moves away from those of `nodes` that have more than they can give.
pub fn shed(search: &mut Search<'_>, nodes: &[NodeId], rng: &mut impl Rng, steps: &mut Vec<Step>) {
    steps.clear();
    let least = mean_margin(search) * SPARE / 100;
    for node in nodes {
        search.relieve(*node, least, rng, steps);
    }
}

/// Moves away from nodes that drain, at their pace.
pub fn drain(search: &mut Search<'_>, rng: &mut impl Rng, steps: &mut Vec<Step>) {
    steps.clear();
    let draining = search.view.roster.nodes().filter(|(_, node)| node.state == State::Draining);
    let draining: Vec<NodeId> = draining.map(|(id, _)| id).collect();
    for node in draining {
        for _ in 0..Pace::of(sessions(search, node)) {
            let wanted = Wanted { moves: u8::MAX, taken: steps, ..Wanted::freeing(1) };
            let Some(step) = search.one(node, wanted, rng) else { break };
            search.rooms.take(&step);
            steps.push(step);
        }
    }
}

/// At most `most` moves from nodes that are much fuller than the mean to nodes that are emptier than it.
pub fn rebalance(search: &mut Search<'_>, most: usize, rng: &mut impl Rng, steps: &mut Vec<Step>) {
    steps.clear();
    let used = |search: &Search<'_>, node: NodeId| {
        let load = search.rooms.of(node).load;
        signed(load.level) / signed(load.available.rate / 1000).max(1)
    };
    let nodes = search.view.roster.nodes().map(|(id, _)| id);
    let nodes: Vec<NodeId> = nodes.filter(|id| search.rooms.of(*id).well).collect();
    let (level, available) = nodes.iter().fold((0, 0), |(level, available), node| {
        let load = search.rooms.of(*node).load;
        (level + signed(load.level), available + signed(load.available.rate))
    });
    let mean = level / (available / 1000).max(1);
    let mut fullest = nodes;
    fullest.sort_unstable_by_key(|node| (-used(search, *node), *node));
    for node in fullest {
        if used(search, node) < mean + UNEVEN * 10 {
            break;
        }
        while used(search, node) > mean + UNEVEN * 5 && steps.len() < most {
            let Some(step) = search.one(node, Wanted { taken: steps, ..Wanted::freeing(1) }, rng) else { break };
            if used(search, step.to) >= mean {
                break;
            }
            search.rooms.take(&step);
            steps.push(step);
        }
    }
}

fn sessions(search: &Search<'_>, node: NodeId) -> usize {
    search.view.roster.node(node).map_or(0, |node| node.report.sessions as usize)
}

fn mean_margin(search: &Search<'_>) -> i64 {
    let margins = search.view.roster.nodes().filter_map(|(id, node)| {
        let room = search.rooms.of(id);
        let margin = node.books.margin(room.load.available.rate, room.load.level, 0, &search.view.common);
        room.well.then_some(margin)
    });
    let (sum, count) = margins.fold((0_i64, 0), |(sum, count), margin| (sum.saturating_add(margin), count + 1));
    sum.checked_div(count).unwrap_or(0)
}
