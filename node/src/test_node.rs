//! For tests: a node's library and QUIC server on loopback, tickets for it, and a viewer that verifies every byte with
//! the functions of the hash tree.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::{Connection, Endpoint, ReadError, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use tempfile::TempDir;
use usher_budget::PrefixLengths;
use usher_certs::{media::MAX_MEDIA_LIFETIME, pin::PinnedVerifier, tls};
use usher_proto::{
    Bitrate, Code, ContentId, NodeName, SessionId,
    pb::{
        v1::{ByteRange, Setup},
        wire::Open,
    },
    ticket::{Claims, Key, Purpose},
    tree::{self, GROUP, Value},
    wire::{self, Decoder, Frame, Kind},
};
use usher_transport::{Congestion, Offload};

use crate::{
    budgets::Budgets,
    context::NodeContext,
    core::admission::AdmissionControl,
    live,
    media::{self, Library, fixtures},
    presence::Presence,
    quic::{self, QuicSettings, Server},
    services::Services,
};

pub(crate) const NODE: &str = "node-1";

/// Connections that a node accepts.
const CONNECTIONS: usize = 100;

/// Settings for feeds.
const FEEDS: live::FeedSettings =
    live::FeedSettings { ingest: true, window: Duration::from_secs(60), memory: 64 << 20, grace: live::GRACE };

pub(crate) fn settings() -> QuicSettings {
    QuicSettings {
        congestion: Congestion::Cubic,
        offload: Offload::Auto,
        threads: 2,
        open_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_secs(300),
        handshake_timeout: quic::HANDSHAKE,
        never_used: quic::NEVER_USED,
        unused: quic::UNUSED,
        ticket_grace: Duration::from_secs(3600),
    }
}

/// Valid claims on a title of the node.
pub(crate) fn claims(title: &str, content: Option<ContentId>) -> Claims {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let session = SessionId(NEXT.fetch_add(1, Ordering::Relaxed).into());
    Claims {
        cid: content.map(|id| id.to_string()),
        rate: 1_000_000,
        rid: "request-1".into(),
        ..Claims::new(NODE, session, title, Purpose::Fetch, now)
    }
}

pub(crate) struct TestNode {
    pub(crate) dir: TempDir,
    pub(crate) context: Arc<NodeContext>,
    pub(crate) services: Arc<Services>,
    pub(crate) presence: Presence,
    pub(crate) server: Server,
    pub(crate) key: Key,
    pub(crate) address: SocketAddr,
}

impl TestNode {
    /// A node that holds these files, hashed.
    pub(crate) async fn with(files: &[(&str, &[u8])]) -> Self {
        Self::set(files, settings(), Bitrate(100_000_000_000), true).await
    }

    /// The same with other settings; perhaps not `hashed` yet.
    pub(crate) async fn set(files: &[(&str, &[u8])], settings: QuicSettings, capacity: Bitrate, hashed: bool) -> Self {
        Self::start(TempDir::new().expect("a folder"), files, (settings, CONNECTIONS), capacity, hashed, None).await
    }

    /// The same with so many connections at most.
    pub(crate) async fn with_connections(files: &[(&str, &[u8])], most: usize, settings: QuicSettings) -> Self {
        let dir = TempDir::new().expect("a folder");
        Self::start(dir, files, (settings, most), Bitrate(100_000_000_000), true, None).await
    }

    /// A node without files that accepts ordered copies of `quota` bytes, with the earlier content of `dir`.
    pub(crate) async fn taking(dir: TempDir, quota: u64) -> Self {
        let replicas = media::ReplicaConfig { folder: dir.path().join("replicas"), quota: Some(quota) };
        Self::start(dir, &[], (settings(), CONNECTIONS), Bitrate(100_000_000_000), true, Some(replicas)).await
    }

    async fn start(
        dir: TempDir,
        files: &[(&str, &[u8])],
        (settings, max_connections): (QuicSettings, usize),
        capacity: Bitrate,
        hashed: bool,
        replicas: Option<media::ReplicaConfig>,
    ) -> Self {
        let taking = replicas.is_some();
        let films = fixtures::folder(&dir.path().join("films"), files);
        let config = media::LibraryConfig { volumes: vec![films], index: dir.path().join("index.redb"), replicas };
        let library = Library::open(config).await.expect("a library");
        library.scanned().await;
        if hashed {
            library.hashed().await;
        }
        assert!(taking || library.stats().titles == files.len() as u64, "{:?}", library.rejected());
        let context =
            NodeContext::new(NodeName::parse(NODE).expect("a name"), library, AdmissionControl::from(capacity));
        let budgets = Budgets::new(PrefixLengths::default(), max_connections);
        let services = Services::new(context.clone(), FEEDS, budgets);
        let key = Key::new([5; 32]);
        context.accept_keys(std::slice::from_ref(&key));
        let presence = Presence::new(NODE, MAX_MEDIA_LIFETIME, Vec::new()).expect("a certificate");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let sockets = quic::bind(&[any]).expect("a socket");
        let server = Server::start(&services, presence.resolver(), sockets, settings).expect("a server");
        let address = server.local_addrs().expect("an address")[0];
        Self { dir, context, services, presence, server, key, address }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("films").join(name)
    }

    pub(crate) fn ticket(&self, title: &str, content: Option<ContentId>) -> String {
        self.sign(&claims(title, content))
    }

    pub(crate) fn sign(&self, claims: &Claims) -> String {
        self.key.sign(claims).expect("signs")
    }

    pub(crate) async fn viewer(&self) -> Viewer {
        let pins = self.presence.subscribe().borrow().certificates.clone();
        Viewer::dial(self.address, pins).await
    }

