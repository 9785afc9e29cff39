//! Claims of nodes and clients that are not true.

use std::net::SocketAddr;

use usher_proto::ticket::{ClusterSecret, SessionKey};

use super::*;
use crate::core::roster::NodeHealth;

fn key(secret: u8) -> SessionKey {
    ClusterSecret::new([secret; 32]).session_key()
}

#[test]
fn sessions_that_the_cluster_did_not_issue_change_nothing() {
    let settings = Settings { session_key: Some(key(1)), rebalance: false, ..Settings::default() };
    let mut test = TestCluster::with(settings, &[1000 * MBIT; 2]);
    for node in 0..2 {
        test.titles(node, &["A"]);
    }
    let attachment = test.attachments[0];
    let (own, other) = (key(1).issue(7), key(2).issue(7));
    let invented = (1..=300).map(SessionId).chain([other, SessionId(own.0 ^ 1)]);
    let mut list = Sessions { restart: true, complete: true, uptime_ms: 1000, ..Sessions::default() };
    list.begun = invented.chain([own]).map(|session| begun(session, "A", RATE)).collect();
    assert_eq!(test.cluster.handle_sessions(test.now, attachment, list), Ok(302));
    let ledger = test.cluster.ledger();
    assert_eq!((ledger.len(), ledger.session(own).is_some()), (1, true));

    // They are not moved when the node drains, and cannot end the sessions of others.
    test.cluster.handle_presence(test.now, attachment, presence(true));
    test.seconds(2);
    let moved = |order: &Order| matches!(order, Order::Move(step) if step.session == own);
    let orders = test.cluster.poll_orders();
    let moves: Vec<_> = orders.iter().filter(|order| matches!(order, Order::Move(_))).collect();
    assert!(moves.len() == 1 && moved(moves[0]), "{moves:?}");
    let ended = Sessions { complete: true, ended: vec![SessionId(1), other], ..Sessions::default() };
    assert_eq!(test.cluster.handle_sessions(test.now, attachment, ended), Ok(2));
    assert_eq!(test.cluster.ledger().len(), 1);
}

#[test]
fn ids_of_relay_sessions_are_issued_too() {
    let mut test = TestCluster::with(Settings { session_key: Some(key(1)), ..Settings::default() }, &[1000 * MBIT; 1]);
    let (first, second) = (test.cluster.new_session(&mut test.rng), test.cluster.new_session(&mut test.rng));
    assert!(first != second && key(1).issued(first) && key(1).issued(second) && !key(2).issued(first));
}

/// The nodes that the core orders to dial.
fn dials(test: &mut TestCluster) -> Vec<u32> {
    let orders = test.cluster.poll_orders().into_iter();
    orders.filter_map(|order| if let Order::DialBack(to) = order { Some(to.node.0) } else { None }).collect()
}

