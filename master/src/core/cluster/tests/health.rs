//! Nodes that die, flap, fall silent, or are said to.

use std::time::Duration;

use super::*;
use crate::core::roster::{PROBE, Standing};

fn standing(world: &World, node: usize) -> Standing {
    world.cluster.roster().node(world.id(node)).expect("known").standing(world.now.instant)
}

fn probes(world: &mut World) -> Vec<u32> {
    let orders = world.cluster.orders().into_iter();
    orders.filter_map(|order| if let Order::Probe(node) = order { Some(node.0) } else { None }).collect()
}

#[test]
fn who_flaps_is_held_ever_longer() {
    let mut world = World::figure_4();
    let mut held = Vec::new();
    for _ in 0..6 {
        // It dies, and is back at once as a new process with its catalog told.
        restart(&mut world, 0);
        world.titles(0, &["A"]);
        let mut seconds = 0;
        while standing(&world, 0) == Standing::Held {
            world.seconds(1);
            seconds += 1;
        }
        held.push(seconds);
        assert_eq!(standing(&world, 0), Standing::Well);
        world.seconds(15);
    }
    assert_eq!(held, [0, 15, 30, 60, 120, 240], "the first is bad luck");
}

#[test]
fn a_held_node_is_taken_when_there_is_no_other() {
    let mut world = World::figure_4();
    for _ in 0..2 {
        restart(&mut world, 0);
        world.titles(0, &["A", "B"]);
    }
    assert_eq!(standing(&world, 0), Standing::Held);
    assert_eq!(world.resolve("A", |_| {}).map(|decision| decision.how), Ok(How::Panic));
    for _ in 0..20 {
        assert_ne!(world.resolve("B", |_| {}).expect("others hold it").first, world.id(0));
    }
}

#[test]
fn two_clients_and_no_answer() {
    let name = NodeName::parse("node-1").expect("a name");
    let mut world = World::figure_4();
    world.cluster.hint(world.now, &name, 1);
    assert_eq!(probes(&mut world), [0], "one client's word asks the node");
    assert_eq!(standing(&world, 0), Standing::Well);
    world.cluster.hint(world.now, &name, 1);
    assert!(probes(&mut world).is_empty(), "and no more than once");
    world.cluster.probed(world.now, world.links[0]);
    world.cluster.hint(world.now, &name, 2);
    assert_eq!((standing(&world, 0), probes(&mut world)), (Standing::Suspect, vec![0]), "two take it out");
    world.cluster.probed(world.now, world.links[0]);
    assert_eq!(standing(&world, 0), Standing::Suspect, "its own word does not outweigh theirs at once");
    world.seconds(5);
    assert_eq!(standing(&world, 0), Standing::Well);

    // One client is enough when the node does not answer.
    world.seconds(10);
    world.cluster.hint(world.now, &name, 3);
    assert_eq!(probes(&mut world), [0]);
    world.wait(PROBE);
    assert_eq!(standing(&world, 0), Standing::Suspect);
    world.cluster.probed(world.now, world.links[0]);
    assert_eq!(standing(&world, 0), Standing::Well);
    world.cluster.hint(world.now, &NodeName::parse("nobody").expect("a name"), 1);
    assert!(probes(&mut world).is_empty());
}

#[test]
fn a_silent_node_is_asked_first() {
    let mut world = World::figure_4();
    world.wait(Duration::from_millis(2400));
    assert!(world.resolve("A", |_| {}).is_ok(), "a report may be late");
    world.wait(Duration::from_millis(100));
    let refused = why(world.resolve("A", |_| {}));
    let NoChoice::Probing(count) = refused else { panic!("{refused}") };
    assert_eq!((count.unsure, probes(&mut world)), (1, vec![0]));
    let fault = Fault::from(&NoChoice::Probing(count));
    assert!(fault.code == Code::Unavailable && fault.retry_after < Some(Duration::from_secs(1)), "{fault}");
    assert!(matches!(why(world.resolve("A", |_| {})), NoChoice::Probing(_)));
    assert!(probes(&mut world).is_empty(), "asked already");
    // Who cannot wait may take it as it is.
    let (session, play) = (world.session(), play("A"));
    let ask = Ask { unsure: true, ..Ask::from(&play) };
    let taken = world.cluster.resolve(world.now, session, &ask, &mut world.rng);
    assert_eq!(taken.map(|decision| decision.first), Ok(world.id(0)));
    world.cluster.probed(world.now, world.links[0]);
    assert!(world.resolve("A", |_| {}).is_ok(), "it answered");
    // Of several holders, one that was heard goes first.
    for _ in 0..20 {
        assert_eq!(world.resolve("B", |_| {}).expect("room").first, world.id(0));
    }
}

#[test]
fn who_stays_silent_is_suspect_and_then_stale() {
    let mut world = World::figure_4();
    for (millis, expected) in
        [(2499, Standing::Well), (2500, Standing::Unsure), (3500, Standing::Suspect), (5000, Standing::Down)]
    {
        let at = world.now.after(Duration::from_millis(millis)).instant;
        let node = world.cluster.roster().node(world.id(0)).expect("known");
        assert_eq!(node.standing(at), expected, "{millis} ms");
    }
    world.wait(Duration::from_millis(3500));
    assert_eq!(world.resolve("A", |_| {}).map(|decision| decision.how), Ok(How::Panic), "better than none");
    world.cluster.events();
    world.wait(Duration::from_millis(1500));
    let stale: Vec<_> = world.cluster.events();
    assert!(stale.contains(&Event::State(world.id(0), State::Stale)), "{stale:?}");
    world.tell(0, |_| {});
    assert_eq!(world.cluster.events(), [Event::State(world.id(0), State::Serving)], "any word ends that");
}
