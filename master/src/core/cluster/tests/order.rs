//! Sessions that are moved: the orders, and what the ledger holds until the nodes have told.

use super::*;
use crate::core::moves::Step;

fn moves(world: &mut World) -> Vec<Step> {
    let orders = world.cluster.orders().into_iter();
    orders.filter_map(|order| if let Order::Move(step) = order { Some(step) } else { None }).collect()
}

/// Node 1 of Figure 4 is full of sessions of B, which others hold too.
fn full() -> World {
    let mut world = World::figure_4();
    world.run(0, "B", RATE, 125);
    assert_eq!(world.room(0), 0);
    world
}

#[test]
fn a_session_makes_room_for_a_title_that_only_the_full_node_has() {
    let mut world = full();
    let decision = world.resolve("A", |_| {}).expect("room is made");
    assert_eq!((decision.first, decision.how), (world.id(0), How::Moved(1)));
    let reason = world.cluster.reason(&decision).expect("known").to_string();
    assert_eq!(reason, "a session moves away to make room on node-1; 0 of 1 holders could serve (1 full)");
    let steps = moves(&mut world);
    let [step] = steps[..] else { panic!("{steps:?}") };
    assert_eq!((step.from, step.rate), (world.id(0), RATE));
    assert!(step.to == world.id(1) || step.to == world.id(2));
    let to = step.to.0 as usize;
    assert_eq!((world.level(0), world.level(to)), (1000 * MBIT, RATE), "both seats are held");
    // The order is carried out: the new seat is told first, then the old one.
    world.begin(to, step.session, "B", RATE);
    assert_eq!((world.level(0), world.level(to)), (1000 * MBIT, RATE));
    world.end(0, step.session, RATE);
    world.begin(0, decision.session, "A", RATE);
    assert_eq!((world.level(0), world.level(to)), (1000 * MBIT, RATE));
    let session = world.cluster.ledger().session(step.session).expect("it runs");
    assert_eq!((session.node, session.moves), (step.to, 1));
}

#[test]
fn an_order_that_fails_leaves_the_session_where_it_is() {
    let mut world = full();
    world.resolve("A", |_| {}).expect("room is made");
    let step = moves(&mut world)[0];
    world.cluster.moved(step.session, false);
    assert_eq!(world.cluster.ledger().session(step.session).map(|session| session.node), Some(world.id(0)));
    assert_eq!(world.level(step.to.0 as usize), 0);
    assert_eq!(world.level(0), 1000 * MBIT + RATE, "the promise stands, and the node's guard has the last word");
}

#[test]
fn nothing_is_moved_where_the_operator_forbids_it() {
    let settings = Settings { moves: false, ..Settings::default() };
    let mut world = World::with(settings, &[100 * MBIT; 2]);
    world.titles(0, &["A", "B"]);
    world.titles(1, &["B"]);
    world.run(0, "B", 20 * MBIT, 5);
    assert!(matches!(why(world.resolve("A", |_| {})), NoChoice::Full { .. }));
    world.cluster.presence(world.now, world.links[0], presence(true));
    world.seconds(3);
    assert!(moves(&mut world).is_empty());
}

#[test]
fn a_draining_node_is_emptied() {
    let mut world = full();
    world.cluster.presence(world.now, world.links[0], presence(true));
    for second in 1..=70 {
        let steps = moves(&mut world);
        for step in &steps {
            assert_eq!(step.from, world.id(0), "in second {second}");
            world.begin(step.to.0 as usize, step.session, "B", RATE);
            world.end(0, step.session, RATE);
        }
        let left = world.cluster.ledger().works(world.id(0)).len();
        if left == 0 {
            assert!(second > 30, "not all at once");
            return;
        }
        let running = 125 - world.level(1) / RATE - world.level(2) / RATE;
        world.now = world.now.after(Duration::from_secs(1));
        world.beat();
        world.report(0, |report| report.sessions = running as u32);
        world.cluster.handle(world.now, &mut world.rng);
    }
    panic!("{:?} are left", world.level(0));
}
