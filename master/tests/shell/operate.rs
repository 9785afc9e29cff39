//! Orders of operators: permission, messages to nodes, and progress.

use tonic::{Code, Streaming, transport::Channel};
use usher_certs::Role;
use usher_proto::pb::v1::{self, attach_request::Body, attach_response::Body as Down, cluster_client::ClusterClient};

use crate::harness::{Master, Node, begun, hello, issued, presence, session_bytes, within};

async fn operator(master: &Master) -> ClusterClient<Channel> {
    ClusterClient::new(master.dial_as(Role::Admin, "boss").await)
}

fn drain(node: &str, deadline_ms: u64) -> v1::DrainRequest {
    v1::DrainRequest { node: node.into(), deadline_ms }
}

/// Sessions of `title` with these numbers start on a node that sends its complete list.
async fn run(node: &Node, title: &str, ids: &[u64]) {
    let begun: Vec<v1::Begun> = ids.iter().map(|id| begun(&issued(*id).to_string(), title)).collect();
    let committed_bps = 8_000_000 * begun.len() as u64;
    node.sessions(v1::Sessions { complete: true, committed_bps, begun, ..Default::default() }).await;
}

async fn end(node: &mut Node, ids: &[u64]) {
    let ended = ids.iter().map(|id| session_bytes(&issued(*id).to_string())).collect();
    node.sessions(v1::Sessions { complete: true, ended, ..Default::default() }).await;
    node.report().await;
}

fn draining(left: u64) -> Body {
    Body::Presence(v1::Presence { drain_left_ms: left, ..presence(true) })
}

async fn next(stream: &mut Streaming<v1::DrainResponse>) -> v1::DrainResponse {
    within(stream.message()).await.expect("open").expect("an answer")
}

