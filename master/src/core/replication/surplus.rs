//! Replicas that may be removed: those unneeded for half an hour, and those in the way of more valuable ones. Owns the
//! list of replicas; never removes an operator's copy.

use std::{
    collections::BTreeMap,
    hash::Hash,
    ops::Bound,
    time::{Duration, Instant},
};

use usher_proto::model::Origin;

use super::{
    super::{NodeId, fixed::ONE},
    CopyOrder, Planner, TitleSource,
};

/// A replica is surplus while the title's other holders would stay below this load without it. The threshold is far
/// below that for new copies, so that a removed replica is not made again.
const SURPLUS_BELOW: u64 = ONE / 100 * 80;

/// Time that a replica must have been surplus: longer than a half-time break.
const SURPLUS_PERIOD: Duration = Duration::from_secs(30 * 60);

/// A replica may be displaced by a more valuable one if the other holders stay below this load.
const REPLACEABLE_BELOW: u64 = ONE / 100 * 90;

/// Interval between removals on one node: deleting a large file blocks its disk.
const EVICTION_INTERVAL: Duration = Duration::from_secs(1);

/// Limit of watched replicas; the sweep finds the others later.
const MOST: usize = 262_144;

/// Replicas examined per plan.
const LOOKS: usize = 1024;

/// Replicas of one node examined for one to remove.
const MAX_CANDIDATES: usize = 256;

/// Value of a copy: demand carried per byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyValue {
    carried: u64,
    size: u64,
}

impl CopyValue {
    /// Above every copy's value.
    pub(super) const MAX: Self = Self { carried: u64::MAX, size: 0 };

    pub(super) fn new(inflow: u64, copies: u32, size: u64) -> Self {
        Self { carried: inflow / u64::from(copies.max(1)), size: size.max(1) }
    }

    fn is_below(&self, other: &Self) -> bool {
        u128::from(self.carried) * u128::from(other.size) < u128::from(other.carried) * u128::from(self.size)
            || (other.size == 0 && self.size > 0)
    }

    /// Whether it is less than half of `other`: titles of similar demand must not displace each other in turns.
    fn is_far_below(&self, other: &Self) -> bool {
        Self { carried: self.carried.saturating_mul(2), ..*self }.is_below(other)
    }
}

/// State of a title without one of its replicas.
enum WithoutReplica {
    /// No such replica exists.
    Gone,
    /// Fewer complete copies than wanted would remain, or copies are in progress.
    TooFew,
    /// Load of the least loaded other holder, Q32.
    Level(u64),
}

struct NodeReplicas<T> {
    /// Replicas, and since when each has been surplus.
    surplus_since: BTreeMap<T, Instant>,
    evicted: Option<Instant>,
    /// Start of the next search for a replica_to_displace.
    cursor: Option<T>,
}

impl<T> Default for NodeReplicas<T> {
    fn default() -> Self {
        Self { surplus_since: BTreeMap::new(), evicted: None, cursor: None }
    }
}

/// Replicas by node.
pub(super) struct ReplicaWatch<T> {
    places: Vec<NodeReplicas<T>>,
    count: usize,
    /// The replica examined last.
    cursor: (usize, Option<T>),
}

impl<T: Copy + Ord> ReplicaWatch<T> {
    pub(super) fn new() -> Self {
        Self { places: Vec::new(), count: 0, cursor: (0, None) }
    }

    /// Adds a replica, if it is new.
    pub(super) fn add(&mut self, now: Instant, node: NodeId, title: T) {
        if self.places.len() <= node.index() {
            self.places.resize_with(node.index() + 1, NodeReplicas::default);
        }
        let surplus_since = &mut self.places[node.index()].surplus_since;
        if self.count < MOST && !surplus_since.contains_key(&title) {
            surplus_since.insert(title, now);
            self.count += 1;
        }
    }

    /// Removes a replica.
    fn remove(&mut self, node: NodeId, title: T) {
        if self.places.get_mut(node.index()).is_some_and(|place| place.surplus_since.remove(&title).is_some()) {
            self.count -= 1;
        }
    }

    pub(super) fn evicted(&mut self, now: Instant, title: T, node: NodeId) {
        self.remove(node, title);
        if let Some(place) = self.places.get_mut(node.index()) {
            place.evicted = Some(now);
        }
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        if let Some(place) = self.places.get_mut(node.index()) {
            self.count -= place.surplus_since.len();
            *place = NodeReplicas::default();
        }
    }

    fn may_evict(&self, now: Instant, node: NodeId) -> bool {
        let evicted = self.places.get(node.index()).and_then(|place| place.evicted);
        evicted.is_none_or(|evicted| now.saturating_duration_since(evicted) >= EVICTION_INTERVAL)
    }

    /// Restarts the surplus time of a replica that is needed, or whose sibling was just removed.
    fn mark_needed(&mut self, now: Instant, node: NodeId, title: T) {
        if let Some(since) = self.places.get_mut(node.index()).and_then(|place| place.surplus_since.get_mut(&title)) {
            *since = now;
        }
    }

