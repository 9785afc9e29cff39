//! Properties of plans on any fleet, and long runs of planner and fleet together.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use proptest::{prelude::*, sample::Index};
use usher_proto::model::Origin;

use super::{Film, GIGABIT, PlannerBench, TestFleet, is_copy};
use crate::core::{
    NodeId,
    replication::{Bounds, CopyOrder, NodeSnapshot, Policy},
};

/// Sessions of one film that go to the holder with the most free bit/s and last a minute.
#[derive(Default)]
struct Viewers {
    running: VecDeque<(u64, NodeId)>,
    refused: u32,
}

impl Viewers {
    const RATE: u64 = 8_000_000;

    fn come(&mut self, second: u64, count: u32, fleet: &mut TestFleet, bench: &mut PlannerBench) {
        while self.running.front().is_some_and(|(end, _)| *end <= second) {
            let (_, node) = self.running.pop_front().expect("it was there");
            fleet.snapshot(node.0).level -= Self::RATE;
        }
        for _ in 0..count {
            bench.ask(1, 1);
            let holders: Vec<NodeId> = fleet.films[&1].copies.keys().copied().collect();
            let room = |node: &NodeId| {
                fleet.snapshots[node.0 as usize].map_or(0, |snapshot| snapshot.available - snapshot.level)
            };
            match holders.into_iter().max_by_key(room).filter(|node| room(node) >= Self::RATE) {
                Some(node) => {
                    fleet.snapshot(node.0).level += Self::RATE;
                    self.running.push_back((second + 60, node));
                }
                None => {
                    self.refused += 1;
                    bench.planner.handle_refusal(bench.now, 1);
                }
            }
        }
    }
}

/// 15 viewers a second need 7.2 Gbit/s in the end; two holders have 1.6 free.
#[test]
fn a_flash_is_met_with_copies_and_their_number_settles() {
    let mut fleet = TestFleet::new(&[20; 24]).film(1, &[0, 1]);
    let mut bench = PlannerBench::new(Policy::default());
    bench.planner.set_mean_session(Duration::from_secs(60));
    let mut viewers = Viewers::default();
    let (mut copies, mut evictions) = (Vec::new(), Vec::new());
    for second in 0..4 * 3600 {
        viewers.come(second, if second < 1200 { 15 } else { 0 }, &mut fleet, &mut bench);
        let orders = bench.plan(&fleet);
        copies.extend(orders.iter().filter(|order| is_copy(order)).map(|_| second));
        evictions.extend(orders.iter().filter(|order| !is_copy(order)).map(|_| second));
        fleet.execute(&orders);
        if second % 20 == 0 {
            fleet.finish(bench.now, &mut bench.planner);
        }
    }
    assert_eq!(viewers.refused, 0);
    assert!(copies.len() >= 8 && copies.last() < Some(&600), "{copies:?}");
    // Not before half an hour after the last viewers, and one at a time.
    assert!(evictions.first() >= Some(&3000), "{evictions:?}");
    assert!(!evictions.is_empty() && evictions.windows(2).all(|pair| pair[1] - pair[0] >= 1800), "{evictions:?}");
}

/// Demand that alternates every quarter of an hour causes no removals.
#[test]
fn a_demand_that_comes_and_goes_makes_no_copy_flap() {
    let mut fleet = TestFleet::new(&[20; 24]).film(1, &[0, 1]);
    let mut bench = PlannerBench::new(Policy::default());
    bench.planner.set_mean_session(Duration::from_secs(60));
    let mut viewers = Viewers::default();
    let (mut copies, mut evictions) = (0, 0);
    for second in 0..4 * 3600 {
        viewers.come(second, if second / 900 % 2 == 0 { 15 } else { 0 }, &mut fleet, &mut bench);
        let orders = bench.plan(&fleet);
        let made = orders.iter().filter(|order| is_copy(order)).count();
        (copies, evictions) = (copies + made, evictions + orders.len() - made);
        fleet.execute(&orders);
        fleet.finish(bench.now, &mut bench.planner);
    }
    assert!(copies > 0 && evictions == 0, "{copies} copies, {evictions} evictions");
}

