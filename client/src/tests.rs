//! The client against a master and nodes of the tests, over loopback: its promises when nodes or the master fail.

mod commands;
mod continuity;
mod hostile;
mod ingest;
mod master;
mod memory;
mod moves;
mod node;
mod publish;
mod sources;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use usher_proto::{Code, Fault, Title, model::Range, model::What, pb::v1, ticket::Purpose, tree::GROUP};

use self::{
    master::{RunningMaster, TestMaster, TestSeat, content, media},
    node::{Behaviour, TestNode, Titles},
};
use crate::{
    Authority, Client, Options,
    core::url::Address,
    driver::{FetchEvent, Outcome, Sink as _},
    sink::{FileSink, PipeSink},
};

const TITLE: &str = "films/b.mp4";

fn one() -> (Titles, Vec<u8>) {
    let data = media(5, 7);
    (Arc::new(HashMap::from([(TITLE.to_owned(), data.clone())])), data)
}

fn client(running: &RunningMaster, timeout: Duration) -> Client {
    let options = Options { timeout, ..Options::default() };
    Client::new(running.address.clone(), running.authority.clone(), options).expect("good options")
}

/// Fetches the title; returns the result, the received bytes, and the failures on the way.
async fn fetch(client: &Client) -> (Result<Outcome, Fault>, Vec<u8>, Vec<Fault>) {
    let (mut bytes, lost) = (Vec::new(), Mutex::new(Vec::new()));
    let observer = |progress: &FetchEvent| {
        if let FetchEvent::SeatFailed(fault) = progress {
            lost.lock().expect("not poisoned").push(fault.clone());
        }
    };
    let title = Title::parse(TITLE).expect("valid");
    let result = client.fetch_to(&title, &mut PipeSink::new(&mut bytes), &observer).await;
    (result, bytes, lost.into_inner().expect("not poisoned"))
}

/// Two nodes, the first of which behaves like this.
async fn two(behaviour: Behaviour, hashed: bool) -> (RunningMaster, TestNode, TestNode, Vec<u8>) {
    let (titles, data) = one();
    let (bad, good) = (TestNode::start("bad", &titles, behaviour), TestNode::start("good", &titles, Behaviour::Honest));
    let running = TestMaster::start(&titles, vec![TestSeat::from(&bad), TestSeat::from(&good)], hashed).await;
    (running, bad, good, data)
}

#[tokio::test]
async fn an_honest_node() {
    let (titles, data) = one();
    let node = TestNode::start("n1", &titles, Behaviour::Honest);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], true).await;
    let client = client(&running, Duration::from_secs(5));
    let (result, bytes, lost) = fetch(&client).await;
    let outcome = result.expect("fetched");
    assert!(bytes == data && lost.is_empty());
    assert_eq!(outcome.content.to_string(), content(&data));
    assert_eq!(outcome.node.map(|node| node.to_string()).as_deref(), Some("n1"));
    assert_eq!((outcome.reason.as_str(), outcome.bytes), ("most headroom", data.len() as u64));
    let asked = running.asked.lock().expect("not poisoned");
    assert!(asked.iter().all(|(_, id)| id.len() == 32), "every request carries the request id");
}

fn asked_again(running: &RunningMaster) -> bool {
    running.asked.lock().expect("not poisoned").len() > 1
}

