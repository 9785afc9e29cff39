//! One situation, one expected plan.

use std::time::Duration;

use usher_proto::model::Origin;

use super::{GIGABIT, PlannerBench, TestFleet, is_copy};
use crate::core::{
    NodeId,
    replication::{Bounds, CopyOrder, CopyReason, Policy, PrefixRule},
};

fn at_least(min: u32) -> Policy {
    Policy::new(Bounds { min, max: None }, Vec::new())
}

#[test]
fn a_refused_title_is_copied_at_once_to_the_least_loaded_node() {
    let fleet = TestFleet::new(&[99, 98, 60, 40, 94, 95, 96, 97]).film(1, &[0, 1]);
    let mut bench = PlannerBench::new(Policy::default());
    bench.ask(1, 1);
    bench.planner.handle_refusal(bench.now, 1);
    assert!(bench.planner.is_urgent());
    // From the holder with the most free bit/s, at 8 % of 1 Gbit/s.
    let (title, from, to, rate) = (1, NodeId(1), NodeId(3), 80_000_000);
    assert_eq!(bench.plan(&fleet), [CopyOrder::Replicate { title, from, to, rate, why: CopyReason::Refused }]);
    assert!(!bench.planner.is_urgent());
    // The copy is in progress: another refusal changes nothing.
    bench.ask(1, 1);
    bench.planner.handle_refusal(bench.now, 1);
    assert_eq!(bench.plan(&fleet), []);
}

#[test]
fn unsuitable_targets_get_no_copy() {
    let fresh = || TestFleet::new(&[99, 10]).film(1, &[0]);
    type Change = fn(&mut TestFleet);
    let cases: [(&str, Change); 7] = [
        ("not serving", |fleet| fleet.snapshot(1).serving = false),
        ("no storage", |fleet| fleet.snapshot(1).storage_free = GIGABIT - 1),
        ("too full", |fleet| fleet.snapshot(1).level = GIGABIT / 100 * 94),
        ("too small", |fleet| fleet.snapshot(1).available = 0),
        ("not there", |fleet| fleet.snapshots[1] = None),
        ("has it", |fleet| fleet.set(1, 1, Origin::Growing)),
        ("not hashed", |fleet| fleet.films.get_mut(&1).expect("a film").hashed = false),
    ];
    for (name, change) in cases {
        let mut fleet = fresh();
        change(&mut fleet);
        let mut bench = PlannerBench::new(Policy::default());
        bench.planner.handle_refusal(bench.now, 1);
        assert_eq!(bench.plan(&fleet), [], "{name}");
    }
    let mut bench = PlannerBench::new(Policy::default());
    bench.planner.handle_refusal(bench.now, 1);
    assert_eq!(bench.plan(&fresh()).len(), 1);
}

#[test]
fn a_title_is_copied_before_its_holders_are_full() {
    let fleet = TestFleet::new(&[50, 50, 20, 20, 20, 20, 20, 20]).film(1, &[0, 1]).film(2, &[0, 1]);
    let mut bench = PlannerBench::new(Policy::default());
    let mut orders = Vec::new();
    for _ in 0..20 {
        // 24 Mbit/s per second fill two half-empty nodes in less than two minutes; film 2 needs no copy.
        bench.ask(1, 3);
        bench.planner.handle_request(bench.now, 2, 8_000);
        orders.extend(bench.plan(&fleet));
    }
    assert!(!orders.is_empty() && orders.iter().all(is_copy), "{orders:?}");
    assert!(
        orders.iter().all(|order| matches!(order, CopyOrder::Replicate { title: 1, why: CopyReason::Hot, .. })),
        "{orders:?}"
    );
}

#[test]
fn too_few_copies_are_repaired_after_the_grace_in_another_zone() {
    let rules = vec![PrefixRule { prefix: "films/2".to_owned(), bounds: Bounds { min: 1, max: None } }];
    let policy = Policy::new(Bounds { min: 2, max: None }, rules);
    // Node 3 is idle, but in the zone of the holder.
    let fleet = TestFleet::new(&[50, 60, 70, 0]).film(1, &[0]).film(2, &[0]);
    let mut bench = PlannerBench::new(policy);
    for second in 0..60 {
        assert_eq!(bench.plan(&fleet), [], "after {second} s");
    }
    let (title, from, to, rate) = (1, NodeId(0), NodeId(1), 80_000_000);
    assert_eq!(bench.plan(&fleet), [CopyOrder::Replicate { title, from, to, rate, why: CopyReason::Few }]);
    assert_eq!(bench.plan(&fleet), []);
}

