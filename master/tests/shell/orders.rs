//! Orders to nodes: their content, valid tickets, and the effect of answers.

use std::time::{SystemTime, UNIX_EPOCH};

use tonic::Code;
use usher_proto::{
    NodeName,
    pb::v1::{self, attach_request::Body, attach_response::Body as Down},
    ticket::{self, Claims, Purpose, Ticket},
};

use crate::harness::{Master, Node, begun, copy, eventually, hello, issued, request};

fn refusal() -> Option<v1::Refusal> {
    Some(v1::Refusal { reason: "NO_CAPACITY".into(), message: "no".into(), retry_after_ms: 0 })
}

/// The ticket of a seat, verified as its node does.
fn check(seat: &v1::Seat, node: &Node) -> Ticket {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let name = NodeName::parse(&seat.node).expect("a name");
    ticket::verify(&node.keys(), &name, now, &seat.ticket).expect("good")
}

/// A node with twelve sessions of `b`, which leave no capacity for another.
async fn full(master: &Master, titles: &[&str]) -> (Node, Vec<String>) {
    let node = master.node("node-1", titles).await;
    let ids: Vec<String> = (1..=12).map(|id| issued(id).to_string()).collect();
    let begun = ids.iter().map(|id| begun(id, titles[titles.len() - 1])).collect();
    let committed_bps = 96_000_000;
    node.sessions(v1::Sessions { restart: true, complete: true, committed_bps, begun, ..Default::default() }).await;
    master.counted("usher_master_ledger_sessions 12").await;
    (node, ids)
}

#[tokio::test]
async fn one_session_moves_and_another_is_admitted() {
    let master = Master::start().await;
    let (mut one, ids) = full(&master, &["a", "b"]).await;
    let two = master.node("node-2", &["b"]).await;
    let mut tickets = master.tickets().await;
    let answer = tickets.resolve(request("a")).await.expect("admitted").into_inner();
    assert!(answer.seats[0].node == "node-1" && answer.reason.contains("a session moves away"), "{}", answer.reason);

    let Down::Move(order) = one.order().await else { panic!("no move") };
    let seat = order.seat.expect("set");
    let ticket = check(&seat, &two);
    assert_eq!(ticket.session.0.to_be_bytes().to_vec(), order.session_id);
    assert!(ids.contains(&ticket.session.to_string()));
    assert_eq!((ticket.title.as_str(), ticket.start, ticket.end), ("b", 0, None));
    assert_eq!((ticket.purpose, ticket.rate, ticket.burst), (Purpose::Play, 8_000_000, false));
    assert_eq!(ticket.content.map(|id| id.0.to_vec()), Some(copy("b").content_id));
    assert!(seat.lifetime_s == 600 && ticket.until.is_some(), "it runs on there as long as any");

    // The target's rate stays reserved until the source node refuses the move.
    let mut cluster = master.cluster().await;
    let mut booked = async || {
        let nodes = cluster.list_nodes(v1::ListNodesRequest {}).await.expect("listed").into_inner().nodes;
        nodes[1].booked_bps
    };
    assert_eq!(booked().await, 8_000_000);
    one.send(Body::Moved(v1::Moved { id: order.id + 100, refusal: refusal() })).await;
    two.send(Body::Moved(v1::Moved { id: order.id, refusal: refusal() })).await;
    one.send(Body::Moved(v1::Moved { id: order.id, refusal: refusal() })).await;
    eventually(async || (booked().await == 0).then_some(())).await;
    master.counted("usher_master_orders_total{order=\"move\",result=\"sent\"} 1").await;
    master.counted("usher_master_orders_total{order=\"move\",result=\"refused\"} 1").await;
    master.counted("usher_master_decisions_total{outcome=\"moved\",reason=\"\"} 1").await;
}

#[tokio::test]
async fn moves_can_be_switched_off() {
    let master = Master::with(|config| config.moves = usher_master::settings::Switch::Off).await;
    let (_one, _) = full(&master, &["a", "b"]).await;
    let _two = master.node("node-2", &["b"]).await;
    let full = master.tickets().await.resolve(request("a")).await.expect_err("full");
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
}

