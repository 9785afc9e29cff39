//! Nodes that fail, flap, fall silent, or are reported dead.

use std::time::Duration;

use super::*;
use crate::core::roster::{NodeHealth, PROBE};

fn health(test: &TestCluster, node: usize) -> NodeHealth {
    test.cluster.roster().node(test.id(node)).expect("known").health(test.now.instant)
}

fn probes(test: &mut TestCluster) -> Vec<u32> {
    let orders = test.cluster.poll_orders().into_iter();
    orders.filter_map(|order| if let Order::Probe(node) = order { Some(node.0) } else { None }).collect()
}

#[test]
fn a_flapping_node_is_held_with_backoff() {
    let mut test = TestCluster::figure_4();
    let mut held = Vec::new();
    for _ in 0..6 {
        // It fails and returns at once as a new process with its catalog.
        restart(&mut test, 0);
        test.titles(0, &["A"]);
        let mut seconds = 0;
        while health(&test, 0) == NodeHealth::Held {
            test.seconds(1);
            seconds += 1;
        }
        held.push(seconds);
        assert_eq!(health(&test, 0), NodeHealth::Well);
        test.seconds(15);
    }
    assert_eq!(held, [0, 15, 30, 60, 120, 240], "the first failure is tolerated");
}

#[test]
fn a_held_node_is_taken_when_there_is_no_other() {
    let mut test = TestCluster::figure_4();
    for _ in 0..2 {
        restart(&mut test, 0);
        test.titles(0, &["A", "B"]);
    }
    assert_eq!(health(&test, 0), NodeHealth::Held);
    assert_eq!(test.resolve("A", |_| {}).map(|decision| decision.how), Ok(Selection::Panic));
    for _ in 0..20 {
        assert_ne!(test.resolve("B", |_| {}).expect("others hold it").first, test.id(0));
    }
}

#[test]
fn reports_of_clients_are_tested_and_an_unanswered_probe_decides() {
    let name = NodeName::parse("node-1").expect("a name");
    let mut test = TestCluster::figure_4();
    for _ in 0..100 {
        test.cluster.handle_hint(test.now, &name, true);
        assert_eq!(probes(&mut test), [0], "a report triggers a probe");
        test.cluster.handle_hint(test.now, &name, true);
        assert!(probes(&mut test).is_empty(), "and no more than one at a time");
        test.cluster.handle_probe_answer(test.now, test.attachments[0]);
        assert_eq!(health(&test, 0), NodeHealth::Well, "an answer outweighs any number of reports");
    }
    test.cluster.handle_hint(test.now, &name, false);
    assert_eq!(probes(&mut test), [0]);
    test.wait(PROBE);
    assert_eq!(health(&test, 0), NodeHealth::Suspect, "one report suffices if the node does not answer");
    test.cluster.handle_probe_answer(test.now, test.attachments[0]);
    assert_eq!(health(&test, 0), NodeHealth::Well);
    test.cluster.handle_hint(test.now, &NodeName::parse("nobody").expect("a name"), true);
    assert!(probes(&mut test).is_empty());
}

#[test]
fn a_silent_node_is_probed_first() {
    let mut test = TestCluster::figure_4();
    test.wait(Duration::from_millis(2400));
    assert!(test.resolve("A", |_| {}).is_ok(), "a report may be late");
    test.wait(Duration::from_millis(100));
    let refused = why(test.resolve("A", |_| {}));
    let NoChoice::Probing(count) = refused else { panic!("{refused}") };
    assert_eq!((count.unsure, probes(&mut test)), (1, vec![0]));
    let fault = Fault::from(&NoChoice::Probing(count));
    assert!(fault.code == Code::Unavailable && fault.retry_after < Some(Duration::from_secs(1)), "{fault}");
    assert!(matches!(why(test.resolve("A", |_| {})), NoChoice::Probing(_)));
    assert!(probes(&mut test).is_empty(), "asked already");
    // A caller that cannot wait may use the node unprobed.
    let (session, play) = (test.session(), play("A"));
    let ask = SeatRequest { unsure: true, ..SeatRequest::from(&play) };
    let taken = test.cluster.resolve(test.now, session, &ask, &mut test.rng);
    assert_eq!(taken.map(|decision| decision.first), Ok(test.id(0)));
    test.cluster.handle_probe_answer(test.now, test.attachments[0]);
    assert!(test.resolve("A", |_| {}).is_ok(), "it answered");
    // Of several holders, a recently heard one is preferred.
    for _ in 0..20 {
        assert_eq!(test.resolve("B", |_| {}).expect("room").first, test.id(0));
    }
}

#[test]
fn a_silent_node_becomes_suspect_and_then_stale() {
    let mut test = TestCluster::figure_4();
    for (millis, expected) in
        [(2499, NodeHealth::Well), (2500, NodeHealth::Unsure), (3500, NodeHealth::Suspect), (5000, NodeHealth::Down)]
    {
        let at = test.now.after(Duration::from_millis(millis)).instant;
        let node = test.cluster.roster().node(test.id(0)).expect("known");
        assert_eq!(node.health(at), expected, "{millis} ms");
    }
    test.wait(Duration::from_millis(3500));
    assert_eq!(test.resolve("A", |_| {}).map(|decision| decision.how), Ok(Selection::Panic), "better than none");
    test.cluster.poll_events();
    test.wait(Duration::from_millis(1500));
    let stale: Vec<_> = test.cluster.poll_events();
    assert!(stale.contains(&ClusterEvent::State(test.id(0), NodeState::Stale)), "{stale:?}");
    test.send_sessions(0, |_| {});
    assert_eq!(
        test.cluster.poll_events(),
        [ClusterEvent::State(test.id(0), NodeState::Serving)],
        "any message ends that"
    );
}
