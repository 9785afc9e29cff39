//! Resolving: seats, tickets, refusals, both modes.

use std::time::{SystemTime, UNIX_EPOCH};

use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use usher_proto::{
    NodeName,
    pb::v1::{self, attach_request::Body, prepared, resolve_result},
    ticket,
};

use crate::harness::{Master, eventually, hello, presence, request, session_bytes, setup, within};

fn brokered(title: &str) -> v1::ResolveRequest {
    v1::ResolveRequest { mode: v1::Mode::Brokered.into(), ..request(title) }
}

fn refusal(reason: &str) -> prepared::Result {
    prepared::Result::Refusal(v1::Refusal { reason: reason.into(), message: "no".into(), retry_after_ms: 700 })
}

#[tokio::test]
async fn a_redirect_names_seats_whose_tickets_are_good() {
    let master = Master::start().await;
    let one = master.node("node-1", &["a", "b"]).await;
    let two = master.node("node-2", &["b"]).await;
    two.carries(50_000_000).await;
    let mut tickets = master.tickets().await;
    let answer = eventually(async || {
        // Until the report arrives, both nodes are equal.
        let mut asked =
            Request::new(v1::ResolveRequest { range: Some(v1::ByteRange { start: 10, end: 20 }), ..request("b") });
        asked.metadata_mut().insert("x-request-id", "mine-1".parse().expect("text"));
        let answer = tickets.resolve(asked).await.expect("resolved").into_inner();
        answer.reason.contains("node-1").then_some(answer)
    })
    .await;
    assert_eq!((answer.title.as_str(), answer.size, answer.rate_bps), ("b", 1000, 8_000_000));
    assert_eq!(answer.request_id, "mine-1");
    let nodes: Vec<&str> = answer.seats.iter().map(|seat| seat.node.as_str()).collect();
    assert_eq!(nodes, ["node-1", "node-2"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    for (seat, node) in answer.seats.iter().zip([&one, &two]) {
        let name = NodeName::parse(&seat.node).expect("a name");
        let good = ticket::verify(&node.keys(), &name, now, &seat.ticket).expect("good");
        assert_eq!((good.session.to_string(), good.title.as_str()), (answer.session_id.clone(), "b"));
        assert_eq!((good.start, good.end, good.rate, good.request_id.as_str()), (10, Some(20), 8_000_000, "mine-1"));
        assert_eq!((seat.addresses.len(), seat.certificate_sha256[0].as_str()), (1, &*"07".repeat(32)));
    }
    let by_content = v1::ResolveRequest {
        what: Some(v1::resolve_request::What::ContentId(answer.content_id.clone())),
        ..Default::default()
    };
    assert_eq!(tickets.resolve(by_content).await.expect("resolved").into_inner().title, "b");
}

#[tokio::test]
async fn each_refusal_has_its_reason() {
    let master = Master::start().await;
    // A request may ask for four times the title's rate, and this node sends less.
    let equipment = Some(v1::Equipment { max_session_bps: 20_000_000, ..Default::default() });
    let node = master.node_with(v1::Hello { equipment, ..hello("node-1", 1, 1) }, &["a"]).await;
    let mut tickets = master.tickets().await;
    let too_fast = v1::ResolveRequest { rate_bps: 20_000_001, ..request("a") };
    let excluded = v1::ResolveRequest { exclude: vec!["node-1".into()], ..request("a") };
    let equipped = v1::ResolveRequest {
        requirements: Some(v1::Requirements { labels: vec!["gpu".into()], ..Default::default() }),
        ..request("a")
    };
    let past = v1::ResolveRequest { range: Some(v1::ByteRange { start: 1000, end: 0 }), ..request("a") };
    for (request, code, reason, retry) in [
        (request("z"), Code::NotFound, "NOT_FOUND", false),
        (request("../z"), Code::InvalidArgument, "BAD_REQUEST", false),
        (too_fast, Code::ResourceExhausted, "NO_CAPACITY", false),
        (excluded, Code::Unavailable, "UNAVAILABLE", true),
        (equipped, Code::FailedPrecondition, "UNEQUIPPED", false),
        (past, Code::OutOfRange, "BAD_RANGE", false),
    ] {
        let status = tickets.resolve(request).await.expect_err(reason);
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(status.get_details_error_info().map(|info| info.reason).as_deref(), Some(reason));
        assert_eq!(status.get_details_retry_info().is_some(), retry, "{status}");
    }
    // 12 times 8 of 100 Mbit/s.
    let mut sessions = Vec::new();
    for _ in 0..12 {
        sessions.push(tickets.resolve(request("a")).await.expect("room").into_inner().session_id);
    }
    let full = tickets.resolve(request("a")).await.expect_err("full");
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert!(full.get_details_retry_info().is_some() && full.metadata().contains_key("x-request-id"), "{full}");
    // Sessions that the node refused free their reservations.
    let turned =
        sessions.iter().map(|id| v1::Turned { session_id: session_bytes(id), reason: "DRAINING".into(), limit_bps: 0 });
    node.sessions(v1::Sessions { complete: true, turned: turned.collect(), ..Default::default() }).await;
    eventually(async || tickets.resolve(request("a")).await.ok()).await;

    node.send(Body::Presence(presence(true))).await;
    let drained = eventually(async || {
        let status = tickets.resolve(request("a")).await.err()?;
        (status.code() == Code::Unavailable).then_some(status)
    })
    .await;
    assert!(drained.message().contains("1 draining of 1") && drained.get_details_retry_info().is_some(), "{drained}");
}

#[tokio::test]
async fn a_brokered_answer_carries_the_nodes_setup() {
    let master = Master::start().await;
    let mut node = master.node("node-1", &["a"]).await;
    let mut tickets = master.tickets().await;
    let asked = async { tickets.resolve(brokered("a")).await.expect("resolved").into_inner() };
    let serve = async {
        let prepare = node.prepare().await;
        // An unexpected answer changes nothing.
        node.prepared(prepare.id + 100, refusal("DRAINING")).await;
        node.prepared(prepare.id, prepared::Result::Setup(setup("a"))).await;
        prepare
    };
    let (answer, prepare) = within(async { tokio::join!(asked, serve) }).await;
    assert_eq!(answer.setup, Some(setup("a")));
    assert_eq!((&prepare.ticket, &prepare.request_id), (&answer.seats[0].ticket, &answer.request_id));
}

#[tokio::test]
async fn after_a_refusal_the_next_holder_is_asked() {
    let master = Master::start().await;
    let mut refusing = master.node("node-1", &["a"]).await;
    let mut leaving = master.node("node-2", &["a"]).await;
    let mut last = master.node("node-3", &["a"]).await;
    // The order of the choice: 1, 2, 3.
    leaving.carries(10_000_000).await;
    last.carries(50_000_000).await;
    let mut cluster = master.cluster().await;
    eventually(async || {
        let nodes = cluster.list_nodes(v1::ListNodesRequest {}).await.expect("listed").into_inner().nodes;
        let booked: Vec<u64> = nodes.iter().map(|node| node.booked_bps).collect();
        (booked == [0, 10_000_000, 50_000_000]).then_some(())
    })
    .await;
    let mut tickets = master.tickets().await;
    let asked = async { tickets.resolve(brokered("a")).await };
    let serve = async {
        let prepare = refusing.prepare().await;
        refusing.prepared(prepare.id, refusal("DRAINING")).await;
        leaving.prepare().await;
        drop(leaving);
        let prepare = last.prepare().await;
        last.prepared(prepare.id, refusal("NO_CAPACITY")).await;
    };
    let (answer, ()) = within(async { tokio::join!(asked, serve) }).await;
    let status = answer.expect_err("all refused");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("node-3 refused: no"), "{status}");
    let nodes = cluster.list_nodes(v1::ListNodesRequest {}).await.expect("listed").into_inner().nodes;
    let booked: Vec<u64> = nodes.iter().map(|node| node.booked_bps).collect();
    assert_eq!(booked, [0, 10_000_000, 50_000_000], "nothing stays reserved");
}

#[tokio::test]
async fn brokered_requests_wait_in_a_bounded_queue() {
    let master = Master::start().await;
    let mut node = master.node("node-1", &["a"]).await;
    let tickets = master.tickets().await;
    // Fetches reserve what they request; viewers reserve at least the title's rate.
    let small = || v1::ResolveRequest { rate_bps: 1, purpose: v1::Purpose::Fetch.into(), ..brokered("a") };
    let mut asked = tokio::task::JoinSet::new();
    // 64 run and one waits; then the queue is full.
    for _ in 0..65 {
        let mut tickets = tickets.clone();
        asked.spawn(async move { tickets.resolve(small()).await });
    }
    let mut ids = Vec::new();
    for _ in 0..64 {
        ids.push(node.prepare().await.id);
    }
    let mut one = tickets.clone();
    let full = eventually(async || {
        // Either this one or the 65th takes the only place to wait.
        tokio::select! {
            answer = one.resolve(small()) => answer.err(),
            Some(answer) = asked.join_next() => answer.expect("no panic").err(),
        }
    })
    .await;
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert!(full.message().contains("queue is full") && full.get_details_retry_info().is_some(), "{full}");
    // Meanwhile a redirect is answered.
    assert!(one.resolve(request("a")).await.is_ok());
    for id in ids {
        node.prepared(id, prepared::Result::Setup(setup("a"))).await;
    }
}

#[tokio::test]
async fn many_are_answered_each_on_its_own() {
    let master = Master::start().await;
    let _one = master.node("node-1", &["a", "b"]).await;
    let mut two = master.node("node-2", &["a", "b", "c"]).await;
    let mut tickets = master.tickets().await;
    let requests = vec![request("a"), request("nope"), brokered("b"), request(""), request("c")];
    let asked =
        async { tickets.resolve_many(v1::ResolveManyRequest { requests }).await.expect("answered").into_inner() };
    let serve = async {
        let prepare = two.prepare().await;
        two.prepared(prepare.id, prepared::Result::Setup(setup("b"))).await;
    };
    let (answer, ()) = within(async { tokio::join!(asked, serve) }).await;
    let told = |result: &v1::ResolveResult| match result.result.as_ref().expect("set") {
        resolve_result::Result::Ok(ok) => ok.seats[0].node.clone(),
        resolve_result::Result::Failure(failure) => failure.reason.clone(),
    };
    let told: Vec<String> = answer.results.iter().map(told).collect();
    assert_eq!(told, ["node-2", "NOT_FOUND", "node-2", "BAD_REQUEST", "node-2"]);

    let many = v1::ResolveManyRequest { requests: vec![request("a"); 257] };
    assert_eq!(tickets.resolve_many(many).await.expect_err("too many").code(), Code::InvalidArgument);
    let large = v1::ResolveRequest { exclude: vec!["x".repeat(3 << 20)], ..request("a") };
    assert_eq!(tickets.resolve(large).await.expect_err("too large").code(), Code::OutOfRange);
    assert!(tickets.resolve(request("a")).await.is_ok());
}
