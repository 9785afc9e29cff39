//! What is moved without an arrival: nodes that have too much, that drain, or that stand empty.

use std::time::Duration;

use usher_proto::Bitrate;

use super::super::*;
use crate::core::{
    cluster::Order,
    world::{MBIT, RATE, World, presence},
};

/// The moves of the next round, carried out.
fn round(world: &mut World, title: &str) -> Vec<Step> {
    world.now = world.now.after(Duration::from_secs(1));
    world.cluster.handle(world.now, &mut world.rng);
    carry_out(world, title)
}

fn carry_out(world: &mut World, title: &str) -> Vec<Step> {
    let orders = world.cluster.orders().into_iter();
    let steps: Vec<Step> =
        orders.filter_map(|order| if let Order::Move(step) = order { Some(step) } else { None }).collect();
    for step in &steps {
        world.begin(step.to.0 as usize, step.session, title, step.rate);
        world.end(step.from.0 as usize, step.session, step.rate);
    }
    steps
}

/// Nodes of 100 Mbit/s that all hold `B`, with so many sessions of it.
fn nodes(sessions: &[usize]) -> World {
    let mut world = World::new(&vec![100 * MBIT; sessions.len()]);
    for (node, count) in sessions.iter().enumerate() {
        world.titles(node, &["B"]);
        world.run(node, "B", RATE, *count);
    }
    world
}

#[test]
fn a_node_that_has_too_much_sheds_until_it_fits() {
    // Others took a third of node 1's link all the time, and no more is said than that it is full.
    let mut world = nodes(&[12, 0, 0]);
    assert!(round(&mut world, "B").is_empty(), "96 of 100");
    let background = Bitrate(30 * MBIT);
    world.report(0, |report| report.background = background);
    let steps = round(&mut world, "B");
    assert!(steps.iter().all(|step| step.from == world.id(0)));
    // 126 of 100, less what unsteadiness takes: four or five of eight.
    assert!(matches!(steps.len(), 4..=5), "{steps:?}");
    assert!(world.level(0) <= 100 * MBIT && world.room(0) < RATE);
    for _ in 0..5 {
        for node in 0..3 {
            world.report(node, |report| report.background = Bitrate(if node == 0 { background.0 } else { 0 }));
        }
        assert!(round(&mut world, "B").is_empty());
    }
}

#[test]
fn nobody_sheds_to_a_node_that_is_nearly_full() {
    let mut world = nodes(&[12, 11, 0]);
    world.report(0, |report| report.background = Bitrate(30 * MBIT));
    let steps = round(&mut world, "B");
    assert!(!steps.is_empty() && steps.iter().all(|step| step.to == world.id(2)), "{steps:?}");
    // With no other place, it keeps what it has.
    let mut world = nodes(&[12, 12]);
    world.report(0, |report| report.background = Bitrate(30 * MBIT));
    assert!(round(&mut world, "B").is_empty());
}

#[test]
fn a_drain_takes_about_a_minute() {
    assert_eq!([0, 1, 60, 600, 3000, 3480, 100_000].map(Pace::of), [2, 2, 3, 12, 52, 60, 60]);
    let mut world = nodes(&[12, 0, 0]);
    world.cluster.presence(world.links[0], presence(true));
    let mut seconds = 0;
    while !world.cluster.ledger().works(world.id(0)).is_empty() {
        let steps = round(&mut world, "B");
        assert_eq!(steps.len(), 2);
        world.beat();
        seconds += 1;
    }
    assert_eq!((seconds, world.level(1), world.level(2)), (6, 6 * RATE, 6 * RATE), "to the emptier one each time");
}

#[test]
fn a_node_that_stands_empty_is_filled_and_then_nothing_moves() {
    let mut world = nodes(&[10, 8, 9, 0]);
    let mut all = Vec::new();
    for _ in 0..20 {
        let steps = world.cluster.rebalance(world.now, 3, &mut world.rng);
        assert!(steps.len() <= 3);
        if steps.is_empty() {
            break;
        }
        for step in &steps {
            assert!(world.level(step.from.0 as usize) > world.level(step.to.0 as usize) + RATE, "{step:?}");
        }
        world.cluster.depart(world.now, &steps);
        all.extend(carry_out(&mut world, "B"));
        world.seconds(1);
        carry_out(&mut world, "B");
    }
    assert!(all.iter().all(|step| step.to == world.id(3)), "{all:?}");
    assert!((4..=8).contains(&all.len()), "few: {}", all.len());
    assert!(world.cluster.rebalance(world.now, 100, &mut world.rng).is_empty());
    let mut even = nodes(&[6, 5, 6, 7]);
    assert!(even.cluster.rebalance(even.now, 100, &mut even.rng).is_empty(), "nearly even is even");
    let mut twice: Vec<SessionId> = all.iter().map(|step| step.session).collect();
    twice.sort_unstable();
    twice.dedup();
    assert_eq!(twice.len(), all.len(), "nobody goes twice");
}
