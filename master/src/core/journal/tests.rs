//! Decisions as people read them, word for word, and how many are kept.

use usher_proto::{
    Bitrate,
    model::{Origin, Range},
};

use super::*;
use crate::core::{
    cluster::{Ask, Settings},
    roster::Standing,
    world::{MBIT, RATE, World, copy, play, presence},
};

/// What would be decided of a title, in words.
fn explain(world: &mut World, title: &str) -> String {
    let play = play(title);
    let record = world.cluster.explain(world.now, &Ask::from(&play), &mut world.rng).expect("known");
    Explained { record: &record, roster: world.cluster.roster() }.to_string()
}

#[test]
fn the_best_of_three_with_one_full_and_one_draining() {
    let mut world = World::figure_4();
    world.run(0, "B", RATE, 125);
    world.run(1, "B", RATE, 10);
    world.cluster.presence(world.now, world.links[2], presence(true));
    assert_eq!(explain(&mut world, "B"), BEST);
}

const BEST: &str = "\
B to play, 8 Mbit/s to reserve
node-2: the farthest from full
NODE    ZONE  VERDICT   AVAILABLE  LEVEL      MARGIN  NOTE
node-2  z2    chosen    1 Gbit/s   80 Mbit/s  22.8
node-1  z1    full      1 Gbit/s   1 Gbit/s   -
node-3  z3    draining  1 Gbit/s   0 bit/s    -
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn the_only_holder() {
    assert_eq!(explain(&mut World::figure_4(), "A"), ONLY);
}

const ONLY: &str = "\
A to play, 8 Mbit/s to reserve
node-1: the only holder
NODE    ZONE  VERDICT  AVAILABLE  LEVEL    MARGIN  NOTE
node-1  z1    chosen   1 Gbit/s   0 bit/s  24.8
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn room_is_made() {
    let mut world = World::figure_4();
    world.run(0, "B", RATE, 125);
    assert_eq!(explain(&mut world, "A"), MOVED);
    assert!(world.cluster.orders().is_empty(), "and nothing was moved by asking");
}

const MOVED: &str = "\
A to play, 8 Mbit/s to reserve
node-1: every holder was full; a session is moved to make room
NODE    ZONE  VERDICT  AVAILABLE  LEVEL     MARGIN  NOTE
node-1  z1    chosen   1 Gbit/s   1 Gbit/s  -
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn refused_for_want_of_room() {
    let mut world = World::with(Settings { moves: false, ..Settings::default() }, &[16 * MBIT, 100 * MBIT]);
    world.titles(0, &["A"]);
    world.titles(1, &["A"]);
    world.run(0, "A", RATE, 2);
    world.cluster.detach(world.now, world.links[1]);
    assert_eq!(explain(&mut world, "A"), FULL);
}

const FULL: &str = "\
A to play, 8 Mbit/s to reserve
refused: its holders have no room for 8 Mbit/s more: 1 down, 1 full of 2; try again shortly
NODE    ZONE  VERDICT  AVAILABLE  LEVEL      MARGIN  NOTE
node-1  z1    full     16 Mbit/s  16 Mbit/s  -
node-2  z2    down     -          -          -
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn every_holder_in_doubt() {
    let mut world = World::figure_4();
    world.wait(std::time::Duration::from_millis(3500));
    let node = world.cluster.roster().node(world.id(0)).expect("known");
    assert_eq!(node.standing(world.now.instant), Standing::Suspect);
    assert_eq!(explain(&mut world, "A"), PANIC);
}

const PANIC: &str = "\
A to play, 8 Mbit/s to reserve
node-1: every holder is in doubt, and this one has the most room
NODE    ZONE  VERDICT  AVAILABLE  LEVEL    MARGIN  NOTE
node-1  z1    chosen   1 Gbit/s   0 bit/s  -
margin: standard deviations of the node's load between it and full, after this request
";

