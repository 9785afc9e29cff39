//! What should be copied where, and which copies may go: hot titles get copies before their holders are full, titles
//! with too few copies get back what they lost, and copies that nobody needs make room. Owns the demand of titles and
//! the orders that run; refuses to know how orders are carried out, and the catalog beyond what [`TitleSource`] tells.
//!
//! An ask is O(1), a hash look-up and an addition. A plan is meant to be made once a second, sooner when
//! [`Planner::is_urgent`]: it looks at no more than 4096 titles that were asked for, 4096 of the sweep, 1024 copies
//! that may be surplus, and sorts the nodes once if anything is short, so that it takes milliseconds at 10,000 nodes
//! and a million titles. Memory: about 120 bytes a title asked for in the last hour (a million at most), 120 bytes a
//! replica watched for surplus (262,144 at most), 80 bytes a title in want of copies (65,536 at most).
//!
//! The same calls with the same chance give the same orders.

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

/// How long copies may be missing before they are made anew: a node that restarts, or is moved to another rack, brings
/// its copies back for nothing.
pub const GRACE: Duration = Duration::from_secs(300);

/// With more of the cluster taken than this, in per cent, no copy is made for demand: there is no room elsewhere that it
/// would open, and making it takes room.
const CROWDED: u64 = 96;

/// How long sessions are taken to last until somebody knows better.
const SESSION: Duration = Duration::from_secs(900);

/// What the planner sees of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSnapshot {
    /// It may take copies and sessions.
    pub serving: bool,
    /// Bit/s that it may be given in all.
    pub available: u64,
    /// Bit/s of them that are taken.
    pub level: u64,
    /// Bytes for copies that are ordered from now on: what its catalog names as growing has its whole size taken off.
    pub storage_free: u64,
    /// Nodes of one zone may fail together.
    pub zone: u32,
}

/// What the planner sees of a title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TitleInfo<'a> {
    /// Decides which policy is in force.
    pub name: &'a str,
    /// Bytes.
    pub size: u64,
    /// Bit/s of one session; an estimate if nobody knows.
    pub rate: u64,
    /// A copy of it can be verified; others are not made.
    pub hashed: bool,
}

/// What the planner asks about titles.
pub trait TitleSource {
    /// Names one content of one title.
    type Title: Copy + Ord + Hash;

    /// What is known of it; none once it is gone.
    fn facts(&self, title: Self::Title) -> Option<TitleInfo<'_>>;

    /// Its copies, growing ones too, in any order; a node may be named more than once.
    fn copies(&self, title: Self::Title, each: impl FnMut(NodeId, Origin));

    /// Visits at most `limit` titles from a place in the catalog on (0 is its beginning) and tells the place to go on
    /// from; none at the end. Looks at a bounded number of places, so that it may visit fewer than there are. A title
    /// that stays is visited in every round, whatever comes and goes meanwhile.
    fn walk(&self, place: usize, limit: usize, visit: impl FnMut(Self::Title)) -> Option<usize>;
}

/// Why a copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyReason {
    /// A request for it found no room.
    Refused,
    /// Its holders will be full.
    Hot,
    /// It has fewer copies than it should.
    Few,
}

/// Something to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOrder<T = ContentKey> {
    /// Copy a title. Runs until [`Planner::handle_copied`], [`Planner::handle_failure`], or the end of patience.
    Replicate {
        /// What.
        title: T,
        /// A node that has it whole.
        from: NodeId,
        /// A node that has none of it.
        to: NodeId,
        /// Bit/s, at most.
        rate: u64,
        /// For people.
        why: CopyReason,
    },
    /// Remove a copy that was ordered once; a copy of the operator's is never meant. To be done before the orders
    /// that follow it.
    Evict {
        /// What.
        title: T,
        /// Where.
        node: NodeId,
    },
}

/// See the module.
pub struct Planner<T = ContentKey> {
    policy: Policy,
    grace: Duration,
    session: Duration,
    demand: Demand<T>,
    running: ActiveCopies<T>,
    /// Pairs of source and target that failed.
    pairs: Backoff<(NodeId, NodeId)>,
    /// Titles whose copies failed, wherever from.
    titles: Backoff<T>,
    /// Since when titles have too few copies.
    few: BTreeMap<T, Instant>,
    few_cursor: Option<T>,
    /// Where the walk through the catalog is.
    place: usize,
    watch: ReplicaWatch<T>,
    /// Scratch.
    seats: PlanNodes,
    holders: Holders,
}

