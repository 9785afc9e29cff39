//! The only owner of the core: a short lock around it, the channels to nodes, and the stream of events. The lock is
//! never held across an await; long work (a page of a catalog, a listing) takes it in steps. Independent of gRPC
//! services.

mod conflicts;
mod contact;
mod dials;
mod explain;
mod feeds;
mod figures;
mod operate;
mod orders;
mod prepare;
mod refused;
mod resolve;
mod updates;
mod view;
mod viewers;

pub(crate) use self::{
    contact::NodeContact,
    dials::DialOrder,
    feeds::PublishSeats,
    operate::{DrainProgress, unknown_node},
    resolve::{Asker, Placement, PlacementRefused},
    updates::NodeUpdate,
    view::timestamp,
};

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::RngExt as _;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use usher_proto::{
    ContentId, NodeName, SessionId, Title,
    feed::FeedKey,
    model::{CatalogPage, Hello},
    pb::v1,
    ticket::{ClusterSecret, Key, SessionKey},
    units,
};

use self::{contact::contact, orders::SentOrder, prepare::PendingPrepare, refused::CatalogLimit};
use crate::{
    core::{
        NodeId, Now,
        catalog::{PageError, RefusedCopies},
        cluster::{Cluster, ClusterEvent, Settings},
        roster::{AttachError, AttachmentId},
    },
    metrics::Metrics,
    store::DecisionStore,
};

/// Events by which a watcher may lag before it receives the whole roster again.
const EVENTS: usize = 1024;

/// Copies applied per hold of the lock: about a third of a millisecond.
const PAGE_STEP: usize = 256;

/// Sending end of a node's channel.
pub(crate) type NodeSender = mpsc::Sender<Result<v1::AttachResponse, tonic::Status>>;

/// The channel of an attached node.
struct NodeChannel {
    attachment: AttachmentId,
    contact: Arc<NodeContact>,
    to_node: NodeSender,
    /// Cancelled when another attachment replaces this one.
    replaced: CancellationToken,
    /// Whether it is sending the complete list of its sessions, many of which started earlier.
    listing: bool,
    /// Addresses that did not answer when they were last dialled.
    silent: Vec<SocketAddr>,
    /// Time of the last log line about sessions that the cluster did not issue.
    noted: Option<Instant>,
    /// Copies that were not taken, by limit, and the time of the last message about them.
    refused: HashMap<CatalogLimit, (RefusedCopies, Option<Instant>)>,
}

#[derive(Default)]
struct StateInner {
    cluster: Cluster,
    channels: HashMap<NodeId, NodeChannel>,
    pending: HashMap<u64, PendingPrepare>,
    /// Orders without an answer.
    sent: HashMap<u64, SentOrder>,
    /// Nodes with an unanswered probe.
    probed: HashSet<NodeId>,
    /// Last number of a question or order.
    numbers: u64,
}

/// State shared by all services.
pub(crate) struct SharedState {
    inner: Mutex<StateInner>,
    events: broadcast::Sender<v1::WatchResponse>,
    /// Notifies of silent nodes that sent a message or left.
    probe_answers: watch::Sender<()>,
    decisions: Mutex<DecisionStore>,
    /// Nodes to dial.
    dials: mpsc::Sender<DialOrder>,
    secret: ClusterSecret,
    session_key: SessionKey,
    /// Duration of a session on one ticket; `None` is unlimited.
    lifetime: Option<Duration>,
    metrics: Arc<Metrics>,
    /// Feed keys, derived once per feed.
    keys: Mutex<HashMap<Title, FeedKey>>,
}

/// Reads both clocks.
pub(crate) fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix_ms: units::millis(unix) }
}

