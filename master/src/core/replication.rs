//! Plans which titles to copy where and which copies to remove: hot titles are copied before their holders are full,
//! titles with too few copies are repaired, and unneeded copies make space. Owns the demand of titles and the orders in
//! progress; reads the catalog through [`TitleSource`] only.
//!
//! Recording a request is O(1): a hash look-up and an addition. A plan is meant to be made once a second, and sooner
//! when [`Planner::is_urgent`]. It examines at most 4096 requested titles, 4096 titles of the sweep and 1024 possibly
//! surplus copies, and sorts the nodes once if a title is short; that takes milliseconds at 10,000 nodes and a million
//! titles. Memory: about 120 bytes per title requested in the last hour (at most a million), 120 bytes per watched
//! replica (at most 262,144), 80 bytes per title with too few copies (at most 65,536).
//!
//! The same calls with the same random numbers give the same orders.

mod active;
mod demand;
mod holders;
mod plan_nodes;
mod policy;
mod shortage;
mod surplus;
#[cfg(test)]
mod tests;
mod water_filling;

use std::{
    collections::BTreeMap,
    hash::Hash,
    time::{Duration, Instant},
};

use rand::Rng;
use usher_proto::model::Origin;

pub use self::policy::{Bounds, Policy, PrefixRule};
use self::{
    active::{ActiveCopies, Backoff},
    demand::Demand,
    holders::Holders,
    plan_nodes::PlanNodes,
    surplus::ReplicaWatch,
};
use super::{NodeId, catalog::ContentKey};

/// Time that copies may be missing before they are replaced: a node that restarts or is moved to another rack brings
/// its copies back for free.
pub const GRACE: Duration = Duration::from_secs(300);

/// Load of the cluster, in per cent, above which no copy is made for demand: no node has capacity to offer, and copying
/// uses some.
const CROWDED: u64 = 96;

/// Assumed session duration until one is measured.
const SESSION: Duration = Duration::from_secs(900);

/// A node as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSnapshot {
    /// Whether it may receive copies and sessions.
    pub serving: bool,
    /// Bit/s available in total.
    pub available: u64,
    /// Bit/s in use.
    pub level: u64,
    /// Bytes free for new copies. The full size of copies that its catalog lists as growing is already deducted.
    pub storage_free: u64,
    /// Failure domain: nodes of one zone may fail together.
    pub zone: u32,
}

/// A title as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TitleInfo<'a> {
    /// Selects the policy.
    pub name: &'a str,
    /// Bytes.
    pub size: u64,
    /// Rate of one session, bit/s; estimated if unknown.
    pub rate: u64,
    /// Whether copies can be verified; other titles are not copied.
    pub hashed: bool,
}

/// Read access to the catalog.
pub trait TitleSource {
    /// Key of one content of one title.
    type Title: Copy + Ord + Hash;

    /// Returns a title's properties; `None` once it is gone.
    fn facts(&self, title: Self::Title) -> Option<TitleInfo<'_>>;

    /// Visits its copies, growing ones included, in any order; may name a node more than once.
    fn copies(&self, title: Self::Title, each: impl FnMut(NodeId, Origin));

    /// Visits up to `limit` titles from a position on (0 is the beginning) and returns the next position, or `None` at
    /// the end. Examines a bounded number of positions, so it may visit fewer titles than exist. A title that stays is
    /// visited in every round, whatever is added and removed meanwhile.
    fn visit_titles(&self, position: usize, limit: usize, visit: impl FnMut(Self::Title)) -> Option<usize>;
}

/// Reason for a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyReason {
    /// A request was refused for lack of capacity.
    Refused,
    /// Its holders are about to be full.
    Hot,
    /// It has fewer copies than wanted.
    Few,
}

/// An order of the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOrder<T = ContentKey> {
    /// Copy a title. In progress until [`Planner::handle_copied`], [`Planner::handle_failure`] or a timeout.
    Replicate {
        /// The title.
        title: T,
        /// A node with a complete copy.
        from: NodeId,
        /// A node without a copy.
        to: NodeId,
        /// Upper limit, bit/s.
        rate: u64,
        /// Reason, for the log.
        why: CopyReason,
    },
    /// Remove a copy that was made by order, never one of the operator's. To be executed before the orders that follow
    /// it.
    Evict {
        /// The title.
        title: T,
        /// The node.
        node: NodeId,
    },
}