impl<T: Copy + Ord + Hash> Planner<T> {
    /// A planner that knows no demand yet. Copies that are missing are made anew after `grace`.
    pub fn new(now: Instant, policy: Policy, grace: Duration) -> Self {
        Self {
            policy,
            grace,
            session: SESSION,
            demand: Demand::new(now, demand::MOST),
            running: ActiveCopies::new(),
            pairs: Backoff::new(),
            titles: Backoff::new(),
            few: BTreeMap::new(),
            few_cursor: None,
            place: 0,
            watch: ReplicaWatch::new(),
            seats: PlanNodes::default(),
            holders: Holders::default(),
        }
    }

    /// How long a session lasts in the mean, as far as one knows now.
    pub fn set_mean_session(&mut self, mean: Duration) {
        self.session = mean.clamp(Duration::from_secs(1), Duration::from_secs(86_400));
    }

    /// Somebody asked for a title at `rate` bit/s, whatever was answered. O(1); allocates only for a title that was
    /// not asked for lately.
    pub fn handle_request(&mut self, now: Instant, title: T, rate: u64) {
        self.demand.handle_request(now, title, rate);
    }

    /// No holder had room for what was asked for (beside [`Self::handle_request`]). O(1).
    pub fn handle_refusal(&mut self, now: Instant, title: T) {
        self.demand.handle_refusal(now, title);
    }

    /// Whether a refused title waits for a plan.
    pub fn is_urgent(&self) -> bool {
        self.demand.is_urgent()
    }

    /// A copy has arrived whole. False when no such order runs.
    pub fn handle_copied(&mut self, now: Instant, title: T, to: NodeId) -> bool {
        let Some(run) = self.running.end(title, to) else { return false };
        self.pairs.ended_well(&(run.from, to));
        self.titles.ended_well(&title);
        self.watch.add(now, to, title);
        true
    }

    /// A copy was refused or broke off. Neither the title nor the pair of nodes is tried again at once. False when no
    /// such order runs.
    pub fn handle_failure(&mut self, now: Instant, title: T, to: NodeId) -> bool {
        let Some(run) = self.running.end(title, to) else { return false };
        self.pairs.failed(now, (run.from, to));
        self.titles.failed(now, title);
        true
    }

    /// A node has left: its orders are void.
    pub fn handle_node_lost(&mut self, node: NodeId) {
        self.running.forget(node);
        self.pairs.forget(|(from, to)| *from == node || *to == node);
        self.watch.forget(node);
    }

    /// Whether a copy is on its way to a node, and fast enough to be served while it arrives.
    pub fn serves_while_copying(&self, title: T, to: NodeId) -> bool {
        self.running.of(title).any(|(node, run)| node == to && run.relief)
    }

    /// The sources of the copies on their way, and the bit/s of each copy.
    pub fn source_loads(&self) -> impl Iterator<Item = (NodeId, u64)> {
        self.running.all().map(|run| (run.from, run.rate))
    }

    /// Copies on their way.
    pub fn active_copies(&self) -> usize {
        self.running.len()
    }

    /// What should be done now, appended to `orders`; the orders count as running at once. `spots` is indexed by
    /// the number of its [`NodeId`], none for a node that is not there.
    pub fn plan<S: TitleSource<Title = T>>(
        &mut self,
        now: Instant,
        titles: &S,
        snapshots: &[Option<NodeSnapshot>],
        rng: &mut impl Rng,
        orders: &mut Vec<CopyOrder<T>>,
    ) {
        self.running.expire(now);
        self.pairs.expire(now);
        self.titles.expire(now);
        self.demand.forget_idle(now);
        self.seats.set(snapshots, rng);
        for (title, to, run) in self.running.all_mut() {
            if !run.seen {
                titles.copies(title, |node, _| run.seen |= node == to);
            }
            self.seats.carry(run.from, to, if run.seen { 0 } else { run.size });
        }
        let serving = || snapshots.iter().flatten().filter(|snapshot| snapshot.serving);
        let level: u64 = serving().map(|snapshot| snapshot.level).sum();
        let available: u64 = serving().map(|snapshot| snapshot.available).sum();
        if u128::from(level) * 100 < u128::from(available) * u128::from(CROWDED) {
            self.relieve(now, titles, orders);
        } else {
            self.demand.clear_urgent();
        }
        self.sweep(now, titles);
        self.repair(now, titles, orders);
        self.release(now, titles, orders);
    }
}
