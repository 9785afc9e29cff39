//! A master of the tests: a fixed catalog behind the gRPC services and TLS of the product.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Identity as Pem, Server, ServerTlsConfig},
};
use usher_certs::{Authority, Identity, Role, San};
use usher_proto::{
    Code, Fault, SessionId,
    pb::v1::{
        self, catalog_server, cluster_server, explain_request, locate_request, resolve_request::What, resolve_result,
        tickets_server,
    },
    tree::{self, GROUP},
};

use super::node::{TestNode, Titles};

#[derive(Clone)]
pub(super) struct TestSeat {
    pub(super) node: String,
    pub(super) addresses: Vec<String>,
    pub(super) pin: [u8; 32],
}

impl From<&TestNode> for TestSeat {
    fn from(node: &TestNode) -> Self {
        Self { node: node.name.clone(), addresses: vec![node.address.to_string()], pin: node.pin }
    }
}

impl TestSeat {
    pub(super) fn to_pb(&self, ticket: &str) -> v1::Seat {
        v1::Seat {
            // This name marks a ticket that expires soon.
            lifetime_s: u64::from(self.node.contains("short-lived")),
            node: self.node.clone(),
            addresses: self.addresses.clone(),
            certificate_sha256: vec![hex::encode(self.pin)],
            ticket: ticket.to_owned(),
            zone: String::new(),
        }
    }
}

#[derive(Clone)]
pub(super) struct TestMaster {
    pub(super) titles: Titles,
    pub(super) seats: Vec<TestSeat>,
    pub(super) hashed: bool,
    /// The roster is for operators only.
    admins: bool,
    /// Received requests with their request ids.
    pub(super) asked: Arc<Mutex<Vec<(v1::ResolveRequest, String)>>>,
    explained: Arc<Mutex<Vec<v1::ExplainRequest>>>,
    published: Arc<Mutex<Vec<v1::PublishRequest>>>,
}

pub(super) struct RunningMaster {
    pub(super) address: crate::core::url::Address,
    pub(super) authority: crate::Authority,
    pub(super) asked: Arc<Mutex<Vec<(v1::ResolveRequest, String)>>>,
    /// Received requests for explanations.
    pub(super) explained: Arc<Mutex<Vec<v1::ExplainRequest>>>,
    /// Received requests to publish.
    pub(super) published: Arc<Mutex<Vec<v1::PublishRequest>>>,
    /// Signs certificates.
    pub(super) issuer: Authority,
}

pub(super) fn content(data: &[u8]) -> String {
    blake3::hash(data).to_hex().to_string()
}

impl TestMaster {
    pub(super) async fn start(titles: &Titles, seats: Vec<TestSeat>, hashed: bool) -> RunningMaster {
        Self::start_for(titles, seats, hashed, false).await
    }

    /// The same, perhaps with a roster for operators only.
    pub(super) async fn start_for(titles: &Titles, seats: Vec<TestSeat>, hashed: bool, admins: bool) -> RunningMaster {
        let authority = Authority::create("test", SystemTime::now()).expect("makes");
        let identity = Identity::new(Role::Master, "master").expect("a name");
        let issued = authority.issue(&identity, &San::loopback(), SystemTime::now()).expect("signs");
        let tls = ServerTlsConfig::new()
            .identity(Pem::from_pem(issued.cert_pem, issued.key_pem))
            .client_ca_root(Certificate::from_pem(authority.ca_pem()))
            .client_auth_optional(true);
        let (asked, explained, published) = Default::default();
        let master = Self { titles: titles.clone(), seats, hashed, admins, asked, explained, published };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let (asked, explained) = (master.asked.clone(), master.explained.clone());
        let published = master.published.clone();
        let server = Server::builder()
            .tls_config(tls)
            .expect("good PEM")
            .add_service(tickets_server::TicketsServer::new(master.clone()))
            .add_service(catalog_server::CatalogServer::new(master.clone()))
            .add_service(cluster_server::ClusterServer::new(master));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let address = crate::core::url::Address { host: "127.0.0.1".into(), port };
        let pem = authority.ca_pem().to_owned();
        let trusted = crate::Authority { pem, source: PathBuf::from("/the/ca.pem") };
        RunningMaster { address, authority: trusted, asked, explained, published, issuer: authority }
    }

