//! The balancer with real nodes: no more capacity is promised than there is, and a running session makes way.

use std::{collections::BTreeMap, fs, io::Read as _};

use tonic::Code;
use tonic_types::StatusExt as _;

use usher_kit::{Signal, eventually};

use crate::{
    cluster::Cluster,
    parts::{b3, clip},
    tickets::{Tickets, play},
};

#[test]
fn two_hundred_viewers_at_once_are_promised_no_more_than_each_node_has() {
    let capacities = [("node-1", 20), ("node-2", 30), ("node-3", 50)];
    let mut cluster = Cluster::empty();
    for (node, mbit) in capacities {
        cluster.add(node, "B.mp4", clip("B.mp4"));
        cluster.start_node(node, &["--capacity", &format!("{mbit}mbit")]);
    }
    cluster.settled(3);
    let mut request = play("B.mp4");
    request.rate_bps = 1_000_000;
    let answers = Tickets::of(&cluster).resolve_at_once(&request, 200);
    assert_eq!(answers.len(), 200);

    let mut promised = BTreeMap::<String, u64>::new();
    for answer in answers {
        match answer {
            Ok(answer) => *promised.entry(answer.seats[0].node.clone()).or_default() += answer.rate_bps,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                let again = status.get_details_retry_info().and_then(|info| info.retry_delay);
                assert!(again.is_some_and(|delay| !delay.is_zero()), "{status}");
            }
        }
    }
    for (node, mbit) in capacities {
        let promised = promised.get(node).copied().unwrap_or_default();
        assert!(promised <= mbit * 1_000_000, "{promised} bit/s of {mbit} Mbit/s on {node}");
        // No request is refused while the node has capacity for it.
        assert!(promised + request.rate_bps > mbit * 1_000_000, "{promised} bit/s of {mbit} Mbit/s on {node}");
    }
}

/// Sessions of a node, as the master knows them.
fn sessions(cluster: &Cluster, node: &str) -> u64 {
    let nodes = cluster.run(&["nodes", "--json"]).expect(0).json();
    let mut nodes = nodes.as_array().expect("a list").iter();
    nodes.find(|one| one["name"] == node).and_then(|one| one["sessions"].as_u64()).unwrap_or_default()
}

/// Figure 4 of "Dynamic Load Balancing of Video Requests": node 1 alone has A, and is full of B.
#[test]
fn a_session_of_b_makes_way_for_a() {
    // Copies would make room in another way, and nodes that have just joined are given sessions anyway.
    let mut cluster = Cluster::with_master(&["--replication", "off", "--rebalance", "off"]);
    for node in ["node-1", "node-2", "node-3"] {
        cluster.add_film(node, "B.mp4", 16);
    }
    cluster.add_film("node-1", "A.mp4", 2);
    for (node, titles) in [
        ("node-1", &["C.mp4", "D.mp4"][..]),
        ("node-2", &["E.mp4", "F.webm", "G.ts", "H.mp4"]),
        ("node-3", &["E.mp4", "H.mp4", "J.mp4"]),
    ] {
        titles.iter().for_each(|title| cluster.add(node, title, clip(title)));
    }
    // B takes 7.0 Mbit/s, and A 1.1.
    cluster.start_node("node-1", &["--capacity", "7500kbit"]);
    cluster.settled(4);
    let mut viewer = cluster.start_piped(&["play", &cluster.url("B.mp4"), "--player", "-"]);
    viewer.line_with("B.mp4: from node-1");
    let mut out = viewer.child().stdout.take().expect("piped");
    let mut film = vec![0; 100_000];
    out.read_exact(&mut film).expect("the beginning");
    cluster.start_node("node-2", &[]);
    cluster.start_node("node-3", &[]);
    cluster.settled(4 + 5 + 4);
    eventually("the master knows of the session", || sessions(&cluster, "node-1") == 1);

    let fetch = cluster.run(&["fetch", &cluster.url("A.mp4")]).expect(0);
    assert!(fetch.err.contains("a session moves away to make room on node-1"), "{}", fetch.err);
    assert_eq!(b3(cluster.path().join("A.mp4")), b3(cluster.media("node-1").join("A.mp4")));

    out.read_to_end(&mut film).expect("the rest");
    assert_eq!(viewer.wait(), 0);
    assert!(viewer.seen().contains("(moved there by node-1)"), "{}", viewer.seen());
    assert_eq!(film, fs::read(cluster.media("node-2").join("B.mp4")).expect("a film"), "not a byte is lost or twice");
    cluster.node("node-1").line_with("session moved");
}

/// Fetches hold a quarter of a node at most, so that it takes several of them to fill it.
#[test]
fn fetches_make_way_too_and_their_files_are_whole() {
    let mut cluster = Cluster::with_master(&["--replication", "off", "--rebalance", "off"]);
    for node in ["node-1", "node-2"] {
        cluster.add_film(node, "B.mp4", 12);
    }
    cluster.add_film("node-1", "A.mp4", 2);
    cluster.start_node("node-1", &["--capacity", "8mbit"]);
    cluster.settled(2);
    let url = cluster.url("B.mp4");
    let start = |file: &str| {
        let mut fetch = cluster.start(&["fetch", &url, "-o", file, "--limit-rate", "16mbit", "--progress", "json"]);
        fetch.line_with("\"progress\"");
        fetch
    };
    let files = ["1.mp4", "2.mp4", "3.mp4", "4.mp4"];
    let mut fetches = files.map(start);
    eventually("the master knows of the sessions", || sessions(&cluster, "node-1") == 4);
    cluster.start_node("node-2", &[]);
    cluster.settled(3);

    let said = cluster.run(&["fetch", &cluster.url("A.mp4")]).expect(0);
    assert!(said.err.contains("to make room on node-1"), "{}", said.err);
    let mut moved = 0;
    for (fetch, file) in fetches.iter_mut().zip(files) {
        assert_eq!(fetch.wait(), 0, "{}", fetch.seen());
        moved += usize::from(fetch.seen().contains("moved there by node-1"));
        assert!(!fetch.seen().contains("\"lost\""), "a move is no loss: {}", fetch.seen());
        assert_eq!(b3(cluster.path().join(file)), b3(cluster.media("node-2").join("B.mp4")));
    }
    assert!(moved > 0, "none of the fetches was sent to node-2");
}

#[test]
fn viewers_who_do_not_fit_get_in_when_others_have_left() {
    let mut cluster = Cluster::empty();
    cluster.add_film("node-1", "film.mp4", 8);
    // One takes 3.6 Mbit/s, so that two fit.
    cluster.start_node("node-1", &["--capacity", "8mbit"]);
    cluster.settled(1);
    let url = cluster.url("film.mp4");
    let mut viewers: Vec<_> = (0..2).map(|_| cluster.start_piped(&["play", &url, "--player", "-"])).collect();
    for viewer in &mut viewers {
        viewer.line_with("film.mp4: from node-1");
    }
    let mut third = cluster.start_piped(&["play", &url, "--player", "-"]);
    third.line_with("trying again");
    eventually("two sessions run", || sessions(&cluster, "node-1") == 2);
    assert!(!third.seen().contains("from node-1"), "{}", third.seen());
    for viewer in &mut viewers {
        viewer.signal(Signal::INT);
        viewer.wait();
    }
    third.line_with("film.mp4: from node-1");
    let mut film = vec![0; 1 << 20];
    third.child().stdout.take().expect("piped").read_exact(&mut film).expect("the beginning");
    let whole = fs::read(cluster.media("node-1").join("film.mp4")).expect("a film");
    assert!(whole.starts_with(&film));
}
