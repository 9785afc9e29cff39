//! `usher.v1.Registry`: the standing channel of a node. Owns its admission and its end. An invalid message ends the
//! channel; earlier messages stay in effect.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};
use usher_certs::Role;
use usher_proto::{
    Fault,
    code::Code,
    model::{CatalogPage, Feeds, Hello, Invalid, Presence, RelayWanted, Report, Sessions, SetupInfo},
    pb::v1::{self, attach_request::Body, registry_server::Registry},
    text::printable_within,
    units,
};

use super::peer;
use crate::{
    core::{
        addresses,
        roster::{AttachmentId, LEASE, REPORT_INTERVAL},
    },
    dial_back,
    state::{NodeUpdate, SharedState},
    update_queue::UpdateQueue,
};

/// Time that a node has to send `Hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages buffered per node. A node with more has stopped reading and receives no orders.
const CHANNEL_LENGTH: usize = 64;

/// Time that the final status to a node may take.
const FINAL_STATUS_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) struct RegistryService {
    state: Arc<SharedState>,
    queue: UpdateQueue,
    /// Whether nodes are dialled before their addresses are offered.
    dial_back: bool,
    ending: CancellationToken,
    /// Last logged reason of each refused node.
    refused: Mutex<HashMap<String, String>>,
}

impl RegistryService {
    /// Its channels end when `ending` is cancelled.
    pub(crate) fn new(state: Arc<SharedState>, queue: UpdateQueue, dial_back: bool, ending: CancellationToken) -> Self {
        Self { state, queue, dial_back, ending, refused: Mutex::default() }
    }

    /// Logs why a node was refused: once per reason, however often it retries.
    fn refuse(&self, node: &str, why: &str) {
        // No invariant spans this lock. The map has at most one entry per node certificate.
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.get(node).is_some_and(|last| last == why) {
            debug!(node, error = why, "attachment refused again");
        } else {
            warn!(node, error = why, "attachment refused");
            refused.insert(node.to_owned(), why.to_owned());
        }
    }
}

#[tonic::async_trait]
impl Registry for RegistryService {
    type AttachStream = BoxStream<'static, Result<v1::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let name = peer::require(&request, Role::Node).inspect_err(|status| {
            warn!(peer = ?request.remote_addr(), error = status.message(), "attachment refused");
        })?;
        let same_host = same_host(&request);
        let mut messages = request.into_inner();
        let introduced = introduce(&name, same_host, &mut messages).await;
        let hello = introduced.inspect_err(|status| self.refuse(&name, status.message()))?;
        let answered = if self.dial_back { Some(dial_back::dial(&hello.presence).await) } else { None };

        let (to_node, from_master) = mpsc::channel(CHANNEL_LENGTH);
        let (number, version, capacity) = (hello.attachment, hello.version.clone(), hello.capacity);
        let (attachment, key, replaced) = self.state.attach(hello, answered, to_node.clone()).map_err(|error| {
            self.refuse(&name, &error.to_string());
            Fault::from(&error).to_status()
        })?;
        info!(node = %name, attachment = number, version, %capacity, "node attached");
        let welcome = v1::Welcome {
            keys: vec![v1::TicketKey { kid: key.kid().to_owned(), secret: key.secret().to_vec() }],
            report_interval_ms: units::millis(REPORT_INTERVAL),
            lease_ms: units::millis(LEASE),
        };
        // The channel is empty and its other end is alive.
        let welcomed =
            to_node.try_send(Ok(v1::AttachResponse { body: Some(v1::attach_response::Body::Welcome(welcome)) }));
        let (state, queue) = (Arc::clone(&self.state), self.queue.clone());
        let channel = OpenChannel { state, queue, attachment, name, same_host };
        if welcomed.is_err() {
            return Err(Fault::new(Code::Internal, "the channel to the node could not be opened").to_status());
        }
        let ending = self.ending.clone();
        tokio::spawn(async move {
            let status = channel.listen(messages, &replaced, &ending).await;
            if let Some(status) = status {
                // A node that does not read this status is gone anyway.
                let _unread = tokio::time::timeout(FINAL_STATUS_TIMEOUT, to_node.send(Err(status))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from_master))))
    }
}

/// Whether the caller runs on this machine.
fn same_host<T>(request: &Request<T>) -> bool {
    let ip = |address: Option<std::net::SocketAddr>| address.map(|address| address.ip().to_canonical());
    let (peer, own) = (ip(request.remote_addr()), ip(request.local_addr()));
    peer.is_some_and(|peer| peer.is_loopback() || Some(peer) == own)
}

/// Checks a node's addresses by policy.
fn allowed(presence: &Presence, same_host: bool) -> Result<(), Status> {
    addresses::check(&presence.addresses, same_host).map_err(|error| Invalid::one("addresses", error).to_status())
}