    fn allow<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let shown = request.peer_certs().and_then(|certs| Identity::from_der(certs.first()?).ok());
        match shown {
            _ if !self.admins => Ok(()),
            Some(identity) if identity.role == Role::Admin => Ok(()),
            Some(_) => Err(Fault::new(Code::Denied, "not an operator's certificate").to_status()),
            None => Err(Fault::new(Code::Unauthenticated, "this call needs a client certificate").to_status()),
        }
    }

    fn answer(&self, request: v1::ResolveRequest, id: &str) -> Result<v1::ResolveResponse, Fault> {
        self.asked.lock().expect("not poisoned").push((request.clone(), id.to_owned()));
        let found = match &request.what {
            Some(What::Title(title)) => self.titles.get_key_value(title),
            Some(What::ContentId(id)) => self.titles.iter().find(|(_, data)| content(data) == *id),
            None => None,
        };
        let (title, data) = found.ok_or_else(|| Fault::new(Code::NotFound, "no node has this title"))?;
        let out =
            |node: &String| request.exclude.contains(node) || request.failed.iter().any(|failed| failed.node == *node);
        let seats: Vec<_> = self.seats.iter().filter(|seat| !out(&seat.node)).map(|seat| seat.to_pb(title)).collect();
        if seats.is_empty() {
            return Err(Fault::new(Code::Unavailable, "no holder can serve"));
        }
        Ok(v1::ResolveResponse {
            title: title.clone(),
            content_id: if self.hashed { content(data) } else { String::new() },
            size: data.len() as u64,
            seats,
            reason: "most headroom".into(),
            rate_bps: 8_000_000,
            request_id: id.to_owned(),
            ..v1::ResolveResponse::default()
        })
    }

    fn title(&self, name: &str) -> v1::Title {
        let data = &self.titles[name];
        v1::Title {
            title: name.to_owned(),
            content_id: content(data),
            size: data.len() as u64,
            media_type: "video/mp4".into(),
            // This name marks a title that cannot be streamed.
            streamable: !name.contains("moov-last"),
            ..v1::Title::default()
        }
    }
}

fn id<T>(request: &Request<T>) -> String {
    let id = request.metadata().get("x-request-id").and_then(|id| id.to_str().ok());
    id.unwrap_or_default().to_owned()
}

#[tonic::async_trait]
impl tickets_server::Tickets for TestMaster {
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let request = request.into_inner();
        let count = {
            let mut published = self.published.lock().expect("not poisoned");
            published.push(request.clone());
            published.len()
        };
        let out =
            |node: &String| request.exclude.contains(node) || request.failed.iter().any(|failed| failed.node == *node);
        let seats = self.seats.iter().filter(|seat| !out(&seat.node)).map(|seat| seat.to_pb(&request.title));
        let seats: Vec<_> = seats.collect();
        // These names mark failures.
        let fault = match request.title.as_str() {
            "live/taken" if !request.take_over => Fault::new(Code::Exists, "somebody publishes live/taken"),
            "live/foreign" => Fault::new(Code::Unauthenticated, "this call needs a client certificate"),
            "live/later" if count == 1 => {
                Fault::new(Code::Unavailable, "no node takes feeds yet").after(Duration::from_millis(1))
            }
            "live/once" if count > 1 => Fault::new(Code::Unavailable, "not again").after(Duration::from_millis(10)),
            _ if seats.is_empty() => {
                Fault::new(Code::Unavailable, "no node takes feeds").after(Duration::from_millis(10))
            }
            _ => {
                return Ok(Response::new(v1::PublishResponse {
                    session_id: SessionId(7).to_string(),
                    seats,
                    feed_seed: super::ingest::SEED.to_vec(),
                    reason: "most headroom".into(),
                    ..v1::PublishResponse::default()
                }));
            }
        };
        Err(fault.to_status())
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        let id = id(&request);
        self.answer(request.into_inner(), &id).map(Response::new).map_err(|fault| fault.to_status())
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let ticket = format!("{}+", request.into_inner().ticket);
        Ok(Response::new(v1::RenewResponse { ticket, lifetime_s: 1 }))
    }

    async fn resolve_many(
        &self,
        request: Request<v1::ResolveManyRequest>,
    ) -> Result<Response<v1::ResolveManyResponse>, Status> {
        let id = id(&request);
        let results = request.into_inner().requests.into_iter().map(|request| {
            let result = match self.answer(request, &id) {
                Ok(answer) => resolve_result::Result::Ok(answer),
                Err(fault) => resolve_result::Result::Failure(v1::Failure {
                    grpc_code: 0,
                    reason: fault.code.reason().into(),
                    message: fault.message,
                    retry_after_ms: 0,
                }),
            };
            v1::ResolveResult { result: Some(result) }
        });
        Ok(Response::new(v1::ResolveManyResponse { results: results.collect() }))
    }
}

