//! Which session to move where, so that another one fits: at a blocked arrival, away from a node that has more than it
//! can give or that drains, and towards a node that stands empty. Finds, and changes nothing. Bounded in time: it looks
//! at so many works of a node, from a different one each time, and at so many nodes.

mod drain;
mod shed;
mod spread;
#[cfg(test)]
mod tests;

use rand::{Rng, RngExt as _};
use usher_proto::{SessionId, model::Origin};

pub use self::{
    drain::{DrainPace, drain},
    shed::shed,
    spread::{Givers, spread},
};
use super::{
    NodeId,
    balancer::{self, ClusterView, NodeLoad},
    catalog::Catalog,
    ledger::{ContentRef, NodeSessions},
    roster::NodeHealth,
};

/// How often a session is moved in its life at most, but away from a node that drains: a viewer who is sent about is
/// no better off than one who waits.
pub const MAX_MOVES: u8 = 2;

/// Sessions that are moved for one arrival at most.
pub const MAX_STEPS: usize = 4;

/// Holders of a title on which room is sought, those that lack the least.
const BLOCKED: usize = 8;

/// Works of a node that are looked at for a session to move.
const MAX_CONTENTS: usize = 256;

/// Seats found for a session at which the search has enough to choose from.
const ENOUGH: usize = 32;

/// Nodes that are searched for the second move of a chain.
const CHAINS: usize = 32;

/// Nothing is moved for an arrival when less than one part in so many of the cluster is free: there, each move only
/// postpones the next refusal.
const FREE: u64 = 2000;

/// One session to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionMove {
    /// The session.
    pub session: SessionId,
    /// Where it runs.
    pub from: NodeId,
    /// Where it shall go on.
    pub to: NodeId,
    /// Bit/s.
    pub rate: u64,
}

/// What each node has left, by number.
#[derive(Default)]
pub struct HeadroomTable {
    headroom: Vec<Headroom>,
    /// Bit/s that all nodes may be given, and have left.
    available: u64,
    free: u64,
}

#[derive(Clone, Copy, Default)]
struct Headroom {
    load: NodeLoad,
    /// Bit/s left; below 0 when it has more than it can give.
    left: i64,
    /// It may be given sessions.
    well: bool,
    /// Sessions that this search gives it, and their bit/s.
    given: u32,
    given_rate: u64,
}

impl HeadroomTable {
    /// Reads every node's room.
    pub fn read(&mut self, view: &ClusterView<'_>) {
        self.headroom.clear();
        (self.available, self.free) = (0, 0);
        for (id, node) in view.roster.nodes() {
            let load = balancer::load(view, id, node);
            let left = signed(load.available.rate) - signed(load.level);
            let well = node.health(view.now) == NodeHealth::Well;
            self.headroom.resize(id.index(), Headroom::default());
            self.headroom.push(Headroom { load, left, well, given: 0, given_rate: 0 });
            if well {
                self.available = self.available.saturating_add(load.available.rate);
                self.free = self.free.saturating_add(u64::try_from(left).unwrap_or(0));
            }
        }
    }

    fn of(&self, node: NodeId) -> Headroom {
        self.headroom.get(node.index()).copied().unwrap_or_default()
    }

    fn take(&mut self, step: &SessionMove) {
        let rate = signed(step.rate);
        if let Some(room) = self.headroom.get_mut(step.from.index()) {
            room.left += rate;
            room.load.level = room.load.level.saturating_sub(step.rate);
        }
        if let Some(room) = self.headroom.get_mut(step.to.index()) {
            room.left -= rate;
            room.load.level = room.load.level.saturating_add(step.rate);
            room.given += 1;
            room.given_rate = room.given_rate.saturating_add(step.rate);
        }
    }
}

/// Rates are at most 10^15 bit/s each.
fn signed(rate: u64) -> i64 {
    i64::try_from(rate).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// Which session of a node shall move, and to where.
#[derive(Clone, Copy)]
pub struct MoveCriteria<'a> {
    /// Its going frees at least so many bit/s.
    pub need: u64,
    /// Not to this node.
    pub not: Option<NodeId>,
    /// Its seat stays so many thousandths of a deviation from full at least.
    pub margin: i64,
    /// It was moved fewer times than this.
    pub moves: u8,
    /// None of these, which were chosen before.
    pub taken: &'a [SessionMove],
}