/// A copy that is not whole serves who begins at its beginning.
#[test]
fn a_copy_that_grows() {
    let mut world = World::new(&[100 * MBIT; 2]);
    world.copies(0, vec![copy("A", RATE, Origin::Growing)]);
    world.titles(1, &["A"]);
    let mut play = play("A");
    play.range = Range { start: 7, end: None };
    let ask = Ask { tag: 3, ..Ask::from(&play) };
    let session = world.session();
    world.cluster.resolve(world.now, session, &ask, &mut world.rng).expect("room");
    let record = world.cluster.decided(3).expect("kept");
    assert_eq!(Explained { record, roster: world.cluster.roster() }.to_string(), GROWING);
}

const GROWING: &str = "\
A to play, 8 Mbit/s to reserve
node-2: the farthest from full
NODE    ZONE  VERDICT  AVAILABLE   LEVEL    MARGIN  NOTE
node-2  z2    chosen   100 Mbit/s  0 bit/s  7.2
node-1  z1    growing  100 Mbit/s  0 bit/s  -
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn what_lowers_a_node_is_noted() {
    let mut world = World::new(&[1000 * MBIT; 2]);
    world.titles(0, &["A"]);
    world.titles(1, &["A"]);
    for second in 0..40 {
        world.seconds(1);
        let others = if second % 2 == 0 { 200 } else { 0 };
        world.report(0, |report| report.background = Bitrate(others * MBIT));
    }
    world.report(0, |report| (report.demand, report.delivered) = (Bitrate(900 * MBIT), Bitrate(600 * MBIT)));
    assert_eq!(explain(&mut world, "A"), NOTES);
}

const NOTES: &str = "\
A to play, 8 Mbit/s to reserve
node-2: the farthest from full
NODE    ZONE  VERDICT    AVAILABLE   LEVEL    MARGIN  NOTE
node-2  z2    chosen     1 Gbit/s    0 bit/s  24.8
node-1  z1    alternate  550 Mbit/s  0 bit/s  18.2    delivers less than its capacity (-400 Mbit/s), other \
    traffic is unsteady (-50 Mbit/s)
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn a_young_node_is_taken_at_need() {
    let mut world = World::new(&[100 * MBIT]);
    let hello = crate::core::world::hello(2, 100 * MBIT);
    let link = world.cluster.attach(world.now, hello).expect("attached");
    world.links.push(link);
    world.links.remove(0);
    world.titles(0, &["A"]);
    world.run(0, "A", RATE, 0);
    for _ in 0..3 {
        world.resolve("A", |_| {}).expect("a quarter");
    }
    assert_eq!(explain(&mut world, "A"), COLD);
}

const COLD: &str = "\
A to play, 8 Mbit/s to reserve
node-2: every holder is full; this one gives of its reserve
NODE    ZONE  VERDICT  AVAILABLE  LEVEL      MARGIN  NOTE
node-2  z2    chosen   25 Mbit/s  24 Mbit/s  -       has just started (-75 Mbit/s)
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn what_is_not_there_is_not_explained() {
    let mut world = World::figure_4();
    let play = play("I");
    let refused = world.cluster.explain(world.now, &Ask::from(&play), &mut world.rng).expect_err("nobody has it");
    assert_eq!(refused.to_string(), "`I`: no node holds it; `usher ls` lists what there is");
}

#[test]
fn only_so_many_are_kept_and_of_each_so_many_holders() {
    let mut world = World::new(&[100 * MBIT; 10]);
    for node in 0..10 {
        world.titles(node, &["A"]);
    }
    let text = explain(&mut world, "A");
    assert!(text.contains("and 2 more holders\n") && text.lines().count() == 3 + LOOKED + 2, "{text}");
    let play = play("A");
    let record = world.cluster.explain(world.now, &Ask::from(&play), &mut world.rng).expect("known");
    let mut journal = Journal::default();
    assert!(journal.is_empty());
    for tag in 0..KEPT as u64 + 10 {
        journal.keep(Record { tag, ..record.clone() });
        journal.keep(Record { tag, rate: Bitrate(tag), ..record.clone() });
    }
    assert_eq!(journal.len(), KEPT);
    let last = KEPT as u64 + 9;
    assert_eq!(journal.find(last).map(|record| record.rate), Some(Bitrate(last)), "the later of two");
    assert!(journal.find(0).is_none() && journal.find(last - KEPT as u64 / 2).is_none());
    assert!(journal.find(last - KEPT as u64 / 2 + 1).is_some());
}