/// Plans copies from demand, policy and the state of the nodes.
pub struct Planner<T = ContentKey> {
    policy: Policy,
    grace: Duration,
    session: Duration,
    demand: Demand<T>,
    active: ActiveCopies<T>,
    /// Backoff of failed pairs of source and target.
    pairs: Backoff<(NodeId, NodeId)>,
    /// Backoff of titles whose copies failed, from any source.
    titles: Backoff<T>,
    /// Titles with too few copies, and since when.
    few: BTreeMap<T, Instant>,
    few_cursor: Option<T>,
    /// Position in the walk through the catalog.
    place: usize,
    watch: ReplicaWatch<T>,
    /// Buffers.
    nodes: PlanNodes,
    holders: Holders,
}

impl<T: Copy + Ord + Hash> Planner<T> {
    /// A planner without known demand. Missing copies are replaced after `grace`.
    pub fn new(now: Instant, policy: Policy, grace: Duration) -> Self {
        Self {
            policy,
            grace,
            session: SESSION,
            demand: Demand::new(now, demand::MOST),
            active: ActiveCopies::new(),
            pairs: Backoff::new(),
            titles: Backoff::new(),
            few: BTreeMap::new(),
            few_cursor: None,
            place: 0,
            watch: ReplicaWatch::new(),
            nodes: PlanNodes::default(),
            holders: Holders::default(),
        }
    }

    /// Sets the mean session duration.
    pub fn set_mean_session(&mut self, mean: Duration) {
        self.session = mean.clamp(Duration::from_secs(1), Duration::from_secs(86_400));
    }

    /// Records a request for a title at `rate` bit/s, whatever its outcome. O(1); allocates only for a title without
    /// recent requests.
    pub fn handle_request(&mut self, now: Instant, title: T, rate: u64) {
        self.demand.handle_request(now, title, rate);
    }

    /// Records that no holder had headroom, in addition to [`Self::handle_request`]. O(1).
    pub fn handle_refusal(&mut self, now: Instant, title: T) {
        self.demand.handle_refusal(now, title);
    }

    /// Whether a refused title waits for a plan.
    pub fn is_urgent(&self) -> bool {
        self.demand.is_urgent()
    }

    /// Handles a completed copy. Returns whether the order was in progress.
    pub fn handle_copied(&mut self, now: Instant, title: T, to: NodeId) -> bool {
        let Some(run) = self.active.end(title, to) else { return false };
        self.pairs.succeeded(&(run.from, to));
        self.titles.succeeded(&title);
        self.watch.add(now, to, title);
        true
    }

    /// Handles a refused or failed copy: title and pair of nodes back off. Returns whether the order was in progress.
    pub fn handle_failure(&mut self, now: Instant, title: T, to: NodeId) -> bool {
        let Some(run) = self.active.end(title, to) else { return false };
        self.pairs.failed(now, (run.from, to));
        self.titles.failed(now, title);
        true
    }

    /// Handles the loss of a node: its orders are void.
    pub fn handle_node_lost(&mut self, node: NodeId) {
        self.active.forget(node);
        self.pairs.forget(|(from, to)| *from == node || *to == node);
        self.watch.forget(node);
    }

    /// Whether a copy is in progress to a node and fast enough to be served meanwhile.
    pub fn serves_while_copying(&self, title: T, to: NodeId) -> bool {
        self.active.of(title).any(|(node, run)| node == to && run.relief)
    }

    /// Source and bit/s of each copy in progress.
    pub fn source_loads(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.active.all().map(|run| (run.from, run.rate))
    }

    /// Appends the orders that are due to `orders`; they count as in progress at once. `snapshots` is indexed by
    /// [`NodeId`], `None` for absent nodes.
    pub fn plan<S: TitleSource<Title = T>>(
        &mut self,
        now: Instant,
        titles: &S,
        snapshots: &[Option<NodeSnapshot>],
        rng: &mut impl Rng,
        orders: &mut Vec<CopyOrder<T>>,
    ) {
        self.active.expire(now);
        self.pairs.expire(now);
        self.titles.expire(now);
        self.demand.forget_idle(now);
        self.nodes.set(snapshots, rng);
        for (title, to, run) in self.active.all_mut() {
            if !run.seen {
                titles.copies(title, |node, _| run.seen |= node == to);
            }
            self.nodes.count_copy(run.from, to, if run.seen { 0 } else { run.size });
        }
        let serving = || snapshots.iter().flatten().filter(|snapshot| snapshot.serving);
        let level: u64 = serving().map(|snapshot| snapshot.level).sum();
        let available: u64 = serving().map(|snapshot| snapshot.available).sum();
        if u128::from(level) * 100 < u128::from(available) * u128::from(CROWDED) {
            self.order_for_demand(now, titles, orders);
        } else {
            self.demand.clear_urgent();
        }
        self.sweep(now, titles);
        self.order_repairs(now, titles, orders);
        self.order_evictions(now, titles, orders);
    }
}
