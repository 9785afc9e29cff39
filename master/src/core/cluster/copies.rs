//! Connects the replication planner to the cluster: what it reads of catalog and roster, when it runs, and how its
//! orders and their results are passed on.

use std::time::{Duration, Instant};

use rand::Rng;
use usher_proto::model::Origin;

use super::{Cluster, Order};
use crate::core::{
    NodeId, Now,
    balancer::{self, DEFAULT_RATE},
    catalog::{Catalog, ContentIdentity, ContentKey},
    replication::{self, NodeSnapshot, Planner, TitleInfo, TitleSource},
    roster::NodeHealth,
};

/// Interval between plans after a refusal: short enough for a flash crowd's first copy, and long enough that a full
/// cluster does not plan continuously.
const URGENT_INTERVAL: Duration = Duration::from_millis(250);

/// The catalog as the planner reads it.
struct CatalogTitles<'a>(&'a Catalog);

impl TitleSource for CatalogTitles<'_> {
    type Title = ContentKey;

    fn facts(&self, key: ContentKey) -> Option<TitleInfo<'_>> {
        let found = self.0.found(key.id, key.identity)?;
        let facts = self.0.facts(&found)?;
        let rate = if facts.bitrate.0 > 0 { facts.bitrate } else { DEFAULT_RATE };
        let hashed = matches!(key.identity, ContentIdentity::Hashed(_));
        Some(TitleInfo { name: facts.title.as_str(), size: facts.size, rate: rate.0, hashed })
    }

    fn copies(&self, key: ContentKey, mut each: impl FnMut(NodeId, Origin)) {
        self.0.copies_of_key(key).for_each(|copy| each(copy.node, copy.origin));
    }

    fn visit_titles(&self, position: usize, limit: usize, visit: impl FnMut(ContentKey)) -> Option<usize> {
        self.0.visit_titles(position, limit, visit)
    }
}

impl Cluster {
    /// Handles the result of an ordered copy.
    pub fn handle_copy_answer(&mut self, now: Now, key: ContentKey, to: NodeId, done: bool) {
        let Some(planner) = &mut self.planner else { return };
        if done {
            planner.handle_copied(now.instant, key, to);
        } else {
            planner.handle_failure(now.instant, key, to);
        }
    }

    /// Metadata of a content: title, content id and size.
    pub fn described(&self, key: ContentKey) -> Option<crate::core::catalog::TitleMetadata<'_>> {
        let found = self.catalog.found(key.id, key.identity)?;
        self.catalog.facts(&found)
    }

    /// Time of the next plan, if one is due before the next round.
    pub(super) fn urgent_plan(&self) -> Option<Instant> {
        let wanted = self.planner.as_ref().is_some_and(Planner::is_urgent);
        if wanted { self.planned.map(|planned| planned + URGENT_INTERVAL) } else { None }
    }

    /// Plans copies.
    pub(super) fn plan_copies(&mut self, now: Now, rng: &mut impl Rng) {
        self.planned = Some(now.instant);
        let Some(mut planner) = self.planner.take() else { return };
        let mut snapshots = std::mem::take(&mut self.snapshots);
        snapshots.clear();
        let (mut stays, mut count) = (Duration::ZERO, 0);
        let view = self.view(now);
        for (id, node) in self.roster.nodes() {
            snapshots.resize(id.index(), None);
            let load = balancer::load(&view, id, node);
            stays += node.estimate.mean_session().unwrap_or_default();
            count += u32::from(node.estimate.mean_session().is_some());
            snapshots.push(Some(NodeSnapshot {
                serving: node.health(now.instant) == NodeHealth::Well,
                available: load.available.rate,
                level: load.level,
                storage_free: node.report.replica_free,
                zone: node.zone,
            }));
        }
        if let Some(mean) = stays.checked_div(count) {
            planner.set_mean_session(mean);
        }
        let mut planned = std::mem::take(&mut self.copies);
        planner.plan(now.instant, &CatalogTitles(&self.catalog), &snapshots, rng, &mut planned);
        self.orders.extend(planned.drain(..).map(|order| match order {
            replication::CopyOrder::Replicate { title, from, to, rate, why } => {
                Order::Replicate { key: title, from, to, rate, why }
            }
            replication::CopyOrder::Evict { title, node } => Order::Evict { key: title, node },
        }));
        self.copying.clear();
        for (from, rate) in planner.source_loads() {
            if self.copying.len() <= from.index() {
                self.copying.resize(from.index() + 1, 0);
            }
            self.copying[from.index()] += rate;
        }
        (self.snapshots, self.copies, self.planner) = (snapshots, planned, Some(planner));
    }
}
