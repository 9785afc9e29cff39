//! A master on a free port, its certificates, and a node whose every message the test writes.

use std::{future::Future, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as Pem},
};
use usher_certs::{
    Identity, Role,
    files::{PemSet, init, issue, read_pem},
};
use usher_master::{ClusterAccess, Config, MasterHandle, MetricsAt, settings::Switch, start};
use usher_proto::{
    BootId, SessionId,
    pb::v1::{
        self, attach_request::Body, attach_response::Body as Down, catalog_client::CatalogClient,
        cluster_client::ClusterClient, registry_client::RegistryClient, tickets_client::TicketsClient,
    },
    ticket::{ClusterSecret, Key},
};

/// Longer than any step takes; reaching it means a hang.
const HANG: Duration = Duration::from_secs(20);

/// The secret of every cluster of these tests.
const SECRET: [u8; 32] = [7; 32];

/// The id of a session that the cluster issued, by number.
pub(crate) fn issued(number: u64) -> SessionId {
    ClusterSecret::new(SECRET).session_key().issue(number)
}

pub(crate) struct Master {
    pub(crate) dir: TempDir,
    pub(crate) running: MasterHandle,
}

pub(crate) fn pem(dir: &Path, role: Role, name: &str) -> PemSet {
    let identity = Identity::new(role, name).expect("a name");
    let paths = issue(dir, &identity, &[], dir, true).expect("issued");
    read_pem(&paths.cert, &paths.key, &paths.ca).expect("good")
}

pub(crate) fn config(dir: &Path) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        state: Some(dir.join("state")),
        queue: 1,
        max_connections: 100,
        metrics: MetricsAt::Given(([127, 0, 0, 1], 0).into()),
        cluster_access: ClusterAccess::Open,
        // A node that has just joined would receive sessions at any time.
        rebalance: Switch::Off,
        // The nodes of these tests have no media port.
        dial_back: Switch::Off,
        ..Config::default()
    }
}

impl Master {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        init(dir.path(), "test", false).expect("an authority");
        let mut config = config(dir.path());
        let state = dir.path().join("state");
        std::fs::create_dir(&state)
            .and_then(|()| std::fs::write(state.join("cluster.secret"), SECRET))
            .expect("written");
        change(&mut config);
        let running = start(config, pem(dir.path(), Role::Master, "master")).await.expect("started");
        Self { dir, running }
    }

    /// A connection with this identity.
    pub(crate) async fn dial_as(&self, role: Role, name: &str) -> Channel {
        let pem = pem(self.dir.path(), role, name);
        self.dial(Some(&pem)).await.expect("dialled")
    }

    pub(crate) async fn dial(&self, identity: Option<&PemSet>) -> Result<Channel, tonic::transport::Error> {
        let ca = std::fs::read_to_string(self.dir.path().join("ca.pem")).expect("readable");
        let mut tls = ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(ca));
        if let Some(pem) = identity {
            tls = tls.identity(Pem::from_pem(&pem.cert, &pem.key));
        }
        let url = format!("https://{}", self.running.local_addr());
        Endpoint::from_shared(url).expect("a URL").tls_config(tls).expect("TLS").connect().await
    }

    pub(crate) async fn viewer(&self) -> Channel {
        self.dial(None).await.expect("dialled")
    }

    pub(crate) async fn tickets(&self) -> TicketsClient<Channel> {
        TicketsClient::new(self.viewer().await).max_encoding_message_size(8 << 20)
    }

    pub(crate) async fn catalog(&self) -> CatalogClient<Channel> {
        CatalogClient::new(self.viewer().await)
    }

    pub(crate) async fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.viewer().await)
    }

    /// Head and body of the metrics listener's answer to a GET.
    pub(crate) async fn http(&self, path: &str) -> (String, String) {
        let address = self.running.metrics_addr().expect("it listens");
        let mut stream = TcpStream::connect(address).await.expect("open");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    /// Waits until the metrics contain a line.
    pub(crate) async fn counted(&self, line: &str) {
        let mut last = String::new();
        let found = tokio::time::timeout(HANG, async {
            while !last.lines().any(|one| one == line) {
                last = self.http("/metrics").await.1;
            }
        });
        assert!(found.await.is_ok(), "{line} is not in {last}");
    }

    /// Attaches a node of 100 Mbit/s with these titles, and waits until they are listed.
    pub(crate) async fn node(&self, name: &str, titles: &[&str]) -> Node {
        self.node_with(hello(name, 1, 1), titles).await
    }

    /// The same for a node with another `Hello`.
    pub(crate) async fn node_with(&self, hello: v1::Hello, titles: &[&str]) -> Node {
        let name = hello.node.clone();
        let channel = self.dial_as(Role::Node, &name).await;
        let mut node = Node::attach(channel, hello).await.expect("attached");
        let copies = titles.iter().map(|title| copy(title)).collect();
        node.send(Body::Catalog(v1::CatalogPage { restart: true, complete: true, copies, ..Default::default() })).await;
        node.report().await;
        let mut cluster = self.cluster().await;
        eventually(async || {
            let request = v1::GetNodeRequest { name: name.clone() };
            let node = cluster.get_node(request).await.ok()?.into_inner().node?;
            (node.titles as usize == titles.len() && node.report_age_ms < 5000).then_some(())
        })
        .await;
        node
    }
}

