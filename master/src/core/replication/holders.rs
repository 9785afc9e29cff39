//! The holders of a title, present and future: those in the catalog, plus orders in progress.

use std::hash::Hash;

use usher_proto::model::Origin;

use super::{
    super::NodeId,
    TitleSource,
    active::ActiveCopies,
    plan_nodes::PlanNodes,
    water_filling::{self, FillNode},
};

/// A node that has or will have a title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) node: NodeId,
    pub(super) origin: Origin,
    /// Whether it can serve viewers: complete, or arriving faster than playback.
    pub(super) relief: bool,
}

impl Holder {
    pub(super) fn is_whole(&self) -> bool {
        self.origin != Origin::Growing
    }
}

/// Holders of one title, by node; a buffer refilled per title.
#[derive(Default)]
pub(super) struct Holders {
    pub(super) all: Vec<Holder>,
    nodes: Vec<FillNode>,
}

impl Holders {
    /// Refills the table. Each node appears once, with its best copy (the operator's first, then complete ones). Absent
    /// nodes and copies being removed are left out.
    pub(super) fn set<S: TitleSource<Title = T>, T: Copy + Ord + Hash>(
        &mut self,
        title: T,
        titles: &S,
        (active, nodes): (&ActiveCopies<T>, &PlanNodes),
    ) {
        let all = &mut self.all;
        all.clear();
        titles.copies(title, |node, origin| all.push(Holder { node, origin, relief: true }));
        for (node, run) in active.of(title) {
            match all.iter_mut().find(|holder| holder.node == node) {
                Some(holder) => holder.relief = run.relief || holder.is_whole(),
                None => all.push(Holder { node, origin: Origin::Growing, relief: run.relief }),
            }
        }
        all.sort_unstable_by_key(|holder| (holder.node, rank(holder.origin)));
        all.dedup_by_key(|holder| holder.node);
        all.retain(|holder| nodes.of(holder.node).is_some() && !active.is_going(title, holder.node));
    }

    /// Load (Q32) of the least loaded serving holder after `inflow` bit/s are spread over them, leaving out `without`.
    pub(super) fn level(&mut self, nodes: &PlanNodes, inflow: u64, without: Option<NodeId>) -> u64 {
        self.nodes.clear();
        let taking = self.all.iter().filter(|holder| holder.relief && Some(holder.node) != without);
        let snapshots = taking.filter_map(|holder| nodes.of(holder.node)).map(|entry| entry.snapshot);
        let nodes = snapshots.filter(|snapshot| snapshot.serving);
        self.nodes.extend(nodes.map(|snapshot| FillNode { available: snapshot.available, level: snapshot.level }));
        water_filling::fill(&mut self.nodes, inflow)
    }

    pub(super) fn has(&self, node: NodeId) -> bool {
        self.all.iter().any(|holder| holder.node == node)
    }

    /// Number of copies, growing ones included.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.all.len()).unwrap_or(u32::MAX)
    }

    /// Number of complete copies.
    pub(super) fn whole(&self) -> u32 {
        u32::try_from(self.all.iter().filter(|holder| holder.is_whole()).count()).unwrap_or(u32::MAX)
    }
}

fn rank(origin: Origin) -> u8 {
    match origin {
        Origin::Operator => 0,
        Origin::Replica => 1,
        Origin::Growing => 2,
    }
}
