//! The nodes of one plan, less what the plan has already assigned. Owns their order by load.

use std::collections::BTreeSet;

use rand::{Rng, RngExt as _};

use super::{
    super::{NodeId, fixed},
    NodeSnapshot,
};

/// Limit of copies per node in each direction. Copies use only what viewers leave and serve from their beginnings, so
/// in a flash crowd many slow ones help sooner than few fast ones.
const MAX_COPIES_PER_DIRECTION: u32 = 6;

/// Share of the source's available rate per copy, in per cent: too little for viewers to notice.
const SOURCE_SHARE: u64 = 8;

/// Share of the target's available rate per copy, in per cent.
const TARGET_SHARE: u64 = 20;

/// Limit per copy, bit/s: the write rate of one disk beside its reads.
const FASTEST: u64 = 1_000_000_000;

/// A node of the plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlanNode {
    pub(super) snapshot: NodeSnapshot,
    incoming: u32,
    outgoing: u32,
    /// Random tie-breaker.
    lot: u32,
}

/// Nodes of the current plan.
#[derive(Default)]
pub(super) struct PlanNodes {
    nodes: Vec<Option<PlanNode>>,
    serving: usize,
    /// Serving nodes, least loaded first; built when the first target is sought.
    order: BTreeSet<(u64, u32, NodeId)>,
    is_ordered: bool,
}

impl PlanNodes {
    /// Starts a plan.
    pub(super) fn set(&mut self, snapshots: &[Option<NodeSnapshot>], rng: &mut impl Rng) {
        self.nodes.clear();
        self.nodes.extend(snapshots.iter().map(|snapshot| {
            snapshot.map(|snapshot| PlanNode { snapshot, incoming: 0, outgoing: 0, lot: rng.random() })
        }));
        self.serving = self.nodes.iter().flatten().filter(|entry| entry.snapshot.serving).count();
        self.order.clear();
        self.is_ordered = false;
    }

    /// Counts a copy in progress; `size` bytes are deducted from the target's free storage.
    pub(super) fn count_copy(&mut self, from: NodeId, to: NodeId, size: u64) {
        if let Some(entry) = self.get_mut(from) {
            entry.outgoing += 1;
        }
        if let Some(entry) = self.get_mut(to) {
            entry.incoming += 1;
            entry.snapshot.storage_free = entry.snapshot.storage_free.saturating_sub(size);
        }
    }

    /// Counts the bytes that an eviction will free.
    pub(super) fn free(&mut self, node: NodeId, size: u64) {
        if let Some(entry) = self.get_mut(node) {
            entry.snapshot.storage_free = entry.snapshot.storage_free.saturating_add(size);
        }
    }

    /// Raises a node's load to at least `share` (Q32) of its available rate, for sessions about to arrive.
    pub(super) fn raise_level(&mut self, node: NodeId, share: u64) {
        let Some(entry) = self.get_mut(node) else { return };
        let before = key(node, entry);
        entry.snapshot.level = entry.snapshot.level.max(fixed::mul(entry.snapshot.available, share));
        let after = key(node, entry);
        if self.order.remove(&before) {
            self.order.insert(after);
        }
    }

    pub(super) fn of(&self, node: NodeId) -> Option<&PlanNode> {
        self.nodes.get(node.index())?.as_ref()
    }

    /// Limit of copies in progress in the whole cluster: enough for a crowd on many titles at once, since each copy
    /// serves from its beginning while it slowly arrives.
    pub(super) fn most_orders(&self) -> usize {
        (self.serving * 2).max(2)
    }

    /// Serving nodes, least loaded first, with their loads (Q32).
    pub(super) fn by_level(&mut self) -> impl Iterator<Item = (u64, NodeId, &PlanNode)> {
        if !self.is_ordered {
            self.is_ordered = true;
            let nodes = self.nodes.iter().enumerate().filter_map(|(index, entry)| {
                // Never reached: there are fewer than 2^32 nodes.
                let node = NodeId(u32::try_from(index).ok()?);
                entry.as_ref().filter(|entry| entry.snapshot.serving).map(|entry| key(node, entry))
            });
            self.order.extend(nodes);
        }
        self.order.iter().filter_map(|(_, _, node)| self.of(*node).map(|entry| (entry.level(), *node, entry)))
    }

    fn get_mut(&mut self, node: NodeId) -> Option<&mut PlanNode> {
        self.nodes.get_mut(node.index())?.as_mut()
    }
}

impl PlanNode {
    /// Used share, Q32.
    pub(super) fn level(&self) -> u64 {
        if self.snapshot.available == 0 { u64::MAX } else { fixed::ratio(self.snapshot.level, self.snapshot.available) }
    }

    /// Free bit/s.
    pub(super) fn headroom(&self) -> u64 {
        self.snapshot.available.saturating_sub(self.snapshot.level)
    }

    pub(super) fn may_be_source(&self) -> bool {
        self.snapshot.serving && self.outgoing < MAX_COPIES_PER_DIRECTION
    }

    pub(super) fn may_be_target(&self) -> bool {
        self.snapshot.serving && self.incoming < MAX_COPIES_PER_DIRECTION
    }

    /// Rate of a copy from this node to `target`, bit/s.
    pub(super) fn rate_to(&self, target: &Self) -> u64 {
        let share = |available: u64, per_cent: u64| available / 100 * per_cent;
        share(self.snapshot.available, SOURCE_SHARE).min(share(target.snapshot.available, TARGET_SHARE)).min(FASTEST)
    }
}

/// Loads within 0.4 % count as equal, so that the tie-breaker spreads copies.
fn key(node: NodeId, entry: &PlanNode) -> (u64, u32, NodeId) {
    (entry.level() >> 24, entry.lot, node)
}
