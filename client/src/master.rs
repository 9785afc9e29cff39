//! gRPC to a master: one channel under the cluster's authority, validated answers, and error messages for people. Leaves the
//! use of the answers to its callers.

use std::{
    error::Error as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::sync::Mutex;
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use usher_certs::{files::PemSet, tls};
use usher_proto::{
    Bitrate, Code, ContentId, Fault, MASTER_PORT, NodeName, Title,
    model::{LiveInfo, MAX_REQUESTS, Published, SeatAddress},
    pb::v1::{
        self, catalog_client::CatalogClient, cluster_client::ClusterClient, resolve_result::Result as Resolved,
        tickets_client::TicketsClient,
    },
    tree::MAX_SIZE,
};

use crate::{
    core::{table::clean, url::Address},
    token::Token,
};

/// Time that a connection may take: a lost first packet is sent again after 1 s and 3 s.
const CONNECT: Duration = Duration::from_secs(5);

/// Time that an answer may take: a master answers in milliseconds, or within its queue's deadline.
const ANSWER: Duration = Duration::from_secs(10);

/// Longest answer in bytes: 5000 titles of 1 KiB with their other fields.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Most seats of one answer that are tried.
const MAX_SEATS: usize = 32;

/// The authority whose certificates a cluster's masters show.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The authority's certificate in PEM.
    pub pem: String,
    /// The file that it was read from, for messages.
    pub source: PathBuf,
}

impl Authority {
    /// Reads a file; by default `ca.pem` in this user's directory of certificates.
    ///
    /// # Errors
    /// [`Code::Usage`] when the file cannot be read.
    pub fn load(file: Option<PathBuf>) -> Result<Self, Fault> {
        let usage = |text: String| Fault::new(Code::Usage, text);
        let source = match file {
            Some(file) => file,
            None => usher_certs::files::default_dir().map_err(|error| usage(format!("{error:#}")))?.join("ca.pem"),
        };
        let pem = std::fs::read_to_string(&source).map_err(|error| {
            let path = source.display();
            usage(format!("read the authority's certificate {path}: {error}; name the cluster's ca.pem with --ca FILE"))
        })?;
        Ok(Self { pem, source })
    }

    /// Reads a certificate that this authority issued, and its key.
    ///
    /// # Errors
    /// [`Code::Usage`] when a file cannot be read, or the certificate is of another authority or out of date.
    pub fn identity(&self, cert: &Path, key: &Path) -> Result<PemSet, Fault> {
        let usage = |error| Fault::new(Code::Usage, format!("{error:#}"));
        usher_certs::files::read_pem(cert, key, &self.source).map_err(usage)
    }
}

/// A validated answer to a request for one title.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) title: Title,
    pub(crate) content: Option<ContentId>,
    /// Size of the title in bytes; 0 of a feed.
    pub(crate) size: u64,
    /// The reserved rate.
    pub(crate) rate: Bitrate,
    /// At least one.
    pub(crate) seats: Vec<SeatAddress>,
    pub(crate) reason: String,
    pub(crate) request_id: String,
    /// Key of a feed; `None` of a title.
    pub(crate) live: Option<LiveInfo>,
}

impl TryFrom<v1::ResolveResponse> for Answer {
    type Error = Fault;

    fn try_from(answer: v1::ResolveResponse) -> Result<Self, Fault> {
        let bad = |what: &str| Fault::new(Code::Internal, format!("the master's answer cannot be used: {what}"));
        let title = Title::parse(&answer.title).map_err(|error| bad(&error.to_string()))?;
        let content = match answer.content_id.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| bad("its content id is invalid"))?),
        };
        let live = answer.live.map(LiveInfo::try_from).transpose().map_err(|error| bad(&error.to_string()))?;
        let size = if live.is_some() { 0 } else { answer.size };
        if live.is_none() && !(1..=MAX_SIZE).contains(&size) {
            return Err(bad("its size is out of range"));
        }
        let mut wrong = "it names no seat".to_owned();
        let seats: Vec<SeatAddress> = answer
            .seats
            .into_iter()
            .take(MAX_SEATS)
            .filter_map(|seat| SeatAddress::try_from(seat).map_err(|error| wrong = error.to_string()).ok())
            .collect();
        if seats.is_empty() {
            return Err(bad(&wrong));
        }
        let (reason, request_id) = (clean(&answer.reason), clean(&answer.request_id));
        Ok(Self { title, content, size, rate: Bitrate(answer.rate_bps), seats, reason, request_id, live })
    }
}

/// One master.
pub(crate) struct Master {
    address: Address,
    authority: Authority,
    endpoint: Endpoint,
    /// Connected by the first call; tonic reconnects it.
    channel: Mutex<Option<Channel>>,
    request_id: MetadataValue<Ascii>,
    token: Option<Token>,
}

