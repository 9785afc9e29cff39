//! False claims of clients and nodes: they change nothing for the others.

use std::{fs, net::UdpSocket};

use usher_kit::{eventually, run};
use usher_proto::pb::v1::{Purpose, ResolveRequest, Seat, SeatFailure};

use crate::{
    cluster::Cluster,
    parts::{b3, clip},
    tickets::{Tickets, play},
};

/// A request that reserves next to nothing.
fn small(title: &str) -> ResolveRequest {
    ResolveRequest { rate_bps: 1, purpose: Purpose::Fetch.into(), ..play(title) }
}

#[test]
fn false_reports_from_sixteen_addresses_exclude_no_node() {
    let cluster = Cluster::with(&[("node-1", &["B.mp4"]), ("node-2", &["B.mp4"])]);
    let liars: Vec<Tickets> = (2..18).map(|last| Tickets::at(&cluster, last)).collect();
    let honest = Tickets::of(&cluster);
    let (mut asked, mut good) = (0, 0);
    for _ in 0..8 {
        for liar in &liars {
            // Each holds fresh tickets for both nodes, and says that neither answers.
            let answer = liar.resolve(small("B.mp4")).expect("seats");
            let failed = |seat: &Seat| SeatFailure {
                node: seat.node.clone(),
                reason: "TIMEOUT".to_owned(),
                ticket: seat.ticket.clone(),
            };
            let failed: Vec<SeatFailure> = answer.seats.iter().map(failed).collect();
            assert_eq!(failed.len(), 2);
            let refused = liar.resolve(ResolveRequest { failed, ..small("B.mp4") }).expect_err("it excludes both");
            assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
        }
        for (other, node) in [("node-2", "node-1"), ("node-1", "node-2")] {
            let request = ResolveRequest { exclude: vec![other.to_owned()], ..small("B.mp4") };
            let answer = honest.resolve(request).expect("as good as before");
            asked += 1;
            good += usize::from(answer.seats[0].node == node && !answer.reason.contains("no holder is healthy"));
        }
    }
    assert_eq!((asked, good), (16, 16), "each node stays in the choice");
    let told = cluster.run(&["explain", "B.mp4"]).expect(0).out;
    assert!(!told.contains("suspect") && told.contains("node-1") && told.contains("node-2"), "{told}");
}

#[test]
fn an_address_that_does_not_answer_is_not_offered() {
    let mut cluster = Cluster::with(&[("node-1", &["B.mp4"])]);
    cluster.add("node-2", "B.mp4", clip("B.mp4"));
    // Datagrams arrive there, and no node answers them.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let advertise = silent.local_addr().expect("an address").to_string();
    cluster.start_node("node-2", &["--advertise", &advertise]);
    let line = cluster.master.line_with("node does not answer at addresses that it advertises");
    assert!(line.contains("node-2") && line.contains(&advertise) && line.contains("--advertise"), "{line}");
    cluster.settled(2);
    let tickets = Tickets::of(&cluster);
    for _ in 0..20 {
        let answer = tickets.resolve(small("B.mp4")).expect("node-1 has it");
        let nodes: Vec<&str> = answer.seats.iter().map(|seat| seat.node.as_str()).collect();
        assert_eq!(nodes, ["node-1"]);
    }
    // It is offered once it answers.
    drop(silent);
    cluster.nodes.retain(|(name, _)| name != "node-2");
    cluster.start_node("node-2", &[]);
    eventually("node-2 is offered", || {
        let request = ResolveRequest { exclude: vec!["node-1".to_owned()], ..small("B.mp4") };
        tickets.resolve(request).is_ok()
    });
}

#[test]
fn a_newer_file_of_another_node_does_not_take_a_title_over() {
    let mut cluster = Cluster::with(&[("node-1", &["A.mp4"])]);
    cluster.add("node-2", "A.mp4", clip("C.mp4"));
    cluster.start_node("node-2", &[]);
    let conflicts = |cluster: &Cluster| run(&mut cluster.operate(&["conflicts", "--json"])).expect(0).json();
    eventually("both contents are hashed", || conflicts(&cluster)[0]["versions"][1]["content_id"] == b3(clip("C.mp4")));
    let found = conflicts(&cluster);
    let [first, second] = [&found[0]["versions"][0], &found[0]["versions"][1]];
    assert_eq!(
        (&found[0]["title"], &first["chosen"], &second["chosen"]),
        (&"A.mp4".into(), &true.into(), &false.into())
    );
    assert_eq!((&first["nodes"][0], &second["nodes"][0]), (&"node-1".into(), &"node-2".into()));
    let fetched = |cluster: &Cluster| {
        let url = cluster.url("A.mp4");
        cluster.run(&["fetch", &url, "-o", "got.mp4", "--force"]).expect(0);
        b3(cluster.path().join("got.mp4"))
    };
    assert_eq!(fetched(&cluster), b3(clip("A.mp4")));

    // The operator decides otherwise, also for the time after a restart.
    let content = b3(clip("C.mp4"));
    run(&mut cluster.operate(&["resolve-conflict", "A.mp4", &content])).expect(0);
    assert_eq!(fetched(&cluster), content);
    cluster.restart_master();
    eventually("both nodes are back", || {
        let found = run(&mut cluster.operate(&["conflicts", "--json"]));
        found.code == 0 && found.json()[0]["versions"].as_array().is_some_and(|versions| versions.len() == 2)
    });
    assert_eq!(fetched(&cluster), content);
}

#[test]
fn a_node_lists_only_the_titles_that_its_operator_allows() {
    let rules = Cluster::empty();
    let file = rules.path().join("master.toml");
    fs::write(&file, "[[node]]\nname = \"node-1\"\nprefixes = [\"films/\"]\nmax-rate = \"100mbit\"\n")
        .expect("written");
    let mut cluster = Cluster::with_master(&["--config", file.to_str().expect("UTF-8")]);
    for title in ["films/A.mp4", "B.mp4"] {
        cluster.add("node-1", title, clip("A.mp4"));
        cluster.add("node-2", title, clip("A.mp4"));
    }
    for node in ["node-1", "node-2"] {
        cluster.start_node(node, &["--capacity", "1gbit"]);
    }
    cluster.settled(3);
    assert_eq!(cluster.holders("B.mp4"), Some(vec!["node-2".to_owned()]));
    assert_eq!(cluster.holders("films/A.mp4").map(|nodes| nodes.len()), Some(2));
    assert_eq!(cluster.seen("node-1")["capacity_bps"], 100_000_000);
    let line = cluster.node("node-1").line_with("titles are not listed by the master");
    assert!(line.contains("B.mp4") && line.contains("[[node]]"), "{line}");
    assert!(cluster.master.line_with("titles of a node are not listed").contains("node-1"));
}
