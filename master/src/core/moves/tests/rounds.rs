//! Moves without a request: off overloaded and draining nodes, and to empty ones.

use std::time::Duration;

use usher_proto::{
    Bitrate, BootId,
    model::{Hello, Origin, Presence},
};

use super::super::*;
use crate::core::{
    cluster::{ClusterEvent, Order, Settings},
    test_cluster::{MBIT, RATE, TestCluster, copy, hello, presence},
};

/// The moves of the next round, executed.
fn round(test: &mut TestCluster, title: &str) -> Vec<SessionMove> {
    test.now = test.now.after(Duration::from_secs(1));
    test.cluster.handle_timeout(test.now, &mut test.rng);
    carry_out(test, title)
}

fn carry_out(test: &mut TestCluster, title: &str) -> Vec<SessionMove> {
    let orders = test.cluster.poll_orders().into_iter();
    let steps: Vec<SessionMove> =
        orders.filter_map(|order| if let Order::Move(step) = order { Some(step) } else { None }).collect();
    for step in &steps {
        test.begin(step.to.0 as usize, step.session, title, step.rate);
        test.end(step.from.0 as usize, step.session, step.rate);
    }
    steps
}

/// Nodes of 100 Mbit/s that all hold `B`, each with this number of sessions of it.
fn nodes(sessions: &[usize]) -> TestCluster {
    fill(TestCluster::new(&vec![100 * MBIT; sessions.len()]), sessions)
}

/// The same nodes, just joined.
fn joined(sessions: &[usize]) -> TestCluster {
    fill(TestCluster::with(Settings::default(), &vec![100 * MBIT; sessions.len()]), sessions)
}

fn fill(mut test: TestCluster, sessions: &[usize]) -> TestCluster {
    for (node, count) in sessions.iter().enumerate() {
        test.titles(node, &["B"]);
        test.run(node, "B", RATE, *count);
    }
    test
}

#[test]
fn an_overloaded_node_sheds_until_it_fits() {
    // Background traffic took a third of node 1's link all along, unreported until now.
    let mut test = nodes(&[12, 0, 0]);
    assert!(round(&mut test, "B").is_empty(), "96 of 100");
    let background = Bitrate(30 * MBIT);
    test.report(0, |report| report.background = background);
    let steps = round(&mut test, "B");
    assert!(steps.iter().all(|step| step.from == test.id(0)));
    // 126 of 100, less the variance reserve: four or five of eight.
    assert!(matches!(steps.len(), 4..=5), "{steps:?}");
    assert!(test.level(0) <= 100 * MBIT && test.headroom(0) < RATE);
    for _ in 0..5 {
        for node in 0..3 {
            test.report(node, |report| report.background = Bitrate(if node == 0 { background.0 } else { 0 }));
        }
        assert!(round(&mut test, "B").is_empty());
    }
}

#[test]
fn nobody_sheds_to_a_node_that_is_nearly_full() {
    let mut test = nodes(&[12, 11, 0]);
    test.report(0, |report| report.background = Bitrate(30 * MBIT));
    let steps = round(&mut test, "B");
    assert!(!steps.is_empty() && steps.iter().all(|step| step.to == test.id(2)), "{steps:?}");
    // Without a target, it keeps its sessions.
    let mut test = nodes(&[12, 12]);
    test.report(0, |report| report.background = Bitrate(30 * MBIT));
    assert!(round(&mut test, "B").is_empty());
}