#[test]
fn addresses_are_offered_once_they_answer() {
    let settings = Settings { dial_back: true, rebalance: false, ..Settings::default() };
    let mut test = TestCluster::with(settings, &[1000 * MBIT; 2]);
    for node in 0..2 {
        test.titles(node, &["A"]);
    }
    let health = |test: &TestCluster, node: usize| {
        test.cluster.roster().node(test.id(node)).expect("known").health(test.now.instant)
    };
    let addresses: Vec<SocketAddr> = presence(false).addresses;
    let answer = |test: &mut TestCluster, node: usize, answered: Vec<SocketAddr>| {
        let attachment = test.attachments[node];
        test.cluster.handle_dialled(test.now, attachment, answered);
    };
    assert!(matches!(why(test.resolve("A", |_| {})), NoChoice::Down(_)), "none was dialled");
    test.seconds(1);
    assert_eq!(dials(&mut test), [0, 1]);
    answer(&mut test, 0, addresses.clone());
    answer(&mut test, 1, Vec::new());
    assert_eq!([health(&test, 0), health(&test, 1)], [NodeHealth::Well, NodeHealth::Down]);
    for _ in 0..10 {
        assert_eq!(test.resolve("A", |_| {}).map(|decision| decision.first), Ok(test.id(0)));
    }
    test.seconds(1);
    assert_eq!(dials(&mut test), [1], "a silent node is dialled again");
    answer(&mut test, 1, addresses.clone());

    // Reports, however many, lead to dials, and those decide.
    let name = NodeName::parse("node-2").expect("a name");
    test.seconds(1);
    for _ in 0..100 {
        test.cluster.handle_hint(test.now, &name, false);
    }
    assert!(dials(&mut test).is_empty(), "a client without a ticket has nobody dialled");
    for _ in 0..100 {
        test.cluster.handle_hint(test.now, &name, true);
    }
    assert_eq!((dials(&mut test), health(&test, 1)), (vec![1], NodeHealth::Well));
    answer(&mut test, 1, addresses.clone());
    test.cluster.handle_hint(test.now, &name, true);
    assert!(dials(&mut test).is_empty(), "it has just answered");
    test.seconds(1);
    test.cluster.handle_hint(test.now, &name, true);
    assert_eq!(dials(&mut test), [1]);
    answer(&mut test, 1, Vec::new());
    assert_eq!(health(&test, 1), NodeHealth::Suspect, "although its channel lives");
    // A session that a client began outweighs that.
    let session = test.session();
    test.begin(1, session, "A", RATE);
    assert_eq!(health(&test, 1), NodeHealth::Well);

    // A new address is dialled before it is offered.
    let other: SocketAddr = ([127, 0, 0, 9], 9).into();
    let moved = Presence { addresses: vec![addresses[0], other], ..presence(false) };
    test.cluster.handle_presence(test.now, test.attachments[1], moved);
    let offered =
        |test: &TestCluster| test.cluster.roster().node(test.id(1)).expect("known").offered().collect::<Vec<_>>();
    assert_eq!((dials(&mut test), offered(&test)), (vec![1], vec![addresses[0]]));
    answer(&mut test, 1, vec![addresses[0], other]);
    assert_eq!(offered(&test), [addresses[0], other]);
}

const GBIT: u64 = 1000 * MBIT;

#[test]
fn a_capacity_beyond_that_of_usual_servers_has_to_be_proven() {
    // Honest nodes of 1 and 10 Gbit/s, and one that claims 1 Pbit/s.
    let mut test = TestCluster::new(&[GBIT, 10 * GBIT, 1_000_000 * GBIT]);
    for node in 0..3 {
        test.titles(node, &["A"]);
    }
    assert_eq!([0, 1, 2].map(|node| test.headroom(node)), [GBIT, 10 * GBIT, 10 * GBIT]);
    // Its own report proves nothing without sessions of the master's choice.
    test.report(2, |report| {
        (report.demand, report.delivered) = (Bitrate(500_000 * GBIT), Bitrate(500_000 * GBIT));
    });
    test.seconds(1);
    assert_eq!(test.headroom(2), 10 * GBIT);
    // Delivered without a shortfall, the trust grows to twice as much, also in nodes that claim as much.
    test.run(2, "A", GBIT, 8);
    test.report(2, |report| {
        (report.demand, report.delivered) = (Bitrate(8 * GBIT), Bitrate(8 * GBIT));
        report.egress = report.delivered;
    });
    test.wait(Duration::from_secs(1));
    assert_eq!(test.headroom(2), 8 * GBIT, "16 Gbit/s are trusted");
    assert_eq!([test.headroom(0), test.headroom(1)], [GBIT, 10 * GBIT], "no more than they claim");
}

#[test]
fn an_operator_limits_titles_and_rate_of_a_node() {
    let name = NodeName::parse("node-1").expect("a name");
    let limits = NodeLimits { prefixes: vec!["films/".into()], max_rate: Some(100 * MBIT) };
    let settings = Settings { limits: HashMap::from([(name, limits)]), ..Settings::default() };
    let mut test = TestCluster::with(settings, &[GBIT, GBIT]);
    for node in 0..2 {
        test.titles(node, &["films/A", "B"]);
    }
    let node = |node: usize| test.cluster.roster().node(test.id(node)).expect("known").hello.capacity.0;
    assert_eq!([node(0), node(1)], [100 * MBIT, GBIT]);
    assert_eq!([0, 1].map(|node| test.cluster.catalog().copies_of(test.id(node))), [1, 2]);
    let only = test.resolve("B", |_| {}).expect("there");
    assert_eq!((only.first, only.how), (test.id(1), Selection::Only));
}