/// Reads the first message, which must be the `Hello` of the node that the certificate names.
async fn introduce(name: &str, same_host: bool, messages: &mut Streaming<v1::AttachRequest>) -> Result<Hello, Status> {
    let timeout = || Fault::new(Code::Timeout, format!("no Hello within {} s", HELLO_TIMEOUT.as_secs())).to_status();
    let first = tokio::time::timeout(HELLO_TIMEOUT, messages.next()).await.map_err(|_| timeout())?;
    let Some(v1::AttachRequest { body: Some(Body::Hello(hello)) }) = first.transpose()? else {
        return Err(Invalid::one("hello", "the first message must be Hello").to_status());
    };
    if hello.node != name {
        let claimed = printable_within(&hello.node, 64);
        let text = format!("the certificate names node `{name}`, not `{claimed}`");
        return Err(Fault::new(Code::Denied, text).to_status());
    }
    let hello = Hello::try_from(hello).map_err(|invalid| invalid.to_status())?;
    allowed(&hello.presence, same_host)?;
    Ok(hello)
}

/// An open channel. Dropping it detaches the node, however the channel ended.
struct OpenChannel {
    state: Arc<SharedState>,
    queue: UpdateQueue,
    attachment: AttachmentId,
    name: String,
    /// Whether the node runs on this machine.
    same_host: bool,
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        self.state.detach(self.attachment);
        info!(node = %self.name, "node detached");
    }
}

impl OpenChannel {
    /// Handles the node's messages until the channel ends. Returns the final status to send, if any.
    async fn listen(
        self,
        messages: Streaming<v1::AttachRequest>,
        replaced: &CancellationToken,
        ending: &CancellationToken,
    ) -> Option<Status> {
        let status = self.take_all(messages, replaced, ending).await;
        self.queue.settled().await;
        status
    }

    async fn take_all(
        &self,
        mut messages: Streaming<v1::AttachRequest>,
        replaced: &CancellationToken,
        ending: &CancellationToken,
    ) -> Option<Status> {
        loop {
            let message = tokio::select! {
                biased;
                () = replaced.cancelled() => {
                    return Some(Fault::new(Code::Exists, "a newer attachment of this node replaced this one").to_status());
                }
                () = ending.cancelled() => {
                    return Some(Fault::new(Code::Unavailable, "the master is shutting down").after(REPORT_INTERVAL).to_status());
                }
                message = messages.next() => message,
            };
            let taken = match message {
                None => return None,
                Some(Err(status)) => {
                    debug!(node = %self.name, error = status.message(), "node channel failed");
                    // A too large message or broken framing: the node should know.
                    return Some(status);
                }
                Some(Ok(message)) => self.take(message.body).await,
            };
            if let Err(status) = taken {
                warn!(node = %self.name, error = status.message(), "invalid message from node; channel closed");
                return Some(status);
            }
        }
    }

    async fn take(&self, body: Option<Body>) -> Result<(), Status> {
        let invalid = |invalid: Invalid| invalid.to_status();
        match body {
            Some(Body::Catalog(page)) => {
                let page = CatalogPage::try_from(page).map_err(invalid)?;
                // The node's sessions may refer to titles of this page, and the other way round.
                self.queue.settled().await;
                let taken = self.state.page(self.attachment, page).await;
                taken.map_err(|error| Invalid::one("copies", error).to_status())?;
            }
            Some(Body::Report(report)) => {
                if !self.queue.report(self.attachment, Report::try_from(report).map_err(invalid)?) {
                    self.state.metrics().report("dropped");
                    debug!(node = %self.name, "report dropped: the update queue is full");
                }
            }
            Some(Body::Presence(presence)) => {
                let presence: Presence = presence.try_into().map_err(invalid)?;
                allowed(&presence, self.same_host)?;
                self.queue.push(NodeUpdate::Presence(self.attachment, presence)).await;
            }
            Some(Body::Sessions(sessions)) => {
                let sessions = Sessions::try_from(sessions).map_err(invalid)?;
                self.queue.push(NodeUpdate::Sessions(self.attachment, sessions)).await;
            }
            Some(Body::Probed(_)) => self.state.probed(self.attachment),
            Some(Body::Moved(moved)) => {
                self.state.moved(self.attachment, moved.id, moved.refusal.as_ref().map(Fault::from).as_ref());
            }
            Some(Body::Replicated(copied)) => {
                self.state.replicated(self.attachment, copied.id, copied.refusal.as_ref().map(Fault::from).as_ref());
            }
            Some(Body::Feeds(feeds)) => self.state.feeds(self.attachment, Feeds::try_from(feeds).map_err(invalid)?),
            Some(Body::RelayWanted(wanted)) => {
                self.state.relay_wanted(self.attachment, &RelayWanted::try_from(wanted).map_err(invalid)?);
            }
            Some(Body::Prepared(prepared)) => self.prepared(prepared).map_err(invalid)?,
            Some(Body::Hello(_)) => return Err(invalid(Invalid::one("hello", "only the first message may be Hello"))),
            None => return Err(invalid(Invalid::one("body", "a message without a body"))),
        }
        Ok(())
    }

    fn prepared(&self, prepared: v1::Prepared) -> Result<(), Invalid> {
        use v1::prepared::Result as Pb;
        let answer = match prepared.result {
            Some(Pb::Setup(setup)) => {
                SetupInfo::try_from(setup.clone())?;
                Ok(setup)
            }
            Some(Pb::Refusal(refusal)) => Err((&refusal).into()),
            None => return Err(Invalid::one("result", "name a setup or a refusal")),
        };
        self.state.prepared(self.attachment, prepared.id, answer);
        Ok(())
    }
}