/// Repeats a call until it has an answer.
pub(crate) async fn eventually<T>(mut question: impl AsyncFnMut() -> Option<T>) -> T {
    within(async {
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.expect("hangs")
}

pub(crate) fn presence(draining: bool) -> v1::Presence {
    v1::Presence {
        drain_left_ms: 0,
        addresses: vec!["127.0.0.1:9".into()],
        certificate_sha256: vec![vec![7; 32]],
        draining,
    }
}

pub(crate) fn hello(name: &str, boot: u128, attachment: u64) -> v1::Hello {
    v1::Hello {
        node: name.to_owned(),
        boot_id: BootId(boot).to_string(),
        version: "test".into(),
        zone: String::new(),
        capacity_bps: 100_000_000,
        presence: Some(presence(false)),
        attachment,
        equipment: None,
        replica_bytes: 0,
    }
}

pub(crate) fn copy(title: &str) -> v1::CatalogCopy {
    v1::CatalogCopy {
        title: title.to_owned(),
        content_id: vec![title.as_bytes()[0]; 32],
        size: 1000,
        bitrate_bps: 8_000_000,
        media_type: "video/mp4".into(),
        ..Default::default()
    }
}

/// An attached node.
pub(crate) struct Node {
    up: mpsc::Sender<v1::AttachRequest>,
    down: Streaming<v1::AttachResponse>,
    pub(crate) welcome: v1::Welcome,
    sequence: u64,
}

impl Node {
    pub(crate) async fn attach(channel: Channel, hello: v1::Hello) -> Result<Self, Status> {
        Self::begin(channel, Body::Hello(hello)).await
    }

    /// Opens a channel with any first message.
    pub(crate) async fn begin(channel: Channel, first: Body) -> Result<Self, Status> {
        let (up, messages) = mpsc::channel(16);
        up.send(v1::AttachRequest { body: Some(first) }).await.expect("open");
        let mut registry = RegistryClient::new(channel).max_encoding_message_size(16 << 20);
        let mut down = within(registry.attach(ReceiverStream::new(messages))).await?.into_inner();
        let first = within(down.message()).await?.and_then(|message| message.body);
        let Some(Down::Welcome(welcome)) = first else { panic!("no welcome: {first:?}") };
        Ok(Self { up, down, welcome, sequence: 0 })
    }

    pub(crate) async fn send(&self, body: Body) {
        self.up.send(v1::AttachRequest { body: Some(body) }).await.expect("open");
    }

    /// The report of an idle node.
    pub(crate) async fn report(&mut self) {
        self.report_with(v1::Report::default()).await;
    }

    pub(crate) async fn report_with(&mut self, report: v1::Report) {
        self.sequence += 1;
        self.send(Body::Report(v1::Report { sequence: self.sequence, uptime_ms: self.uptime_ms(), ..report })).await;
    }

    /// Sends session updates at the time of the last report.
    pub(crate) async fn sessions(&self, sessions: v1::Sessions) {
        self.send(Body::Sessions(v1::Sessions { uptime_ms: self.uptime_ms(), ..sessions })).await;
    }

    /// Reports a committed rate without naming its sessions.
    pub(crate) async fn carries(&self, committed_bps: u64) {
        self.sessions(v1::Sessions { complete: true, committed_bps, ..Default::default() }).await;
    }

    /// Past warm-up.
    fn uptime_ms(&self) -> u64 {
        100_000 + self.sequence * 1000
    }

    /// The next message of the master.
    pub(crate) async fn next(&mut self) -> Result<Option<v1::AttachResponse>, Status> {
        within(self.down.message()).await
    }

    /// The body of the next message.
    pub(crate) async fn order(&mut self) -> Down {
        self.next().await.expect("open").and_then(|message| message.body).expect("a body")
    }

    pub(crate) async fn prepare(&mut self) -> v1::Prepare {
        match self.order().await {
            Down::Prepare(prepare) => prepare,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn prepared(&self, id: u64, result: v1::prepared::Result) {
        self.send(Body::Prepared(v1::Prepared { id, result: Some(result) })).await;
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        let secret = |key: &v1::TicketKey| <[u8; 32]>::try_from(key.secret.as_slice()).expect("32 bytes");
        self.welcome.keys.iter().map(|key| Key::new(secret(key))).collect()
    }
}

/// The 16 bytes of a session id.
pub(crate) fn session_bytes(id: &str) -> Vec<u8> {
    id.parse::<SessionId>().expect("an id").0.to_be_bytes().to_vec()
}

/// The start of a session of 8 Mbit/s.
pub(crate) fn begun(id: &str, title: &str) -> v1::Begun {
    v1::Begun {
        session_id: session_bytes(id),
        title: title.to_owned(),
        content_id: copy(title).content_id,
        rate_bps: 8_000_000,
        purpose: v1::Purpose::Play.into(),
    }
}

pub(crate) fn setup(title: &str) -> v1::Setup {
    v1::Setup {
        title: title.to_owned(),
        size: 1000,
        media_type: "video/mp4".into(),
        range: Some(v1::ByteRange { start: 0, end: 1000 }),
        page_groups: u32::try_from(usher_proto::tree::PAGE_GROUPS).expect("small"),
        ..Default::default()
    }
}

pub(crate) fn request(title: &str) -> v1::ResolveRequest {
    v1::ResolveRequest {
        what: Some(v1::resolve_request::What::Title(title.to_owned())),
        ..v1::ResolveRequest::default()
    }
}
