//! Reservations and their explanations: concurrent requests, silent nodes, hints, sessions.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt as _;
use usher_master::ClusterAccess;
use usher_proto::pb::v1::{
    self, attach_request::Body, attach_response::Body as Down, explain_request::About, tickets_client::TicketsClient,
};

use crate::harness::{Master, Node, begun, eventually, request, session_bytes, within};

/// A request with a negligible rate.
fn small(title: &str) -> v1::ResolveRequest {
    v1::ResolveRequest { rate_bps: 1, purpose: v1::Purpose::Fetch.into(), ..request(title) }
}

#[tokio::test]
async fn two_hundred_concurrent_requests_overbook_nothing() {
    let master = Master::with(|config| config.queue = 256).await;
    let mut nodes = Vec::new();
    for name in ["node-1", "node-2", "node-3"] {
        nodes.push(master.node(name, &["a"]).await);
    }
    let tickets = master.tickets().await;
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let mut tickets = tickets.clone();
        asked.spawn(async move { tickets.resolve(request("a")).await });
    }
    let mut promised: HashMap<String, u64> = HashMap::new();
    let mut refused = 0;
    while let Some(answer) = within(asked.join_next()).await {
        match answer.expect("no panic") {
            Ok(answer) => {
                let answer = answer.into_inner();
                *promised.entry(answer.seats[0].node.clone()).or_default() += answer.rate_bps;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(status.message().contains("3 full of 3"), "{status}");
                refused += 1;
            }
        }
    }
    // 12 sessions of 8 of 100 Mbit/s on each of three.
    assert_eq!(refused, 200 - 36);
    assert!(promised.len() == 3 && promised.values().all(|bits| *bits == 96_000_000), "{promised:?}");
}

type Answers = mpsc::UnboundedReceiver<Result<v1::ResolveResponse, Status>>;

/// Requests in a loop; each answer is sent to the channel before the next request.
fn ask_on(mut tickets: TicketsClient<Channel>) -> Answers {
    let (sender, answers) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let answer = tickets.resolve(small("a")).await.map(tonic::Response::into_inner);
            if sender.send(answer).is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    answers
}

/// Waits for a probe and discards earlier answers.
async fn probe(node: &mut Node, answers: &mut Answers) -> v1::Probe {
    let Down::Probe(probe) = node.order().await else { panic!("no probe") };
    // The request that caused the probe waits for its answer, so all earlier answers are here.
    while answers.try_recv().is_ok() {}
    probe
}

#[tokio::test]
async fn a_late_node_is_chosen_once_it_has_answered() {
    let master = Master::start().await;
    let mut node = master.node("node-1", &["a"]).await;
    let mut answers = ask_on(master.tickets().await);
    let probe = probe(&mut node, &mut answers).await;
    node.send(Body::Probed(v1::Probed { id: probe.id })).await;
    let answer = within(answers.recv()).await.expect("asked").expect("chosen");
    assert!(answer.reason.contains("the only holder"), "{}", answer.reason);
    master.counted("usher_master_orders_total{order=\"probe\",result=\"answered\"} 1").await;
}

#[tokio::test]
async fn a_late_node_that_stays_silent_is_suspect() {
    let master = Master::start().await;
    let mut node = master.node("node-1", &["a"]).await;
    let mut answers = ask_on(master.tickets().await);
    probe(&mut node, &mut answers).await;
    // Without another holder, a suspect node beats a refusal.
    let answer = within(answers.recv()).await.expect("asked").expect("chosen");
    assert!(answer.reason.contains("no holder is healthy"), "{}", answer.reason);
    let gone = within(async {
        loop {
            if let Err(status) = answers.recv().await.expect("asked") {
                return status;
            }
        }
    })
    .await;
    assert_eq!(gone.code(), Code::Unavailable, "{gone}");
    assert!(gone.message().contains("1 down of 1"), "{gone}");
}

#[tokio::test]
async fn no_report_takes_out_a_node_that_answers() {
    let master = Master::start().await;
    let mut one = master.node("node-1", &["a"]).await;
    let _two = master.node("node-2", &["a"]).await;
    let mut tickets = master.tickets().await;
    let failed = |reason: &str| {
        let failed = vec![v1::SeatFailure { node: "node-1".into(), reason: reason.into(), ..Default::default() }];
        v1::ResolveRequest { failed, ..small("a") }
    };
    // A node that refuses is alive.
    let answer = tickets.resolve(failed("NO_CAPACITY")).await.expect("another").into_inner();
    assert_eq!(answer.seats[0].node, "node-2", "it is excluded all the same");
    for round in 1..=20 {
        tickets.resolve(failed("TIMEOUT")).await.expect("another");
        let Down::Probe(probe) = one.order().await else { panic!("no probe") };
        one.send(Body::Probed(v1::Probed { id: probe.id })).await;
        // The next hint is for a node that has answered.
        master.counted(&format!("usher_master_orders_total{{order=\"probe\",result=\"answered\"}} {round}")).await;
    }
    master.counted("usher_master_hints_total 20").await;
    let about = v1::ExplainRequest { about: Some(About::Request(request("a"))) };
    let explained = master.cluster().await.explain(about).await.expect("explained").into_inner();
    let fit = explained.considered.iter().all(|one| matches!(one.verdict.as_str(), "chosen" | "alternate"));
    assert!(fit && explained.considered.len() == 2, "{explained:?}");
}