#[tonic::async_trait]
impl catalog_server::Catalog for TestMaster {
    async fn list_titles(
        &self,
        request: Request<v1::ListTitlesRequest>,
    ) -> Result<Response<v1::ListTitlesResponse>, Status> {
        let request = request.into_inner();
        let mut names: Vec<_> = self.titles.keys().filter(|name| name.starts_with(&request.prefix)).collect();
        names.sort();
        // Pages of two, so that every listing turns a page.
        let rest = names.iter().filter(|name| name.as_str() > request.page_token.as_str());
        let page: Vec<_> = rest.take(2).map(|name| self.title(name)).collect();
        let last = page.last().map(|title| title.title.clone()).unwrap_or_default();
        let next_page_token = if names.last().is_some_and(|name| **name > last) { last } else { String::new() };
        Ok(Response::new(v1::ListTitlesResponse { titles: page, next_page_token }))
    }

    async fn locate(&self, request: Request<v1::LocateRequest>) -> Result<Response<v1::LocateResponse>, Status> {
        let name = match request.into_inner().what {
            Some(locate_request::What::Title(title)) => self.titles.contains_key(&title).then_some(title),
            Some(locate_request::What::ContentId(id)) => {
                self.titles.iter().find(|(_, data)| content(data) == id).map(|(name, _)| name.clone())
            }
            None => None,
        };
        let name = name.ok_or_else(|| Fault::new(Code::NotFound, "no node has this title").to_status())?;
        let version = v1::Version { title: Some(self.title(&name)), copies: Vec::new() };
        Ok(Response::new(v1::LocateResponse { versions: vec![version] }))
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for TestMaster {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;
    type DrainStream = Pin<Box<dyn Stream<Item = Result<v1::DrainResponse, Status>> + Send>>;

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        Err(Status::unimplemented("the tests do not drain"))
    }

    async fn undrain(&self, _: Request<v1::UndrainRequest>) -> Result<Response<v1::UndrainResponse>, Status> {
        Err(Status::unimplemented("the tests do not drain"))
    }

    async fn list_viewers(
        &self,
        _: Request<v1::ListViewersRequest>,
    ) -> Result<Response<v1::ListViewersResponse>, Status> {
        Err(Status::unimplemented("the tests have no viewers"))
    }

    async fn revoke_viewer(
        &self,
        _: Request<v1::RevokeViewerRequest>,
    ) -> Result<Response<v1::RevokeViewerResponse>, Status> {
        Err(Status::unimplemented("the tests have no viewers"))
    }

    async fn rebalance(&self, _: Request<v1::RebalanceRequest>) -> Result<Response<v1::RebalanceResponse>, Status> {
        Err(Status::unimplemented("the tests do not rebalance"))
    }

    async fn list_conflicts(
        &self,
        _: Request<v1::ListConflictsRequest>,
    ) -> Result<Response<v1::ListConflictsResponse>, Status> {
        Err(Status::unimplemented("the tests have no conflicts"))
    }

    async fn resolve_conflict(
        &self,
        _: Request<v1::ResolveConflictRequest>,
    ) -> Result<Response<v1::ResolveConflictResponse>, Status> {
        Err(Status::unimplemented("the tests have no conflicts"))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        self.allow(&request)?;
        let node = |seat: &TestSeat| v1::Node { name: seat.node.clone(), state: 1, ..v1::Node::default() };
        Ok(Response::new(v1::ListNodesResponse { nodes: self.seats.iter().map(node).collect() }))
    }

    async fn get_node(&self, _: Request<v1::GetNodeRequest>) -> Result<Response<v1::GetNodeResponse>, Status> {
        Err(Fault::new(Code::NotFound, "no such node").to_status())
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        self.allow(&request)?;
        let request = request.into_inner();
        self.explained.lock().expect("not poisoned").push(request.clone());
        match request.about {
            Some(explain_request::About::RequestId(id)) if id == "forgotten" => {
                Err(Fault::new(Code::NotFound, "no decision with this id is remembered").to_status())
            }
            _ => Ok(Response::new(v1::ExplainResponse { text: "node n1 is chosen\n".into(), ..Default::default() })),
        }
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("the tests do not watch"))
    }
}

/// Bytes that differ from group to group: `groups` whole groups and 99 bytes.
pub(super) fn media(groups: u64, seed: u8) -> Vec<u8> {
    let mut data = vec![seed; (groups * GROUP + 99) as usize];
    data.chunks_mut(GROUP as usize).enumerate().for_each(|(index, group)| group[..9].fill(index as u8));
    assert!(tree::pages(data.len() as u64) == 1, "the node of the tests sends one page of hashes");
    data
}