impl SharedState {
    pub(crate) fn new(
        secret: ClusterSecret,
        settings: Settings,
        lifetime: Option<Duration>,
        metrics: Arc<Metrics>,
        dials: mpsc::Sender<DialOrder>,
        decisions: (DecisionStore, Vec<(Title, ContentId)>),
    ) -> Self {
        let session_key = secret.session_key();
        let settings = Settings { session_key: Some(session_key.clone()), ..settings };
        let mut inner = StateInner { cluster: Cluster::new(settings), ..StateInner::default() };
        inner.cluster.handle_start(Instant::now());
        let (decisions, stored) = decisions;
        inner.cluster.restore_decisions(stored);
        let decisions = Mutex::new(decisions);
        let (events, probe_answers) = (broadcast::Sender::new(EVENTS), watch::Sender::default());
        let keys = Mutex::default();
        let inner = Mutex::new(inner);
        Self { inner, events, probe_answers, decisions, dials, secret, session_key, lifetime, metrics, keys }
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A new session id.
    pub(crate) fn session(&self) -> SessionId {
        self.session_key.issue(rand::rng().random())
    }

    /// Unix seconds until which a session may run on a ticket issued now; `None` is unlimited.
    pub(crate) fn until(&self, now: Now) -> Option<u64> {
        Some((now.unix_ms / 1000).saturating_add(self.lifetime?.as_secs()))
    }

    /// Number of known nodes.
    pub(crate) fn roster_len(&self) -> usize {
        self.lock().cluster.roster().nodes().count()
    }

    /// Contact of an attached node.
    pub(crate) fn contact(&self, node: &NodeName) -> Option<Arc<NodeContact>> {
        let inner = self.lock();
        let id = inner.cluster.roster().id(node)?;
        inner.channels.get(&id).map(|channel| Arc::clone(&channel.contact))
    }

    /// A panic under the lock is a bug of the core, whose tables stay usable; poisoning would fail every later request.
    fn lock(&self) -> MutexGuard<'_, StateInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches a node, of whose addresses some `answered`; `None` if they were not dialled. Returns the attachment, the key
    /// of its tickets, and the token that ends the attachment.
    pub(crate) fn attach(
        &self,
        hello: Hello,
        answered: Option<Vec<SocketAddr>>,
        to_node: NodeSender,
    ) -> Result<(AttachmentId, Key, CancellationToken), AttachError> {
        let key = self.secret.node_key(&hello.node, hello.boot);
        let mut inner = self.lock();
        let now = now();
        let contact = Arc::new(contact(&hello, std::iter::empty(), key.clone()));
        let attachment = inner.cluster.handle_attach(now, hello)?;
        let replaced = CancellationToken::new();
        let channel = NodeChannel {
            attachment,
            contact,
            to_node,
            replaced: replaced.clone(),
            listing: false,
            silent: Vec::new(),
            noted: None,
            refused: HashMap::new(),
        };
        if let Some(old) = inner.channels.insert(attachment.node, channel) {
            old.replaced.cancel();
        }
        match answered {
            Some(answered) => inner.dialled(attachment, answered, now),
            None => inner.refresh_contact(attachment),
        }
        self.clear_probe(&mut inner, attachment);
        self.publish(&mut inner, now);
        Ok((attachment, key, replaced))
    }

    /// Handles the end of an attachment's channel.
    pub(crate) fn detach(&self, attachment: AttachmentId) {
        let mut inner = self.lock();
        let now = now();
        inner.cluster.handle_detach(now, attachment);
        if inner.channels.get(&attachment.node).is_some_and(|channel| channel.attachment == attachment) {
            inner.channels.remove(&attachment.node);
        }
        // Dropping the senders notifies callers that wait for an answer over that channel.
        inner.pending.retain(|_, pending| pending.attachment != attachment);
        inner.sent.retain(|_, sent| !sent.ends_with(attachment));
        self.clear_probe(&mut inner, attachment);
        self.publish(&mut inner, now);
    }

    /// Applies a page of a node's catalog in steps.
    pub(crate) async fn page(&self, attachment: AttachmentId, mut page: CatalogPage) -> Result<(), PageError> {
        let (mut conflicts, mut example) = (0, None);
        let (mut outside, mut full) = (RefusedCopies::default(), RefusedCopies::default());
        loop {
            let rest = page.copies.split_off(PAGE_STEP.min(page.copies.len()));
            let last = rest.is_empty();
            let step = CatalogPage {
                restart: std::mem::take(&mut page.restart),
                complete: last && page.complete,
                copies: std::mem::replace(&mut page.copies, rest),
                removals: if last { std::mem::take(&mut page.removals) } else { Vec::new() },
                rejected_files: page.rejected_files,
                damaged_files: page.damaged_files,
            };
            let taken = self.lock().cluster.handle_page(attachment, &step)?;
            let Some(outcome) = taken else { return Ok(()) };
            conflicts += outcome.conflicts;
            example = example.or(outcome.example);
            outside.merge(outcome.outside);
            full.merge(outcome.full);
            if last {
                break;
            }
            tokio::task::yield_now().await;
        }
        self.note_refused(attachment, CatalogLimit::Titles, outside);
        self.note_refused(attachment, CatalogLimit::Memory, full);
        if let Some(title) = example {
            warn!(
                titles = conflicts,
                %title,
                "titles have more than one content; a request by name gets that of the node that listed the title first: see `usher conflicts`"
            );
        }
        Ok(())
    }

    /// Passes a client's report that a node does not answer; `proven` if the client was sent there.
    pub(crate) fn hint(&self, node: &NodeName, proven: bool) {
        let mut inner = self.lock();
        let now = now();
        self.metrics.hints.inc();
        inner.cluster.handle_hint(now, node, proven);
        self.send_orders(&mut inner, now);
    }

    /// Passes the report of wrong bytes of a content from a client that the node was to send it to.
    pub(crate) fn damaged_copy(&self, node: &NodeName, content: &ContentId) {
        let mut inner = self.lock();
        let now = now();
        inner.cluster.handle_damaged_copy(now, node, content);
        self.send_orders(&mut inner, now);
    }

    /// Releases a reservation whose session will not start.
    pub(crate) fn release(&self, session: SessionId) {
        self.lock().cluster.release(session);
    }

    /// Handles the passage of time.
    pub(crate) fn tick(&self) {
        let mut inner = self.lock();
        let now = now();
        if inner.cluster.next_timeout().is_some_and(|deadline| deadline <= now.instant) {
            inner.cluster.handle_timeout(now, &mut rand::rng());
            self.publish(&mut inner, now);
        }
        self.send_orders(&mut inner, now);
        self.expire(&mut inner, now);
    }

    /// Collects some invalid copies of the catalog. Returns whether more remain.
    pub(crate) fn sweep(&self) -> bool {
        self.lock().cluster.sweep()
    }

    /// Logs events and sends them to watchers, under the lock so that they stay in order.
    fn publish(&self, inner: &mut StateInner, now: Now) {
        for event in inner.cluster.poll_events() {
            let (node, change) = match event {
                ClusterEvent::Attached(node) => (node, "attached"),
                ClusterEvent::State(node, state) => (node, state.as_str()),
                ClusterEvent::Stuck(node, sessions) => {
                    let node = inner.node_name(node);
                    warn!(%node, sessions, "drain stalled: no other holder has capacity; retrying");
                    continue;
                }
            };
            let Some(known) = inner.cluster.roster().node(node) else { continue };
            if let ClusterEvent::State(..) = event {
                info!(node = %known.name(), state = change, "node state changed");
            }
            let node = view::node(&inner.cluster, now, node, known);
            // Fails only without watchers.
            let _watchers = self.events.send(v1::WatchResponse { node: Some(node), change: change.to_owned() });
        }
    }
}

impl StateInner {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}
