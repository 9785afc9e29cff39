//! Replication's view of the cluster, and how its orders become the cluster's: what the planner asks of catalog and
//! roster, when it plans, and how copies went.

use std::time::{Duration, Instant};

use rand::Rng;
use usher_proto::model::Origin;

use super::{Cluster, Order};
use crate::core::{
    NodeId, Now,
    balancer::{self, DEFAULT_RATE},
    catalog::{Catalog, Key, Work},
    replication::{self, Facts, Planner, Spot, Titles},
    roster::Standing,
};

/// Between two plans when a title was refused: often enough that a flash waits a fraction of a second for its first
/// copy, and seldom enough that a cluster which is simply full does not plan all the time.
const HURRY: Duration = Duration::from_millis(250);

/// The catalog as replication sees it.
struct Held<'a>(&'a Catalog);

impl Titles for Held<'_> {
    type Title = Work;

    fn facts(&self, work: Work) -> Option<Facts<'_>> {
        let found = self.0.found(work.id, work.key)?;
        let facts = self.0.facts(&found)?;
        let rate = if facts.bitrate.0 > 0 { facts.bitrate } else { DEFAULT_RATE };
        let hashed = matches!(work.key, Key::Hashed(_));
        Some(Facts { name: facts.title.as_str(), size: facts.size, rate: rate.0, hashed })
    }

    fn copies(&self, work: Work, mut each: impl FnMut(NodeId, Origin)) {
        self.0.copies_of_work(work).for_each(|copy| each(copy.node, copy.origin));
    }

    fn walk(&self, place: usize, limit: usize, visit: impl FnMut(Work)) -> Option<usize> {
        self.0.walk(place, limit, visit)
    }
}

impl Cluster {
    /// A copy that was ordered is whole, or will not be.
    pub fn copied(&mut self, now: Now, work: Work, to: NodeId, done: bool) {
        let Some(planner) = &mut self.planner else { return };
        if done {
            planner.finished(now.instant, work, to);
        } else {
            planner.failed(now.instant, work, to);
        }
    }

    /// The work of an order, in words that others know: its title, content and size.
    pub fn described(&self, work: Work) -> Option<crate::core::catalog::Facts<'_>> {
        let found = self.catalog.found(work.id, work.key)?;
        self.catalog.facts(&found)
    }

    /// When the next plan is due, if one is wanted before the next round.
    pub(super) fn hurry(&self) -> Option<Instant> {
        let wanted = self.planner.as_ref().is_some_and(Planner::is_urgent);
        if wanted { self.planned.map(|planned| planned + HURRY) } else { None }
    }

    /// Plans copies.
    pub(super) fn plan(&mut self, now: Now, rng: &mut impl Rng) {
        self.planned = Some(now.instant);
        let Some(mut planner) = self.planner.take() else { return };
        let mut spots = std::mem::take(&mut self.spots);
        spots.clear();
        let (mut stays, mut count) = (Duration::ZERO, 0);
        let view = self.view(now);
        for (id, node) in self.roster.nodes() {
            spots.resize(id.index(), None);
            let load = balancer::load(&view, id, node);
            stays += node.books.stays().unwrap_or_default();
            count += u32::from(node.books.stays().is_some());
            spots.push(Some(Spot {
                serving: node.standing(now.instant) == Standing::Well,
                available: load.available.rate,
                level: load.level,
                storage_free: node.report.replica_free,
                zone: node.zone,
            }));
        }
        if let Some(mean) = stays.checked_div(count) {
            planner.sessions_last(mean);
        }
        let mut planned = std::mem::take(&mut self.copies);
        planner.plan(now.instant, &Held(&self.catalog), &spots, rng, &mut planned);
        self.orders.extend(planned.drain(..).map(|order| match order {
            replication::Order::Replicate { title, from, to, rate, why } => {
                Order::Replicate { work: title, from, to, rate, why }
            }
            replication::Order::Evict { title, node } => Order::Evict { work: title, node },
        }));
        self.copying.clear();
        for (from, rate) in planner.loads() {
            if self.copying.len() <= from.index() {
                self.copying.resize(from.index() + 1, 0);
            }
            self.copying[from.index()] += rate;
        }
        (self.spots, self.copies, self.planner) = (spots, planned, Some(planner));
    }
}