#[test]
fn the_pace_of_a_drain_follows_its_deadline() {
    let start = std::time::Instant::now();
    // (deadline in seconds, sessions, moves in the first second): all within two thirds of the deadline, at least two a
    // second, no flood.
    for (given, sessions, pace) in [(60, 0, 0), (60, 12, 2), (60, 400, 10), (60, 4000, 100), (6, 400, 100), (0, 80, 2)]
    {
        let mut drain = DrainPace::new(start, Duration::from_secs(given));
        let mut rest = sessions;
        for quarter in 1..=4 {
            let due = drain.due(start + Duration::from_millis(250) * quarter, rest);
            drain.made(due);
            rest -= due;
        }
        let due = sessions - rest;
        assert!((pace * 95 / 100..=pace * 107 / 100).contains(&due), "{sessions} sessions in {given} s: {due}");
    }
    // To the end: moved sessions are gone, and the last one leaves after two thirds of the time.
    let mut drain = DrainPace::new(start, Duration::from_secs(90));
    let (mut left, mut at) = (3000, start);
    while left > 0 {
        at += Duration::from_millis(250);
        let due = drain.due(at, left);
        drain.made(due);
        left -= due;
    }
    let took = (at - start).as_secs();
    assert!((55..=65).contains(&took), "{took} s of 90");
    // Repeating the same deadline changes nothing; another one starts over.
    assert_eq!(drain.left(at), Duration::from_secs(90) - (at - start));
    drain.again(at, Duration::from_millis(500) + drain.left(at));
    assert!(drain.left(at) <= Duration::from_secs(90) - (at - start));
    drain.again(at, Duration::from_secs(600));
    assert_eq!(drain.left(at), Duration::from_secs(600));
    // Credit does not accumulate while no target is found.
    let late = at + Duration::from_secs(300);
    assert_eq!(drain.due(late, 1000), 10, "1000 sessions in 100 s");
}

/// The moves of a quarter of a second, not executed.
fn quarter(test: &mut TestCluster) -> Vec<SessionMove> {
    test.now = test.now.after(Duration::from_millis(250));
    test.report_all();
    test.cluster.handle_timeout(test.now, &mut test.rng);
    let orders = test.cluster.poll_orders().into_iter();
    orders.filter_map(|order| if let Order::Move(step) = order { Some(step) } else { None }).collect()
}

fn drain_in(test: &mut TestCluster, node: usize, seconds: u64) {
    let drain = Presence { drain_left: Duration::from_secs(seconds), ..presence(true) };
    test.cluster.handle_presence(test.now, test.attachments[node], drain);
}

#[test]
fn a_drained_node_is_emptied_over_its_neighbours() {
    let mut test = nodes(&[12, 0, 0]);
    drain_in(&mut test, 0, 60);
    let mut seconds = 0;
    while !test.cluster.ledger().contents(test.id(0)).is_empty() {
        let steps = round(&mut test, "B");
        assert_eq!(steps.len(), 2);
        test.report_all();
        seconds += 1;
    }
    assert_eq!((seconds, test.level(1), test.level(2)), (6, 6 * RATE, 6 * RATE), "to the emptier one each time");
    assert_eq!(test.cluster.drain_left(test.now, test.id(0)), Duration::from_secs(54));
    test.cluster.handle_presence(test.now, test.attachments[0], presence(false));
    assert!(test.cluster.drain_left(test.now, test.id(0)).is_zero());
}

#[test]
fn no_target_is_flooded() {
    let mut test = TestCluster::new(&[1000 * MBIT, 1000 * MBIT]);
    (0..2).for_each(|node| test.titles(node, &["B"]));
    test.run(0, "B", RATE, 100);
    drain_in(&mut test, 0, 3);
    // 50 a second are due; a twentieth of a gigabit a second is six of 8 Mbit/s, one and a half per quarter.
    let steps: Vec<Vec<SessionMove>> = (0..4).map(|_| quarter(&mut test)).collect();
    assert!(steps.iter().all(|steps| steps.len() == 1), "{steps:?}");
}

