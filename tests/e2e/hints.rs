//! Clients' reports about nodes: they exclude a dead node, and cannot exclude a healthy one.

use usher_proto::pb::v1::SeatFailure;

use usher_kit::Signal;

use crate::{
    cluster::Cluster,
    parts::{b3, clip},
    tickets::{Tickets, play},
};

fn failed(node: &str) -> Vec<SeatFailure> {
    vec![SeatFailure { node: node.to_owned(), reason: "TIMEOUT".to_owned(), ..SeatFailure::default() }]
}

#[test]
fn one_client_cannot_take_a_healthy_node_out() {
    let cluster = Cluster::with(&[("node-1", &["B.mp4"]), ("node-2", &["B.mp4"])]);
    let tickets = Tickets::of(&cluster);
    for _ in 0..50 {
        let request = usher_proto::pb::v1::ResolveRequest { failed: failed("node-1"), ..play("B.mp4") };
        let answer = tickets.resolve(request).expect("the other node");
        assert_eq!(answer.seats[0].node, "node-2", "the client itself is believed for its own sake");
    }
    let request = usher_proto::pb::v1::ResolveRequest { exclude: vec!["node-2".to_owned()], ..play("B.mp4") };
    let answer = tickets.resolve(request).expect("node-1 is as good as before");
    assert_eq!(answer.seats[0].node, "node-1");
    let told = cluster.run(&["explain", "B.mp4", "--exclude", "node-2"]).expect(0).out;
    assert!(told.contains("node-1: the farthest from full") || told.contains("node-1: the only holder"), "{told}");
}

#[test]
fn while_a_node_is_killed_the_other_serves_whatever_one_client_says() {
    let mut cluster = Cluster::with(&[("node-1", &["B.mp4"]), ("node-2", &["B.mp4"])]);
    let tickets = Tickets::of(&cluster);
    cluster.node("node-2").signal(Signal::KILL);
    for _ in 0..20 {
        // Its network is broken: it reaches neither.
        let mut request = play("B.mp4");
        request.failed = [failed("node-1"), failed("node-2")].concat();
        let refused = tickets.resolve(request).expect_err("no node is left for this client");
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    }
    let said = cluster.run(&["fetch", &cluster.url("B.mp4")]).expect(0);
    assert!(said.err.contains("node-1"), "{}", said.err);
    assert_eq!(b3(cluster.path().join("B.mp4")), b3(clip("B.mp4")));
}
