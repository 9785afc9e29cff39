//! An operator empties a node and lets it serve again, by hand.

use std::process::Stdio;

use usher_kit::{Process, Signal, eventually, run};

use crate::{cluster::Cluster, parts::b3};

/// Two nodes; both hold `both.mp4`, and only the first `mine.mp4`.
fn cluster() -> Cluster {
    let mut cluster = Cluster::empty();
    cluster.add_film("node-1", "mine.mp4", 8);
    for node in ["node-1", "node-2"] {
        cluster.add_film(node, "both.mp4", 9);
        cluster.start_node(node, &[]);
    }
    cluster.settled(3);
    cluster
}

fn state(cluster: &Cluster) -> String {
    cluster.seen("node-1")["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn who_may_drain_and_what() {
    let cluster = cluster();
    for args in [&["drain", "node-1"][..], &["undrain", "node-1"], &["rebalance"]] {
        let said = cluster.run(args).expect(5);
        assert!(
            said.err.contains("usher certs issue admin NAME") && said.err.contains("--cert FILE --key"),
            "{}",
            said.err
        );
    }
    assert_eq!(state(&cluster), "serving");
    for command in ["drain", "undrain"] {
        let said = run(&mut cluster.operate(&[command, "node-9"])).expect(3);
        assert!(said.err.contains("node-9") && said.err.contains("usher nodes"), "{}", said.err);
    }
    run(&mut cluster.operate(&["drain", "node-1", "--deadline", "soon"])).expect(2);
    // An empty node is drained at once, twice if need be.
    for _ in 0..2 {
        let said = run(&mut cluster.operate(&["drain", "node-1", "--json"])).expect(0);
        let last: serde_json::Value = serde_json::from_str(said.out.lines().last().expect("a line")).expect("JSON");
        assert_eq!((&last["sessions"], &last["empty"]), (&0.into(), &true.into()));
        assert_eq!(state(&cluster), "draining");
    }
    run(&mut cluster.operate(&["undrain", "node-1"])).expect(0);
    assert_eq!(state(&cluster), "serving", "by the time that the command ends");
    let said = run(&mut cluster.operate(&["rebalance", "--dry-run"])).expect(0);
    assert!(said.err.contains("even") && said.out.is_empty(), "{}", said.err);
}

#[test]
fn what_only_the_drained_node_holds_is_named_and_runs_until_the_deadline() {
    let cluster = cluster();
    let url = cluster.url("mine.mp4");
    let mut fetch = cluster.start(&["fetch", &url, "--limit-rate", "16mbit", "--progress", "json"]);
    fetch.line_with("\"progress\"");
    eventually("the session is known", || cluster.seen("node-1")["sessions"] == 1);
    let mut drain = Process::start(cluster.operate(&["drain", "node-1", "--deadline", "10m"]).stdout(Stdio::null()));
    drain.line_with("no other node holds these");
    drain.line_with("mine.mp4: 1 session");
    drain.line_with("node-1: 1 session, ");
    // The operator goes away, and the drain does not.
    drain.signal(Signal::INT);
    assert_eq!(drain.wait(), 7);
    assert!(drain.seen().contains("goes on") && drain.seen().contains("usher undrain node-1"), "{}", drain.seen());
    assert!(cluster.seen("node-1")["drain_left_ms"].as_u64().is_some_and(|left| left > 0));
    let said = cluster.run(&["nodes"]).expect(0);
    assert!(said.out.contains("draining, ") && said.out.contains(" left"), "{}", said.out);

    // Output again, the deadline is near. Running sessions are ended then, and their clients go on when they can.
    run(&mut cluster.operate(&["drain", "node-1", "--deadline", "100ms"])).expect(0);
    let node = cluster.seen("node-1");
    assert_eq!((&node["sessions"], &node["drain_left_ms"], &node["state"]), (&0.into(), &0.into(), &"draining".into()));
    run(&mut cluster.operate(&["undrain", "node-1"])).expect(0);
    assert_eq!(fetch.wait(), 0, "{}", fetch.seen());
    assert_eq!(b3(cluster.path().join("mine.mp4")), b3(cluster.media("node-1").join("mine.mp4")));
}

#[test]
fn what_another_node_holds_goes_on_there() {
    let cluster = cluster();
    let url = cluster.url("both.mp4");
    let mut fetch = cluster.start(&["fetch", &url, "--sources", "1", "--limit-rate", "16mbit", "--progress", "json"]);
    let line = fetch.line_with("\"progress\"");
    let (serving, other) = if line.contains("node-1") { ("node-1", "node-2") } else { ("node-2", "node-1") };
    eventually("the session is known", || cluster.seen(serving)["sessions"] == 1);
    let said = run(&mut cluster.operate(&["drain", serving, "--deadline", "10m"])).expect(0);
    assert!(!said.err.contains("no other node") && said.err.contains(": empty"), "{}", said.err);
    assert_eq!(fetch.wait(), 0, "{}", fetch.seen());
    assert!(fetch.seen().contains(other), "{}", fetch.seen());
    assert_eq!(b3(cluster.path().join("both.mp4")), b3(cluster.media("node-1").join("both.mp4")));
}

#[test]
fn a_node_that_was_drained_by_its_operator_stays_so_when_the_master_is_lost() {
    let mut cluster = cluster();
    run(&mut cluster.operate(&["drain", "node-1", "--deadline", "10m"])).expect(0);
    cluster.restart_master();
    eventually("the new master knows", || state(&cluster) == "draining");
    run(&mut cluster.operate(&["undrain", "node-1"])).expect(0);
    // A restarted node serves, whatever orders its last process had.
    run(&mut cluster.operate(&["drain", "node-1"])).expect(0);
    cluster.node("node-1").signal(Signal::TERM);
    assert_eq!(cluster.node("node-1").wait(), 0);
    cluster.start_node("node-1", &[]);
    eventually("it serves", || state(&cluster) == "serving");
}
