//! State that the baselines share: holders of titles, attached nodes, and their last reports. Chooses nothing.
//!
//! A node is available from its attachment until it leaves, drains, or was silent for three report intervals.

use super::{Copied, CopyStage, Join, NodeIndex, Report, Title};
use crate::sim::units::Time;

/// Intervals of silence after which a node is passed over.
const SILENT: u64 = 3;

/// A node as a baseline sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeView {
    /// Bit/s that it claims.
    pub(super) capacity: u64,
    /// Its boot number.
    pub(super) boot: u64,
    /// Attached and not draining.
    pub(super) open: bool,
    /// Time of the last message.
    pub(super) heard: Time,
    /// The last report of this start, without its acknowledgements.
    pub(super) report: Option<Report>,
}

/// All nodes and titles as a baseline sees them.
#[derive(Clone, Debug)]
pub(super) struct Roster {
    nodes: Vec<NodeView>,
    holders: Vec<Vec<NodeIndex>>,
    rates: Vec<u64>,
    patience: Time,
}

impl Roster {
    pub(super) fn new(titles: u32, report_interval: Time) -> Self {
        Self {
            nodes: Vec::new(),
            holders: vec![Vec::new(); titles as usize],
            rates: vec![0; titles as usize],
            // The jitter of the interval and the way of the message must fit in too.
            patience: report_interval * SILENT + report_interval / 2,
        }
    }

    pub(super) fn joined(&mut self, now: Time, node: NodeIndex, join: &Join<'_>) {
        if self.nodes.len() <= node as usize {
            self.nodes.resize(node as usize + 1, NodeView::default());
        }
        self.nodes[node as usize] =
            NodeView { capacity: join.capacity, boot: join.boot, open: true, heard: now, report: None };
        self.holders.iter_mut().for_each(|holders| holders.retain(|&holder| holder != node));
        for held in join.titles {
            self.holders[held.title as usize].push(node);
            self.rates[held.title as usize] = held.rate;
        }
    }

    pub(super) fn close(&mut self, node: NodeIndex) {
        self.nodes[node as usize].open = false;
    }

    /// Stores a report; false if it is of an older start or older than the last.
    pub(super) fn report(&mut self, now: Time, node: NodeIndex, report: &Report) -> bool {
        let seen = &mut self.nodes[node as usize];
        let last = seen.report.as_ref().map_or(0, |last| last.sequence);
        if report.boot != seen.boot || report.sequence <= last {
            return false;
        }
        seen.heard = now;
        seen.report = Some(Report { acknowledged: Vec::new(), ..report.clone() });
        true
    }

    pub(super) fn copied(&mut self, copy: &Copied) {
        let holders = &mut self.holders[copy.title as usize];
        match copy.stage {
            CopyStage::Serving | CopyStage::Whole if !holders.contains(&copy.to) => holders.push(copy.to),
            CopyStage::Serving | CopyStage::Whole => {}
            CopyStage::Failed | CopyStage::Evicted => holders.retain(|&holder| holder != copy.to),
        }
    }

    pub(super) fn seen(&self, node: NodeIndex) -> &NodeView {
        &self.nodes[node as usize]
    }

    pub(super) fn rate(&self, title: Title) -> u64 {
        self.rates[title as usize]
    }

    /// The holders of `title` that are available and not excluded.
    pub(super) fn holders<'a>(
        &'a self,
        now: Time,
        title: Title,
        exclude: &'a [NodeIndex],
    ) -> impl Iterator<Item = NodeIndex> + 'a {
        self.holders[title as usize].iter().copied().filter(move |node| {
            let seen = &self.nodes[*node as usize];
            seen.open && now <= seen.heard + self.patience && !exclude.contains(node)
        })
    }
}
