//! Nodes of the tests that receive feeds over loopback.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig, VarInt, crypto::rustls::QuicServerConfig};
use tokio::sync::{Notify, Semaphore};
use usher_certs::media::{MediaCertResolver, MediaCertificate};
use usher_proto::{
    Code, Fault, Title,
    feed::{Chain, FeedKey, FeedSigner, GroupHead},
    pb::{
        v1,
        wire::{FeedOffer, Open},
    },
    wire::{self, Decoder, Frame, Kind},
};

use super::master::TestSeat;

/// Seed of the feed key that the master of the tests issues.
pub(super) const SEED: [u8; 32] = [9; 32];

/// Number of the first group at nodes of the tests.
pub(super) const FIRST: u64 = 1000;

pub(super) fn key() -> FeedKey {
    FeedSigner::from_seed(&SEED).key()
}

/// Behaviour of a node towards a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IngestBehaviour {
    /// Receives every group.
    Takes,
    /// Receives this many complete groups, then reads and acknowledges nothing.
    Deaf(usize),
    /// Refuses the session.
    Refuses(Code),
    /// Refuses once this many groups are complete.
    Ends(usize, Code),
    /// Moves the publisher to `next` once this many groups are complete.
    Moves(usize),
    /// Stops every stream at its first byte.
    Stops,
}

/// A received group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReceivedGroup {
    pub(super) head: GroupHead,
    pub(super) media: Vec<u8>,
    pub(super) ended: bool,
}

/// Groups and sessions received by a node.
#[derive(Default)]
pub(super) struct Received {
    /// By their numbers; a group that is received again counts once, and must be the same.
    pub(super) groups: Mutex<BTreeMap<u64, ReceivedGroup>>,
    /// Group numbers of streams, in the order in which they began.
    pub(super) streams: Mutex<Vec<u64>>,
    pub(super) offers: Mutex<Vec<FeedOffer>>,
    pub(super) tickets: Mutex<Vec<String>>,
    /// Number of sessions in which the publisher ended the feed.
    pub(super) finished: AtomicUsize,
    /// Groups being received now, and the most at any time.
    pub(super) in_flight: Mutex<(usize, usize)>,
    /// Notified of every change of the above.
    pub(super) news: Notify,
    connections: Mutex<Vec<Connection>>,
    next: Mutex<Option<v1::Seat>>,
    /// Lets a deaf node read.
    pub(super) gate: Gate,
}

/// A semaphore without permits.
pub(super) struct Gate(pub(super) Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Received {
    /// Complete groups.
    pub(super) fn whole(&self) -> Vec<ReceivedGroup> {
        self.groups.lock().expect("not poisoned").values().filter(|group| group.ended).cloned().collect()
    }

    /// Waits until `holds` returns true.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let news = self.news.notified();
                if holds(self) {
                    return;
                }
                news.await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{what}"));
    }

    /// Closes all connections, as when the process dies.
    pub(super) fn die(&self, endpoint: &Endpoint) {
        endpoint.close(VarInt::from_u32(Code::Unavailable.quic()), b"gone");
    }

    fn ended(&self) -> usize {
        self.groups.lock().expect("not poisoned").values().filter(|group| group.ended).count()
    }
}

/// Counts a group that is being received.
struct InFlight<'a>(&'a Received);

impl<'a> InFlight<'a> {
    fn new(received: &'a Received) -> Self {
        let (now, most) = &mut *received.in_flight.lock().expect("not poisoned");
        *now += 1;
        *most = (*most).max(*now);
        Self(received)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.lock().expect("not poisoned").0 -= 1;
    }
}

/// A node that receives feeds.
pub(super) struct IngestNode {
    pub(super) name: String,
    pub(super) received: Arc<Received>,
    pub(super) address: std::net::SocketAddr,
    pin: [u8; 32],
    pub(super) endpoint: Endpoint,
}

impl Drop for IngestNode {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

impl From<&IngestNode> for TestSeat {
    fn from(node: &IngestNode) -> Self {
        Self { node: node.name.clone(), addresses: vec![node.address.to_string()], pin: node.pin }
    }
}

impl IngestNode {
    pub(super) fn start(name: &str, behaviour: IngestBehaviour) -> Self {
        let certificate =
            MediaCertificate::generate(name, Duration::from_secs(3600), SystemTime::now()).expect("makes");
        let tls = usher_certs::tls::media_server_config(MediaCertResolver::new(certificate.certified_key()));
        let quic = QuicServerConfig::try_from(tls.expect("TLS 1.3")).expect("TLS 1.3");
        let mut config = ServerConfig::with_crypto(Arc::new(quic));
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_uni_streams(VarInt::from_u32(64)).initial_rtt(usher_transport::INITIAL_RTT);
        if matches!(behaviour, IngestBehaviour::Deaf(_)) {
            // Unread bytes are acknowledged too, up to the window.
            transport.stream_receive_window(VarInt::from_u32(16 * 1024));
        }
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().expect("an address")).expect("binds");
        let received = Arc::new(Received::default());
        let node = Self {
            name: name.to_owned(),
            received: received.clone(),
            address: endpoint.local_addr().expect("bound"),
            pin: certificate.sha256,
            endpoint: endpoint.clone(),
        };
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let received = received.clone();
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    received.connections.lock().expect("not poisoned").push(connection.clone());
                    while let Ok((send, recv)) = connection.accept_bi().await {
                        let (connection, received) = (connection.clone(), received.clone());
                        // A publisher that leaves early is part of some tests.
                        tokio::spawn(async move {
                            let _gone = session(connection, send, recv, received, behaviour).await;
                        });
                    }
                });
            }
        });
        node
    }

    /// Moves publishers to this seat.
    pub(super) fn sends_to(&self, seat: v1::Seat) {
        *self.received.next.lock().expect("not poisoned") = Some(seat);
    }
}

