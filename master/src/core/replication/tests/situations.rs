//! One situation, one expected plan.

use std::time::Duration;

use usher_proto::model::Origin;

use super::{Bench, GIGABIT, World, is_copy};
use crate::core::{
    NodeId,
    replication::{Bounds, Order, Policy, Rule, Why},
};

fn at_least(min: u32) -> Policy {
    Policy::new(Bounds { min, max: None }, Vec::new())
}

#[test]
fn a_refused_title_is_copied_at_once_to_the_least_loaded_node() {
    let world = World::new(&[99, 98, 60, 40, 94, 95, 96, 97]).film(1, &[0, 1]);
    let mut bench = Bench::new(Policy::default());
    bench.ask(1, 1);
    bench.planner.refused(bench.now, 1);
    assert!(bench.planner.is_urgent());
    // From the holder with most room; 8 % of 1 Gbit/s.
    let (title, from, to, rate) = (1, NodeId(1), NodeId(3), 80_000_000);
    assert_eq!(bench.plan(&world), [Order::Replicate { title, from, to, rate, why: Why::Refused }]);
    assert!(!bench.planner.is_urgent());
    // The copy is on its way: another refusal changes nothing.
    bench.ask(1, 1);
    bench.planner.refused(bench.now, 1);
    assert_eq!(bench.plan(&world), []);
}

#[test]
fn who_gets_no_copy() {
    let fresh = || World::new(&[99, 10]).film(1, &[0]);
    type Change = fn(&mut World);
    let cases: [(&str, Change); 7] = [
        ("not serving", |world| world.spot(1).serving = false),
        ("no storage", |world| world.spot(1).storage_free = GIGABIT - 1),
        ("too full", |world| world.spot(1).level = GIGABIT / 100 * 94),
        ("too small", |world| world.spot(1).available = 0),
        ("not there", |world| world.spots[1] = None),
        ("has it", |world| world.set(1, 1, Origin::Growing)),
        ("not hashed", |world| world.films.get_mut(&1).expect("a film").hashed = false),
    ];
    for (name, change) in cases {
        let mut world = fresh();
        change(&mut world);
        let mut bench = Bench::new(Policy::default());
        bench.planner.refused(bench.now, 1);
        assert_eq!(bench.plan(&world), [], "{name}");
    }
    let mut bench = Bench::new(Policy::default());
    bench.planner.refused(bench.now, 1);
    assert_eq!(bench.plan(&fresh()).len(), 1);
}

#[test]
fn a_title_is_copied_before_its_holders_are_full() {
    let world = World::new(&[50, 50, 20, 20, 20, 20, 20, 20]).film(1, &[0, 1]).film(2, &[0, 1]);
    let mut bench = Bench::new(Policy::default());
    let mut orders = Vec::new();
    for _ in 0..20 {
        // 24 Mbit/s per second fill two half-empty nodes in less than two minutes; film 2 is not worth a copy.
        bench.ask(1, 3);
        bench.planner.asked(bench.now, 2, 8_000);
        orders.extend(bench.plan(&world));
    }
    assert!(!orders.is_empty() && orders.iter().all(is_copy), "{orders:?}");
    assert!(orders.iter().all(|order| matches!(order, Order::Replicate { title: 1, why: Why::Hot, .. })), "{orders:?}");
}

#[test]
fn too_few_copies_are_repaired_after_the_grace_in_another_zone() {
    let rules = vec![Rule { prefix: "films/2".to_owned(), bounds: Bounds { min: 1, max: None } }];
    let policy = Policy::new(Bounds { min: 2, max: None }, rules);
    // Node 3 is idle but in the zone of the holder.
    let world = World::new(&[50, 60, 70, 0]).film(1, &[0]).film(2, &[0]);
    let mut bench = Bench::new(policy);
    for second in 0..60 {
        assert_eq!(bench.plan(&world), [], "after {second} s");
    }
    let (title, from, to, rate) = (1, NodeId(0), NodeId(1), 80_000_000);
    assert_eq!(bench.plan(&world), [Order::Replicate { title, from, to, rate, why: Why::Few }]);
    assert_eq!(bench.plan(&world), []);
}