impl MoveCriteria<'_> {
    /// Any that frees so many bit/s.
    fn freeing(need: u64) -> Self {
        Self { need, not: None, margin: 0, moves: MAX_MOVES, taken: &[] }
    }
}

/// What a search sees.
pub struct MoveSearch<'a> {
    /// Nodes and promises.
    pub view: ClusterView<'a>,
    /// Who else holds a title.
    pub catalog: &'a Catalog,
    /// What each node has left.
    pub headroom: &'a mut HeadroomTable,
}

impl MoveSearch<'_> {
    /// The moves after which one of `holders` has room for `rate`, in the order in which to make them, and that holder.
    /// Empty when there are none.
    pub fn make_room(
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
        let well = holders.filter(|node| self.headroom.of(*node).well);
        let mut blocked: Vec<NodeId> = well.take(balancer::LOOKED_AT).collect();
        blocked.sort_unstable_by_key(|node| (-self.headroom.of(*node).left, *node));
        blocked.dedup();
        blocked.truncate(BLOCKED);
        let need = |headroom: &HeadroomTable, node| u64::try_from(signed(rate) - headroom.of(node).left).unwrap_or(0);
        for &node in &blocked {
            if let Some(step) = self.one(node, MoveCriteria::freeing(need(self.headroom, node)), rng) {
                steps.push(step);
                return Some(node);
            }
        }
        for &node in &blocked {
            if self.several(node, need(self.headroom, node), rng, steps) {
                return Some(node);
            }
        }
        let mut chains = CHAINS;
        blocked.into_iter().find(|node| self.chain(*node, need(self.headroom, *node), &mut chains, rng, steps))
    }

    /// The session of a node that is wanted, and its best seat: the one farthest from full.
    pub fn one(&self, from: NodeId, wanted: MoveCriteria<'_>, rng: &mut impl Rng) -> Option<SessionMove> {
        let MoveCriteria { need, not, margin, moves, taken } = wanted;
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

    /// Up to [`MAX_STEPS`] sessions of a node that together free `need`, the largest first.
    fn several(&mut self, from: NodeId, need: u64, rng: &mut impl Rng, steps: &mut Vec<SessionMove>) -> bool {
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

    /// Sessions of a node that has more than it can give, the largest first, until it fits: each to its best seat, which
    /// stays `margin` thousandths of a deviation from full.
    fn relieve(&mut self, from: NodeId, margin: i64, rng: &mut impl Rng, steps: &mut Vec<SessionMove>) {
        let room = self.headroom.of(from);
        if room.load.level <= room.load.available.with_reserves() {
            return;
        }
        let mut over = signed(room.load.level) - signed(room.load.available.with_reserves());
        let mut sessions: Vec<(u64, u32, SessionId, ContentRef)> = Vec::new();
        for content in self.view.ledger.contents(from) {
            let Some(place) = self.view.ledger.sessions_of(from, *content) else { continue };
            sessions.extend(place.movable(MAX_MOVES).map(|(session, rate)| (rate, rng.random(), session, *content)));
        }
        sessions.sort_unstable_by_key(|(rate, lot, ..)| (std::cmp::Reverse(*rate), *lot));
        let mut sessions = sessions.into_iter().peekable();
        while let Some((rate, _, session, content)) = sessions.next() {
            // Not more than is needed, as long as there are smaller ones.
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

    /// A session of `from` to a node that has no room for it until one of its own sessions goes to a third.
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
                let room = self.headroom.of(to);
                let short = u64::try_from(signed(rate) - room.left).unwrap_or(0);
                if !room.well || short == 0 {
                    continue;
                }
                if *left == 0 {
                    return false;
                }
                *left -= 1;
                if let Some(second) =
                    self.one(to, MoveCriteria { not: Some(from), ..MoveCriteria::freeing(short) }, rng)
                {
                    steps.extend([second, SessionMove { session, from, to, rate }]);
                    return true;
                }
            }
        }
        false
    }

    /// Nodes with room for `rate` of a work that `from` serves, and how far from full they would be then.
    fn seats(&self, from: NodeId, place: &NodeSessions<'_>, rate: u64) -> impl Iterator<Item = (NodeId, i64)> {
        self.holders(from, place).filter_map(move |to| {
            let room = self.headroom.of(to);
            if !room.well || room.left < signed(rate) {
                return None;
            }
            let node = self.view.roster.node(to)?;
            Some((to, node.estimate.margin(room.load.available.rate, room.load.level, rate, &self.view.common)))
        })
    }

    /// The other nodes that hold all of a work.
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