#[test]
fn a_copy_that_comes_back_within_the_grace_is_not_replaced() {
    let whole = TestFleet::new(&[50, 50, 50]).film(1, &[0, 1]);
    let mut lost = whole.clone();
    lost.films.get_mut(&1).expect("a film").copies.remove(&NodeId(1));
    let mut bench = PlannerBench::new(at_least(2));
    for _ in 0..5 {
        (0..50).for_each(|_| assert_eq!(bench.plan(&lost), []));
        assert_eq!(bench.plan(&whole), []);
    }
}

#[test]
fn failed_copies_back_off() {
    let fleet = TestFleet::new(&[99, 10, 20]).film(1, &[0]).film(2, &[0]);
    let mut bench = PlannerBench::new(Policy::default());
    let try_again = |bench: &mut PlannerBench, title| {
        bench.planner.handle_refusal(bench.now, title);
        bench.plan(&fleet)
    };
    assert!(matches!(try_again(&mut bench, 1)[..], [CopyOrder::Replicate { to: NodeId(1), .. }]));
    assert!(
        bench.planner.handle_failure(bench.now, 1, NodeId(1)) && !bench.planner.handle_failure(bench.now, 1, NodeId(1))
    );
    assert_eq!(try_again(&mut bench, 1), []);
    // Another title goes to another node meanwhile.
    assert!(matches!(try_again(&mut bench, 2)[..], [CopyOrder::Replicate { to: NodeId(2), .. }]));
    bench.now += Duration::from_secs(10);
    assert!(matches!(try_again(&mut bench, 1)[..], [CopyOrder::Replicate { to: NodeId(1), .. }]));
    bench.planner.handle_node_lost(NodeId(0));
    assert_eq!(bench.planner.active.len(), 0);
}

#[test]
fn a_surplus_replica_is_removed_after_half_an_hour() {
    let mut fleet = TestFleet::new(&[50, 50, 50, 50]).film(1, &[0]).film(2, &[0, 1]);
    fleet.set(1, 2, Origin::Replica);
    fleet.set(1, 3, Origin::Replica);
    let mut bench = PlannerBench::new(at_least(2));
    let mut gone = Vec::new();
    for second in 0..4 * 3600 {
        let orders = bench.plan(&fleet);
        fleet.execute(&orders);
        gone.extend(orders.into_iter().map(|order| (second, order)));
    }
    // One of the two, since two copies are wanted, and none of the operator's.
    assert!(matches!(gone[..], [(1800..1810, CopyOrder::Evict { title: 1, node: NodeId(2 | 3) })]), "{gone:?}");
}

#[test]
fn a_replica_in_use_stays() {
    let mut fleet = TestFleet::new(&[85, 85, 85]).film(1, &[0]);
    fleet.set(1, 1, Origin::Replica);
    let mut bench = PlannerBench::new(Policy::default());
    (0..7200).for_each(|_| assert_eq!(bench.plan(&fleet), []));
}

#[test]
fn a_hot_title_takes_the_place_of_a_cold_replica() {
    let mut fleet = TestFleet::new(&[99, 10, 20]).film(1, &[0]).film(2, &[0, 2]).film(3, &[0, 2]).film(4, &[1]);
    fleet.set(2, 1, Origin::Replica);
    fleet.set(3, 1, Origin::Replica);
    fleet.snapshot(1).storage_free = 10;
    fleet.snapshot(2).storage_free = 10;
    let mut bench = PlannerBench::new(Policy::default());
    assert_eq!(bench.plan(&fleet), []);
    for _ in 0..3 {
        bench.ask(1, 9);
        bench.ask(2, 1);
    }
    bench.planner.handle_refusal(bench.now, 1);
    let orders = bench.plan(&fleet);
    let [CopyOrder::Evict { title: 3, node: NodeId(1) }, CopyOrder::Replicate { title: 1, to: NodeId(1), .. }] =
        orders[..]
    else {
        panic!("{orders:?}")
    };
    // A title of no higher value displaces nothing.
    let mut bench = PlannerBench::new(Policy::default());
    assert_eq!(bench.plan(&fleet), []);
    bench.planner.handle_refusal(bench.now, 1);
    assert_eq!(bench.plan(&fleet), []);
}

#[test]
fn a_policy_s_maximum_holds() {
    let rules = vec![PrefixRule { prefix: "films/".to_owned(), bounds: Bounds { min: 1, max: Some(2) } }];
    let mut fleet = TestFleet::new(&[99, 10, 10, 10]).film(1, &[0]);
    let mut bench = PlannerBench::new(Policy::new(Bounds { min: 1, max: None }, rules));
    for _ in 0..30 {
        bench.ask(1, 50);
        bench.planner.handle_refusal(bench.now, 1);
        let orders = bench.plan(&fleet);
        fleet.execute(&orders);
    }
    assert_eq!(fleet.films[&1].copies.len(), 2);
}