#[tokio::test]
async fn every_kind_of_bad_node_is_replaced() {
    for (behaviour, code, resumes_at) in [
        (Behaviour::Corrupt(2), Code::VerificationFailed, Some(2 * GROUP)),
        (Behaviour::WrongHashes, Code::VerificationFailed, Some(0)),
        (Behaviour::Refuse(Code::Draining), Code::Draining, Some(0)),
        (Behaviour::Refuse(Code::NotFound), Code::NotFound, Some(0)),
        (Behaviour::Refuse(Code::Disk), Code::Disk, Some(0)),
        (Behaviour::End(3), Code::Network, Some(3 * GROUP)),
        // A reset may overtake groups that were sent before it.
        (Behaviour::Reset(3), Code::Unavailable, None),
        (Behaviour::UnhashedLie, Code::ContentChanged, Some(0)),
    ] {
        let (running, bad, good, data) = two(behaviour, true).await;
        let (result, bytes, lost) = fetch(&client(&running, Duration::from_secs(5))).await;
        let outcome = result.unwrap_or_else(|fault| panic!("{behaviour:?}: {fault}"));
        assert!(bytes == data, "{behaviour:?}");
        assert_eq!(outcome.node.map(|node| node.to_string()).as_deref(), Some("good"), "{behaviour:?}");
        assert_eq!(outcome.reason, if asked_again(&running) { "most headroom" } else { "alternate after bad failed" });
        assert_eq!(lost.iter().map(|fault| fault.code).collect::<Vec<_>>(), [code], "{behaviour:?}: {lost:?}");
        assert_eq!(bad.starts().len(), 1);
        if let Some(at) = resumes_at {
            assert_eq!(good.starts(), [at], "{behaviour:?}");
        }
    }
}

#[tokio::test]
async fn a_lone_node_that_sends_wrong_bytes_is_reported_at_once() {
    let (titles, _) = one();
    let node = TestNode::start("liar", &titles, Behaviour::Corrupt(2));
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], true).await;
    // A timeout far beyond the runner's: the verdict must not wait for it.
    let (result, bytes, _) = fetch(&client(&running, Duration::from_secs(3600))).await;
    let fault = result.expect_err("refused");
    assert_eq!(fault.code, Code::VerificationFailed);
    assert!(fault.message.contains("liar") && fault.message.contains("group 2 of 6"), "{fault}");
    assert_eq!(bytes.len() as u64, 2 * GROUP, "nothing past the last good group was written");
    let asked = running.asked.lock().expect("not poisoned");
    let told: Vec<_> = asked.last().into_iter().flat_map(|(request, _)| request.failed.clone()).collect();
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((told.node.as_str(), told.reason.as_str()), ("liar", "VERIFICATION_FAILED"));
    assert!(!told.ticket.is_empty(), "the ticket proves that the master named the node");
}

#[tokio::test]
async fn a_final_refusal_keeps_its_reason() {
    let (titles, _) = one();
    let node = TestNode::start("n1", &titles, Behaviour::Refuse(Code::Denied));
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], true).await;
    let (result, ..) = fetch(&client(&running, Duration::from_secs(3600))).await;
    let fault = result.expect_err("refused");
    assert_eq!((fault.code, fault.message.as_str()), (Code::Denied, "node n1 refused: not now"));
}

#[tokio::test]
async fn unreachable_addresses_and_unknown_certificates_are_skipped() {
    let (titles, data) = one();
    let node = TestNode::start("n1", &titles, Behaviour::Honest);
    // A bound socket that never answers.
    let hole = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let dead = hole.local_addr().expect("bound").to_string();
    let mut seat = TestSeat::from(&node);
    seat.addresses.insert(0, dead);
    let stranger = TestSeat { pin: [1; 32], node: "stranger".into(), ..TestSeat::from(&node) };
    let running = TestMaster::start(&titles, vec![stranger, seat], true).await;
    let (result, bytes, lost) = fetch(&client(&running, Duration::from_secs(5))).await;
    assert!(result.is_ok() && bytes == data);
    assert_eq!(lost.len(), 1);
    assert!(lost[0].code == Code::TicketInvalid && lost[0].message.contains("certificate"), "{lost:?}");
}

#[tokio::test]
async fn a_node_that_falls_silent_is_replaced() {
    let (running, _bad, good, data) = two(Behaviour::Silent, true).await;
    let (result, bytes, lost) = fetch(&client(&running, Duration::from_millis(800))).await;
    // The silence used up the timeout, but another seat is still tried before the fetch fails.
    assert!(result.is_ok() && bytes == data, "{result:?}");
    assert_eq!((lost.first().map(|fault| fault.code), good.starts().len()), (Some(Code::Timeout), 1));
}

