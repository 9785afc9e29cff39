//! Feeds on a node: a publisher and viewers who speak the protocol by hand, on loopback.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use usher_proto::{
    Bitrate, Code, NodeName, PublisherId,
    feed::{Chain, FeedSigner, Flags, GroupHead, Link, Piece},
    model::{Relay, SeatAddress},
    pb::{
        v1::Setup,
        wire::{FeedOffer, FeedStart, Finish, Open},
    },
    ticket::{Claims, FeedGrant, Purpose, Right},
    wire::{self, Decoder, Frame, Kind},
};

use super::*;
use crate::test_node::{NODE, TestNode, Viewer, claims};

const NAME: &str = "live/a";
const WHOLE: Flags = Flags { whole: true, last: false };
const LAST: Flags = Flags { whole: true, last: true };

fn signer() -> FeedSigner {
    FeedSigner::from_seed(&[9; 32])
}

fn feed_ticket(node: &TestNode, right: Right, change: impl FnOnce(&mut FeedGrant)) -> String {
    let mut grant = FeedGrant {
        right,
        key: signer().key(),
        publisher: PublisherId(1),
        first: 100,
        take_over: false,
        record: false,
    };
    change(&mut grant);
    node.sign(&Claims { feed: Some(grant.to_claims()), purpose: Purpose::Play, ..claims(NAME, None) })
}

/// The frames of one stream.
struct Frames {
    stream: RecvStream,
    decoder: Decoder,
}

impl Frames {
    fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: Decoder::default() }
    }

    /// The next frame; `None` at the end, however that came.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("a good frame") {
                return Some(frame);
            }
            self.decoder.push_chunk(self.stream.read_chunk(65536, true).await.ok()??.bytes);
        }
    }
}

async fn setup(frames: &mut Frames) -> Result<Setup, Code> {
    match frames.next().await {
        Some(Frame::Setup(setup)) => Ok(setup),
        Some(Frame::Refused(refused)) => Err(Code::from_reason(&refused.reason)),
        other => panic!("{other:?} instead of a Setup"),
    }
}

/// Who sends a feed by hand.
struct Publisher {
    viewer: Viewer,
    send: SendStream,
    control: Frames,
    subscription: u64,
    first: u64,
    previous: Link,
}

impl Publisher {
    async fn open(node: &TestNode, change: impl FnOnce(&mut FeedGrant)) -> Result<Self, Code> {
        let ticket = feed_ticket(node, Right::Publish, change);
        let publish = Some(FeedOffer { media_type: "video/mp2t".into(), ..FeedOffer::default() });
        let open = wire::message(Kind::Open, &Open { ticket, publish, ..Open::default() }).expect("short enough");
        let viewer = node.viewer().await;
        let (send, receive) = viewer.send(&open).await;
        let mut control = Frames::new(receive);
        let feed = setup(&mut control).await?.feed.expect("a feed's");
        let (subscription, first) = (feed.subscription, feed.first_group);
        Ok(Self { viewer, send, control, subscription, first, previous: [0; 32] })
    }

    /// A group of these pieces, as it is sent.
    fn group(&mut self, sequence: u64, pieces: &[(Flags, &str)]) -> Vec<Bytes> {
        let head =
            GroupHead { sequence, at_ms: sequence * 1000, previous: self.previous, head: Bytes::from_static(b"head") };
        let mut chain = Chain::begin(&Title::parse(NAME).expect("a title"), &head);
        let mut frames = vec![wire::message(Kind::FeedGroup, &head.to_pb(self.subscription)).expect("short enough")];
        for (flags, media) in pieces {
            chain.take(*flags, media.as_bytes()).expect("a good piece");
            let (signature, media) = (chain.sign(&signer()), Bytes::copy_from_slice(media.as_bytes()));
            frames.push(wire::piece(&Piece { flags: *flags, signature, media }));
        }
        self.previous = chain.link();
        frames
    }

    /// A stream with these frames, which stays open.
    async fn begin(&self, frames: &[Bytes]) -> SendStream {
        let mut stream = self.viewer.connection.open_uni().await.expect("a stream");
        for frame in frames {
            stream.write_all(frame).await.expect("written");
        }
        stream
    }

