//! Moves that no arrival asks for, about once a second: away from nodes that have more than they can give, away from
//! nodes that drain, and, after a node joined or came back, towards it. Finds them; the caller makes them.

use rand::Rng;

use super::{MOVES, Search, Step, signed};
use crate::core::{NodeId, roster::State};

/// A node that has more than it can give sheds to nodes that keep this part of the cluster's mean margin, in per
/// cent: a move to the next node that overflows would only be the first of two.
const SPARE: i64 = 60;

/// Sessions that one node sheds in a second at most: more at once would arrive at their seats as a herd.
const SHED: usize = 16;

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

/// Moves away from nodes that have more than they can give; with `drain`, away from those that drain too.
pub fn shed(search: &mut Search<'_>, drain: bool, rng: &mut impl Rng, steps: &mut Vec<Step>) {
    steps.clear();
    let nodes: Vec<(NodeId, bool)> =
        search.view.roster.nodes().map(|(id, node)| (id, node.state == State::Draining)).collect();
    let least = mean_margin(search) * SPARE / 100;
    for (node, draining) in nodes {
        let most = if draining { if drain { Pace::of(sessions(search, node)) } else { 0 } } else { SHED };
        for _ in 0..most {
            let step = if draining {
                search.one(node, 1, None, 0, u8::MAX, rng)
            } else {
                let over = -search.rooms.of(node).left;
                if over <= 0 {
                    break;
                }
                // One that is enough by itself, or else any.
                let need = u64::try_from(over).unwrap_or(0);
                search.one(node, need, None, least, MOVES, rng).or_else(|| search.one(node, 1, None, least, MOVES, rng))
            };
            let Some(step) = step.filter(|step| steps.iter().all(|other| other.session != step.session)) else { break };
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
    let well = |search: &Search<'_>| -> Vec<NodeId> {
        search.view.roster.nodes().map(|(id, _)| id).filter(|id| search.rooms.of(*id).well).collect()
    };
    let nodes = well(search);
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
            let Some(step) = search.one(node, 1, None, 0, MOVES, rng) else { break };
            let again = steps.iter().any(|other| other.session == step.session);
            if again || used(search, step.to) >= mean {
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
