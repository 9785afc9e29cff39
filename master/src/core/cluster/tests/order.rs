//! Moves: their orders, and the ledger until the nodes report.

use super::*;
use crate::core::moves::SessionMove;

fn moves(test: &mut TestCluster) -> Vec<SessionMove> {
    let orders = test.cluster.poll_orders().into_iter();
    orders.filter_map(|order| if let Order::Move(step) = order { Some(step) } else { None }).collect()
}

/// Node 1 of figure 4 is full of sessions of B, which other nodes hold too.
fn full() -> TestCluster {
    let mut test = TestCluster::figure_4();
    test.run(0, "B", RATE, 125);
    assert_eq!(test.headroom(0), 0);
    test
}

#[test]
fn a_session_makes_room_for_a_title_that_only_the_full_node_has() {
    let mut test = full();
    let decision = test.resolve("A", |_| {}).expect("capacity is freed");
    assert_eq!((decision.first, decision.how), (test.id(0), Selection::Moved(1)));
    let reason = test.cluster.reason(&decision).expect("known").to_string();
    assert_eq!(reason, "a session moves away to make room on node-1; 0 of 1 holders could serve (1 full)");
    let steps = moves(&mut test);
    let [step] = steps[..] else { panic!("{steps:?}") };
    assert_eq!((step.from, step.rate), (test.id(0), RATE));
    assert!(step.to == test.id(1) || step.to == test.id(2));
    let to = step.to.0 as usize;
    assert_eq!((test.level(0), test.level(to)), (1000 * MBIT, RATE), "both seats are held");
    // The order is executed: the new seat reports first, then the old one.
    test.begin(to, step.session, "B", RATE);
    assert_eq!((test.level(0), test.level(to)), (1000 * MBIT, RATE));
    test.end(0, step.session, RATE);
    test.begin(0, decision.session, "A", RATE);
    assert_eq!((test.level(0), test.level(to)), (1000 * MBIT, RATE));
    let session = test.cluster.ledger().session(step.session).expect("it runs");
    assert_eq!((session.node, session.moves), (step.to, 1));
}

#[test]
fn an_order_that_fails_leaves_the_session_where_it_is() {
    let mut test = full();
    test.resolve("A", |_| {}).expect("capacity is freed");
    let step = moves(&mut test)[0];
    test.cluster.handle_move_answer(step.session, false);
    assert_eq!(test.cluster.ledger().session(step.session).map(|session| session.node), Some(test.id(0)));
    assert_eq!(test.level(step.to.0 as usize), 0);
    assert_eq!(test.level(0), 1000 * MBIT + RATE, "the reservation stands, and the node's admission control decides");
}

#[test]
fn nothing_is_moved_where_the_operator_forbids_it() {
    let settings = Settings { moves: false, ..Settings::default() };
    let mut test = TestCluster::with(settings, &[100 * MBIT; 2]);
    test.titles(0, &["A", "B"]);
    test.titles(1, &["B"]);
    test.run(0, "B", 20 * MBIT, 5);
    assert!(matches!(why(test.resolve("A", |_| {})), NoChoice::Full { .. }));
    test.cluster.handle_presence(test.now, test.attachments[0], presence(true));
    test.seconds(3);
    assert!(moves(&mut test).is_empty());
}

#[test]
fn a_draining_node_is_emptied() {
    let mut test = full();
    test.cluster.handle_presence(test.now, test.attachments[0], presence(true));
    for second in 1..=70 {
        let steps = moves(&mut test);
        for step in &steps {
            assert_eq!(step.from, test.id(0), "in second {second}");
            test.begin(step.to.0 as usize, step.session, "B", RATE);
            test.end(0, step.session, RATE);
        }
        let left = test.cluster.ledger().contents(test.id(0)).len();
        if left == 0 {
            assert!(second > 30, "not all at once");
            return;
        }
        let running = 125 - test.level(1) / RATE - test.level(2) / RATE;
        test.now = test.now.after(Duration::from_secs(1));
        test.report_all();
        test.report(0, |report| report.sessions = running as u32);
        test.cluster.handle_timeout(test.now, &mut test.rng);
    }
    panic!("{:?} are left", test.level(0));
}