    async fn send(&mut self, sequence: u64, pieces: &[(Flags, &str)]) {
        let frames = self.group(sequence, pieces);
        let mut stream = self.begin(&frames).await;
        stream.finish().expect("finished");
        assert_eq!(stream.stopped().await, Ok(None), "all of it is taken");
    }

    async fn whole(&mut self, sequence: u64) {
        let text = sequence.to_string();
        self.send(sequence, &[(WHOLE, &text), (LAST, "!")]).await;
    }

    async fn refused(&mut self) -> Code {
        match self.control.next().await {
            Some(Frame::Refused(refused)) => Code::from_reason(&refused.reason),
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    async fn finish(mut self, end_group: u64) {
        let finish = wire::message(Kind::Finish, &Finish { end_group, ..Finish::default() }).expect("short enough");
        self.send.write_all(&finish).await.expect("written");
        // Answered by the end of the other side.
        assert!(self.control.next().await.is_none());
    }
}

/// Who watches a feed by hand.
struct Watcher {
    viewer: Viewer,
    _send: SendStream,
    control: Frames,
    first: u64,
}

impl Watcher {
    async fn open(node: &TestNode, start: FeedStart) -> Result<Self, Code> {
        let ticket = feed_ticket(node, Right::Watch, |_| {});
        let open = wire::message(Kind::Open, &Open { ticket, watch: Some(start), ..Open::default() });
        let viewer = node.viewer().await;
        // A client lets streams in once it watches.
        viewer.connection.set_max_concurrent_uni_streams(32_u32.into());
        let (send, receive) = viewer.send(&open.expect("short enough")).await;
        let mut control = Frames::new(receive);
        let first = setup(&mut control).await?.feed.expect("a feed's").first_group;
        Ok(Self { viewer, _send: send, control, first })
    }

    /// The next group: its number, its media, and whether it came to its end.
    async fn group(&self) -> (u64, String, bool) {
        let mut frames = Frames::new(self.viewer.connection.accept_uni().await.expect("a group"));
        let Some(Frame::FeedGroup(head)) = frames.next().await else { panic!("a group begins with its head") };
        let head = GroupHead::try_from(head).expect("a good head");
        let mut chain = Chain::begin(&Title::parse(NAME).expect("a title"), &head);
        let mut text = String::new();
        while let Some(Frame::Piece(piece)) = frames.next().await {
            chain.take(piece.flags, &piece.media).expect("a good piece");
            assert!(chain.is_signed(&signer().key(), &piece.signature), "an edge alters nothing");
            text += std::str::from_utf8(&piece.media).expect("text");
        }
        (head.sequence, text, chain.is_ended())
    }
}

/// Waits until the node's feed is so.
async fn until(node: &TestNode, what: &str, so: impl Fn(Option<&FeedState>) -> bool) {
    let seen = async {
        loop {
            if so(node.services.live.states().first()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap_or_else(|_| panic!("never came true: {what}"));
}

#[tokio::test]
async fn what_goes_in_comes_out_to_everyone_from_the_last_whole_group_on() {
    let node = TestNode::with(&[]).await;
    let mut publisher = Publisher::open(&node, |_| {}).await.expect("let in");
    assert_eq!(publisher.first, 100, "as its ticket says");
    publisher.whole(100).await;
    publisher.whole(101).await;
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
    assert_eq!(Publisher::open(&node, |_| {}).await.map(|publisher| publisher.first), Ok(100), "it may come again");
}

#[tokio::test]
async fn one_publisher_at_a_time() {
    let node = TestNode::with(&[]).await;
    let mut first = Publisher::open(&node, |_| {}).await.expect("let in");
    first.whole(100).await;
    let other = |grant: &mut FeedGrant| grant.publisher = PublisherId(2);
    assert_eq!(Publisher::open(&node, other).await.err(), Some(Code::Exists));
    let take_over = |grant: &mut FeedGrant| (grant.publisher, grant.take_over) = (PublisherId(2), true);
    let second = Publisher::open(&node, take_over).await.expect("taken over");
    assert_eq!((first.refused().await, second.first), (Code::Exists, 101));
    // One that comes back as itself takes its own place.
    let again = Publisher::open(&node, |grant| grant.publisher = PublisherId(2)).await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn a_group_that_is_sent_again_goes_on_where_it_was_cut() {
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
    let mut whole = again.begin(&frames).await;
    whole.finish().expect("finished");
    assert_eq!(watcher.group().await, (100, "abc".into(), true));
    // What differs from what is here is no group of this feed.
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
async fn what_is_not_signed_goes_no_further() {
    let node = TestNode::with(&[]).await;
    let mut publisher = Publisher::open(&node, |_| {}).await.expect("let in");
    publisher.whole(100).await;
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
async fn what_a_publisher_must_not_say() {
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
    // Nobody who does not publish may open a stream that nobody asked for.
    let opened = tokio::time::timeout(Duration::from_millis(200), viewer.connection.open_uni()).await;
    assert!(opened.is_err(), "it has no credit");
}

#[tokio::test]
async fn who_reads_nothing_is_skipped_ahead_and_nobody_else_misses_anything() {
    let node = TestNode::with(&[]).await;
    let mut publisher = Publisher::open(&node, |_| {}).await.expect("let in");
    publisher.whole(100).await;
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
    let Some(Frame::Skipped(skipped)) = slow.control.next().await else { panic!("not told") };
    assert!(skipped.first >= 100 && skipped.end > skipped.first && skipped.end <= 141, "{skipped:?}");
    assert!(node.services.live.bytes() <= 64 << 20, "the oldest went");
}

#[tokio::test]
async fn a_node_gets_a_feed_from_another_and_then_from_the_next() {
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
    publisher.whole(100).await;
    publisher.whole(101).await;
    // The second node has it from the first, and the edge from the second.
    second.services.live.ordered(relay(vec![seat(&origin, &|_| {})]));
    edge.services.live.ordered(relay(vec![seat(&second, &|_| {}), seat(&origin, &|_| {})]));
    let watcher = Watcher::open(&edge, FeedStart::default()).await.expect("let in");
    assert_eq!(watcher.group().await, (101, "101!".into(), true));
    publisher.whole(102).await;
    assert_eq!(watcher.group().await.0, 102);
    assert_eq!(second.services.live.states().first().map(|feed| (feed.relays, feed.viewers)), Some((1, 0)));
    // The second one dies: the edge goes on at the next that it was told of.
    second.server.close().await;
    publisher.whole(103).await;
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
async fn a_node_that_has_no_upstream_asks_for_one() {
    let node = TestNode::with(&[]).await;
    let live = Arc::clone(&node.services.live);
    let opening = tokio::spawn(async move { Watcher::open(&node, FeedStart::default()).await.map(|_| ()) });
    live.tells().await;
    let wanted = async {
        loop {
            if let Some(wanted) = live.take_wanted().pop() {
                return wanted;
            }
            tokio::task::yield_now().await;
        }
    };
    let wanted = tokio::time::timeout(Duration::from_secs(30), wanted).await.expect("asked for");
    assert_eq!((wanted.title.as_str(), wanted.failed.len()), (NAME, 0));
    let title = Title::parse(NAME).expect("a title");
    let gone = Err(Fault::new(Code::NotFound, "not on the air"));
    live.ordered(Relay { title, key: signer().key(), seats: gone, request_id: String::new() });
    assert_eq!(opening.await.expect("runs"), Err(Code::NotFound));
    assert!(live.states().is_empty());
}

#[tokio::test]
async fn a_draining_node_sends_publishers_elsewhere() {
    let node = TestNode::with(&[]).await;
    let mut publisher = Publisher::open(&node, |_| {}).await.expect("let in");
    publisher.whole(100).await;
    node.services.drain();
    assert_eq!(publisher.refused().await, Code::Draining);
    assert_eq!(Publisher::open(&node, |_| {}).await.err(), Some(Code::Draining));
}