    /// A viewer that holds at most `window` unread bytes of a stream.
    pub(crate) async fn sipping(&self, window: u32) -> Viewer {
        let pins = self.presence.subscribe().borrow().certificates.clone();
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(window.into());
        Viewer::dial_with(self.address, pins, transport).await
    }
}

/// How a session failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    Refused(Code),
    Reset(Code),
    Lost(Option<Code>),
}

/// Received and verified content of a session.
#[derive(Debug, PartialEq)]
pub(crate) struct Received {
    pub(crate) setup: Setup,
    pub(crate) data: Vec<u8>,
    pub(crate) content: ContentId,
}

pub(crate) struct Viewer {
    pub(crate) connection: Connection,
}

impl Viewer {
    pub(crate) async fn dial(address: SocketAddr, pins: Vec<[u8; 32]>) -> Self {
        Self::dial_with(address, pins, quinn::TransportConfig::default()).await
    }

    async fn dial_with(address: SocketAddr, pins: Vec<[u8; 32]>, transport: quinn::TransportConfig) -> Self {
        let tls = tls::media_client_config(PinnedVerifier::new(pins)).expect("TLS");
        let tls = QuicClientConfig::try_from(tls).expect("TLS for QUIC");
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::new(transport));
        let connecting = endpoint.connect_with(config, address, NODE).expect("can be dialled");
        let connection = connecting.await.expect("a connection");
        Self { connection }
    }

    pub(crate) async fn send(&self, header: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, receive) = self.connection.open_bi().await.expect("a stream");
        send.write_all(header).await.expect("sent");
        (send, receive)
    }

    pub(crate) async fn open(&self, ticket: &str, range: Option<ByteRange>) -> RecvStream {
        let (mut send, receive) = self.send(&open(ticket, range)).await;
        send.finish().expect("finished");
        receive
    }

    pub(crate) async fn play(&self, ticket: &str, range: Option<ByteRange>) -> Result<Received, SessionEnd> {
        receive(&mut self.open(ticket, range).await).await
    }
}

/// An encoded Open message.
pub(crate) fn open(ticket: &str, range: Option<ByteRange>) -> bytes::Bytes {
    let open = Open { ticket: ticket.into(), range, ..Open::default() };
    wire::message(Kind::Open, &open).expect("short enough")
}

/// Reads a session to its end and verifies it.
pub(crate) async fn receive(stream: &mut RecvStream) -> Result<Received, SessionEnd> {
    receive_after(&[], stream).await
}

/// The same for a session whose `head` was read already.
pub(crate) async fn receive_after(head: &[u8], stream: &mut RecvStream) -> Result<Received, SessionEnd> {
    let mut decoder = Decoder::default();
    decoder.push(head);
    let mut frames = Vec::new();
    let mut buffer = vec![0; 100_000];
    loop {
        while let Some(frame) = decoder.next_frame().expect("a good frame") {
            frames.push(frame);
        }
        match stream.read(&mut buffer).await {
            Ok(Some(read)) => decoder.push(&buffer[..read]),
            Ok(None) => break,
            Err(ReadError::Reset(code)) => return Err(SessionEnd::Reset(Code::from_quic(code.into_inner()))),
            Err(ReadError::ConnectionLost(quinn::ConnectionError::ApplicationClosed(close))) => {
                return Err(SessionEnd::Lost(Some(Code::from_quic(close.error_code.into_inner()))));
            }
            Err(_) => return Err(SessionEnd::Lost(None)),
        }
    }
    decoder.finish().expect("whole frames");
    if let [Frame::Refused(refused)] = frames.as_slice() {
        return Err(SessionEnd::Refused(Code::from_reason(&refused.reason)));
    }
    Ok(verify(frames))
}

fn verify(frames: Vec<Frame>) -> Received {
    let mut frames = frames.into_iter();
    let Some(Frame::Setup(setup)) = frames.next() else { panic!("Setup comes first") };
    let (mut pages, mut groups, mut data, mut content) = (Vec::new(), Vec::<Vec<Value>>::new(), Vec::new(), None);
    for frame in frames {
        assert!(content.is_none(), "Finish comes last");
        match frame {
            Frame::Pages(values) => pages = values,
            Frame::Hashes(values) => groups.push(values),
            Frame::Group(group) => data.push(group),
            Frame::Finish(finish) => content = ContentId::try_from(finish.content_id.as_slice()).ok(),
            other => panic!("{other:?} in a session"),
        }
    }
    let content = content.expect("Finish");
    assert!(setup.content_id.is_empty() || setup.content_id == content.to_string());
    let range = setup.range.expect("a range");
    let first = range.start / GROUP;
    match (pages.as_slice(), groups.as_slice()) {
        ([], []) => assert_eq!(tree::single(&data[0]), content),
        ([], [only]) => assert_eq!(tree::root(only), Some(content)),
        (pages, groups) => {
            assert_eq!(tree::root(pages), Some(content));
            for (values, page) in groups.iter().zip(range.start / tree::PAGE..) {
                assert_eq!(tree::page_value(values), pages[page as usize]);
            }
        }
    }
    let values: Vec<Value> = groups.concat();
    if !values.is_empty() {
        let skip = first - range.start / tree::PAGE * tree::PAGE_GROUPS;
        for (i, group) in data.iter().enumerate() {
            assert_eq!(tree::group_value(first + i as u64, group), values[skip as usize + i], "group {i}");
        }
    }
    let data = data.concat();
    assert_eq!(data.len() as u64, range.end - range.start);
    Received { setup, data, content }
}