#[tokio::test]
async fn a_title_without_room_is_copied() {
    let master = Master::start().await;
    let (one, _) = full(&master, &["a"]).await;
    let gives = v1::Hello { replica_bytes: 1 << 30, ..hello("node-2", 1, 1) };
    let mut two = master.node_with(gives, &["b"]).await;
    two.report_with(v1::Report { replica_free_bytes: 1 << 30, ..Default::default() }).await;
    let mut tickets = master.tickets().await;
    let full = tickets.resolve(request("a")).await.expect_err("full");
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");

    let Down::Replicate(order) = two.order().await else { panic!("no copy") };
    assert_eq!((order.title.as_str(), order.size), ("a", 1000));
    assert!(order.content_id == copy("a").content_id && order.rate_bps > 0);
    let source = order.source.expect("set");
    let ticket = check(&source, &one);
    assert_eq!((source.lifetime_s, ticket.until), (0, None), "a copy is made however long it takes");
    assert_eq!((ticket.title.as_str(), ticket.purpose, ticket.rate), ("a", Purpose::Fetch, 0));
    assert_eq!((ticket.start, ticket.end, ticket.request_id), (0, None, order.request_id));
    two.send(Body::Replicated(v1::Replicated { id: order.id, refusal: refusal() })).await;
    master.counted("usher_master_orders_total{order=\"replicate\",result=\"refused\"} 1").await;
}

#[tokio::test]
async fn wrong_bytes_trigger_one_recheck() {
    let master = Master::start().await;
    let mut one = master.node("node-1", &["a", "b"]).await;
    let mut two = master.node("node-2", &["a"]).await;
    let mut tickets = master.tickets().await;
    let keys = [one.keys()[0].clone(), two.keys()[0].clone()];
    let ticket = |node: &str, title: &str| {
        let key = if node == "node-2" { &keys[1] } else { &keys[0] };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let cid = copy(title).content_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let claims = Claims { cid: Some(cid), ..Claims::new(node, issued(1), title, Purpose::Play, now) };
        key.sign(&claims).expect("signs")
    };
    // Without a ticket for that node and content, a report has nothing checked.
    for ticket in [String::new(), "a.b.c".into(), ticket("node-2", "a"), ticket("node-1", "b")] {
        let failed = vec![v1::SeatFailure { node: "node-1".into(), reason: "VERIFICATION_FAILED".into(), ticket }];
        let about_b = v1::ResolveRequest { failed, ..request("a") };
        tickets.resolve(about_b).await.expect("another has it");
    }
    let Down::Recheck(order) = one.order().await else { panic!("no recheck") };
    assert_eq!(order.title, "b", "the ticket states the content, not the request");
    master.counted("usher_master_orders_total{order=\"recheck\",result=\"sent\"} 1").await;

    let mut failed = async |node: &str, reason: &str, title: &str| {
        let ticket = ticket(node, title);
        let failed = vec![v1::SeatFailure { node: node.into(), reason: reason.into(), ticket }];
        tickets.resolve(v1::ResolveRequest { failed, ..request(title) }).await.map(|answer| answer.into_inner())
    };
    let seats = failed("node-1", "VERIFICATION_FAILED", "a").await.expect("another has it").seats;
    assert_eq!(seats.iter().map(|seat| seat.node.as_str()).collect::<Vec<_>>(), ["node-2"], "not from there");
    let Down::Recheck(order) = one.order().await else { panic!("no recheck") };
    assert_eq!((order.title.as_str(), order.content_id), ("a", copy("a").content_id));
    // Not again so soon, not for a content the node lacks, and not for other reasons. The next order is for the other
    // node.
    for (node, reason, title) in [
        ("node-1", "VERIFICATION_FAILED", "a"),
        ("node-9", "VERIFICATION_FAILED", "a"),
        ("node-2", "VERIFICATION_FAILED", "b"),
        ("node-2", "CONTENT_CHANGED", "a"),
    ] {
        let _seats = failed(node, reason, title).await;
    }
    // A client's report does not remove the only holder: others are still sent there.
    assert_eq!(
        failed("node-1", "VERIFICATION_FAILED", "b").await.expect_err("no other holder").code(),
        Code::Unavailable
    );
    assert_eq!(failed("node-9", "TIMEOUT", "b").await.expect("there").seats[0].node, "node-1");
    let _seats = failed("node-2", "VERIFICATION_FAILED", "a").await;
    let Down::Recheck(order) = two.order().await else { panic!("no recheck") };
    assert_eq!(order.title, "a");
    master.counted("usher_master_orders_total{order=\"recheck\",result=\"sent\"} 3").await;

    // The node's result is shown.
    let page = v1::CatalogPage { rejected_files: 3, damaged_files: 2, complete: true, ..Default::default() };
    two.send(Body::Catalog(page)).await;
    let mut cluster = master.cluster().await;
    eventually(async || {
        let answer = cluster.get_node(v1::GetNodeRequest { name: "node-2".into() }).await.expect("known").into_inner();
        answer.node.filter(|node| (node.rejected_files, node.damaged_files) == (3, 2)).map(drop)
    })
    .await;
}
