//! Clients that compete: reservations that nobody redeems, requests in a loop, and several seats of one answer.

use super::*;
use crate::core::ledger::Source;

/// A client that never redeems a ticket.
const HOARDER: u64 = 1;

/// All honest clients, behind one address.
const HOUSE: u64 = 2;

/// Two nodes that serve 50 sessions of A together.
fn two_nodes() -> TestCluster {
    let mut test = TestCluster::with(Settings { rebalance: false, ..Settings::default() }, &[200 * MBIT; 2]);
    (0..2).for_each(|node| test.titles(node, &["A", "B"]));
    test
}

/// A client asks for as much as it can get, like one that asks without a pause. Returns the number of seats.
fn grab(test: &mut TestCluster, source: u64) -> usize {
    let mut seats = 0;
    while test.resolve_as(source, "A").is_ok() {
        seats += 1;
        assert!(seats <= 1000, "the cluster has no end");
    }
    seats
}

#[test]
fn reservations_that_nobody_redeems_keep_no_client_out() {
    // Each client has its address, or all share one.
    for house in [true, false] {
        let mut test = two_nodes();
        assert_eq!(grab(&mut test, HOARDER), 50);
        let mut served = 0;
        for viewer in 0..50 {
            let source = if house { HOUSE } else { 100 + viewer };
            let decision = test.resolve_as(source, "A");
            if let Ok(decision) = &decision {
                assert!(matches!(decision.how, Selection::Released(1) | Selection::Best), "{:?}", decision.how);
                // The hoarder asks between the answer and the start of the session as well.
                grab(&mut test, HOARDER);
                test.redeem(decision, "A");
                served += 1;
            }
            grab(&mut test, HOARDER);
            test.wait(Duration::from_millis(100));
        }
        assert!(served >= 49, "{served} of 50");
        assert!((0..2).all(|node| test.level(node) <= 200 * MBIT));
    }
}

#[test]
fn a_hoarder_with_a_past_keeps_nothing() {
    let mut test = two_nodes();
    for _ in 0..4 {
        grab(&mut test, HOARDER);
        test.seconds(RESERVATION.as_secs() as usize);
    }
    grab(&mut test, HOARDER);
    for _ in 0..50 {
        let decision = test.resolve_as(HOUSE, "A").expect("all of it");
        grab(&mut test, HOARDER);
        test.redeem(&decision, "A");
        grab(&mut test, HOARDER);
    }
    assert_eq!(test.cluster.ledger().running(test.id(0)) + test.cluster.ledger().running(test.id(1)), 50);
}

#[test]
fn wide_reservations_of_small_titles_keep_no_client_out() {
    let mut test = two_nodes();
    let wide = |test: &mut TestCluster| {
        let session = test.session();
        let mut play = play("A");
        play.rate = Some(Bitrate(240 * MBIT));
        let ask = SeatRequest { source: Some(Source(HOARDER)), ..SeatRequest::from(&play) };
        test.cluster.resolve(test.now, session, &ask, &mut test.rng)
    };
    let mut served = 0;
    while let Ok(decision) = wide(&mut test) {
        assert_eq!(decision.rate.0, 4 * RATE);
        served += 1;
    }
    assert_eq!(served, 12);
    for viewer in 0..49 {
        let decision = test.resolve_as(HOUSE, "A").unwrap_or_else(|refused| panic!("{viewer}: {refused}"));
        test.redeem(&decision, "A");
        while wide(&mut test).is_ok() {}
        test.wait(Duration::from_millis(100));
    }
}

#[test]
fn a_young_node_is_no_refuge_for_hoarders() {
    let mut test = TestCluster::new(&[]);
    let attachment = test.cluster.handle_attach(test.now, hello(1, 200 * MBIT)).expect("attached");
    test.add_attachment(attachment);
    test.titles(0, &["A"]);
    // Its uptime is a second.
    test.send_sessions(0, |sessions| sessions.uptime_ms = 1000);
    test.report(0, |report| report.uptime_ms = 1000);
    assert_eq!(grab(&mut test, HOARDER), 25, "its reserve included");
    for _ in 0..24 {
        let decision = test.resolve_as(HOUSE, "A").expect("room");
        assert!(matches!(decision.how, Selection::Released(1)), "{:?}", decision.how);
        test.cluster
            .handle_sessions(
                test.now,
                attachment,
                Sessions {
                    complete: true,
                    uptime_ms: 1000,
                    committed: Bitrate(RATE * (1 + test.cluster.ledger().running(decision.first) as u64)),
                    begun: vec![begun(decision.session, "A", RATE)],
                    ..Sessions::default()
                },
            )
            .expect("taken");
        grab(&mut test, HOARDER);
    }
}

#[test]
fn the_reason_names_what_was_released() {
    let mut test = TestCluster::figure_4();
    (0..125).for_each(|_| drop(test.resolve_as(HOARDER, "A")));
    let decision = test.resolve_as(HOUSE, "A").expect("room");
    let reason = test.cluster.reason(&decision).expect("known").to_string();
    assert_eq!(
        reason,
        "released 1 unredeemed reservation of another client on node-1; 0 of 1 holders could serve (1 full)"
    );
    // Asking what would happen releases nothing.
    let before = test.cluster.ledger().holding(Source(HOARDER));
    let play = play("A");
    let record = test.cluster.explain(test.now, &SeatRequest::from(&play), &mut test.rng).expect("known");
    assert_eq!(record.outcome, crate::core::journal::Outcome::Chosen(Selection::Released(1)));
    assert_eq!(test.cluster.ledger().holding(Source(HOARDER)), before);
}