#[derive(Clone, Debug)]
enum FleetEvent {
    SeatRequest { title: u32, times: u32 },
    Refuse { title: u32 },
    Finish,
    Fail { order: Index },
    Level { node: Index, per_cent: u64 },
    Serving { node: Index, serving: bool },
    Leave { node: Index },
    Wait { seconds: u64 },
}

fn event() -> impl Strategy<Value = FleetEvent> {
    prop_oneof![
        4 => (0_u32..8, 1_u32..60).prop_map(|(title, times)| FleetEvent::SeatRequest { title, times }),
        4 => (0_u32..8).prop_map(|title| FleetEvent::Refuse { title }),
        2 => Just(FleetEvent::Finish),
        2 => any::<Index>().prop_map(|order| FleetEvent::Fail { order }),
        2 => (any::<Index>(), 0_u64..105).prop_map(|(node, per_cent)| FleetEvent::Level { node, per_cent }),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(node, serving)| FleetEvent::Serving { node, serving }),
        1 => any::<Index>().prop_map(|node| FleetEvent::Leave { node }),
        2 => prop_oneof![1_u64..10, 60_u64..2400].prop_map(|seconds| FleetEvent::Wait { seconds }),
    ]
}

fn fleet() -> impl Strategy<Value = TestFleet> {
    let snapshot = (0_u64..3, 0_u64..105, 0_u64..6, 0_u32..3, prop::bool::weighted(0.9)).prop_map(
        |(size, per_cent, films, zone, serving)| {
            let available = size * GIGABIT;
            Some(NodeSnapshot {
                serving,
                available,
                level: available / 100 * per_cent,
                storage_free: films * GIGABIT / 2,
                zone,
            })
        },
    );
    let origin = prop_oneof![Just(Origin::Operator), Just(Origin::Replica), Just(Origin::Replica)];
    let film = (0_u64..3, prop::bool::weighted(0.9), prop::collection::btree_map(0_u32..12, origin, 0..6));
    (prop::collection::vec(snapshot, 12), prop::collection::vec(film, 8)).prop_map(|(snapshots, films)| {
        let films = films.into_iter().zip(0..).map(|((size, hashed, copies), title)| {
            let copies = copies.into_iter().map(|(node, origin)| (NodeId(node), origin)).collect();
            let (name, size, rate) = (format!("{}/{title}", title % 2), GIGABIT / 2 * size, 8_000_000);
            (title, Film { name, size, rate, hashed, copies })
        });
        TestFleet { films: films.collect(), snapshots }
    })
}

