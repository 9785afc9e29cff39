//! Metrics that are read from the core on each scrape, and the labels of decisions.

use std::sync::atomic::Ordering;

use usher_proto::Fault;

use super::{SharedState, now};
use crate::{
    core::{
        balancer::NoChoice,
        cluster::{Decision, Refused},
        journal::Selection,
        roster,
    },
    metrics::{Metrics, NodeResourceLabel, OutcomeLabel, StateLabel},
};

impl SharedState {
    /// Updates the metrics that are not counted as events happen.
    pub(crate) fn measure(&self) {
        let inner = self.lock();
        let now = now();
        let (cluster, metrics) = (&inner.cluster, &self.metrics);
        let (mut promised, mut copies, mut capacity, mut level) = (0_u64, 0_u64, 0_u64, 0_u64);
        let mut states = [
            roster::NodeState::Serving,
            roster::NodeState::Draining,
            roster::NodeState::Stale,
            roster::NodeState::Gone,
        ]
        .map(|state| (state, 0_u64));
        // Without the nodes that were forgotten.
        metrics.node_refused.clear();
        for (id, node) in cluster.roster().nodes() {
            for (resource, count) in node.report.refused.by_resource() {
                let label = NodeResourceLabel { node: node.name().to_string(), resource };
                metrics.node_refused.get_or_create(&label).inner().store(count, Ordering::Relaxed);
            }
            promised = promised.saturating_add(cluster.ledger().pending_load(id).rate);
            copies += u64::from(cluster.catalog().copies_of(id));
            if node.attached() {
                capacity = capacity.saturating_add(node.hello.capacity.0);
                level = level.saturating_add(cluster.load(now, id).0);
            }
            for (state, count) in &mut states {
                *count += u64::from(*state == node.state);
            }
        }
        for (state, count) in states {
            metrics.nodes.get_or_create(&StateLabel { state: state.as_str() }).set(count);
        }
        metrics.sessions.set(cluster.ledger().len() as u64);
        let (feeds, viewers) = cluster.feeds().totals();
        metrics.feeds.set(feeds as u64);
        metrics.feed_viewers.set(viewers);
        metrics.titles.set(cluster.catalog().titles() as u64);
        metrics.catalog_bytes.set(cluster.catalog().bytes());
        metrics.promised.set(promised);
        metrics.copies.set(copies);
        metrics.capacity.set(capacity);
        metrics.level.set(level);
    }
}

impl Metrics {
    /// Counts a decision.
    pub(super) fn outcome(&self, decision: &Result<Decision, Refused>) {
        let (outcome, reason) = match decision {
            Ok(decision) => (label(decision.how), ""),
            // The request is decided again once a node has answered.
            Err(Refused::NoChoice { why: NoChoice::Probing(_), .. }) => ("probing", ""),
            Err(Refused::NoChoice { why: NoChoice::Gathering, .. }) => ("gathering", ""),
            Err(refused) => ("refused", Fault::from(refused).code.reason()),
        };
        self.decisions.get_or_create(&OutcomeLabel { outcome, reason }).inc();
    }
}

fn label(how: Selection) -> &'static str {
    match how {
        Selection::Best => "best",
        Selection::Only => "only",
        Selection::Panic => "panic",
        Selection::Released(_) => "released",
        Selection::Moved(_) => "moved",
        Selection::Cold => "cold",
        Selection::Burst => "burst",
    }
}
