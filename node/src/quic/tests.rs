//! Sessions on loopback, with a real QUIC client. Waits for what happens, never for time.

mod hostile;
mod moves;
mod renew;

use std::{collections::HashSet, fs::File, net::Ipv4Addr, time::SystemTime};

use futures::future::join_all;
use quinn::{Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use usher_certs::{pin::PinnedVerifier, tls};
use usher_proto::{
    Bitrate, ContentId,
    model::SetupInfo,
    pb::{v1::ByteRange, wire::Open},
    ticket::{Key, Purpose},
    tree::{self, GROUP, PAGE},
    verify::{Step, Verifier},
    wire::{self, Decoder, Frame, Kind, MAX_OPEN, header},
};

use super::*;
use crate::{
    media::fixtures::{mp4, rot},
    test_node::{End, TestNode, Viewer, claims, open, receive, settings},
};

fn id(data: &[u8]) -> ContentId {
    tree::single(data)
}

fn range(start: u64, end: u64) -> Option<ByteRange> {
    Some(ByteRange { start, end })
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
        // A ticket from before it was hashed is as good.
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
async fn a_viewer_has_every_byte_however_few_it_takes_at_a_time() {
    let data = mp4(5, 4 * GROUP as usize + 3);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    // Less than is read at a time, about as much, and more.
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
    // Hashed meanwhile or not: the viewer checks what comes in either order.
    let got = viewer.play(&node.ticket("big.mp4", None), range(GROUP, 0)).await.expect("plays");
    assert!(got.data == data[GROUP as usize..] && got.content == id(&data));
    assert_eq!(node.context.library.stats().unhashed, 0);
}

#[tokio::test]
async fn only_a_good_ticket_opens() {
    let data = mp4(1, 3 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    node.context.meter().listen();
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
        assert_eq!(viewer.play(&ticket, range).await, Err(End::Refused(code)), "{what}");
    }
    let ticket = node.sign(&good);
    assert!(viewer.play(&ticket, None).await.is_ok());
    assert_eq!(viewer.play(&ticket, None).await, Err(End::Refused(Code::TicketReplayed)));
    // Refused or begun, whatever had a good signature is settled, once.
    node.context.idle().await;
    let mut settled = HashSet::new();
    let told = || node.context.meter().tell(std::time::Instant::now());
    while let Some(told) = told() {
        let ids = told.turned.iter().map(|turned| turned.session).chain(told.ended);
        ids.for_each(|id| assert!(settled.insert(id)));
    }
    assert_eq!(settled.len(), 4, "one that ended before it was told of is in no list");
}

#[tokio::test]
async fn a_ticket_shown_many_times_at_once_opens_one_session() {
    let data = mp4(1, 3 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let ticket = node.ticket("a.mp4", None);
    let ends = join_all((0..20).map(|_| viewer.play(&ticket, None))).await;
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
    assert_eq!(ends.iter().filter(|end| **end == Err(End::Refused(Code::TicketReplayed))).count(), 19);
}

#[tokio::test]
async fn a_bad_header_harms_nobody_else() {
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
        assert_eq!(receive(&mut stream).await, Err(End::Refused(Code::BadRequest)), "{what}");
    }
    // A client that resets its stream is told nothing, and nothing of it stays.
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
async fn a_client_that_says_nothing_is_told_so() {
    let quick = QuicSettings { open_timeout: Duration::from_millis(20), ..settings() };
    let node = TestNode::set(&[("a.mp4", &mp4(1, 9))], quick, Bitrate(1_000_000_000), true).await;
    let viewer = node.viewer().await;
    let (_send, mut stream) = viewer.send(&[1]).await;
    assert_eq!(receive(&mut stream).await, Err(End::Refused(Code::Timeout)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_videos_on_one_connection_and_one_that_stalls() {
    // More than a stream's window of the one that stalls.
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
    // The one that stalls goes on; the node hears a little later than the viewers that theirs are over.
    node.context.sessions().wait_for(|count| *count == 1).await.expect("the others end");
    assert!(receive(&mut stalled).await.expect("plays").data == long);
}

#[tokio::test]
async fn a_reader_who_takes_nothing_is_given_up() {
    let quick = QuicSettings { stall_timeout: Duration::from_millis(50), ..settings() };
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::set(&[("a.mp4", &data)], quick, Bitrate(100_000_000_000), true).await;
    let viewer = node.viewer().await;
    let mut stream = viewer.open(&node.ticket("a.mp4", None), None).await;
    let mut first = [0];
    stream.read_exact(&mut first).await.expect("something");
    node.context.idle().await;
    // What had arrived may be read; then comes the reset.
    let mut rest = vec![0; 100_000];
    let end = loop {
        match stream.read(&mut rest).await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end, Err(quinn::ReadError::Reset(code(Code::Timeout))));
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_session() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::set(&[("a.mp4", &data)], settings(), Bitrate(8_000_000), true).await;
    let viewer = node.viewer().await;
    // They wait for their readers and for the pacer: all of it takes 12 s at 1 MB/s.
    let mut fetch = claims("a.mp4", None);
    (fetch.purpose, fetch.rate) = (Purpose::Fetch, 8_000);
    let mut streams = Vec::new();
    for ticket in [node.ticket("a.mp4", None), node.sign(&fetch), node.ticket("a.mp4", None)] {
        let mut stream = viewer.open(&ticket, None).await;
        stream.read_exact(&mut [0]).await.expect("something");
        streams.push(stream);
    }
    assert_eq!(node.context.meter().sessions(), 3);
    for mut stream in streams.drain(..2) {
        stream.stop(0_u32.into()).expect("stopped");
    }
    let mut sessions = node.context.sessions();
    sessions.wait_for(|count| *count == 1).await.expect("two ended");
    viewer.connection.close(0_u32.into(), b"");
    node.context.idle().await;
}

#[tokio::test]
async fn a_certificate_changes_under_a_session() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let mut running = viewer.open(&node.ticket("a.mp4", None), None).await;
    running.read_exact(&mut [0; 5]).await.expect("the first header");
    let before = node.presence.subscribe().borrow().certificates.clone();
    // Half a life on the next is announced, at three quarters it is served.
    let deadline = node.presence.rotate(SystemTime::now());
    let deadline = node.presence.rotate(deadline);
    let announced = node.presence.subscribe().borrow().certificates.clone();
    node.presence.rotate(deadline);
    let after = node.presence.subscribe().borrow().certificates.clone();
    assert!(before.len() == 1 && announced.len() == 2 && announced[0] == before[0] && after[0] == announced[1]);
    assert!(after.contains(&before[0]), "a seat from just before is still announced");
    // The newest alone is served; the certificate is dated from its making on, which lies ahead of this test's clock.
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
async fn a_node_that_drains_finishes_what_runs() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let mut running = viewer.open(&node.ticket("a.mp4", None), None).await;
    let mut sessions = node.context.sessions();
    sessions.wait_for(|count| *count == 1).await.expect("it began");
    node.services.drain();
    assert_eq!(viewer.play(&node.ticket("a.mp4", None), None).await, Err(End::Refused(Code::Draining)));
    assert!(receive(&mut running).await.expect("goes on").data == data);
    node.context.idle().await;

    // Forced, the clients learn why.
    let node = TestNode::set(&[("a.mp4", &data)], settings(), Bitrate(8_000), true).await;
    let viewer = node.viewer().await;
    let mut fetch = claims("a.mp4", None);
    (fetch.purpose, fetch.rate) = (Purpose::Fetch, 8_000);
    let mut running = viewer.open(&node.sign(&fetch), None).await;
    running.read_exact(&mut [0]).await.expect("something");
    node.server.close().await;
    assert_eq!(receive(&mut running).await, Err(End::Reset(Code::Draining)));
    let end = viewer.connection.closed().await;
    let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
    assert_eq!(close.error_code, code(Code::Draining));
    assert_eq!(node.context.meter().sessions(), 0);
}

#[tokio::test]
async fn a_file_cut_under_a_session_ends_it_with_a_reason() {
    let data = mp4(1, 400 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let mut stream = viewer.open(&node.ticket("a.mp4", None), None).await;
    stream.read_exact(&mut [0]).await.expect("something");
    File::options().write(true).open(node.path("a.mp4")).expect("a file").set_len(GROUP).expect("cut");
    let mut buffer = vec![0; 100_000];
    let end = loop {
        match stream.read(&mut buffer).await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end, Err(quinn::ReadError::Reset(code(Code::ContentChanged))));
    node.context.idle().await;
}

#[tokio::test]
async fn a_file_that_is_found_damaged_ends_its_sessions_with_a_reason() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data), ("b.mp4", &data)]).await;
    let viewer = node.viewer().await;
    // Both wait for their readers.
    let mut stream = viewer.open(&node.ticket("a.mp4", None), None).await;
    let mut other = viewer.open(&node.ticket("b.mp4", None), None).await;
    let mut sessions = node.context.sessions();
    sessions.wait_for(|count| *count == 2).await.expect("both began");
    rot(&node.path("a.mp4"), 59 * GROUP);
    let title = usher_proto::Title::parse("a.mp4").expect("a title");
    assert_eq!(node.context.library.recheck(&title, id(&data)), 1);
    sessions.wait_for(|count| *count == 1).await.expect("one ended");
    let mut buffer = vec![0; 100_000];
    let end = loop {
        match stream.read(&mut buffer).await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end, Err(quinn::ReadError::Reset(code(Code::ContentChanged))));
    assert!(receive(&mut other).await.expect("plays").data == data);
    assert_eq!(viewer.play(&node.ticket("a.mp4", None), None).await, Err(End::Refused(Code::ContentChanged)));
}

#[tokio::test]
async fn what_does_not_speak_usher_is_not_let_in() {
    let node = TestNode::set(
        &[("a.mp4", &mp4(1, 9))],
        QuicSettings { max_connections: 1, ..settings() },
        Bitrate(1 << 30),
        true,
    )
    .await;
    let viewer = node.viewer().await;
    // The second connection of two is one too many.
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
    // Ten of them, where four fit.
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
    // Who leaves makes room.
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
    let quick = QuicSettings { unused: Duration::from_secs(2), ..settings() };
    let node = TestNode::set(&[("a.mp4", &data)], quick, Bitrate(100_000_000_000), true).await;
    let (viewer, idler) = (node.viewer().await, node.viewer().await);
    let mut stream = viewer.open(&node.ticket("a.mp4", None), None).await;
    stream.read_exact(&mut [0]).await.expect("something");
    // A stream on which no good ticket comes holds nothing.
    let (_send, _receive) = idler.send(&[1]).await;
    for viewer in [idler, viewer] {
        let end = viewer.connection.closed().await;
        let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
        assert_eq!((close.error_code, close.reason.as_ref()), (code(Code::Cancelled), &b"idle"[..]));
        // The session held its connection for as long as it ran.
        stream.stop(0_u32.into()).ok();
    }
}

/// Opens a session to which further ranges may be added: what to write them to, and what comes.
async fn open_for_more(node: &TestNode, viewer: &Viewer, wanted: Option<ByteRange>) -> (SendStream, RecvStream) {
    let open = Open { ticket: node.ticket("a.mp4", None), range: wanted, more: true, ..Open::default() };
    viewer.send(&wire::message(Kind::Open, &open).expect("short enough")).await
}

fn ask(start: u64, end: u64) -> bytes::Bytes {
    wire::message(Kind::Range, &ByteRange { start, end }).expect("short enough")
}

/// The frames until the stream ends.
async fn frames(stream: &mut RecvStream) -> Vec<Frame> {
    let all = stream.read_to_end(1 << 30).await.expect("an orderly end");
    let mut decoder = Decoder::default();
    decoder.push(&all);
    let frames = std::iter::from_fn(|| decoder.next_frame().expect("good frames")).collect();
    decoder.finish().expect("whole frames");
    frames
}

#[tokio::test]
async fn one_session_serves_range_after_range() {
    let data = mp4(5, (2 * PAGE + 3 * GROUP) as usize + 7);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let (mut send, mut receive) = open_for_more(&node, &viewer, range(0, GROUP)).await;
    // The end of the title, what lies over the edge of two pages, and one of them again.
    let ranges = [(2 * PAGE + GROUP, data.len() as u64), (PAGE - GROUP, PAGE + 2 * GROUP), (PAGE, PAGE + 1)];
    for (start, end) in ranges {
        send.write_all(&ask(start, end)).await.expect("sent");
    }
    send.finish().expect("finished");
    let mut frames = frames(&mut receive).await.into_iter();
    let Some(Frame::Setup(setup)) = frames.next() else { panic!("Setup comes first") };
    let mut verifier = Verifier::new(&SetupInfo::try_from(setup).expect("good"), Some(id(&data))).expect("good");
    for (start, end) in ranges {
        verifier.extend(start..end).expect("a good range");
    }
    let (mut got, mut done) = (Vec::new(), None);
    for frame in frames {
        match verifier.take(frame).expect("verified") {
            Step::Group(group) => got.push((group.index, group.data)),
            Step::Done(content) => done = Some(content),
            Step::More => {}
        }
    }
    let page = PAGE / GROUP;
    let indices: Vec<u64> = got.iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, [0, 2 * page + 1, 2 * page + 2, 2 * page + 3, page - 1, page, page + 1, page]);
    assert!(got.iter().all(|(index, group)| data[(index * GROUP) as usize..].starts_with(group)));
    assert_eq!(done, Some(id(&data)));
    node.context.idle().await;
}

#[tokio::test]
async fn wrong_ranges_are_refused_and_a_client_that_leaves_ends_the_session() {
    let data = mp4(5, 3 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let garbage = bytes::Bytes::from_static(&[Kind::Range as u8, 0, 0, 0, 1, 0xff]);
    let cut = ask(0, 1).slice(..3);
    for (asked, code) in [(ask(5, 5), Code::BadRange), (garbage, Code::BadRequest), (cut, Code::BadRequest)] {
        let (mut send, mut receive) = open_for_more(&node, &viewer, None).await;
        send.write_all(&asked).await.expect("sent");
        send.finish().expect("finished");
        let frames = frames(&mut receive).await;
        let Some(Frame::Refused(refused)) = frames.last() else { panic!("{:?}", frames.last()) };
        assert_eq!(Code::from_reason(&refused.reason), code);
    }
    let (mut send, mut receive) = open_for_more(&node, &viewer, None).await;
    receive.read_exact(&mut [0]).await.expect("something");
    send.reset(0_u32.into()).expect("reset");
    node.context.idle().await;
}

#[tokio::test]
async fn who_comes_back_opens_a_session_along_with_its_hello_and_nobody_can_say_it_again() {
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
    // What was sent early is worth nothing a second time.
    assert_eq!(again.play(&ticket, None).await, Err(End::Refused(Code::TicketReplayed)));
}
