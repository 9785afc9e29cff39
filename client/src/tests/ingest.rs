//! A master and nodes of the tests that take feeds, over loopback.

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

use super::master::Seat;

/// The seed that the master of the tests gives.
pub(super) const SEED: [u8; 32] = [9; 32];

/// The number that nodes of the tests begin with.
pub(super) const FIRST: u64 = 1000;

pub(super) fn key() -> FeedKey {
    FeedSigner::from_seed(&SEED).key()
}

/// What a node does with a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Takes all.
    Takes,
    /// Takes so many whole groups, reads no more, and acknowledges nothing that is beyond.
    Deaf(usize),
    /// Refuses at the door.
    Refuses(Code),
    /// Refuses once so many groups have arrived whole.
    Ends(usize, Code),
    /// Sends the publisher to its `next` once so many groups have arrived whole.
    Moves(usize),
    /// Stops every stream at its first byte.
    Stops,
}

/// A group as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) head: GroupHead,
    pub(super) media: Vec<u8>,
    pub(super) ended: bool,
}

/// What came to a node.
#[derive(Default)]
pub(super) struct Came {
    /// By their numbers; a group that came again counts once, and must be the same.
    pub(super) groups: Mutex<BTreeMap<u64, Got>>,
    /// Streams that were begun, by their groups, in the order in which they came.
    pub(super) streams: Mutex<Vec<u64>>,
    pub(super) offers: Mutex<Vec<FeedOffer>>,
    pub(super) tickets: Mutex<Vec<String>>,
    /// Sessions that said that the feed is over.
    pub(super) finished: AtomicUsize,
    /// Groups that were on their way at a time, and the most of them.
    pub(super) abreast: Mutex<(usize, usize)>,
    /// Something of the above is new.
    pub(super) news: Notify,
    connections: Mutex<Vec<Connection>>,
    next: Mutex<Option<v1::Seat>>,
    /// Lets a deaf node hear.
    pub(super) gate: Gate,
}

/// Begins closed.
pub(super) struct Gate(pub(super) Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Came {
    /// Groups that are whole.
    pub(super) fn whole(&self) -> Vec<Got> {
        self.groups.lock().expect("not poisoned").values().filter(|group| group.ended).cloned().collect()
    }

    /// Waits until this holds.
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

    /// All connections end, as when the process dies.
    pub(super) fn die(&self, endpoint: &Endpoint) {
        endpoint.close(VarInt::from_u32(Code::Unavailable.quic()), b"gone");
    }

    fn ended(&self) -> usize {
        self.groups.lock().expect("not poisoned").values().filter(|group| group.ended).count()
    }
}

/// A group on its way.
struct Abreast<'a>(&'a Came);

impl<'a> Abreast<'a> {
    fn new(came: &'a Came) -> Self {
        let (now, most) = &mut *came.abreast.lock().expect("not poisoned");
        *now += 1;
        *most = (*most).max(*now);
        Self(came)
    }
}

impl Drop for Abreast<'_> {
    fn drop(&mut self) {
        self.0.abreast.lock().expect("not poisoned").0 -= 1;
    }
}

/// A node that takes feeds.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) came: Arc<Came>,
    pub(super) address: std::net::SocketAddr,
    pin: [u8; 32],
    pub(super) endpoint: Endpoint,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

impl From<&Node> for Seat {
    fn from(node: &Node) -> Self {
        Self { node: node.name.clone(), addresses: vec![node.address.to_string()], pin: node.pin }
    }
}

impl Node {
    pub(super) fn start(name: &str, manner: Manner) -> Self {
        let certificate =
            MediaCertificate::generate(name, Duration::from_secs(3600), SystemTime::now()).expect("makes");
        let tls = usher_certs::tls::media_server_config(MediaCertResolver::new(certificate.certified_key()));
        let quic = QuicServerConfig::try_from(tls.expect("TLS 1.3")).expect("TLS 1.3");
        let mut config = ServerConfig::with_crypto(Arc::new(quic));
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_uni_streams(VarInt::from_u32(64)).initial_rtt(usher_transport::FIRST_GUESS);
        if matches!(manner, Manner::Deaf(_)) {
            // What is not read is acknowledged all the same, but for what does not fit.
            transport.stream_receive_window(VarInt::from_u32(16 * 1024));
        }
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().expect("an address")).expect("binds");
        let came = Arc::new(Came::default());
        let node = Self {
            name: name.to_owned(),
            came: came.clone(),
            address: endpoint.local_addr().expect("bound"),
            pin: certificate.sha256,
            endpoint: endpoint.clone(),
        };
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let came = came.clone();
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    came.connections.lock().expect("not poisoned").push(connection.clone());
                    while let Ok((send, recv)) = connection.accept_bi().await {
                        let (connection, came) = (connection.clone(), came.clone());
                        // A publisher that leaves early is part of some tests.
                        tokio::spawn(async move {
                            let _gone = session(connection, send, recv, came, manner).await;
                        });
                    }
                });
            }
        });
        node
    }

    /// Where publishers are sent on to.
    pub(super) fn sends_to(&self, seat: v1::Seat) {
        *self.came.next.lock().expect("not poisoned") = Some(seat);
    }
}

