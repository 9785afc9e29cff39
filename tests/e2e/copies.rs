//! Copies that the master orders: from node to node, verified, where they are needed.

use usher_kit::{Signal, eventually};

use crate::{
    cluster::Cluster,
    parts::b3,
    tickets::{Tickets, play},
};

#[test]
fn a_title_that_is_refused_is_copied_to_where_there_is_room() {
    let mut cluster = Cluster::empty();
    // 7 Mbit/s.
    cluster.add_film("node-1", "film.mp4", 16);
    cluster.start_node("node-1", &["--capacity", "200mbit"]);
    cluster.start_node("node-2", &["--capacity", "1gbit"]);
    cluster.settled(1);
    eventually("both nodes serve", || {
        let nodes = cluster.run(&["nodes", "--json"]).expect(0).json();
        nodes.as_array().is_some_and(|nodes| nodes.len() == 2 && nodes.iter().all(|node| node["state"] == "serving"))
    });
    let mut request = play("film.mp4");
    request.rate_bps = 25_000_000;
    // The refusals of one client would not show a demand.
    let answers: Vec<_> = (2..14).map(|host| Tickets::at(&cluster, host).resolve(request.clone())).collect();
    assert!(answers.iter().any(Result::is_err), "12 sessions of 25 Mbit/s were promised on 200");

    cluster.node("node-2").line_with("copy complete");
    cluster.settled(2);
    assert_eq!(cluster.holders("film.mp4").expect("known"), ["node-1", "node-2"]);
    let located = cluster.run(&["locate", &cluster.url("film.mp4")]).expect(0).out;
    assert!(located.contains("node-2"), "{located}");
    // The operator's own folder is left alone.
    assert!(!cluster.media("node-2").join("film.mp4").exists());

    let said = cluster.run(&["fetch", &cluster.url("film.mp4")]).expect(0);
    assert!(said.err.contains("from node-2"), "{}", said.err);
    assert_eq!(b3(cluster.path().join("film.mp4")), b3(cluster.media("node-1").join("film.mp4")));
}

#[test]
fn a_title_has_as_many_copies_as_the_operator_wants() {
    let mut cluster = Cluster::with_master(&["--min-copies", "2", "--repair-after", "0s"]);
    cluster.add_film("node-1", "film.mp4", 2);
    cluster.start_node("node-1", &[]);
    cluster.settled(1);
    cluster.start_node("node-2", &[]);
    cluster.node("node-2").line_with("copy complete");
    cluster.settled(2);
    let film = b3(cluster.media("node-1").join("film.mp4"));
    assert_eq!(cluster.titles()[0]["content_id"], film);
    assert_eq!(cluster.titles()[0]["conflict"], false);

    // The node that had it first dies: the copy serves.
    cluster.node("node-1").signal(Signal::KILL);
    let said = cluster.run(&["fetch", &cluster.url("film.mp4")]).expect(0);
    assert!(said.err.contains("node-2"), "{}", said.err);
    assert_eq!(b3(cluster.path().join("film.mp4")), film);
}
