//! Hostile and broken clients: none delays another, or gets more than its share.

use std::net::SocketAddr;

use futures::{FutureExt as _, future::join_all};
use quinn::{ClientConfig, VarInt, crypto::rustls::QuicClientConfig};
use tokio::net::UdpSocket;
use usher_certs::{pin::PinnedVerifier, tls};
use usher_hostile::{HalfOpen, half_open::Answer};

use super::*;
use crate::budgets;

/// Bytes that the client that never reads accepts, on all of its streams together.
const WINDOW: u32 = 1 << 20;

/// Buffer for the longest datagram that quinn probes for.
const DATAGRAM: usize = 2000;

/// A client configuration for this node.
fn client(node: &TestNode, transport: TransportConfig) -> ClientConfig {
    let pins = node.presence.subscribe().borrow().certificates.clone();
    let tls = tls::media_client_config(PinnedVerifier::new(pins)).expect("TLS");
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS for QUIC")));
    config.transport_config(Arc::new(transport));
    config
}

fn endpoint() -> Endpoint {
    Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_holds_little_and_delays_nobody() {
    let data = mp4(1, 40 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let mut transport = TransportConfig::default();
    transport.receive_window(WINDOW.into());
    let dialled = endpoint().connect_with(client(&node, transport), node.address, "node").expect("can be dialled");
    let idle = Viewer { connection: dialled.await.expect("a connection") };
    let mut unread = Vec::new();
    for _ in 0..50 {
        unread.push(idle.open(&node.ticket("a.mp4", None), None).await);
    }
    let mut sessions = node.context.sessions();
    sessions.wait_for(|count| *count == 50).await.expect("all began");
    let viewer = node.viewer().await;
    assert!(viewer.play(&node.ticket("a.mp4", None), None).await.expect("plays").data == data);
    // 130 MB wait for the client that does not read. Only its window is sent, beside the bytes of the viewer and 1 %
    // for hashes and headers.
    let played = (data.len() + data.len() / 100) as u64;
    let sent = node.context.meter().sent_bytes();
    assert!(sent <= u64::from(WINDOW) + played, "{sent} bytes for a stalled reader and one of {}", data.len());
    // The session of the viewer is active until its last acknowledgement.
    sessions.wait_for(|count| *count == 50).await.expect("it ended");
    assert_eq!(node.context.meter().sessions(), 50);
    idle.connection.close(VarInt::from_u32(0), b"");
    node.context.idle().await;
}

#[tokio::test]
async fn ten_thousand_streams_never_exceed_the_limit() {
    let data = mp4(1, 3 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let (greedy, viewer) = (node.viewer().await, node.viewer().await);
    // A client that opened too many streams would lose its connection (RFC 9000, section 4.6).
    let mut held = Vec::new();
    for _ in 0..10_000 {
        // The first few at once, and the others when the node has raised the limit.
        let stream = match greedy.connection.open_bi().now_or_never() {
            Some(stream) => stream,
            None if held.len() < MAX_STREAMS as usize => greedy.connection.open_bi().await,
            None => continue,
        };
        let (mut send, receive) = stream.expect("a connection");
        send.write_all(&[1]).await.expect("sent");
        held.push((send, receive));
    }
    assert_eq!(held.len(), MAX_STREAMS as usize);
    assert!(viewer.play(&node.ticket("a.mp4", None), None).await.expect("plays").data == data);
    // Sessions that end make room for as many, which the client learns by the dozen.
    for (mut send, mut receive) in held.split_off(held.len() / 2) {
        send.finish().expect("finished");
        assert_eq!(super::receive(&mut receive).await, Err(SessionEnd::Refused(Code::BadRequest)));
    }
    let mut more = vec![greedy.connection.open_bi().await.expect("a stream")];
    more.extend(
        (0..10_000).map_while(|_| greedy.connection.open_bi().now_or_never()).map(|stream| stream.expect("one")),
    );
    assert!(held.len() + more.len() <= MAX_STREAMS as usize, "{} beside {}", more.len(), held.len());
    assert_eq!(node.context.meter().sessions(), 0);
}

#[tokio::test]
async fn endless_headers_time_out() {
    let data = mp4(1, 3 * GROUP as usize);
    let quick = QuicSettings { open_timeout: Duration::from_millis(100), ..settings() };
    let node = TestNode::set(&[("a.mp4", &data)], quick, Bitrate(100_000_000_000), true).await;
    let (slow, viewer) = (node.viewer().await, node.viewer().await);
    let whole = open(&node.ticket("a.mp4", None), None);
    let ends = join_all((0..MAX_STREAMS).map(|_| async {
        let (mut send, mut receive) = slow.connection.open_bi().await.expect("a stream");
        // Each byte is in time; all of them would take far longer than the limit.
        let drip = async {
            for byte in &whole {
                if send.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            end = super::receive(&mut receive) => end,
            () = drip => unreachable!("it drips for ever"),
        }
    }));
    let ticket = node.ticket("a.mp4", None);
    let (ends, played) = tokio::join!(ends, viewer.play(&ticket, None));
    assert!(ends.iter().all(|end| *end == Err(SessionEnd::Refused(Code::Timeout))), "{ends:?}");
    assert!(played.expect("plays").data == data);
}

#[tokio::test]
async fn thousands_of_ranges_get_their_bytes_or_a_refusal() {
    let data = mp4(1, 2 * GROUP as usize + 9);
    let size = data.len() as u64;
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let edges = [0, 1, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP, size - 1, size, size + 1, u64::MAX - 1, u64::MAX];
    let pairs = edges.iter().flat_map(|start| edges.iter().map(move |end| (*start, *end)));
    // A byte by itself, then a range that overlaps the one before, throughout the title.
    let bytes = (0..size).step_by(300).flat_map(|at| [(at, at + 1), (at.saturating_sub(299), (at + 299).min(size))]);
    let ranges: Vec<(u64, u64)> = pairs.chain(bytes).collect();
    assert!(ranges.len() > 900, "{}", ranges.len());
    for some in ranges.chunks(64) {
        let got = join_all(some.iter().map(async |(start, end)| {
            let ticket = node.ticket("a.mp4", None);
            viewer.play(&ticket, range(*start, *end)).await
        }));
        for ((start, end), got) in some.iter().zip(got.await) {
            // An end of 0, or beyond that of the title, means the end of the title; whole groups are sent.
            let last = if *end == 0 { size } else { size.min(*end) };
            let due = if *start >= last {
                Err(SessionEnd::Refused(Code::BadRange))
            } else {
                Ok(&data[(start / GROUP * GROUP) as usize..last.next_multiple_of(GROUP).min(size) as usize])
            };
            let got = got.as_ref().map(|got| got.data.as_slice());
            assert!(got == due.as_ref().copied(), "{start}-{end}: {:?}", got.map(<[u8]>::len));
        }
    }
    node.context.idle().await;
}

/// The first datagram of a dialling client, taken before it reaches the node.
async fn first_datagram(node: &TestNode) -> Vec<u8> {
    let trap = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let to: SocketAddr = trap.local_addr().expect("bound");
    let client = endpoint();
    let dialling = client.connect_with(client_config(node), to, "node").expect("can be dialled");
    let mut datagram = vec![0; DATAGRAM];
    let taken = tokio::select! {
        taken = trap.recv(&mut datagram) => taken.expect("a datagram"),
        end = dialling => panic!("an answer from nowhere: {end:?}"),
    };
    datagram.truncate(taken);
    datagram
}

fn client_config(node: &TestNode) -> ClientConfig {
    client(node, TransportConfig::default())
}

/// Whether a datagram begins with a Retry packet (RFC 9000, sections 17.2 and 17.2.5).
fn is_retry(datagram: &[u8]) -> bool {
    datagram[0] & 0b1011_0000 == 0b1011_0000
}

#[tokio::test]
async fn an_unverified_address_must_prove_itself_under_load() {
    let data = mp4(1, 3 * GROUP as usize);
    // None of the forged handshakes ends by itself.
    let patient = QuicSettings { handshake_timeout: Duration::from_secs(300), ..settings() };
    let node = TestNode::set(&[("a.mp4", &data)], patient, Bitrate(100_000_000_000), true).await;
    // Each dials and never answers, like a client with a forged address.
    let mut begun = 0;
    let retry = loop {
        let forged = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        forged.send_to(&first_datagram(&node).await, node.address).await.expect("sent");
        let mut answer = vec![0; DATAGRAM];
        let len = forged.recv(&mut answer).await.expect("an answer");
        answer.truncate(len);
        if is_retry(&answer) {
            break answer;
        }
        begun += 1;
        assert!(begun < budgets::HANDSHAKES, "handshakes are begun for anyone");
    };
    assert!(begun >= 16, "a few honest clients at once are not sent round: {begun}");
    assert!(retry.len() < 400, "an answer to a forged source is short: {} bytes", retry.len());
    // A client that answers is admitted all the same.
    let viewer = node.viewer().await;
    assert!(viewer.play(&node.ticket("a.mp4", None), None).await.expect("plays").data == data);
}

/// The source address of attackers; clients are at another.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test]
async fn a_handshake_that_is_not_finished_gives_its_place_back() {
    let quick = QuicSettings { handshake_timeout: Duration::from_millis(100), ..settings() };
    let node = TestNode::set(&[("a.mp4", &mp4(1, 9))], quick, Bitrate(1 << 30), true).await;
    let pins = node.presence.subscribe().borrow().certificates.clone();
    let address = node.address;
    let begun = tokio::task::spawn_blocking(move || {
        let mut half_open = HalfOpen::new(ATTACKER, address, pins).expect("a socket");
        (0..100).filter(|_| half_open.begin().expect("a socket") == Answer::Begun).count()
    });
    assert!(begun.await.expect("it attacks") > 0);
    while node.services.budgets.handshakes() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_network_has_its_share_of_the_connections() {
    let node = TestNode::with_connections(&[("a.mp4", &mp4(1, 9))], 40, settings()).await;
    let endpoint = Endpoint::client((ATTACKER, 0).into()).expect("a socket");
    let mut held = Vec::new();
    let refused = loop {
        let dialled = endpoint.connect_with(client_config(&node), node.address, "node").expect("can be dialled");
        let viewer = Viewer { connection: dialled.await.expect("a handshake") };
        let ticket = node.ticket("a.mp4", None);
        tokio::select! {
            biased;
            end = viewer.connection.closed() => break end,
            played = viewer.play(&ticket, None) => assert!(played.is_ok(), "{played:?}"),
        }
        held.push(viewer);
        assert!(held.len() < 40, "it has them all");
    };
    let quinn::ConnectionError::ApplicationClosed(close) = refused else { panic!("{refused}") };
    assert_eq!((held.len(), close.error_code), (30, code(Code::BudgetExceeded)));
    assert_eq!(node.services.budgets.refusals().connections, 1);
    assert!(node.viewer().await.play(&node.ticket("a.mp4", None), None).await.is_ok(), "another network");
    // A connection that ends makes room.
    let ended = held.swap_remove(0);
    ended.connection.close(VarInt::from_u32(0), b"");
    drop(ended);
    while node.services.budgets.connection(node.services.budgets.prefix(ATTACKER.into())).is_err() {
        tokio::task::yield_now().await;
    }
}
