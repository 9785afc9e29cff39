//! A fake master: accepts attachments over mutual TLS and hands each to the test.

use std::{
    collections::{BTreeSet, HashSet},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use usher_certs::{
    Role, San,
    files::{self, PemSet},
};
use usher_proto::{
    SessionId,
    model::{self, CatalogPage, Hello},
    pb::v1::{
        self, AttachRequest, AttachResponse,
        attach_request::Body,
        attach_response::Body as Answer,
        registry_server::{Registry, RegistryServer},
    },
};

type Replies = mpsc::Sender<Result<AttachResponse, Status>>;

/// The service, which hands every attachment to the test.
struct Reception(mpsc::Sender<(Streaming<AttachRequest>, Replies)>);

#[tonic::async_trait]
impl Registry for Reception {
    type AttachStream = ReceiverStream<Result<AttachResponse, Status>>;

    async fn attach(&self, request: Request<Streaming<AttachRequest>>) -> Result<Response<Self::AttachStream>, Status> {
        let (replies, stream) = mpsc::channel(16);
        let call = (request.into_inner(), replies);
        self.0.send(call).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

pub(super) struct FakeMaster {
    pub(super) dir: TempDir,
    pub(super) address: SocketAddr,
    calls: mpsc::Receiver<(Streaming<AttachRequest>, Replies)>,
    server: JoinHandle<()>,
}

fn issue(dir: &Path, role: Role, name: &str, sans: &[San]) -> PemSet {
    let identity = usher_certs::Identity::new(role, name).expect("a name");
    let paths = files::Paths::of(dir, &identity);
    if !paths.cert.exists() {
        files::issue(dir, &identity, sans, dir, false).expect("a certificate");
    }
    files::read_pem(&paths.cert, &paths.key, &paths.ca).expect("readable")
}

impl FakeMaster {
    pub(super) async fn start() -> Self {
        let dir = TempDir::new().expect("a folder");
        files::init(dir.path(), "test", false).expect("an authority");
        let pem = issue(dir.path(), Role::Master, "master", &San::loopback());
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&pem.cert, &pem.key))
            .client_ca_root(Certificate::from_pem(&pem.ca));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (hand, calls) = mpsc::channel(4);
        let router = Server::builder().tls_config(tls).expect("TLS").add_service(RegistryServer::new(Reception(hand)));
        let server = tokio::spawn(async move {
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("served");
        });
        Self { dir, address, calls, server }
    }

    pub(super) fn identity(&self, name: &str) -> PemSet {
        self.identity_of(Role::Node, name)
    }

    pub(super) fn identity_of(&self, role: Role, name: &str) -> PemSet {
        issue(self.dir.path(), role, name, &[])
    }

    /// The next attachment, welcomed.
    pub(super) async fn call(&mut self) -> AttachCall {
        let (mut requests, replies) = self.calls.recv().await.expect("an attachment");
        let first = requests.message().await.expect("a message").and_then(|request| request.body);
        let Some(Body::Hello(hello)) = first else { panic!("Hello comes first, not {first:?}") };
        let hello = Hello::try_from(hello).expect("a good Hello");
        let key = super::key(hello.boot);
        let welcome = v1::Welcome {
            keys: vec![v1::TicketKey { kid: key.kid().into(), secret: key.secret().to_vec() }],
            report_interval_ms: 50,
            lease_ms: 5000,
        };
        let mut call = AttachCall {
            requests,
            replies,
            hello,
            titles: BTreeSet::new(),
            damaged: 0,
            replicated: Vec::new(),
            complete: false,
            told: Vec::new(),
            runs: HashSet::new(),
            probed: None,
            last: model::Report::default(),
            draining: false,
            drain_left: Duration::ZERO,
            prepared: None,
            moved: None,
        };
        call.reply(Answer::Welcome(welcome)).await;
        call
    }

    /// Shuts down, and with it every channel.
    pub(super) async fn stop(&mut self) {
        self.server.abort();
        assert!((&mut self.server).await.is_err_and(|error| error.is_cancelled()));
    }
}

/// One attachment, and what the node has reported on it.
pub(super) struct AttachCall {
    requests: Streaming<AttachRequest>,
    replies: Replies,
    pub(super) hello: Hello,
    pub(super) titles: BTreeSet<String>,
    pub(super) damaged: u32,
    pub(super) replicated: Vec<v1::Replicated>,
    pub(super) complete: bool,
    /// Reported session updates.
    pub(super) told: Vec<model::Sessions>,
    /// Active sessions according to them.
    pub(super) runs: HashSet<SessionId>,
    pub(super) probed: Option<u64>,
    pub(super) last: model::Report,
    pub(super) draining: bool,
    pub(super) drain_left: Duration,
    prepared: Option<v1::Prepared>,
    moved: Option<v1::Moved>,
}

impl AttachCall {
    pub(super) async fn reply(&mut self, body: Answer) {
        self.replies.send(Ok(AttachResponse { body: Some(body) })).await.expect("sent");
    }

    /// Receives messages until the condition holds.
    pub(super) async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            match self.requests.message().await.expect("a channel").expect("a message").body {
                Some(Body::Replicated(replicated)) => self.replicated.push(replicated),
                Some(Body::Catalog(page)) => self.page(page.try_into().expect("a good page")),
                Some(Body::Report(report)) => {
                    let report = model::Report::try_from(report).expect("a good report");
                    assert!(report.sequence > self.last.sequence && report.sent_bytes >= self.last.sent_bytes);
                    self.last = report;
                }
                Some(Body::Presence(presence)) => {
                    let presence = model::Presence::try_from(presence).expect("a good presence");
                    (self.draining, self.drain_left) = (presence.draining, presence.drain_left);
                }
                Some(Body::Prepared(prepared)) => self.prepared = Some(prepared),
                Some(Body::Moved(moved)) => self.moved = Some(moved),
                Some(Body::Probed(probed)) => self.probed = Some(probed.id),
                Some(Body::Sessions(sessions)) => self.sessions(sessions.try_into().expect("good sessions")),
                other => panic!("{other:?}"),
            }
        }
    }

    fn page(&mut self, page: CatalogPage) {
        if page.restart {
            self.titles.clear();
        }
        (self.complete, self.damaged) = (page.complete, page.damaged_files);
        self.titles.extend(page.copies.iter().map(|copy| copy.title.to_string()));
        page.removals.iter().for_each(|(title, _)| {
            self.titles.remove(title.as_str());
        });
    }

    fn sessions(&mut self, sessions: model::Sessions) {
        assert_eq!(sessions.restart, self.told.is_empty(), "the first message is the whole list");
        self.runs.extend(sessions.begun.iter().map(|begun| begun.session));
        sessions.ended.iter().for_each(|id| assert!(self.runs.remove(id), "only an active session ends"));
        self.told.push(sessions);
    }

    /// Sessions that were refused, with the reason.
    pub(super) fn turned(&self) -> Vec<model::Turned> {
        self.told.iter().flat_map(|told| told.turned.clone()).collect()
    }

    /// The whole catalog.
    pub(super) async fn catalog(&mut self) -> Vec<String> {
        self.until(|call| call.complete).await;
        self.titles.iter().cloned().collect()
    }

    /// Orders a session to move to another seat.
    pub(super) async fn send_on(&mut self, order: v1::Move) {
        self.reply(Answer::Move(order)).await;
    }

    /// Result of the last order.
    pub(super) async fn moved(&mut self) -> v1::Moved {
        self.until(|call| call.moved.is_some()).await;
        self.moved.take().expect("just came")
    }

    /// Probes the node.
    pub(super) async fn probe(&mut self, id: u64) {
        self.reply(Answer::Probe(v1::Probe { id })).await;
        self.until(|call| call.probed == Some(id)).await;
    }

    /// Requests the set-up information of a session.
    pub(super) async fn prepare(&mut self, id: u64, ticket: &str) -> v1::Prepared {
        let prepare = v1::Prepare { id, ticket: ticket.into(), request_id: "r".into() };
        self.reply(Answer::Prepare(prepare)).await;
        self.until(|call| call.prepared.is_some()).await;
        self.prepared.take().expect("just came")
    }
}