#[tokio::test]
async fn a_title_that_is_not_hashed_yet() {
    let (titles, data) = one();
    let node = TestNode::start("n1", &titles, Behaviour::Unhashed);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], false).await;
    let (result, bytes, _) = fetch(&client(&running, Duration::from_secs(5))).await;
    assert!(bytes == data && result.is_ok_and(|outcome| outcome.content.to_string() == content(&data)));
    // Refuted at the end by a node whose hashes are of something else.
    let node = TestNode::start("n1", &titles, Behaviour::UnhashedLie);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], false).await;
    let (result, ..) = fetch(&client(&running, Duration::from_secs(5))).await;
    assert_eq!(result.map_err(|fault| fault.code).err(), Some(Code::VerificationFailed));
    // A failure before the end: written bytes are received again, compared, and not written twice.
    let (running, _bad, good, data) = two(Behaviour::Unhashed, false).await;
    drop((running, good));
    let (bad, good) =
        (TestNode::start("bad", &titles, Behaviour::UnhashedLie), TestNode::start("good", &titles, Behaviour::Honest));
    let running = TestMaster::start(&titles, vec![TestSeat::from(&bad), TestSeat::from(&good)], false).await;
    let (result, bytes, _) = fetch(&client(&running, Duration::from_secs(5))).await;
    assert!(result.is_ok() && bytes == data);
    assert_eq!(good.starts(), [0]);
}

#[tokio::test]
async fn an_absent_master_and_an_untrusted_one() {
    let (titles, _) = one();
    let running = TestMaster::start(&titles, Vec::new(), true).await;
    let foreign = TestMaster::start(&titles, Vec::new(), true).await;
    let mixed = RunningMaster { authority: foreign.authority, ..running };
    let fault = fetch(&client(&mixed, Duration::from_secs(3600))).await.0.expect_err("not trusted");
    assert_eq!(fault.code, Code::Denied);
    assert!(fault.message.contains("/the/ca.pem") && fault.message.contains("--ca"), "{fault}");

    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = closed.local_addr().expect("bound").port();
    drop(closed);
    let absent = RunningMaster { address: Address { host: "127.0.0.1".into(), port }, ..mixed };
    let fault = fetch(&client(&absent, Duration::from_millis(50))).await.0.expect_err("absent");
    assert_eq!(fault.code, Code::Network);
    assert!(fault.message.contains(&format!("127.0.0.1:{port}")) && fault.message.contains("usher master"), "{fault}");
    static TOLD: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let telling = client(&absent, Duration::from_secs(1)).on_wait(|_| {
        TOLD.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    let fault = telling.nodes().await.expect_err("absent");
    assert_eq!(TOLD.load(std::sync::atomic::Ordering::Relaxed), 1, "once, however often it is retried");
    assert_eq!(fault.code, Code::Network);

    let authority = Authority { pem: "no PEM".into(), source: "x.pem".into() };
    let options = Options::default();
    let refused = Client::new(Address::default(), authority, options).err().map(|fault| fault.code);
    assert_eq!(refused, Some(Code::Usage));
    assert!(Authority::load(Some("/nonexistent/ca.pem".into())).is_err_and(|fault| fault.code == Code::Usage));
}

#[tokio::test]
async fn ranges_are_exact() {
    let (titles, data) = one();
    let node = TestNode::start("n1", &titles, Behaviour::Honest);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], true).await;
    let client = client(&running, Duration::from_secs(5));
    for (start, end) in [(0, Some(1)), (GROUP - 1, Some(GROUP + 1)), (3 * GROUP + 5, None), (7, Some(u64::MAX))] {
        let what = What::Title(Title::parse(TITLE).expect("valid"));
        let order = client.order(what, Purpose::Fetch, Range { start, end });
        let mut bytes = Vec::new();
        let outcome = client.fetch_order(&order, &mut PipeSink::new(&mut bytes), &|_| (), None).await.expect("fetched");
        let wanted = &data[start as usize..end.map_or(data.len(), |end| data.len().min(end as usize))];
        assert!(bytes == wanted && outcome.bytes == wanted.len() as u64, "{start} to {end:?}");
    }
    let order = client.order(
        What::Title(Title::parse(TITLE).expect("valid")),
        Purpose::Fetch,
        Range { start: 1 << 40, end: None },
    );
    let fault = client.fetch_order(&order, &mut PipeSink::new(Vec::new()), &|_| (), None).await.expect_err("outside");
    assert_eq!(fault.code, Code::BadRange);
}