impl Master {
    /// Prepares a channel; dials nothing yet. The client shows `identity`, if any, and sends `request_id` and `token` with
    /// every call.
    pub(crate) fn new(
        address: Address,
        authority: Authority,
        identity: Option<&PemSet>,
        token: Option<Token>,
        request_id: u128,
    ) -> Result<Self, Fault> {
        let usage = |error: tonic::transport::Error| {
            Fault::new(Code::Usage, format!("prepare a channel to {address}: {}", root(&error)))
        };
        // tonic accepts a file without any certificate, and then trusts no master.
        let certificates = CertificateDer::pem_slice_iter(authority.pem.as_bytes());
        if !matches!(certificates.collect::<Result<Vec<_>, _>>(), Ok(found) if !found.is_empty()) {
            let text = format!(
                "{} holds no certificate in PEM; name the cluster's ca.pem with --ca FILE",
                authority.source.display()
            );
            return Err(Fault::new(Code::Usage, text));
        }
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&authority.pem))
            .domain_name(&address.host)
            .use_key_log();
        if let Some(PemSet { cert, key, .. }) = identity {
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        let endpoint = Endpoint::from_shared(address.https())
            .map_err(usage)?
            .tls_config(tls)
            .map_err(|error| {
                let text = format!("authority's certificate {}: {}", authority.source.display(), root(&error));
                Fault::new(Code::Usage, text)
            })?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .tcp_nodelay(true);
        let request_id = format!("{request_id:032x}").parse().map_err(|_| Fault::new(Code::Internal, "request id"))?;
        Ok(Self { address, authority, endpoint, channel: Mutex::default(), request_id, token })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The request id of every call.
    pub(crate) fn request_id(&self) -> &str {
        // It consists of hexadecimal digits.
        self.request_id.to_str().unwrap_or_default()
    }

    /// Chooses a node for a title.
    pub(crate) async fn resolve(&self, request: v1::ResolveRequest) -> Result<Answer, Fault> {
        let mut client = TicketsClient::new(self.channel().await?);
        self.answer(client.resolve(self.request(request))).await?.try_into()
    }

    /// Chooses nodes for several titles: one answer for each, in their order.
    pub(crate) async fn resolve_many(
        &self,
        requests: Vec<v1::ResolveRequest>,
    ) -> Result<Vec<Result<Answer, Fault>>, Fault> {
        let mut answers = Vec::with_capacity(requests.len());
        for batch in requests.chunks(MAX_REQUESTS) {
            let mut client = TicketsClient::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER);
            let request = v1::ResolveManyRequest { requests: batch.to_vec() };
            let response = self.answer(client.resolve_many(self.request(request))).await?;
            if response.results.len() != batch.len() {
                return Err(Fault::new(Code::Internal, "the master answered for another number of titles than asked"));
            }
            answers.extend(response.results.into_iter().map(|result| match result.result {
                Some(Resolved::Ok(answer)) => answer.try_into(),
                Some(Resolved::Failure(no)) => Err(Fault::from(&no)),
                None => Err(Fault::new(Code::Internal, "the master gave no answer for a title")),
            }));
        }
        Ok(answers)
    }

    /// Renews the ticket of a session at this node; returns the new ticket and its lifetime.
    pub(crate) async fn renew(&self, node: &NodeName, ticket: String) -> Result<(String, Duration), Fault> {
        let mut client = TicketsClient::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER);
        let request = v1::RenewRequest { node: node.to_string(), ticket };
        let answer = self.answer(client.renew(self.request(request))).await?;
        if answer.ticket.is_empty() {
            return Err(Fault::new(Code::Internal, "the master answered without a ticket"));
        }
        Ok((answer.ticket, Duration::from_secs(answer.lifetime_s)))
    }

    /// Chooses nodes for a feed that is published.
    pub(crate) async fn publish(&self, request: v1::PublishRequest) -> Result<Published, Fault> {
        let mut client = TicketsClient::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER);
        let answer = self.answer(client.publish(self.request(request))).await?;
        Published::try_from(answer)
            .map_err(|error| Fault::new(Code::Internal, format!("the master's answer cannot be used: {error}")))
    }

    /// Lists one page of titles.
    pub(crate) async fn list_titles(&self, request: v1::ListTitlesRequest) -> Result<v1::ListTitlesResponse, Fault> {
        let mut client = CatalogClient::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER);
        self.answer(client.list_titles(self.request(request))).await
    }

    /// Lists every copy of a title.
    pub(crate) async fn locate(&self, what: v1::locate_request::What) -> Result<v1::LocateResponse, Fault> {
        let mut client = CatalogClient::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER);
        self.answer(client.locate(self.request(v1::LocateRequest { what: Some(what) }))).await
    }

    /// Lists all nodes.
    pub(crate) async fn list_nodes(&self) -> Result<Vec<v1::Node>, Fault> {
        let mut client = ClusterClient::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER);
        Ok(self.answer(client.list_nodes(self.request(v1::ListNodesRequest {}))).await?.nodes)
    }

    /// Describes one node with its history.
    pub(crate) async fn node(&self, name: String) -> Result<v1::GetNodeResponse, Fault> {
        let mut client = ClusterClient::new(self.channel().await?);
        self.answer(client.get_node(self.request(v1::GetNodeRequest { name }))).await
    }

    /// Explains a decision.
    pub(crate) async fn explain(&self, about: v1::explain_request::About) -> Result<v1::ExplainResponse, Fault> {
        let mut client = ClusterClient::new(self.channel().await?);
        self.answer(client.explain(self.request(v1::ExplainRequest { about: Some(about) }))).await
    }

    /// Streams the roster and its changes.
    pub(crate) async fn watch(&self) -> Result<Streaming<v1::WatchResponse>, Fault> {
        let mut client = ClusterClient::new(self.channel().await?);
        self.answer(client.watch(self.request(v1::WatchRequest {}))).await
    }

    /// Drains a node and streams the progress.
    pub(crate) async fn drain(&self, request: v1::DrainRequest) -> Result<Streaming<v1::DrainResponse>, Fault> {
        let mut client = ClusterClient::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER);
        self.answer(client.drain(self.request(request))).await
    }

    /// Ends the drain of a node.
    pub(crate) async fn undrain(&self, node: String) -> Result<(), Fault> {
        let mut client = ClusterClient::new(self.channel().await?);
        self.answer(client.undrain(self.request(v1::UndrainRequest { node }))).await.map(|_done| ())
    }

    /// Titles with more than one content, and whether there are more.
    pub(crate) async fn conflicts(&self) -> Result<v1::ListConflictsResponse, Fault> {
        let mut client = ClusterClient::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER);
        self.answer(client.list_conflicts(self.request(v1::ListConflictsRequest {}))).await
    }

    /// Chooses the content of a title.
    pub(crate) async fn resolve_conflict(&self, request: v1::ResolveConflictRequest) -> Result<(), Fault> {
        let mut client = ClusterClient::new(self.channel().await?);
        self.answer(client.resolve_conflict(self.request(request))).await.map(|_done| ())
    }

    /// Lists viewers with sessions.
    pub(crate) async fn list_viewers(&self) -> Result<Vec<v1::Viewer>, Fault> {
        let mut client = ClusterClient::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER);
        Ok(self.answer(client.list_viewers(self.request(v1::ListViewersRequest {}))).await?.viewers)
    }

    /// Revokes a viewer or a token; returns the number of its sessions.
    pub(crate) async fn revoke_viewer(&self, request: v1::RevokeViewerRequest) -> Result<u32, Fault> {
        let mut client = ClusterClient::new(self.channel().await?);
        Ok(self.answer(client.revoke_viewer(self.request(request))).await?.sessions)
    }

    /// Balances load, or only plans the moves.
    pub(crate) async fn rebalance(&self, request: v1::RebalanceRequest) -> Result<Vec<v1::PlannedMove>, Fault> {
        let mut client = ClusterClient::new(self.channel().await?).max_decoding_message_size(MAX_ANSWER);
        Ok(self.answer(client.rebalance(self.request(request))).await?.moves)
    }

    /// The failure of a call or stream.
    pub(crate) fn fault(&self, status: &Status) -> Fault {
        let fault = Fault::from_status(status);
        let transport = status.source().is_some() && matches!(fault.code, Code::Network | Code::Internal);
        if transport { self.absent(status) } else { fault }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-request-id", self.request_id.clone());
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.metadata());
        }
        request
    }

    async fn answer<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Fault> {
        match tokio::time::timeout(ANSWER, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.fault(&status)),
            Err(_) => {
                let text = format!("the master at {} did not answer within {} s", self.address, ANSWER.as_secs());
                Err(Fault::new(Code::Timeout, text))
            }
        }
    }

    async fn channel(&self) -> Result<Channel, Fault> {
        let mut channel = self.channel.lock().await;
        if let Some(channel) = &*channel {
            return Ok(channel.clone());
        }
        let connected = self.endpoint.connect().await.map_err(|error| self.absent(&error))?;
        Ok(channel.insert(connected).clone())
    }

    /// The failure of a connection: an untrusted master is denied, and an unreachable one may be retried.
    fn absent(&self, error: &(dyn std::error::Error + 'static)) -> Fault {
        let Self { address, authority, .. } = self;
        if let Some(tls) = tls::error_in(error) {
            if matches!(tls, rustls::Error::InvalidMessage(_)) {
                let text = format!(
                    "the port {} of {} does not speak TLS, so it is not a master's; a master's port is {MASTER_PORT} unless \
                     it is set (--listen)",
                    address.port, address.host
                );
                return Fault::new(Code::Denied, text);
            }
            let text = format!(
                "the master at {address} is not trusted: {}; it was checked against the authority in {}; name the \
                 cluster's own ca.pem with --ca FILE, or a host that is in the master's certificate",
                clean(&tls.to_string()),
                authority.source.display()
            );
            return Fault::new(Code::Denied, text);
        }
        let text = format!(
            "no master answers at {address} ({}); check the host and port, and that `usher master` runs there",
            root(error)
        );
        Fault::new(Code::Network, text)
    }
}

/// The innermost cause, which is the most specific.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    clean(&inner.to_string())
}