/// Invariants of orders before they are executed.
fn check(fleet: &TestFleet, policy: &Policy, running: usize, orders: &[CopyOrder<u32>]) -> Result<(), TestCaseError> {
    let serving = fleet.snapshots.iter().flatten().filter(|snapshot| snapshot.serving).count();
    let copies = orders.iter().filter(|order| is_copy(order)).count();
    prop_assert!(copies == 0 || running <= (serving * 2).max(2), "{running} run, {orders:?}");
    let mut evictions: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut fleet = fleet.clone();
    for order in orders {
        match *order {
            CopyOrder::Replicate { title, from, to, rate, .. } => {
                let film = &fleet.films[&title];
                let snapshot =
                    |node: NodeId| fleet.snapshots[node.0 as usize].ok_or_else(|| TestCaseError::fail("no node"));
                prop_assert!(snapshot(from)?.serving && snapshot(to)?.serving && film.hashed, "{order:?}");
                prop_assert!(film.copies.get(&from).is_some_and(|origin| *origin != Origin::Growing), "{order:?}");
                prop_assert!(!film.copies.contains_key(&to), "{order:?}");
                prop_assert!(snapshot(to)?.storage_free >= film.size, "{order:?}");
                prop_assert!(rate > 0 && rate <= snapshot(from)?.available * 8 / 100, "{order:?}");
                prop_assert!(rate <= snapshot(to)?.available / 5, "{order:?}");
                let max = policy.of(&film.name).max.unwrap_or(u32::MAX);
                prop_assert!(u32::try_from(film.copies.len()).expect("few") < max, "{order:?}");
            }
            CopyOrder::Evict { title, node } => {
                let film = &fleet.films[&title];
                prop_assert_eq!(film.copies.get(&node), Some(&Origin::Replica), "{:?}", order);
                let there = |node: NodeId| fleet.snapshots[node.0 as usize].is_some();
                let whole = film.copies.iter().filter(|(node, origin)| there(**node) && **origin != Origin::Growing);
                let whole = u32::try_from(whole.count()).expect("few");
                prop_assert!(whole > policy.of(&film.name).min.max(1), "{order:?} of {whole}");
                let evictions = evictions.entry(node).or_default();
                *evictions += 1;
                prop_assert!(*evictions == 1, "{orders:?}");
            }
        }
        fleet.execute(std::slice::from_ref(order));
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_orders_can_be_carried_out(mut fleet in fleet(), events in prop::collection::vec(event(), 0..60)) {
        let rules = vec![super::super::PrefixRule { prefix: "1/".to_owned(), bounds: Bounds { min: 2, max: Some(4) } }];
        let policy = Policy::new(Bounds { min: 1, max: None }, rules);
        let mut bench = PlannerBench::new(policy.clone());
        let mut twin = PlannerBench::new(policy.clone());
        (twin.now, twin.planner) = (bench.now, super::Planner::new(bench.now, policy.clone(), Duration::from_secs(60)));
        let mut history: Vec<(u32, NodeId)> = Vec::new();
        for event in events {
            match event {
                FleetEvent::SeatRequest { title, times } => [&mut bench, &mut twin].map(|bench| bench.ask(title, times)).len(),
                FleetEvent::Refuse { title } => [&mut bench, &mut twin].map(|bench| bench.planner.handle_refusal(bench.now, title)).len(),
                FleetEvent::Finish => {
                    let mut same = fleet.clone();
                    same.finish(twin.now, &mut twin.planner);
                    fleet.finish(bench.now, &mut bench.planner);
                    0
                }
                FleetEvent::Fail { order } if !history.is_empty() => {
                    let (title, node) = *order.get(&history);
                    let film = fleet.films.get_mut(&title).expect("a film");
                    if film.copies.get(&node) == Some(&Origin::Growing) {
                        film.copies.remove(&node);
                        for bench in [&mut bench, &mut twin] {
                            bench.planner.handle_failure(bench.now, title, node);
                        }
                    }
                    0
                }
                FleetEvent::Fail { .. } => 0,
                FleetEvent::Level { node, per_cent } => {
                    let at = node.index(12);
                    fleet.snapshots[at].iter_mut().for_each(|snapshot| snapshot.level = snapshot.available / 100 * per_cent);
                    0
                }
                FleetEvent::Serving { node, serving } => {
                    let at = node.index(12);
                    fleet.snapshots[at].iter_mut().for_each(|snapshot| snapshot.serving = serving);
                    0
                }
                FleetEvent::Leave { node } => {
                    let node = NodeId(u32::try_from(node.index(12)).expect("small"));
                    fleet.snapshots[node.0 as usize] = None;
                    fleet.films.values_mut().for_each(|film| film.copies.retain(|holder, _| *holder != node));
                    [&mut bench, &mut twin].map(|bench| bench.planner.handle_node_lost(node)).len()
                }
                FleetEvent::Wait { seconds } => {
                    [&mut bench, &mut twin].map(|bench| bench.now += Duration::from_secs(seconds)).len()
                }
            };
            let orders = bench.plan(&fleet);
            prop_assert_eq!(&twin.plan(&fleet), &orders, "the same chance, other orders");
            check(&fleet, &policy, bench.planner.active.len(), &orders)?;
            fleet.execute(&orders);
            history.extend(orders.iter().filter_map(|order| match *order {
                CopyOrder::Replicate { title, to, .. } => Some((title, to)),
                CopyOrder::Evict { .. } => None,
            }));
        }
    }
}