#[test]
fn refused_moves_are_retried_without_blocking_others() {
    let mut test = nodes(&[4, 0]);
    let large = test.run(0, "B", 2 * RATE, 1)[0];
    drain_in(&mut test, 0, 60);
    // The largest goes first, and its node refuses; the others follow, and none answers.
    let mut ordered: Vec<(usize, SessionId)> = Vec::new();
    for tick in 0..60 {
        for step in quarter(&mut test) {
            ordered.push((tick, step.session));
            if step.session == large {
                test.cluster.handle_move_answer(step.session, false);
            }
        }
    }
    assert_eq!(ordered[0].1, large);
    let times = |session: SessionId| ordered.iter().filter(|(_, one)| *one == session).count();
    assert!((4..=8).contains(&times(large)), "left alone for two seconds each time: {ordered:?}");
    let others: std::collections::BTreeSet<SessionId> = ordered.iter().map(|(_, session)| *session).collect();
    assert_eq!(others.len(), 5, "everyone's turn came: {ordered:?}");
    assert!(others.iter().all(|session| times(*session) >= 2), "{ordered:?}");
}

#[test]
fn exclusive_and_stuck_sessions_are_reported() {
    let mut test = nodes(&[0, 12]);
    test.copies(0, vec![copy("mine", RATE, Origin::Operator)]);
    let mine = test.run(0, "mine", RATE, 2);
    test.run(0, "B", RATE, 3);
    drain_in(&mut test, 0, 60);
    let stuck = |test: &mut TestCluster| -> Vec<ClusterEvent> {
        test.cluster.poll_events().into_iter().filter(|event| matches!(event, ClusterEvent::Stuck(..))).collect()
    };
    test.cluster.poll_events();
    for _ in 0..8 {
        assert!(quarter(&mut test).is_empty(), "the other node is full");
    }
    assert_eq!(stuck(&mut test), [ClusterEvent::Stuck(test.id(0), 3)], "once");
    let only = test.cluster.only_held_by(test.now, test.id(0));
    let named: Vec<_> =
        only.iter().map(|(content, count)| (test.cluster.described(content.expect("known")), *count)).collect();
    assert_eq!(named.len(), 1);
    assert_eq!((named[0].0.as_ref().map(|facts| facts.title.as_str()), named[0].1), (Some("mine"), 2));
    // Capacity becomes free, and the movable sessions go.
    test.send_sessions(1, |sessions| sessions.committed = Bitrate(0));
    let moved: Vec<SessionId> = (0..12).flat_map(|_| quarter(&mut test)).map(|step| step.session).collect();
    assert!(moved.len() == 3 && moved.iter().all(|session| !mine.contains(session)), "{moved:?}");
}

#[test]
fn with_moves_switched_off_a_drain_moves_nothing() {
    let settings = Settings { moves: false, ..Settings::default() };
    let mut test = TestCluster::with(settings, &[100 * MBIT; 2]);
    (0..2).for_each(|node| test.titles(node, &["B"]));
    test.run(0, "B", RATE, 2);
    drain_in(&mut test, 0, 2);
    assert!((0..12).all(|_| quarter(&mut test).is_empty()));
}

/// Advances by seconds and executes all orders; returns all moves.
fn seconds(test: &mut TestCluster, count: usize) -> Vec<SessionMove> {
    let mut all = Vec::new();
    for _ in 0..count {
        test.seconds(1);
        let steps = carry_out(test, "B");
        assert!(steps.len() <= 4, "{steps:?}");
        all.extend(steps);
    }
    all
}

/// Node 3 returns as a new process, with its titles.
fn rejoin(test: &mut TestCluster, boot: u128) {
    test.cluster.handle_detach(test.now, test.attachments[2]);
    let again = Hello { boot: BootId(boot), ..hello(3, 100 * MBIT) };
    test.attachments[2] = test.cluster.handle_attach(test.now, again).expect("attached");
    test.titles(2, &["B"]);
}

