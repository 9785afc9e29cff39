//! The nodes as one plan sees them, with what the plan has already given away taken off. Owns their order by level;
//! refuses to know titles.

use std::collections::BTreeSet;

use rand::{Rng, RngExt as _};

use super::{
    super::{NodeId, fixed},
    NodeSnapshot,
};

/// Copies that a node gives at a time, and takes at a time: they take only what viewers leave, and serve from their
/// beginnings, so that in a flash many slow ones help sooner than few fast ones.
const AT_ONCE: u32 = 6;

/// Share of the source's bit/s that one copy may take, in per cent: viewers hardly feel it.
const OF_SOURCE: u64 = 8;

/// Share of the target's, in per cent.
const OF_TARGET: u64 = 20;

/// Bit/s of one copy at most: what one disk writes beside its reads.
const FASTEST: u64 = 1_000_000_000;

/// One node.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlanNode {
    pub(super) snapshot: NodeSnapshot,
    incoming: u32,
    outgoing: u32,
    /// Decides between equals.
    lot: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct PlanNodes {
    seats: Vec<Option<PlanNode>>,
    serving: usize,
    /// Those that serve, the least loaded first; made when the first target is sought.
    order: BTreeSet<(u64, u32, NodeId)>,
    is_ordered: bool,
}

impl PlanNodes {
    /// Begins a plan.
    pub(super) fn set(&mut self, snapshots: &[Option<NodeSnapshot>], rng: &mut impl Rng) {
        self.seats.clear();
        self.seats.extend(snapshots.iter().map(|snapshot| {
            snapshot.map(|snapshot| PlanNode { snapshot, incoming: 0, outgoing: 0, lot: rng.random() })
        }));
        self.serving = self.seats.iter().flatten().filter(|seat| seat.snapshot.serving).count();
        self.order.clear();
        self.is_ordered = false;
    }

    /// Counts a copy on its way, which will take `size` bytes more than the target says.
    pub(super) fn carry(&mut self, from: NodeId, to: NodeId, size: u64) {
        if let Some(seat) = self.get_mut(from) {
            seat.outgoing += 1;
        }
        if let Some(seat) = self.get_mut(to) {
            seat.incoming += 1;
            seat.snapshot.storage_free = seat.snapshot.storage_free.saturating_sub(size);
        }
    }

    /// Counts bytes that an eviction will free.
    pub(super) fn free(&mut self, node: NodeId, size: u64) {
        if let Some(seat) = self.get_mut(node) {
            seat.snapshot.storage_free = seat.snapshot.storage_free.saturating_add(size);
        }
    }

    /// Lifts a node's level to a share (Q32) of what is available, if it is below: this is coming to it.
    pub(super) fn lift(&mut self, node: NodeId, share: u64) {
        let Some(seat) = self.get_mut(node) else { return };
        let before = key(node, seat);
        seat.snapshot.level = seat.snapshot.level.max(fixed::mul(seat.snapshot.available, share));
        let after = key(node, seat);
        if self.order.remove(&before) {
            self.order.insert(after);
        }
    }

    pub(super) fn of(&self, node: NodeId) -> Option<&PlanNode> {
        self.seats.get(node.index())?.as_ref()
    }

    /// Copies that may run at once in the whole cluster: enough for a crowd that comes for many titles at once, since
    /// each serves from its beginning while it slowly comes.
    pub(super) fn most_orders(&self) -> usize {
        (self.serving * 2).max(2)
    }

    /// The nodes that serve, the least loaded first, with their levels (Q32).
    pub(super) fn by_level(&mut self) -> impl Iterator<Item = (u64, NodeId, &PlanNode)> {
        if !self.is_ordered {
            self.is_ordered = true;
            let seats = self.seats.iter().enumerate().filter_map(|(index, seat)| {
                // There are never 2^32 nodes.
                let node = NodeId(u32::try_from(index).ok()?);
                seat.as_ref().filter(|seat| seat.snapshot.serving).map(|seat| key(node, seat))
            });
            self.order.extend(seats);
        }
        self.order.iter().filter_map(|(_, _, node)| self.of(*node).map(|seat| (seat.level(), *node, seat)))
    }

    fn get_mut(&mut self, node: NodeId) -> Option<&mut PlanNode> {
        self.seats.get_mut(node.index())?.as_mut()
    }
}

impl PlanNode {
    /// Share taken, Q32.
    pub(super) fn level(&self) -> u64 {
        if self.snapshot.available == 0 { u64::MAX } else { fixed::ratio(self.snapshot.level, self.snapshot.available) }
    }

    /// Bit/s left.
    pub(super) fn room(&self) -> u64 {
        self.snapshot.available.saturating_sub(self.snapshot.level)
    }

    pub(super) fn may_give(&self) -> bool {
        self.snapshot.serving && self.outgoing < AT_ONCE
    }

    pub(super) fn may_take(&self) -> bool {
        self.snapshot.serving && self.incoming < AT_ONCE
    }

    /// Bit/s at which a copy of this node may go to another.
    pub(super) fn rate_to(&self, target: &Self) -> u64 {
        let share = |available: u64, per_cent: u64| available / 100 * per_cent;
        share(self.snapshot.available, OF_SOURCE).min(share(target.snapshot.available, OF_TARGET)).min(FASTEST)
    }
}

/// Levels within 0.4 % are equal, so that the lot spreads copies over equal nodes.
fn key(node: NodeId, seat: &PlanNode) -> (u64, u32, NodeId) {
    (seat.level() >> 24, seat.lot, node)
}