#[tokio::test]
async fn an_interrupted_fetch_resumes() {
    let (titles, data) = one();
    let folder = tempfile::tempdir().expect("temp");
    let target = folder.path().join("b.mp4");
    let title = Title::parse(TITLE).expect("valid");
    let slow = TestNode::start("slow", &titles, Behaviour::Stall(3));
    let running = TestMaster::start(&titles, vec![TestSeat::from(&slow)], true).await;
    let slow = client(&running, Duration::from_secs(3600));
    let enough = tokio::sync::Notify::new();
    let observer = |progress: &FetchEvent| {
        if matches!(progress, FetchEvent::Progress { verified, .. } if *verified == 3 * GROUP) {
            enough.notify_one();
        }
    };
    let mut sink = FileSink::new(target.clone(), false);
    tokio::select! {
        result = slow.fetch_to(&title, &mut sink, &observer) => panic!("it ended: {result:?}"),
        () = enough.notified() => {}
    }
    sink.pause().await.expect("room");
    assert!(sink.resumable() && !target.exists());
    drop(sink);
    let node = TestNode::start("n1", &titles, Behaviour::Honest);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], true).await;
    let mut sink = FileSink::new(target.clone(), false);
    let outcome = client(&running, Duration::from_secs(5)).fetch_to(&title, &mut sink, &|_| ()).await.expect("fetched");
    assert_eq!((outcome.resumed, node.starts()), (3 * GROUP, vec![3 * GROUP]));
    assert!(std::fs::read(&target).is_ok_and(|bytes| bytes == data));
}

/// A reader that never reads.
struct Stalled;

impl tokio::io::AsyncWrite for Stalled {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Pending
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Pending
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn a_stalled_reader_delays_none_of_the_others_on_its_connection() {
    // Larger than a stream's window, so that flow control stops the stalled stream.
    let data = media(34, 3);
    let titles: Titles = Arc::new(HashMap::from([(TITLE.to_owned(), data.clone())]));
    let node = TestNode::start("n1", &titles, Behaviour::Honest);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], true).await;
    let client = client(&running, Duration::from_secs(30));
    let title = Title::parse(TITLE).expect("valid");
    let mut stalled = PipeSink::new(Stalled);
    let others = async { futures::future::join_all((0..10).map(|_| fetch(&client))).await };
    let results = tokio::select! {
        results = others => results,
        result = client.fetch_to(&title, &mut stalled, &|_| ()) => panic!("the stalled one ended: {result:?}"),
    };
    for (result, bytes, lost) in &results {
        assert!(result.is_ok() && *bytes == data && lost.is_empty(), "{result:?} {lost:?}");
    }
    assert_eq!(node.connections.load(std::sync::atomic::Ordering::Relaxed), 1, "all share one connection");
    client.close().await;
}

#[tokio::test]
async fn a_returning_client_sends_its_request_ahead_of_the_handshake() {
    let (titles, data) = one();
    let node = TestNode::start("node-1", &titles, Behaviour::Honest);
    let running = TestMaster::start(&titles, vec![TestSeat::from(&node)], true).await;
    let client = client(&running, Duration::from_secs(20));
    let count = |counter: &std::sync::atomic::AtomicUsize| counter.load(std::sync::atomic::Ordering::Relaxed);
    // A busy node sees early data only after the handshake, so this is tried several times.
    for times in 1..=20 {
        // Twice over one connection: the session ticket follows the handshake, and precedes the second answer.
        for _ in 0..2 {
            let (result, bytes, lost) = fetch(&client).await;
            assert!(result.is_ok() && bytes == data, "{result:?} {lost:?}");
        }
        assert_eq!(count(&node.connections), times);
        assert!(count(&node.early) < times, "the first connection has no session ticket");
        if count(&node.early) > 0 {
            return;
        }
        node.hang_up();
    }
    panic!("no request was early");
}