/// The next frame of a stream; `None` at its end, whichever it is.
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
    came: Arc<Came>,
    manner: Manner,
) -> Option<()> {
    let mut decoder = Decoder::default();
    let open: Open = match next(&mut recv, &mut decoder).await? {
        Frame::Open(open) => open,
        other => panic!("{other:?} comes first"),
    };
    came.tickets.lock().expect("not poisoned").push(open.ticket.clone());
    let offer = open.publish.expect("it publishes");
    if let Manner::Refuses(code) = manner {
        send.write_all(&wire::refused(&Fault::new(code, "not here"))).await.ok()?;
        return send.finish().ok();
    }
    let known = came.groups.lock().expect("not poisoned").keys().last().copied();
    let feed =
        v1::FeedSetup { subscription: 5, first_group: known.map_or(FIRST, |number| number + 1), ..Default::default() };
    let setup = v1::Setup {
        title: open.ticket.clone(),
        media_type: offer.media_type.clone(),
        feed: Some(feed),
        ..v1::Setup::default()
    };
    came.offers.lock().expect("not poisoned").push(offer);
    came.news.notify_waiters();
    send.write_all(&wire::message(Kind::Setup, &setup).expect("short")).await.ok()?;
    let title = Title::parse(&open.ticket).expect("the ticket is the title");
    let groups = async {
        while let Ok(stream) = connection.accept_uni().await {
            let (came, title) = (came.clone(), title.clone());
            tokio::spawn(async move {
                let _gone = group(stream, &title, &came, manner).await;
            });
        }
    };
    let end = async {
        match manner {
            Manner::Ends(count, code) => {
                came.until("as many groups", |came| came.ended() >= count).await;
                send.write_all(&wire::refused(&Fault::new(code, "no more"))).await.ok()?;
                send.finish().ok()
            }
            Manner::Moves(count) => {
                came.until("as many groups", |came| came.ended() >= count).await;
                let seat = came.next.lock().expect("not poisoned").clone();
                let moved = usher_proto::pb::wire::Moved { seat, until: 0 };
                send.write_all(&wire::message(Kind::Moved, &moved).expect("short")).await.ok()?;
                std::future::pending().await
            }
            _ => match next(&mut recv, &mut decoder).await {
                Some(Frame::Finish(_)) => {
                    came.finished.fetch_add(1, Ordering::Relaxed);
                    came.news.notify_waiters();
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

async fn group(mut stream: RecvStream, title: &Title, came: &Came, manner: Manner) -> Option<()> {
    let mut decoder = Decoder::default();
    let deaf = matches!(manner, Manner::Deaf(count) if came.ended() >= count);
    if deaf {
        came.gate.0.acquire().await.ok()?.forget();
    }
    let head = match next(&mut stream, &mut decoder).await? {
        Frame::FeedGroup(group) => {
            assert_eq!(group.subscription, 5);
            GroupHead::try_from(group).expect("a good head")
        }
        other => panic!("{other:?} begins a group"),
    };
    let number = head.sequence;
    came.streams.lock().expect("not poisoned").push(number);
    came.news.notify_waiters();
    let _abreast = Abreast::new(came);
    if manner == Manner::Stops {
        return stream.stop(VarInt::from_u32(Code::Exists.quic())).ok();
    }
    let mut chain = Chain::begin(title, &head);
    let mut got = Got { head, media: Vec::new(), ended: false };
    while let Some(frame) = next(&mut stream, &mut decoder).await {
        let Frame::Piece(piece) = frame else { panic!("{frame:?} within a group") };
        chain.take(piece.flags, &piece.media).expect("a good piece");
        assert!(chain.is_signed(&key(), &piece.signature), "group {number}");
        got.media.extend_from_slice(&piece.media);
        got.ended = piece.flags.last;
        {
            let mut groups = came.groups.lock().expect("not poisoned");
            let longer = groups.get(&number).is_none_or(|known| known.media.len() <= got.media.len());
            if longer {
                groups.insert(number, got.clone());
            }
        }
        came.news.notify_waiters();
    }
    Some(())
}