    /// Next replica in turn.
    fn turn(&mut self) -> Option<(NodeId, T, Instant)> {
        for _ in 0..=self.places.len() {
            let (index, after) = self.cursor;
            let place = self.places.get(index)?;
            let after = after.map_or(Bound::Unbounded, Bound::Excluded);
            if let Some((&title, &since)) = place.surplus_since.range((after, Bound::Unbounded)).next() {
                self.cursor.1 = Some(title);
                return Some((NodeId(u32::try_from(index).ok()?), title, since));
            }
            self.cursor = (if index + 1 < self.places.len() { index + 1 } else { 0 }, None);
        }
        None
    }

    /// Some replicas of a node, different ones each time.
    fn some_of(&mut self, node: NodeId) -> Vec<T> {
        let Some(place) = self.places.get_mut(node.index()) else { return Vec::new() };
        let after = place.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = place.surplus_since.range((after, Bound::Unbounded)).map(|(title, _)| *title);
        let begin = place.cursor.map(|cursor| place.surplus_since.range(..=cursor).map(|(title, _)| *title));
        let some: Vec<T> = rest.chain(begin.into_iter().flatten()).take(MAX_CANDIDATES).collect();
        place.cursor = some.last().copied();
        some
    }
}

impl<T: Copy + Ord + Hash> Planner<T> {
    /// Removes replicas that have been surplus long enough.
    pub(super) fn order_evictions<S: TitleSource<Title = T>>(
        &mut self,
        now: Instant,
        titles: &S,
        orders: &mut Vec<CopyOrder<T>>,
    ) {
        for _ in 0..LOOKS.min(self.watch.count) {
            let Some((node, title, since)) = self.watch.turn() else { return };
            let level = match self.without(now, node, title, titles) {
                WithoutReplica::Gone => {
                    self.watch.remove(node, title);
                    continue;
                }
                WithoutReplica::TooFew => u64::MAX,
                WithoutReplica::Level(level) => level,
            };
            if level >= SURPLUS_BELOW {
                self.watch.mark_needed(now, node, title);
            } else if now.saturating_duration_since(since) >= SURPLUS_PERIOD && self.watch.may_evict(now, node) {
                orders.push(CopyOrder::Evict { title, node });
                self.evict(now, title, node);
            }
        }
    }

    /// The least valuable replica on a node that may be displaced by a title of value `wanted_value`, of at least `missing`
    /// bytes, and its size.
    pub(super) fn replica_to_displace<S: TitleSource<Title = T>>(
        &mut self,
        now: Instant,
        node: NodeId,
        missing: u64,
        (wanted, wanted_value): (T, CopyValue),
        titles: &S,
    ) -> Option<(T, u64)> {
        if !self.watch.may_evict(now, node) {
            return None;
        }
        let mut least: Option<(CopyValue, T)> = None;
        for title in self.watch.some_of(node) {
            let Some(facts) = titles.facts(title).filter(|facts| facts.size >= missing && title != wanted) else {
                continue;
            };
            let WithoutReplica::Level(level) = self.without(now, node, title, titles) else { continue };
            let inflow = self.demand.rates(now, &title).inflow(facts.rate, self.session);
            let value = CopyValue::new(inflow, self.holders.count(), facts.size);
            let is_least = least.is_none_or(|(least, _)| value.is_below(&least));
            if level < REPLACEABLE_BELOW && is_least && value.is_far_below(&wanted_value) {
                least = Some((value, title));
            }
        }
        least.map(|(value, title)| (title, value.size))
    }

    /// State of a title without its replica on a node. Leaves the title's holders in the buffer.
    fn without<S: TitleSource<Title = T>>(
        &mut self,
        now: Instant,
        node: NodeId,
        title: T,
        titles: &S,
    ) -> WithoutReplica {
        let Some(facts) = titles.facts(title) else { return WithoutReplica::Gone };
        self.holders.set(title, titles, (&self.active, &self.nodes));
        if !self.holders.all.iter().any(|holder| holder.node == node && holder.origin == Origin::Replica) {
            return WithoutReplica::Gone;
        }
        let least = self.policy.of(facts.name).min.max(1);
        if self.holders.whole() <= least || self.active.of(title).next().is_some() {
            return WithoutReplica::TooFew;
        }
        let rates = self.demand.rates(now, &title);
        // The replica's own load moves to the others, in addition to new sessions.
        let carried = rates.steady(self.session) / u64::from(self.holders.whole());
        let inflow = rates.inflow(facts.rate, self.session).saturating_add(carried);
        WithoutReplica::Level(self.holders.level(&self.nodes, inflow, Some(node)))
    }

    /// Records an eviction and restarts the surplus time of the title's other replicas.
    fn evict(&mut self, now: Instant, title: T, node: NodeId) {
        self.active.evict(now, title, node);
        self.watch.evicted(now, title, node);
        for holder in &self.holders.all {
            self.watch.mark_needed(now, holder.node, title);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_demand_per_byte() {
        let value = CopyValue::new;
        assert!(value(1, 1, 10).is_below(&value(1, 1, 9)) && value(10, 2, 10).is_below(&value(10, 1, 10)));
        assert!(!value(10, 1, 10).is_far_below(&value(20, 1, 10)) && value(9, 1, 10).is_far_below(&value(20, 1, 10)));
        assert!(!value(0, 1, 1).is_below(&value(0, 1, 1)) && value(u64::MAX, 1, 1).is_below(&CopyValue::MAX));
    }
}