#[tokio::test]
async fn a_decision_is_explained() {
    let master = Master::start().await;
    let _one = master.node("node-1", &["a", "b"]).await;
    let two = master.node("node-2", &["b"]).await;
    two.carries(100_000_000).await;
    let mut cluster = master.cluster().await;
    let mut explain = async |about| cluster.explain(v1::ExplainRequest { about: Some(about) }).await;
    let now = eventually(async || {
        let now = explain(About::Request(request("b"))).await.expect("explained").into_inner();
        (now.considered[1].verdict == "full").then_some(now)
    })
    .await;
    assert_eq!((now.request_id.as_str(), now.what.as_str(), now.rate_bps), ("", "b", 8_000_000));
    let [first, second] = now.considered.as_slice() else { panic!("{now:?}") };
    assert_eq!((first.node.as_str(), first.verdict.as_str(), first.level_bps), ("node-1", "chosen", 0));
    assert_eq!((second.node.as_str(), second.level_bps), ("node-2", 100_000_000));
    assert!(now.text.contains(&now.outcome) && now.text.contains("VERDICT"), "{}", now.text);
    master.counted("usher_master_ledger_sessions 0").await;

    let mut tickets = master.tickets().await;
    let mut asked = Request::new(request("b"));
    asked.metadata_mut().insert("x-request-id", "mine-1".parse().expect("text"));
    tickets.resolve(asked).await.expect("resolved");
    let requests = vec![request("z"), request("a")];
    let mut asked = Request::new(v1::ResolveManyRequest { requests });
    asked.metadata_mut().insert("x-request-id", "mine-2".parse().expect("text"));
    tickets.resolve_many(asked).await.expect("answered");
    for (id, what) in [("mine-1", "b"), ("mine-2/1", "a")] {
        let then = explain(About::RequestId(id.into())).await.expect("remembered").into_inner();
        assert_eq!((then.request_id.as_str(), then.what.as_str()), (id, what));
        assert!(then.outcome.starts_with("node-1"), "{}", then.outcome);
    }
    for (about, code, word) in [
        (About::RequestId("mine-3".into()), Code::NotFound, "usher explain"),
        (About::RequestId("a b".into()), Code::InvalidArgument, "request_id"),
        (About::Request(request("z")), Code::NotFound, "usher ls"),
        (About::Request(request("../z")), Code::InvalidArgument, "title"),
    ] {
        let status = explain(about).await.expect_err(word);
        assert_eq!(status.code(), code, "{status}");
        let details = format!("{} {:?}", status.message(), status.get_details_bad_request());
        assert!(details.contains(word), "{details}");
    }
    let closed = Master::with(|config| config.cluster_access = ClusterAccess::Admin).await;
    let about = v1::ExplainRequest { about: Some(About::RequestId("mine-1".into())) };
    assert_eq!(closed.cluster().await.explain(about).await.expect_err("closed").code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_whole_list_of_sessions_ends_the_others() {
    let master = Master::start().await;
    let node = master.node("node-1", &["a"]).await;
    let mut tickets = master.tickets().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(tickets.resolve(request("a")).await.expect("room").into_inner().session_id);
    }
    let begin = |ids: &[String]| ids.iter().map(|id| begun(id, "a")).collect::<Vec<_>>();
    let committed_bps = 24_000_000;
    let all = v1::Sessions { complete: true, committed_bps, begun: begin(&ids), ..Default::default() };
    node.sessions(all.clone()).await;
    master.counted("usher_master_sessions_begun_total 3").await;
    master.counted("usher_master_ledger_promised_bits_per_second 0").await;
    master.counted("usher_master_ledger_sessions 3").await;
    // A list in two parts; its sessions started earlier.
    let first = v1::Sessions { restart: true, complete: false, begun: begin(&ids[..1]), ..all.clone() };
    let second = v1::Sessions { begun: begin(&ids[1..2]), committed_bps: 16_000_000, ..all.clone() };
    node.sessions(first).await;
    node.sessions(second).await;
    master.counted("usher_master_ledger_sessions 2").await;
    let ended = vec![session_bytes(&ids[0])];
    node.sessions(v1::Sessions { begun: Vec::new(), ended, committed_bps: 8_000_000, ..all }).await;
    master.counted("usher_master_ledger_sessions 1").await;
    master.counted("usher_master_sessions_begun_total 3").await;
    master.counted("usher_master_sessions_ended_total 1").await;
}
