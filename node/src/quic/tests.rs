//! Sessions on loopback, with a real QUIC client. Waits for conditions, never for a time.

mod endings;
mod hostile;
mod moves;
mod ranges;
mod renew;

use std::{collections::HashSet, net::Ipv4Addr, time::SystemTime};

use futures::future::join_all;
use quinn::{Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use usher_certs::{pin::PinnedVerifier, tls};
use usher_proto::{
    Bitrate, ContentId,
    pb::{v1::ByteRange, wire::Open},
    ticket::{Key, Purpose},
    tree::{self, GROUP, PAGE},
    wire::{self, Decoder, Frame, Kind, MAX_OPEN, header},
};

use super::*;
use crate::{
    media::fixtures::mp4,
    test_node::{SessionEnd, TestNode, Viewer, claims, open, receive, settings},
};

fn id(data: &[u8]) -> ContentId {
    tree::single(data)
}

fn range(start: u64, end: u64) -> Option<ByteRange> {
    Some(ByteRange { start, end })
}

/// All frames until the stream ends.
async fn frames(stream: &mut RecvStream) -> Vec<Frame> {
    let all = stream.read_to_end(1 << 30).await.expect("an orderly end");
    let mut decoder = Decoder::default();
    decoder.push(&all);
    let frames = std::iter::from_fn(|| decoder.next_frame().expect("good frames")).collect();
    decoder.finish().expect("whole frames");
    frames
}

#[tokio::test]
async fn titles_of_every_shape_arrive_verified() {
    let files = [
        ("group.mp4", mp4(1, 500)),
        ("page.mp4", mp4(2, 5 * GROUP as usize + 7)),
        ("pages.mp4", mp4(3, (PAGE + 9 * GROUP) as usize + 11)),
    ];
    let named: Vec<(&str, &[u8])> = files.iter().map(|(name, data)| (*name, data.as_slice())).collect();
    let node = TestNode::with(&named).await;
    let viewer = node.viewer().await;
    for (name, data) in &files {
        let content = id(data);
        let got = viewer.play(&node.ticket(name, Some(content)), None).await.expect("plays");
        assert!(got.data == *data && got.content == content, "{name}");
        assert_eq!((got.setup.title.as_str(), got.setup.size), (*name, data.len() as u64));
        // A ticket from before the title was hashed is valid too.
        let got = viewer.play(&node.ticket(name, None), range(0, 1)).await.expect("plays");
        assert_eq!(got.data, data[..data.len().min(GROUP as usize)]);
    }
    let data = &files[2].1;
    let got = viewer.play(&node.ticket("pages.mp4", Some(id(data))), range(PAGE - 1, PAGE + 1)).await.expect("plays");
    assert_eq!(got.setup.range, range(PAGE - GROUP, PAGE + GROUP));
    assert!(got.data == data[(PAGE - GROUP) as usize..(PAGE + GROUP) as usize]);
    node.context.idle().await;
    let sent: usize = files.iter().map(|(_, data)| data.len()).sum();
    assert!(node.context.meter().sent_bytes() > sent as u64);
    assert_eq!(node.context.meter().sessions(), 0);
}

#[tokio::test]
async fn a_viewer_receives_every_byte_with_any_window() {
    let data = mp4(5, 4 * GROUP as usize + 3);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    // Less than one read, about as much, and more.
    for window in [700, 5_000, 33_000, 200_000] {
        let viewer = node.sipping(window).await;
        let mut claims = claims("a.mp4", Some(id(&data)));
        (claims.purpose, claims.rate) = (Purpose::Play, 100_000_000);
        let got = viewer.play(&node.sign(&claims), None).await.expect("plays");
        assert!(got.data == data, "{window}");
    }
    node.context.idle().await;
    assert_eq!(node.context.viewers.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_title_is_served_before_it_is_hashed() {
    let data = mp4(4, (PAGE + 3 * GROUP) as usize + 1);
    let node = TestNode::set(&[("big.mp4", &data)], settings(), Bitrate(100_000_000_000), false).await;
    let viewer = node.viewer().await;
    // Hashed meanwhile or not: the viewer accepts either order of frames.
    let got = viewer.play(&node.ticket("big.mp4", None), range(GROUP, 0)).await.expect("plays");
    assert!(got.data == data[GROUP as usize..] && got.content == id(&data));
    assert_eq!(node.context.library.stats().unhashed, 0);
}

#[tokio::test]
async fn only_a_valid_ticket_opens_a_session() {
    let data = mp4(1, 3 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    node.context.meter().handle_attached();
    let viewer = node.viewer().await;
    let good = claims("a.mp4", Some(id(&data)));
    let expired = |mut claims: usher_proto::ticket::Claims| {
        (claims.nbf, claims.exp) = (claims.nbf - 200, claims.exp - 140);
        node.sign(&claims)
    };
    let mut altered = node.sign(&good);
    altered.replace_range(altered.len() - 4..altered.len() - 2, if altered.contains("AA") { "BB" } else { "AA" });
    let with = |change: fn(&mut usher_proto::ticket::Claims)| {
        let mut claims = claims("a.mp4", Some(id(&data)));
        change(&mut claims);
        node.sign(&claims)
    };
    let table = [
        ("altered", altered, None, Code::TicketInvalid),
        ("other key", Key::new([6; 32]).sign(&good).expect("signs"), None, Code::TicketInvalid),
        ("none", String::new(), None, Code::TicketInvalid),
        ("expired", expired(good.clone()), None, Code::TicketExpired),
        ("other node", with(|claims| claims.aud = "node-2".into()), None, Code::TicketMismatch),
        ("other title", node.ticket("b.mp4", None), None, Code::ContentChanged),
        ("other content", node.ticket("a.mp4", Some(ContentId([1; 32]))), None, Code::ContentChanged),
        ("outside the title", with(|_| {}), range(1 << 30, 0), Code::BadRange),
        ("outside the ticket", with(|claims| claims.end = Some(5)), range(GROUP, 0), Code::TicketMismatch),
    ];
    for (what, ticket, range, code) in table {
        assert_eq!(viewer.play(&ticket, range).await, Err(SessionEnd::Refused(code)), "{what}");
    }
    let ticket = node.sign(&good);
    assert!(viewer.play(&ticket, None).await.is_ok());
    assert_eq!(viewer.play(&ticket, None).await, Err(SessionEnd::Refused(Code::TicketReplayed)));
    // Each ticket with a valid signature is settled once, refused or started.
    node.context.idle().await;
    let mut settled = HashSet::new();
    let told = || node.context.meter().poll_sessions(std::time::Instant::now());
    while let Some(told) = told() {
        let ids = told.turned.iter().map(|turned| turned.session).chain(told.ended);
        ids.for_each(|id| assert!(settled.insert(id)));
    }
    assert_eq!(settled.len(), 4, "a session that ended before it was reported is in no list");
}

#[tokio::test]
async fn a_ticket_shown_many_times_at_once_opens_one_session() {
    let data = mp4(1, 3 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let ticket = node.ticket("a.mp4", None);
    let ends = join_all((0..20).map(|_| viewer.play(&ticket, None))).await;
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
    assert_eq!(ends.iter().filter(|end| **end == Err(SessionEnd::Refused(Code::TicketReplayed))).count(), 19);
}

#[tokio::test]
async fn a_bad_header_does_not_affect_other_sessions() {
    let data = mp4(1, 40 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let mut other = viewer.open(&node.ticket("a.mp4", None), None).await;
    let good = open(&node.ticket("a.mp4", None), None);
    let oversized = [&[1][..], &(MAX_OPEN as u32 + 1).to_be_bytes(), &[0; 64]].concat();
    let undecodable = [&header(usher_proto::wire::Kind::Open, 9)[..], &[0xff; 9]].concat();
    for (what, bytes) in [
        ("garbage", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("nothing", Vec::new()),
        ("truncated", good[..good.len() - 1].to_vec()),
        ("truncated in the length", good[..3].to_vec()),
        ("oversized", oversized),
        ("undecodable", undecodable),
        ("another frame", header(usher_proto::wire::Kind::Group, 65536).to_vec()),
        ("an undecodable renewal", [&header(usher_proto::wire::Kind::Renew, 9)[..], &[0xff; 9]].concat()),
    ] {
        let (mut send, mut stream) = viewer.send(&bytes).await;
        send.finish().expect("finished");
        assert_eq!(receive(&mut stream).await, Err(SessionEnd::Refused(Code::BadRequest)), "{what}");
    }
    // A client that resets its stream receives nothing, and leaves nothing behind.
    let (mut send, _stream) = viewer.send(&good[..9]).await;
    send.reset(0_u32.into()).expect("reset");
    assert!(receive(&mut other).await.expect("plays").data == data);

    let (mut send, mut stream) = viewer.connection.open_bi().await.expect("a stream");
    for byte in &good {
        send.write_all(&[*byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    assert!(receive(&mut stream).await.expect("plays, byte by byte").data == data);
}

#[tokio::test]
async fn a_silent_client_is_refused_with_a_timeout() {
    let quick = QuicSettings { open_timeout: Duration::from_millis(20), ..settings() };
    let node = TestNode::set(&[("a.mp4", &mp4(1, 9))], quick, Bitrate(1_000_000_000), true).await;
    let viewer = node.viewer().await;
    let (_send, mut stream) = viewer.send(&[1]).await;
    assert_eq!(receive(&mut stream).await, Err(SessionEnd::Refused(Code::Timeout)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_videos_on_one_connection_and_one_that_stalls() {
    // More than the stream window of the stalled session.
    let (data, long) = (mp4(1, 8 * GROUP as usize), mp4(2, 40 * GROUP as usize));
    let node = TestNode::with(&[("a.mp4", &data), ("long.mp4", &long)]).await;
    let viewer = node.viewer().await;
    let mut stalled = viewer.open(&node.ticket("long.mp4", None), None).await;
    let tickets: Vec<String> = (0..100)
        .map(|i| {
            let mut claims = claims("a.mp4", Some(id(&data)));
            claims.purpose = if i % 2 == 0 { Purpose::Play } else { Purpose::Fetch };
            node.sign(&claims)
        })
        .collect();
    for got in join_all(tickets.iter().map(|ticket| viewer.play(ticket, None))).await {
        assert!(got.expect("plays").data == data);
    }
    // The stalled session continues; the node learns a little later than the viewers that the others are over.
    node.context.sessions().wait_for(|count| *count == 1).await.expect("the others end");
    assert!(receive(&mut stalled).await.expect("plays").data == long);
}

#[tokio::test]
async fn a_certificate_changes_under_a_session() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let mut running = viewer.open(&node.ticket("a.mp4", None), None).await;
    running.read_exact(&mut [0; 5]).await.expect("the first header");
    let before = node.presence.subscribe().borrow().certificates.clone();
    // After half of a lifetime the next certificate is announced, after three quarters it is served.
    let deadline = node.presence.rotate(SystemTime::now());
    let deadline = node.presence.rotate(deadline);
    let announced = node.presence.subscribe().borrow().certificates.clone();
    node.presence.rotate(deadline);
    let after = node.presence.subscribe().borrow().certificates.clone();
    assert!(before.len() == 1 && announced.len() == 2 && announced[0] == before[0] && after[0] == announced[1]);
    assert!(after.contains(&before[0]), "a seat from just before is still announced");
    // Only the newest is served; it is dated from its creation, which lies ahead of the clock of this test.
    let served = node.presence.resolver().current();
    assert_eq!(usher_certs::pin::sha256(&served.cert[0]), after[0]);
    let mut rest = Vec::new();
    let mut buffer = vec![0; 100_000];
    while let Some(read) = running.read(&mut buffer).await.expect("the session goes on") {
        rest.extend_from_slice(&buffer[..read]);
    }
    assert!(rest.len() > data.len());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused() {
    let node = TestNode::with_connections(&[("a.mp4", &mp4(1, 9))], 1, settings()).await;
    let viewer = node.viewer().await;
    while node.services.budgets.has_connections() {
        tokio::task::yield_now().await;
    }
    // The second of two connections exceeds the limit.
    let pins = node.presence.subscribe().borrow().certificates.clone();
    let other = tokio::spawn(Viewer::dial(node.address, pins));
    assert!(other.await.is_err_and(|error| error.is_panic()));
    assert!(viewer.play(&node.ticket("a.mp4", None), None).await.is_ok());
    // The port is in use.
    let error = usher_transport::bind(node.address).expect_err("in use").to_string();
    assert!(error.contains(&node.address.to_string()) && error.contains("in use"), "{error}");
    assert!(usher_transport::bind((Ipv4Addr::LOCALHOST, 0).into()).is_ok());
}

#[tokio::test]
async fn tickets_shown_at_once_never_exceed_the_capacity() {
    // Ten tickets, where four sessions fit.
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::set(&[("a.mp4", &data)], settings(), Bitrate(4_000_000), true).await;
    let viewer = node.viewer().await;
    let tickets: Vec<String> = (0..10).map(|_| node.ticket("a.mp4", None)).collect();
    let shown = join_all(tickets.iter().map(|ticket| async {
        let mut stream = viewer.open(ticket, None).await;
        let mut kind = [0];
        stream.read_exact(&mut kind).await.expect("an answer");
        (kind[0] == wire::Kind::Setup as u8, stream)
    }));
    let shown = shown.await;
    assert_eq!(shown.iter().filter(|(admitted, _)| *admitted).count(), 4);
    assert_eq!(node.context.meter().sessions(), 4);
    // Sessions that end make room.
    drop(shown);
    node.context.idle().await;
    let mut stream = viewer.open(&node.ticket("a.mp4", None), None).await;
    let mut kind = [0];
    stream.read_exact(&mut kind).await.expect("an answer");
    assert_eq!(kind[0], wire::Kind::Setup as u8);
}

#[tokio::test]
async fn a_connection_without_sessions_is_closed() {
    let data = mp4(1, 60 * GROUP as usize);
    let patience = Duration::from_secs(2);
    let quick = QuicSettings { never_used: patience, unused: patience, ..settings() };
    let node = TestNode::set(&[("a.mp4", &data)], quick, Bitrate(100_000_000_000), true).await;
    let (viewer, idler) = (node.viewer().await, node.viewer().await);
    let mut stream = viewer.open(&node.ticket("a.mp4", None), None).await;
    stream.read_exact(&mut [0]).await.expect("something");
    // A stream without a valid ticket does not keep the connection open.
    let (_send, _receive) = idler.send(&[1]).await;
    for viewer in [idler, viewer] {
        let end = viewer.connection.closed().await;
        let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
        assert_eq!((close.error_code, close.reason.as_ref()), (code(Code::Cancelled), &b"idle"[..]));
        // The session held its connection while it was active.
        stream.stop(0_u32.into()).ok();
    }
}

#[tokio::test]
async fn a_returning_client_opens_a_session_in_early_data_which_cannot_be_replayed() {
    let data = mp4(1, 3 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let pins = node.presence.subscribe().borrow().certificates.clone();
    let config = tls::media_client_config(PinnedVerifier::new(pins)).expect("TLS");
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("TLS for QUIC")));
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let dial = || endpoint.connect_with(config.clone(), node.address, "node").expect("can be dialled");
    let first = Viewer { connection: dial().into_0rtt().err().expect("nothing is known yet").await.expect("connects") };
    assert_eq!(first.play(&node.ticket("a.mp4", None), None).await.expect("plays").data, data);
    first.connection.close(0_u32.into(), b"");

    let ticket = node.ticket("a.mp4", None);
    let (connection, accepted) = dial().into_0rtt().expect("known");
    let again = Viewer { connection };
    let mut stream = again.open(&ticket, None).await;
    assert!(accepted.await, "taken before the handshake was over");
    assert_eq!(receive(&mut stream).await.expect("plays").data, data);
    // Early data is worth nothing a second time.
    assert_eq!(again.play(&ticket, None).await, Err(SessionEnd::Refused(Code::TicketReplayed)));
}
