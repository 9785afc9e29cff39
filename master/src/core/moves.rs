//! Finds sessions to move so that another one fits: for a request whose holders are full, off overloaded or draining
//! nodes, and to empty nodes. Changes nothing. Bounded in time: it examines a limited number of a node's contents, from
//! a random offset, and a limited number of nodes.

mod drain;
mod shed;
mod spread;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;

use rand::{Rng, RngExt as _};
use usher_proto::{SessionId, model::Origin};

pub use self::{
    drain::{DrainPace, drain},
    shed::shed,
    spread::{SourceNodes, spread},
};
use super::{
    NodeId,
    balancer::{self, ClusterView, NodeLoad},
    catalog::Catalog,
    ledger::{ContentRef, NodeSessions},
    roster::NodeHealth,
};

/// Limit of moves per session, except off a draining node: frequent moves disturb a viewer more than waiting does.
pub const MAX_MOVES: u8 = 2;

/// Limit of sessions moved for one request.
pub const MAX_STEPS: usize = 4;

/// Full holders examined for one request, those with the smallest deficit first.
const BLOCKED: usize = 8;

/// Contents of a node examined for a session to move.
const MAX_CONTENTS: usize = 256;

/// Seats after which a search has enough choice.
const ENOUGH: usize = 32;

/// Nodes searched for the second move of a chain.
const CHAINS: usize = 32;

/// No session is moved for a request when less than one part in 2000 of the cluster is free: each move would only
/// postpone the next refusal.
const FREE: u64 = 2000;

/// The move of one session to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionMove {
    /// The session.
    pub session: SessionId,
    /// The node where it runs.
    pub from: NodeId,
    /// The target.
    pub to: NodeId,
    /// Bit/s.
    pub rate: u64,
}

/// Headroom of every node, by number.
#[derive(Default)]
pub struct HeadroomTable {
    headroom: Vec<Headroom>,
    /// Bit/s of all healthy nodes: available, and free.
    available: u64,
    free: u64,
}

#[derive(Clone, Copy, Default)]
struct Headroom {
    load: NodeLoad,
    /// Free bit/s; negative on an overloaded node.
    free: i64,
    /// Whether it may receive sessions.
    healthy: bool,
    /// Number and bit/s of the sessions that this search moves to it.
    assigned: u32,
    assigned_rate: u64,
}

impl HeadroomTable {
    /// Reads the headroom of every node.
    pub fn read(&mut self, view: &ClusterView<'_>) {
        self.headroom.clear();
        (self.available, self.free) = (0, 0);
        for (id, node) in view.roster.nodes() {
            let load = balancer::load(view, id, node);
            let free = signed(load.available.rate) - signed(load.level);
            let healthy = node.health(view.now) == NodeHealth::Well;
            self.headroom.resize(id.index(), Headroom::default());
            self.headroom.push(Headroom { load, free, healthy, assigned: 0, assigned_rate: 0 });
            if healthy {
                self.available = self.available.saturating_add(load.available.rate);
                self.free = self.free.saturating_add(u64::try_from(free).unwrap_or(0));
            }
        }
    }

    fn of(&self, node: NodeId) -> Headroom {
        self.headroom.get(node.index()).copied().unwrap_or_default()
    }

    fn take(&mut self, step: &SessionMove) {
        let rate = signed(step.rate);
        if let Some(headroom) = self.headroom.get_mut(step.from.index()) {
            headroom.free += rate;
            headroom.load.level = headroom.load.level.saturating_sub(step.rate);
        }
        if let Some(headroom) = self.headroom.get_mut(step.to.index()) {
            headroom.free -= rate;
            headroom.load.level = headroom.load.level.saturating_add(step.rate);
            headroom.assigned += 1;
            headroom.assigned_rate = headroom.assigned_rate.saturating_add(step.rate);
        }
    }
}

/// Rates are at most 10^15 bit/s each.
fn signed(rate: u64) -> i64 {
    i64::try_from(rate).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// Criteria for a session to move and for its target.
#[derive(Clone, Copy)]
pub struct MoveCriteria<'a> {
    /// The move frees at least this many bit/s.
    pub need: u64,
    /// Excluded target.
    pub not: Option<NodeId>,
    /// The target stays at least this far from full, in thousandths of a deviation.
    pub margin: i64,
    /// The session was moved fewer times than this.
    pub moves: u8,
    /// Excluded sessions: those chosen before.
    pub taken: &'a [SessionMove],
}

impl MoveCriteria<'_> {
    /// Any session of at least `need` bit/s.
    fn freeing(need: u64) -> Self {
        Self { need, not: None, margin: 0, moves: MAX_MOVES, taken: &[] }
    }
}

