//! The planner on a small simulated fleet: tables of situations, and properties of its orders.

mod properties;
mod situations;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::SmallRng};
use usher_proto::model::Origin;

use super::{CopyOrder, NodeSnapshot, Planner, Policy, TitleInfo, TitleSource};
use crate::core::NodeId;

const GIGABIT: u64 = 1_000_000_000;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
struct Film {
    name: String,
    size: u64,
    rate: u64,
    hashed: bool,
    copies: BTreeMap<NodeId, Origin>,
}

#[derive(Clone, Debug, Default)]
struct TestFleet {
    films: BTreeMap<u32, Film>,
    snapshots: Vec<Option<NodeSnapshot>>,
}

impl TitleSource for TestFleet {
    type Title = u32;

    fn facts(&self, title: u32) -> Option<TitleInfo<'_>> {
        self.films.get(&title).map(|film| TitleInfo {
            name: &film.name,
            size: film.size,
            rate: film.rate,
            hashed: film.hashed,
        })
    }

    fn copies(&self, title: u32, mut each: impl FnMut(NodeId, Origin)) {
        let copies = self.films.get(&title).into_iter().flat_map(|film| &film.copies);
        copies.for_each(|(node, origin)| each(*node, *origin));
    }

    fn visit_titles(&self, place: usize, limit: usize, mut visit: impl FnMut(u32)) -> Option<usize> {
        let mut titles = self.films.keys().skip(place);
        titles.by_ref().take(limit).for_each(|title| visit(*title));
        titles.next().is_some().then_some(place + limit)
    }
}

impl TestFleet {
    /// Nodes of 1 Gbit/s and 1 TB in three zones, at these loads in per cent.
    fn new(levels: &[u64]) -> Self {
        let snapshot = |(at, level): (usize, &u64)| {
            let zone = u32::try_from(at % 3).expect("small");
            let (available, level) = (GIGABIT, GIGABIT / 100 * level);
            Some(NodeSnapshot { serving: true, available, level, storage_free: 1_000_000_000_000, zone })
        };
        Self { snapshots: levels.iter().enumerate().map(snapshot).collect(), ..Self::default() }
    }

    /// A film of 1 GB and 8 Mbit/s with operator's copies on these nodes.
    fn film(mut self, title: u32, holders: &[u32]) -> Self {
        let copies = holders.iter().map(|node| (NodeId(*node), Origin::Operator)).collect();
        let film = Film { name: format!("films/{title}.mp4"), size: GIGABIT, rate: 8_000_000, hashed: true, copies };
        self.films.insert(title, film);
        self
    }

    fn set(&mut self, title: u32, node: u32, origin: Origin) {
        self.films.get_mut(&title).expect("a film").copies.insert(NodeId(node), origin);
    }

    fn snapshot(&mut self, node: u32) -> &mut NodeSnapshot {
        self.snapshots[node as usize].as_mut().expect("a node")
    }

    /// Executes orders at once, up to the start of each copy.
    fn execute(&mut self, orders: &[CopyOrder<u32>]) {
        for order in orders {
            match *order {
                CopyOrder::Replicate { title, to, .. } => {
                    let film = self.films.get_mut(&title).expect("a film");
                    film.copies.insert(to, Origin::Growing);
                    let size = film.size;
                    self.snapshot(to.0).storage_free -= size;
                }
                CopyOrder::Evict { title, node } => {
                    let film = self.films.get_mut(&title).expect("a film");
                    film.copies.remove(&node);
                    let size = film.size;
                    self.snapshot(node.0).storage_free += size;
                }
            }
        }
    }

    /// Completes all copies in progress.
    fn finish(&mut self, now: Instant, planner: &mut Planner<u32>) {
        for (title, film) in &mut self.films {
            for (node, origin) in film.copies.iter_mut().filter(|(_, origin)| **origin == Origin::Growing) {
                *origin = Origin::Replica;
                planner.handle_copied(now, *title, *node);
            }
        }
    }
}

/// A planner with its random numbers and its clock.
struct PlannerBench {
    now: Instant,
    planner: Planner<u32>,
    rng: SmallRng,
}

impl PlannerBench {
    fn new(policy: Policy) -> Self {
        let now = Instant::now();
        Self { now, planner: Planner::new(now, policy, Duration::from_secs(60)), rng: SmallRng::seed_from_u64(1) }
    }

    /// Runs one plan, a second later.
    fn plan(&mut self, fleet: &TestFleet) -> Vec<CopyOrder<u32>> {
        self.now += SECOND;
        let mut orders = Vec::new();
        self.planner.plan(self.now, fleet, &fleet.snapshots, &mut self.rng, &mut orders);
        orders
    }

    fn ask(&mut self, title: u32, times: u32) {
        (0..times).for_each(|_| self.planner.handle_request(self.now, title, 8_000_000));
    }
}

fn is_copy(order: &CopyOrder<u32>) -> bool {
    matches!(order, CopyOrder::Replicate { .. })
}
