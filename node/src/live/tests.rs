//! Feeds of test nodes on loopback.

mod peers;

use std::{sync::Arc, time::Duration};

use usher_proto::{
    Bitrate, Code, Fault, NodeName, PublisherId, Title,
    model::{FeedState, Relay, SeatAddress},
    pb::wire::{FeedStart, Open},
    ticket::{FeedGrant, Right},
    wire::{self, Frame, Kind},
};

use self::peers::{Frames, LAST, NAME, Publisher, WHOLE, Watcher, feed_ticket, setup, signer};
use crate::test_node::{NODE, TestNode};

/// Waits until the state of the node's feed satisfies `so`.
async fn until(node: &TestNode, what: &str, so: impl Fn(Option<&FeedState>) -> bool) {
    let seen = async {
        loop {
            if so(node.services.live.states().first()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap_or_else(|_| panic!("timed out: {what}"));
}

#[tokio::test]
async fn every_viewer_receives_the_feed_from_the_last_complete_group_on() {
    let node = TestNode::with(&[]).await;
    let mut publisher = Publisher::open(&node, |_| {}).await.expect("let in");
    assert_eq!(publisher.first, 100, "from its ticket");
    publisher.send_complete(100).await;
    publisher.send_complete(101).await;
    let frames = publisher.group(102, &[(WHOLE, "102"), (LAST, "!")]);
    let mut newest = publisher.begin(&frames[..2]).await;
    until(&node, "the third group has begun", |feed| feed.is_some_and(|feed| feed.newest == 102)).await;
    let watcher = Watcher::open(&node, FeedStart::default()).await.expect("let in");
    let eager = Watcher::open(&node, FeedStart { newest: true, ..FeedStart::default() }).await.expect("let in");
    let early = Watcher::open(&node, FeedStart { from_group: 1, ..FeedStart::default() }).await.expect("let in");
    assert_eq!((watcher.first, eager.first, early.first), (101, 102, 100));
    newest.write_all(&frames[2]).await.expect("written");
    newest.finish().expect("finished");
    assert_eq!(watcher.group().await, (101, "101!".into(), true));
    for watcher in [&watcher, &eager] {
        assert_eq!(watcher.group().await, (102, "102!".into(), true));
    }
    assert_eq!(early.group().await, (100, "100!".into(), true));
    until(&node, "all are counted", |feed| feed.is_some_and(|feed| feed.viewers == 3)).await;
    publisher.finish(103).await;
    let mut control = watcher.control;
    let Some(Frame::Finish(finish)) = control.next().await else { panic!("no end") };
    assert_eq!(finish.end_group, 103);
    assert!(node.services.live.states().is_empty());
    assert_eq!(node.services.live.bytes(), 0);
    assert_eq!(
        Publisher::open(&node, |_| {}).await.map(|publisher| publisher.first),
        Ok(100),
        "a publisher may start the feed again"
    );
}

#[tokio::test]
async fn one_publisher_at_a_time() {
    let node = TestNode::with(&[]).await;
    let mut first = Publisher::open(&node, |_| {}).await.expect("let in");
    first.send_complete(100).await;
    let other = |grant: &mut FeedGrant| grant.publisher = PublisherId(2);
    assert_eq!(Publisher::open(&node, other).await.err(), Some(Code::Exists));
    let take_over = |grant: &mut FeedGrant| (grant.publisher, grant.take_over) = (PublisherId(2), true);
    let second = Publisher::open(&node, take_over).await.expect("taken over");
    assert_eq!((first.refused().await, second.first), (Code::Exists, 101));
    // A publisher that reconnects replaces its own session.
    let again = Publisher::open(&node, |grant| grant.publisher = PublisherId(2)).await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn a_group_sent_again_continues_where_it_was_truncated() {
    let node = TestNode::with(&[]).await;
    let mut publisher = Publisher::open(&node, |_| {}).await.expect("let in");
    let frames = publisher.group(100, &[(WHOLE, "a"), (WHOLE, "b"), (LAST, "c")]);
    let cut = publisher.begin(&frames[..2]).await;
    let watcher = {
        until(&node, "its beginning is here", |feed| feed.is_some_and(|feed| feed.newest == 100)).await;
        Watcher::open(&node, FeedStart::default()).await.expect("let in")
    };
    publisher.viewer.connection.close(0_u32.into(), b"");
    drop(cut);
    until(&node, "it is awaited", |feed| feed.is_some_and(|feed| feed.interrupted)).await;
    let mut again = Publisher::open(&node, |_| {}).await.expect("let in");
    let frames = again.group(100, &[(WHOLE, "a"), (WHOLE, "b"), (LAST, "c")]);
    let mut complete = again.begin(&frames).await;
    complete.finish().expect("finished");
    assert_eq!(watcher.group().await, (100, "abc".into(), true));
    // A piece that differs from the cached one is refused.
    let previous = again.previous;
    let frames = again.group(101, &[(WHOLE, "y")]);
    let _open = again.begin(&frames).await;
    until(&node, "its beginning is here", |feed| feed.is_some_and(|feed| feed.newest == 101)).await;
    again.previous = previous;
    let frames = again.group(101, &[(WHOLE, "x")]);
    let _open = again.begin(&frames).await;
    assert_eq!(again.refused().await, Code::BadRequest);
}

#[tokio::test]
async fn unsigned_pieces_are_refused() {
    let node = TestNode::with(&[]).await;
    let mut publisher = Publisher::open(&node, |_| {}).await.expect("let in");
    publisher.send_complete(100).await;
    let watcher = Watcher::open(&node, FeedStart::default()).await.expect("let in");
    assert_eq!(watcher.group().await.0, 100);
    let mut frames = publisher.group(101, &[(WHOLE, "good")]);
    let mut forged = frames[1].to_vec();
    *forged.last_mut().expect("media") ^= 1;
    frames[1] = forged.into();
    publisher.begin(&frames).await;
    assert_eq!(publisher.refused().await, Code::VerificationFailed);
    assert_eq!(node.services.live.states().first().map(|feed| feed.newest), Some(100));
}

#[tokio::test]
async fn invalid_frames_of_a_publisher_are_refused() {
    let node = TestNode::with(&[]).await;
    for (what, frames) in
        [("a control frame", vec![wire::values(Kind::Hashes, &[[0; 32]])]), ("a piece after the last", vec![])]
    {
        let mut publisher = Publisher::open(&node, |_| {}).await.expect("let in");
        let mut group = publisher.group(100, &[(LAST, "")]);
        if frames.is_empty() {
            let more = publisher.group(101, &[(WHOLE, "more")]);
            group = publisher.group(100, &[(WHOLE, "a")]);
            group.push(more[1].clone());
        } else {
            group.truncate(1);
            group.extend(frames);
        }
        publisher.begin(&group).await;
        let code = publisher.refused().await;
        assert!(matches!(code, Code::BadRequest | Code::VerificationFailed), "{what}: {code:?}");
    }
    let ticket = feed_ticket(&node, Right::Publish, |_| {});
    let viewer = node.viewer().await;
    let watch = Some(FeedStart::default());
    let open = wire::message(Kind::Open, &Open { ticket, watch, ..Open::default() }).expect("short enough");
    let (_send, receive) = viewer.send(&open).await;
    assert_eq!(setup(&mut Frames::new(receive)).await.err(), Some(Code::TicketMismatch));
    // A session that does not publish cannot open streams.
    let opened = tokio::time::timeout(Duration::from_millis(200), viewer.connection.open_uni()).await;
    assert!(opened.is_err(), "it has no credit");
}

#[tokio::test]
async fn a_stalled_viewer_skips_groups_and_others_miss_none() {
    let node = TestNode::with(&[]).await;
    let mut publisher = Publisher::open(&node, |_| {}).await.expect("let in");
    publisher.send_complete(100).await;
    let latency_ms = 3000;
    let mut slow = Watcher::open(&node, FeedStart { latency_ms, ..FeedStart::default() }).await.expect("let in");
    let well = Watcher::open(&node, FeedStart { latency_ms, ..FeedStart::default() }).await.expect("let in");
    assert_eq!(well.group().await.0, 100);
    // More than any window of a connection holds.
    let much = "x".repeat(60_000);
    let part = (WHOLE, much.as_str());
    for sequence in 101..=140 {
        let mut pieces = vec![part; 40];
        pieces.push((LAST, ""));
        let (sent, got) = tokio::join!(publisher.send(sequence, &pieces), well.group());
        let () = sent;
        assert_eq!((got.0, got.1.len(), got.2), (sequence, 40 * 60_000, true));
    }
    let Some(Frame::Skipped(skipped)) = slow.control.next().await else { panic!("no Skipped frame") };
    assert!(skipped.first >= 100 && skipped.end > skipped.first && skipped.end <= 141, "{skipped:?}");
    assert!(node.services.live.bytes() <= 64 << 20, "the oldest went");
}

#[tokio::test]
async fn a_relay_continues_at_its_next_upstream() {
    let (origin, second, edge) = (TestNode::with(&[]).await, TestNode::with(&[]).await, TestNode::with(&[]).await);
    let seat = |node: &TestNode, change: &dyn Fn(&mut FeedGrant)| SeatAddress {
        node: NodeName::parse(NODE).expect("a name"),
        addresses: vec![node.address],
        pins: node.presence.subscribe().borrow().certificates.clone(),
        ticket: feed_ticket(node, Right::Relay, |grant| change(grant)),
        lifetime: None,
    };
    let title = Title::parse(NAME).expect("a title");
    let relay = |seats: Vec<SeatAddress>| Relay {
        title: title.clone(),
        key: signer().key(),
        seats: Ok(seats),
        request_id: String::new(),
    };
    let mut publisher = Publisher::open(&origin, |_| {}).await.expect("let in");
    publisher.send_complete(100).await;
    publisher.send_complete(101).await;
    // The second node relays from the first, and the edge from the second.
    second.services.live.handle_relay_order(relay(vec![seat(&origin, &|_| {})]));
    edge.services.live.handle_relay_order(relay(vec![seat(&second, &|_| {}), seat(&origin, &|_| {})]));
    let watcher = Watcher::open(&edge, FeedStart::default()).await.expect("let in");
    assert_eq!(watcher.group().await, (101, "101!".into(), true));
    publisher.send_complete(102).await;
    assert_eq!(watcher.group().await.0, 102);
    assert_eq!(second.services.live.states().first().map(|feed| (feed.relays, feed.viewers)), Some((1, 0)));
    // The second node stops: the edge continues at its next upstream.
    second.server.close().await;
    publisher.send_complete(103).await;
    assert_eq!(watcher.group().await, (103, "103!".into(), true));
    until(&origin, "the edge has it from there", |feed| feed.is_some_and(|feed| feed.relays >= 1)).await;
    publisher.finish(104).await;
    let mut control = watcher.control;
    loop {
        match control.next().await {
            Some(Frame::Finish(finish)) => break assert_eq!(finish.end_group, 104),
            Some(Frame::Skipped(skipped)) => panic!("{skipped:?}"),
            other => assert!(other.is_some(), "no end"),
        }
    }
    assert_eq!(Bitrate(0), edge.services.live.states().first().map_or(Bitrate(0), |feed| feed.bitrate));
}

#[tokio::test]
async fn a_node_without_an_upstream_requests_one() {
    let node = TestNode::with(&[]).await;
    let live = Arc::clone(&node.services.live);
    let opening = tokio::spawn(async move { Watcher::open(&node, FeedStart::default()).await.map(|_| ()) });
    live.updated().await;
    let wanted = async {
        loop {
            if let Some(wanted) = live.take_relay_requests().pop() {
                return wanted;
            }
            tokio::task::yield_now().await;
        }
    };
    let wanted = tokio::time::timeout(Duration::from_secs(30), wanted).await.expect("asked for");
    assert_eq!((wanted.title.as_str(), wanted.failed.len()), (NAME, 0));
    let title = Title::parse(NAME).expect("a title");
    let gone = Err(Fault::new(Code::NotFound, "not on the air"));
    live.handle_relay_order(Relay { title, key: signer().key(), seats: gone, request_id: String::new() });
    assert_eq!(opening.await.expect("runs"), Err(Code::NotFound));
    assert!(live.states().is_empty());
}

#[tokio::test]
async fn a_draining_node_sends_publishers_elsewhere() {
    let node = TestNode::with(&[]).await;
    let mut publisher = Publisher::open(&node, |_| {}).await.expect("let in");
    publisher.send_complete(100).await;
    node.services.drain();
    assert_eq!(publisher.refused().await, Code::Draining);
    assert_eq!(Publisher::open(&node, |_| {}).await.err(), Some(Code::Draining));
}