#[test]
fn a_node_that_joins_is_given_sessions_a_few_at_a_time_and_only_once() {
    let mut test = joined(&[11, 11, 0]);
    let all = seconds(&mut test, 200);
    // Of 88, 88 and 0 %, mean 59: down to 64.
    assert!((6..=8).contains(&all.len()), "{all:?}");
    assert!(all.iter().all(|step| step.to == test.id(2)), "{all:?}");
    assert!(seconds(&mut test, 200).is_empty(), "and then all is quiet");
    // It fails, its viewers return to the others, and it rejoins at once: no session is moved.
    for step in all.iter().take(2) {
        test.end(2, step.session, RATE);
        test.begin(0, step.session, "B", RATE);
    }
    rejoin(&mut test, 77);
    test.send_sessions(2, |sessions| sessions.committed = Bitrate(0));
    test.run(1, "B", RATE, 4);
    assert!(seconds(&mut test, 30).is_empty(), "not again for a while");
    // Later it receives sessions again.
    seconds(&mut test, 800);
    rejoin(&mut test, 78);
    assert!(!seconds(&mut test, 100).is_empty());
}

#[test]
fn a_node_whose_channel_was_lost_or_that_knows_another_master_has_not_joined() {
    let mut test = nodes(&[11, 11, 0]);
    test.seconds(1);
    let mut fresh = joined(&[]);
    fresh.now = test.now;
    for node in 0..3 {
        let again = Hello { attachment: 2, ..hello(node + 1, 100 * MBIT) };
        let attachment = fresh.cluster.handle_attach(fresh.now, again).expect("attached");
        fresh.add_attachment(attachment);
        fresh.titles(node, &["B"]);
    }
    fresh.run(0, "B", RATE, 11);
    fresh.run(1, "B", RATE, 11);
    assert!(seconds(&mut fresh, 100).is_empty());
    // A node that was drained and undrained counts as joined.
    fresh.cluster.handle_presence(fresh.now, fresh.attachments[2], presence(true));
    fresh.seconds(1);
    fresh.cluster.handle_presence(fresh.now, fresh.attachments[2], presence(false));
    assert!(!seconds(&mut fresh, 20).is_empty());
}

#[test]
fn ordered_moves_run_in_small_batches_and_are_rechecked() {
    let mut test = nodes(&[11, 11, 0]);
    test.seconds(1);
    let steps = test.cluster.rebalance(test.now, 100, &mut test.rng);
    assert!(steps.len() > 4 && test.cluster.poll_orders().is_empty(), "found, not made: {steps:?}");
    test.cluster.order_moves(test.now, &steps);
    let first = quarter(&mut test);
    assert_eq!(first, steps[..4]);
    // Meanwhile the node fills up, and the remaining moves no longer fit.
    test.send_sessions(2, |sessions| sessions.committed = Bitrate(99 * MBIT));
    assert!(quarter(&mut test).is_empty() && quarter(&mut test).is_empty());
}

#[test]
fn an_empty_node_is_filled_and_then_nothing_moves() {
    let mut test = nodes(&[10, 8, 9, 0]);
    let mut all = Vec::new();
    for _ in 0..20 {
        let steps = test.cluster.rebalance(test.now, 3, &mut test.rng);
        assert!(steps.len() <= 3);
        if steps.is_empty() {
            break;
        }
        for step in &steps {
            assert!(test.level(step.from.0 as usize) > test.level(step.to.0 as usize) + RATE, "{step:?}");
        }
        test.cluster.start_moves(test.now, &steps);
        all.extend(carry_out(&mut test, "B"));
        test.seconds(1);
        carry_out(&mut test, "B");
    }
    assert!(all.iter().all(|step| step.to == test.id(3)), "{all:?}");
    assert!((4..=8).contains(&all.len()), "few: {}", all.len());
    assert!(test.cluster.rebalance(test.now, 100, &mut test.rng).is_empty());
    let mut even = nodes(&[6, 5, 6, 7]);
    assert!(even.cluster.rebalance(even.now, 100, &mut even.rng).is_empty(), "nearly even is even");
    let mut twice: Vec<SessionId> = all.iter().map(|step| step.session).collect();
    twice.sort_unstable();
    twice.dedup();
    assert_eq!(twice.len(), all.len(), "no session moves twice");
}