/// A cluster that is full of the running sessions of one client. Returns them.
fn full_house(test: &mut TestCluster) -> Vec<(SessionId, usize)> {
    (0..50)
        .map(|_| {
            let decision = test.resolve_as(HOUSE, "A").expect("room");
            test.redeem(&decision, "A");
            (decision.session, decision.first.0 as usize)
        })
        .collect()
}

#[test]
fn capacity_that_becomes_free_is_for_the_client_that_holds_least() {
    let mut test = two_nodes();
    let running = full_house(&mut test);
    assert!(test.resolve_as(7, "A").is_err(), "nothing that runs is ended");
    let (session, node) = running[0];
    test.end(node, session, RATE);
    assert!(test.resolve_as(HOUSE, "A").is_err(), "a house with 49 viewers, in a loop");
    let decision = test.resolve_as(7, "A").expect("it waited");
    assert_eq!(decision.first, test.id(node));
    test.redeem(&decision, "A");
    // Nobody waits any more.
    let (session, node) = running[1];
    test.end(node, session, RATE);
    assert!(test.resolve_as(HOUSE, "A").is_ok());
}

#[test]
fn a_client_that_does_not_come_back_keeps_capacity_once() {
    let mut test = two_nodes();
    let running = full_house(&mut test);
    assert!(test.resolve_as(7, "A").is_err());
    let (session, node) = running[0];
    test.end(node, session, RATE);
    test.seconds(6);
    assert!(test.resolve_as(HOUSE, "A").map(|decision| test.redeem(&decision, "A")).is_ok(), "it waited long enough");
    assert!(test.resolve_as(7, "A").is_err());
    let (session, node) = running[1];
    test.end(node, session, RATE);
    assert!(test.resolve_as(HOUSE, "A").is_ok(), "and will not again for a while");
}

#[test]
fn no_session_is_moved_for_a_client_while_a_lighter_one_waits() {
    // Node 1 alone has A, and is full of B.
    let mut test = TestCluster::figure_4();
    for _ in 0..125 {
        let decision = test.resolve_as(HOUSE, "B").expect("room");
        test.begin(0, decision.session, "B", RATE);
    }
    test.cluster.poll_orders();
    // The other holders of B are gone for a while: a light client is refused.
    [1, 2].into_iter().for_each(|node| test.cluster.handle_presence(test.now, test.attachments[node], presence(true)));
    assert!(test.resolve_as(7, "A").is_err());
    [1, 2].into_iter().for_each(|node| test.cluster.handle_presence(test.now, test.attachments[node], presence(false)));
    test.cluster.poll_orders();
    assert!(test.resolve_as(HOUSE, "A").is_err());
    assert!(test.cluster.poll_orders().is_empty());
    assert_eq!(test.resolve_as(7, "A").map(|decision| decision.how), Ok(Selection::Moved(1)));
}

fn copies_ordered(test: &mut TestCluster) -> usize {
    test.cluster.poll_orders().iter().filter(|order| matches!(order, Order::Replicate { .. })).count()
}

/// Two nodes with room for copies, the second of which is empty.
fn room_for_copies() -> TestCluster {
    let mut test = TestCluster::new(&[]);
    for number in 1..=2 {
        let hello = Hello { replica_bytes: 1_000_000, ..hello(number, 200 * MBIT) };
        let attachment = test.cluster.handle_attach(test.now, hello).expect("attached");
        test.add_attachment(attachment);
    }
    test.titles(0, &["A", "B"]);
    test.copies(1, Vec::new());
    test.report_with_room();
    test
}

#[test]
fn requests_that_nobody_redeems_copy_nothing() {
    let mut test = room_for_copies();
    for _ in 0..20 {
        grab(&mut test, HOARDER);
        test.report_with_room();
        test.wait(Duration::from_secs(1));
    }
    assert_eq!(copies_ordered(&mut test), 0);
    // Sessions that play do.
    let mut test = room_for_copies();
    for second in 0..20 {
        for viewer in 0..3 {
            if let Ok(decision) = test.resolve_as(100 + second * 3 + viewer, "A") {
                test.redeem(&decision, "A");
            }
        }
        test.report_with_room();
        test.wait(Duration::from_secs(1));
    }
    assert!(copies_ordered(&mut test) > 0);
}

#[test]
fn a_second_seat_of_an_answer_is_ended() {
    let mut test = two_nodes();
    let decision = test.resolve_as(7, "A").expect("room");
    let (first, other) = (decision.first.0 as usize, 1 - decision.first.0 as usize);
    test.begin(first, decision.session, "A", RATE);
    test.begin(other, decision.session, "A", RATE);
    test.cluster.poll_orders();
    test.seconds(crate::core::ledger::OVERLAP.as_secs() as usize);
    let expected = Order::EndSurplus { session: decision.session, node: test.id(first) };
    assert_eq!(test.cluster.poll_orders(), [expected]);
    test.end(first, decision.session, RATE);
    test.seconds(10);
    assert!(test.cluster.poll_orders().is_empty());
    assert_eq!((test.level(first), test.level(other)), (0, RATE));
}