/// The next frame of a stream; `None` at its end or failure.
async fn next(recv: &mut RecvStream, decoder: &mut Decoder) -> Option<Frame> {
    loop {
        if let Some(frame) = decoder.next_frame().expect("good frames") {
            return Some(frame);
        }
        let chunk = recv.read_chunk(usize::MAX, true).await.ok()??;
        decoder.push_chunk(chunk.bytes);
    }
}

async fn session(
    connection: Connection,
    mut send: SendStream,
    mut recv: RecvStream,
    received: Arc<Received>,
    behaviour: IngestBehaviour,
) -> Option<()> {
    let mut decoder = Decoder::default();
    let open: Open = match next(&mut recv, &mut decoder).await? {
        Frame::Open(open) => open,
        other => panic!("{other:?} comes first"),
    };
    received.tickets.lock().expect("not poisoned").push(open.ticket.clone());
    let offer = open.publish.expect("it publishes");
    if let IngestBehaviour::Refuses(code) = behaviour {
        send.write_all(&wire::refused(&Fault::new(code, "not here"))).await.ok()?;
        return send.finish().ok();
    }
    let known = received.groups.lock().expect("not poisoned").keys().last().copied();
    let feed =
        v1::FeedSetup { subscription: 5, first_group: known.map_or(FIRST, |number| number + 1), ..Default::default() };
    let setup = v1::Setup {
        title: open.ticket.clone(),
        media_type: offer.media_type.clone(),
        feed: Some(feed),
        ..v1::Setup::default()
    };
    received.offers.lock().expect("not poisoned").push(offer);
    received.news.notify_waiters();
    send.write_all(&wire::message(Kind::Setup, &setup).expect("short")).await.ok()?;
    let title = Title::parse(&open.ticket).expect("the ticket is the title");
    let groups = async {
        while let Ok(stream) = connection.accept_uni().await {
            let (received, title) = (received.clone(), title.clone());
            tokio::spawn(async move {
                let _gone = group(stream, &title, &received, behaviour).await;
            });
        }
    };
    let end = async {
        match behaviour {
            IngestBehaviour::Ends(count, code) => {
                received.until("as many groups", |received| received.ended() >= count).await;
                send.write_all(&wire::refused(&Fault::new(code, "no more"))).await.ok()?;
                send.finish().ok()
            }
            IngestBehaviour::Moves(count) => {
                received.until("as many groups", |received| received.ended() >= count).await;
                let seat = received.next.lock().expect("not poisoned").clone();
                let moved = usher_proto::pb::wire::Moved { seat, until: 0 };
                send.write_all(&wire::message(Kind::Moved, &moved).expect("short")).await.ok()?;
                std::future::pending().await
            }
            _ => match next(&mut recv, &mut decoder).await {
                Some(Frame::Finish(_)) => {
                    received.finished.fetch_add(1, Ordering::Relaxed);
                    received.news.notify_waiters();
                    send.finish().ok()
                }
                Some(other) => panic!("{other:?} on a publisher's stream"),
                None => None,
            },
        }
    };
    tokio::select! {
        () = groups => None,
        ended = end => ended,
    }
}

async fn group(mut stream: RecvStream, title: &Title, received: &Received, behaviour: IngestBehaviour) -> Option<()> {
    let mut decoder = Decoder::default();
    let deaf = matches!(behaviour, IngestBehaviour::Deaf(count) if received.ended() >= count);
    if deaf {
        received.gate.0.acquire().await.ok()?.forget();
    }
    let head = match next(&mut stream, &mut decoder).await? {
        Frame::FeedGroup(group) => {
            assert_eq!(group.subscription, 5);
            GroupHead::try_from(group).expect("a good head")
        }
        other => panic!("{other:?} begins a group"),
    };
    let number = head.sequence;
    received.streams.lock().expect("not poisoned").push(number);
    received.news.notify_waiters();
    let _in_flight = InFlight::new(received);
    if behaviour == IngestBehaviour::Stops {
        return stream.stop(VarInt::from_u32(Code::Exists.quic())).ok();
    }
    let mut chain = Chain::begin(title, &head);
    let mut group = ReceivedGroup { head, media: Vec::new(), ended: false };
    while let Some(frame) = next(&mut stream, &mut decoder).await {
        let Frame::Piece(piece) = frame else { panic!("{frame:?} within a group") };
        chain.take(piece.flags, &piece.media).expect("a good piece");
        assert!(chain.is_signed(&key(), &piece.signature), "group {number}");
        group.media.extend_from_slice(&piece.media);
        group.ended = piece.flags.last;
        {
            let mut groups = received.groups.lock().expect("not poisoned");
            let longer = groups.get(&number).is_none_or(|known| known.media.len() <= group.media.len());
            if longer {
                groups.insert(number, group.clone());
            }
        }
        received.news.notify_waiters();
    }
    Some(())
}