/// Inputs of a search.
pub struct MoveSearch<'a> {
    /// Nodes and reservations.
    pub view: ClusterView<'a>,
    /// Holders of each content.
    pub catalog: &'a Catalog,
    /// Headroom of every node.
    pub headroom: &'a mut HeadroomTable,
}

impl MoveSearch<'_> {
    /// Finds moves after which one of `holders` has `rate` bit/s free. Fills `steps` in the order of execution and
    /// returns that holder.
    pub fn free_capacity(
        &mut self,
        rate: u64,
        holders: impl Iterator<Item = NodeId>,
        rng: &mut impl Rng,
        steps: &mut Vec<SessionMove>,
    ) -> Option<NodeId> {
        steps.clear();
        if self.headroom.free < self.headroom.available / FREE {
            return None;
        }
        let healthy = holders.filter(|node| self.headroom.of(*node).healthy);
        let mut blocked: Vec<NodeId> = healthy.take(balancer::MAX_HOLDERS).collect();
        blocked.sort_unstable_by_key(|node| (-self.headroom.of(*node).free, *node));
        blocked.dedup();
        blocked.truncate(BLOCKED);
        let need = |headroom: &HeadroomTable, node| u64::try_from(signed(rate) - headroom.of(node).free).unwrap_or(0);
        for &node in &blocked {
            if let Some(step) = self.best_move(node, MoveCriteria::freeing(need(self.headroom, node)), rng) {
                steps.push(step);
                return Some(node);
            }
        }
        for &node in &blocked {
            if self.several_moves(node, need(self.headroom, node), rng, steps) {
                return Some(node);
            }
        }
        let mut chains = CHAINS;
        blocked.into_iter().find(|node| self.chain(*node, need(self.headroom, *node), &mut chains, rng, steps))
    }

    /// Finds one session that meets the criteria and its best target: the one farthest from full.
    pub fn best_move(&self, from: NodeId, criteria: MoveCriteria<'_>, rng: &mut impl Rng) -> Option<SessionMove> {
        let MoveCriteria { need, not, margin, moves, taken } = criteria;
        let (mut best, mut found) = (None, 0);
        for place in self.node_sessions(from, rng) {
            let free = |session: &SessionId| taken.iter().all(|step| step.session != *session);
            let Some((session, rate)) = place.least(need, moves, free) else { continue };
            for (to, after) in self.seats(from, &place, rate) {
                if Some(to) != not && after >= margin && best.is_none_or(|(most, _)| after > most) {
                    best = Some((after, SessionMove { session, from, to, rate }));
                    found += 1;
                }
            }
            if found >= ENOUGH {
                break;
            }
        }
        best.map(|(_, step)| step)
    }

    /// Finds up to [`MAX_STEPS`] sessions, largest first, that together free `need` bit/s.
    fn several_moves(&mut self, from: NodeId, need: u64, rng: &mut impl Rng, steps: &mut Vec<SessionMove>) -> bool {
        let mut sessions: Vec<(u64, SessionId, ContentRef)> = Vec::new();
        for (place, content) in self.node_sessions_with_refs(from, rng) {
            sessions.extend(place.movable(MAX_MOVES).take(MAX_STEPS).map(|(session, rate)| (rate, session, content)));
        }
        sessions.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let most: u64 = sessions.iter().take(MAX_STEPS).map(|(rate, ..)| *rate).sum();
        if most < need {
            return false;
        }
        let before = steps.len();
        let mut freed = 0;
        for (rate, session, content) in sessions {
            let Some(place) = self.view.ledger.sessions_of(from, content) else { continue };
            let seat = self.seats(from, &place, rate).max_by_key(|(_, after)| *after);
            let Some((to, _)) = seat else { continue };
            let step = SessionMove { session, from, to, rate };
            self.headroom.take(&step);
            steps.push(step);
            freed += rate;
            if freed >= need {
                return true;
            }
            if steps.len() - before >= MAX_STEPS {
                break;
            }
        }
        for step in steps.drain(before..) {
            self.headroom.take(&SessionMove { from: step.to, to: step.from, ..step });
        }
        false
    }

    /// Moves sessions off an overloaded node, largest first, until it fits: each to its best target, which stays at
    /// least `margin` thousandths of a deviation from full.
    fn unload(&mut self, from: NodeId, margin: i64, rng: &mut impl Rng, steps: &mut Vec<SessionMove>) {
        let headroom = self.headroom.of(from);
        if headroom.load.level <= headroom.load.available.with_reserves() {
            return;
        }
        let mut over = signed(headroom.load.level) - signed(headroom.load.available.with_reserves());
        let mut sessions = self.largest_first(from, Some(MAX_MOVES), |_, _| true, rng).into_iter().peekable();
        while let Some((rate, session, content)) = sessions.next() {
            // Prefer a smaller session if it suffices.
            let smaller = sessions.peek().is_some_and(|(next, ..)| signed(*next) >= over);
            if over <= 0 {
                break;
            }
            if smaller && signed(rate) > over {
                continue;
            }
            let Some(place) = self.view.ledger.sessions_of(from, content) else { continue };
            let seat = self.seats(from, &place, rate).max_by_key(|(_, after)| *after);
            let Some((to, _)) = seat.filter(|(_, after)| *after >= margin) else { continue };
            let step = SessionMove { session, from, to, rate };
            self.headroom.take(&step);
            steps.push(step);
            over -= signed(rate);
        }
    }

    /// Sessions of a node that were moved fewer than `moves` times and that `keep` accepts by id and bit/s: largest
    /// first, equal ones in random order.
    fn largest_first(
        &self,
        from: NodeId,
        moves: Option<u8>,
        keep: impl Fn(&SessionId, u64) -> bool,
        rng: &mut impl Rng,
    ) -> Vec<(u64, SessionId, ContentRef)> {
        let mut sessions: Vec<(u32, (u64, SessionId, ContentRef))> = Vec::new();
        for content in self.view.ledger.contents(from) {
            let Some(place) = self.view.ledger.sessions_of(from, *content) else { continue };
            let movable = place.movable(moves).filter(|(session, rate)| keep(session, *rate));
            sessions.extend(movable.map(|(session, rate)| (rng.random(), (rate, session, *content))));
        }
        sessions.sort_unstable_by_key(|(lot, (rate, ..))| (Reverse(*rate), *lot));
        sessions.into_iter().map(|(_, session)| session).collect()
    }

    /// Finds a chain of two: a session of `from` goes to a node that first moves one of its own sessions to a third
    /// node.
    fn chain(
        &self,
        from: NodeId,
        need: u64,
        left: &mut usize,
        rng: &mut impl Rng,
        steps: &mut Vec<SessionMove>,
    ) -> bool {
        let contents: Vec<ContentRef> = self.contents(from, rng).collect();
        for content in contents {
            let Some(place) = self.view.ledger.sessions_of(from, content) else { continue };
            let Some((session, rate)) = place.least(need, MAX_MOVES, |_| true) else { continue };
            for to in self.holders(from, &place) {
                let headroom = self.headroom.of(to);
                let short = u64::try_from(signed(rate) - headroom.free).unwrap_or(0);
                if !headroom.healthy || short == 0 {
                    continue;
                }
                if *left == 0 {
                    return false;
                }
                *left -= 1;
                if let Some(second) =
                    self.best_move(to, MoveCriteria { not: Some(from), ..MoveCriteria::freeing(short) }, rng)
                {
                    steps.extend([second, SessionMove { session, from, to, rate }]);
                    return true;
                }
            }
        }
        false
    }

    /// Nodes with `rate` bit/s free for a content that `from` serves, and their distance from full afterwards.
    fn seats(&self, from: NodeId, place: &NodeSessions<'_>, rate: u64) -> impl Iterator<Item = (NodeId, i64)> {
        self.holders(from, place).filter_map(move |to| {
            let headroom = self.headroom.of(to);
            if !headroom.healthy || headroom.free < signed(rate) {
                return None;
            }
            let node = self.view.roster.node(to)?;
            Some((to, node.estimate.margin(headroom.load.available.rate, headroom.load.level, rate, &self.view.common)))
        })
    }

    /// The other nodes with a complete copy of a content.
    fn holders(&self, from: NodeId, place: &NodeSessions<'_>) -> impl Iterator<Item = NodeId> {
        let copies = place.content.into_iter().flat_map(|content| self.catalog.copies_of_key(content));
        let mut last = None;
        copies.filter(|copy| copy.origin != Origin::Growing).map(|copy| copy.node).filter(move |node| {
            let again = last.replace(*node) == Some(*node);
            *node != from && !again
        })
    }

    fn node_sessions(&self, node: NodeId, rng: &mut impl Rng) -> impl Iterator<Item = NodeSessions<'_>> {
        self.node_sessions_with_refs(node, rng).map(|(place, _)| place)
    }

    fn node_sessions_with_refs(
        &self,
        node: NodeId,
        rng: &mut impl Rng,
    ) -> impl Iterator<Item = (NodeSessions<'_>, ContentRef)> {
        self.contents(node, rng)
            .filter_map(move |content| Some((self.view.ledger.sessions_of(node, content)?, content)))
    }

    fn contents(&self, node: NodeId, rng: &mut impl Rng) -> impl Iterator<Item = ContentRef> {
        let contents = self.view.ledger.contents(node);
        let from = if contents.len() > MAX_CONTENTS { rng.random_range(0..contents.len()) } else { 0 };
        contents.iter().cycle().skip(from).take(contents.len().min(MAX_CONTENTS)).copied()
    }
}