/// The first answer that matches.
async fn until(
    stream: &mut Streaming<v1::DrainResponse>,
    is_so: impl Fn(&v1::DrainResponse) -> bool,
) -> v1::DrainResponse {
    loop {
        let answer = next(stream).await;
        if is_so(&answer) {
            return answer;
        }
        assert!(!answer.empty && answer.ended.is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn only_operators_change_the_cluster_even_where_everyone_may_look() {
    let master = Master::start().await;
    let _node = master.node("node-1", &["a"]).await;
    let wrong = [
        (ClusterClient::new(master.viewer().await), Code::Unauthenticated),
        (ClusterClient::new(master.dial_as(Role::Node, "node-1").await), Code::PermissionDenied),
    ];
    for (mut cluster, code) in wrong {
        assert!(cluster.list_nodes(v1::ListNodesRequest {}).await.is_ok());
        let said = [
            cluster.drain(drain("node-1", 0)).await.map(drop).expect_err("no drain"),
            cluster.undrain(v1::UndrainRequest { node: "node-1".into() }).await.map(drop).expect_err("no undrain"),
            cluster.rebalance(v1::RebalanceRequest::default()).await.map(drop).expect_err("no rebalance"),
        ];
        for status in said {
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains("usher certs issue admin NAME"), "{status}");
        }
    }
}

#[tokio::test]
async fn a_drain_is_followed_until_the_node_is_empty() {
    let master = Master::start().await;
    let mut one = master.node("node-1", &["a", "b"]).await;
    run(&one, "b", &[1, 2]).await;
    run(&one, "a", &[3]).await;
    let mut two = master.node("node-2", &["b"]).await;
    master.counted("usher_master_ledger_sessions 3").await;
    let mut cluster = operator(&master).await;
    let mut stream = cluster.drain(drain("node-1", 60_000)).await.expect("drains").into_inner();
    let first = next(&mut stream).await;
    assert_eq!((first.sessions, first.left_ms, first.empty), (3, 60_000, false));
    assert_eq!(first.only_here, [v1::OnlyHere { title: "a".into(), sessions: 1 }]);
    let Down::Drain(order) = one.order().await else { panic!("no drain") };
    assert_eq!(order.deadline_ms, 60_000);
    one.send(draining(60_000)).await;

    // Both sessions that another node can serve are moved there, one of them at the second attempt.
    let (mut moved, mut tries) = (std::collections::BTreeSet::new(), 0);
    while moved.len() < 2 {
        let Down::Move(order) = one.order().await else { continue };
        assert_eq!(order.seat.as_ref().map(|seat| seat.node.as_str()), Some("node-2"));
        tries += 1;
        let refusal =
            (tries == 1).then(|| v1::Refusal { reason: "NOT_FOUND".into(), message: "no".into(), retry_after_ms: 0 });
        let refused = refusal.is_some();
        one.send(Body::Moved(v1::Moved { id: order.id, refusal })).await;
        if !refused {
            let bytes: [u8; 16] = order.session_id.try_into().expect("16 bytes");
            let id = (1..=3).find(|id| issued(*id).0 == u128::from_be_bytes(bytes)).expect("one of these");
            moved.insert(id);
            run(&two, "b", &[id]).await;
            end(&mut one, &[id]).await;
            // Not yet empty: the report still counts a session.
            one.report_with(v1::Report { sessions: 1, ..Default::default() }).await;
        }
    }
    assert!(moved.iter().copied().eq([1, 2]) && tries == 3);
    two.report().await;
    let left = until(&mut stream, |answer| answer.sessions == 1).await;
    assert!(left.left_ms > 0 && left.left_ms <= 60_000 && left.only_here.is_empty());
    // At the deadline the node ends its remaining session, and stays attached.
    end(&mut one, &[3]).await;
    one.send(draining(0)).await;
    one.report().await;
    let last = until(&mut stream, |answer| answer.empty).await;
    assert_eq!((last.sessions, last.left_ms, last.ended.as_str()), (0, 0, ""));
    assert!(within(stream.message()).await.expect("a good end").is_none());
}

#[tokio::test]
async fn failed_and_cancelled_drains_are_reported() {
    let master = Master::start().await;
    let mut cluster = operator(&master).await;
    for (node, code) in [("node-9", Code::NotFound), ("NO", Code::InvalidArgument)] {
        assert_eq!(cluster.drain(drain(node, 0)).await.map(drop).expect_err(node).code(), code);
        let undrain = v1::UndrainRequest { node: node.into() };
        assert_eq!(cluster.undrain(undrain).await.map(drop).expect_err(node).code(), code);
    }
    let long = cluster.drain(drain("node-1", 86_400_001)).await.map(drop).expect_err("long");
    assert_eq!(long.code(), Code::InvalidArgument);

    let mut one = master.node("node-1", &["a"]).await;
    run(&one, "a", &[1]).await;
    let mut stream = cluster.drain(drain("node-1", 0)).await.expect("drains").into_inner();
    assert_eq!(next(&mut stream).await.left_ms, 60_000);
    assert!(matches!(one.order().await, Down::Drain(order) if order.deadline_ms == 60_000));
    one.send(draining(60_000)).await;
    until(&mut stream, |answer| answer.sessions == 1).await;
    // Another operator cancels the drain, and waits until the node confirms it.
    let mut other = operator(&master).await;
    let undrained = tokio::spawn(async move { other.undrain(v1::UndrainRequest { node: "node-1".into() }).await });
    while !matches!(one.order().await, Down::Undrain(_)) {}
    assert!(!undrained.is_finished());
    one.send(Body::Presence(presence(false))).await;
    within(undrained).await.expect("no panic").expect("undrained");
    let ended = until(&mut stream, |answer| !answer.ended.is_empty()).await;
    assert!(ended.ended.contains("cancelled") && !ended.empty, "{}", ended.ended);

    // A node that leaves is not empty, and a detached one cannot receive orders.
    let mut stream = cluster.drain(drain("node-1", 0)).await.expect("drains").into_inner();
    next(&mut stream).await;
    drop(one);
    let ended = until(&mut stream, |answer| !answer.ended.is_empty()).await;
    assert!(ended.ended.contains("left") && !ended.empty, "{}", ended.ended);
    let status = cluster.drain(drain("node-1", 0)).await.map(drop).expect_err("away");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("not attached"), "{status}");
}

#[tokio::test]
async fn load_is_spread_on_order() {
    let master = Master::start().await;
    let mut one = master.node("node-1", &["b"]).await;
    run(&one, "b", &(1..=11).collect::<Vec<_>>()).await;
    let _two = master.node("node-2", &["b"]).await;
    master.counted("usher_master_ledger_sessions 11").await;
    let mut cluster = operator(&master).await;
    let dry = v1::RebalanceRequest { dry_run: true, most: 2 };
    let planned = cluster.rebalance(dry).await.expect("planned").into_inner().moves;
    assert_eq!(planned.len(), 2);
    let as_told = |one: &v1::PlannedMove| {
        (one.title.as_str(), one.from.as_str(), one.to.as_str(), one.rate_bps) == ("b", "node-1", "node-2", 8_000_000)
    };
    assert!(planned.iter().all(as_told), "{planned:?}");
    let made = cluster.rebalance(v1::RebalanceRequest { dry_run: false, most: 1 }).await.expect("made").into_inner();
    let Down::Move(order) = one.order().await else { panic!("no move") };
    assert_eq!(order.session_id, session_bytes(&made.moves[0].session_id));
}

#[tokio::test]
async fn a_rejected_process_learns_which_one_is_attached() {
    let master = Master::start().await;
    let _one = master.node("node-1", &["a"]).await;
    let channel = master.dial_as(Role::Node, "node-1").await;
    let status = Node::attach(channel, hello("node-1", 2, 1)).await.err().expect("refused");
    assert_eq!(status.code(), Code::AlreadyExists);
    for word in [&hello("node-1", 1, 1).boot_id, &hello("node-1", 2, 1).boot_id, "127.0.0.1:9"] {
        assert!(status.message().contains(word), "{status}");
    }
}