#[test]
fn a_copy_that_comes_back_within_the_grace_is_not_replaced() {
    let whole = World::new(&[50, 50, 50]).film(1, &[0, 1]);
    let mut lost = whole.clone();
    lost.films.get_mut(&1).expect("a film").copies.remove(&NodeId(1));
    let mut bench = Bench::new(at_least(2));
    for _ in 0..5 {
        (0..50).for_each(|_| assert_eq!(bench.plan(&lost), []));
        assert_eq!(bench.plan(&whole), []);
    }
}

#[test]
fn what_failed_is_left_alone_for_a_while() {
    let world = World::new(&[99, 10, 20]).film(1, &[0]).film(2, &[0]);
    let mut bench = Bench::new(Policy::default());
    let try_again = |bench: &mut Bench, title| {
        bench.planner.refused(bench.now, title);
        bench.plan(&world)
    };
    assert!(matches!(try_again(&mut bench, 1)[..], [Order::Replicate { to: NodeId(1), .. }]));
    assert!(bench.planner.failed(bench.now, 1, NodeId(1)) && !bench.planner.failed(bench.now, 1, NodeId(1)));
    assert_eq!(try_again(&mut bench, 1), []);
    // Another title goes to another node meanwhile.
    assert!(matches!(try_again(&mut bench, 2)[..], [Order::Replicate { to: NodeId(2), .. }]));
    bench.now += Duration::from_secs(10);
    assert!(matches!(try_again(&mut bench, 1)[..], [Order::Replicate { to: NodeId(1), .. }]));
    bench.planner.forget(NodeId(0));
    assert_eq!(bench.planner.running(), 0);
}

#[test]
fn a_replica_that_nobody_misses_goes_after_half_an_hour() {
    let mut world = World::new(&[50, 50, 50, 50]).film(1, &[0]).film(2, &[0, 1]);
    world.set(1, 2, Origin::Replica);
    world.set(1, 3, Origin::Replica);
    let mut bench = Bench::new(at_least(2));
    let mut gone = Vec::new();
    for second in 0..4 * 3600 {
        let orders = bench.plan(&world);
        world.obey(&orders);
        gone.extend(orders.into_iter().map(|order| (second, order)));
    }
    // One of the two, since two copies are wanted; nothing of the operator's.
    assert!(matches!(gone[..], [(1800..1810, Order::Evict { title: 1, node: NodeId(2 | 3) })]), "{gone:?}");
}

#[test]
fn a_replica_in_use_stays() {
    let mut world = World::new(&[85, 85, 85]).film(1, &[0]);
    world.set(1, 1, Origin::Replica);
    let mut bench = Bench::new(Policy::default());
    (0..7200).for_each(|_| assert_eq!(bench.plan(&world), []));
}

#[test]
fn a_hot_title_takes_the_place_of_a_cold_replica() {
    let mut world = World::new(&[99, 10, 20]).film(1, &[0]).film(2, &[0, 2]).film(3, &[0, 2]).film(4, &[1]);
    world.set(2, 1, Origin::Replica);
    world.set(3, 1, Origin::Replica);
    world.spot(1).storage_free = 10;
    world.spot(2).storage_free = 10;
    let mut bench = Bench::new(Policy::default());
    assert_eq!(bench.plan(&world), []);
    for _ in 0..3 {
        bench.ask(1, 9);
        bench.ask(2, 1);
    }
    bench.planner.refused(bench.now, 1);
    let orders = bench.plan(&world);
    let [Order::Evict { title: 3, node: NodeId(1) }, Order::Replicate { title: 1, to: NodeId(1), .. }] = orders[..]
    else {
        panic!("{orders:?}")
    };
    // A title that is worth no more than what is there displaces nothing.
    let mut bench = Bench::new(Policy::default());
    assert_eq!(bench.plan(&world), []);
    bench.planner.refused(bench.now, 1);
    assert_eq!(bench.plan(&world), []);
}

#[test]
fn a_policy_s_maximum_holds() {
    let rules = vec![Rule { prefix: "films/".to_owned(), bounds: Bounds { min: 1, max: Some(2) } }];
    let mut world = World::new(&[99, 10, 10, 10]).film(1, &[0]);
    let mut bench = Bench::new(Policy::new(Bounds { min: 1, max: None }, rules));
    for _ in 0..30 {
        bench.ask(1, 50);
        bench.planner.refused(bench.now, 1);
        let orders = bench.plan(&world);
        world.obey(&orders);
    }
    assert_eq!(world.films[&1].copies.len(), 2);
}
