//! Sends the core's orders down the channels of nodes and passes their answers back. Owns the numbers that match the
//! two.

use std::time::{Duration, Instant};

use tracing::debug;
use usher_proto::{
    Code, Fault, SessionId, Title,
    feed::FeedKey,
    model::EndSession,
    pb::v1::{self, attach_response::Body},
    ticket::{Claims, FeedGrant, Purpose, Right},
};

use super::{NodeContact, SharedState, StateInner, now};
use crate::core::{
    NodeId, Now,
    catalog::{ContentKey, TitleMetadata},
    cluster::Order,
    feeds::RivalPublisher,
    moves::SessionMove,
    roster::AttachmentId,
};

/// Time to wait for the answer to a move. The core times out sooner and keeps the session in place.
const MOVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time to wait for the answer to a copy. The catalog shows the result as well, and the core has its own timeout.
const COPY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// An order without an answer.
pub(super) struct SentOrder {
    attachment: AttachmentId,
    until: Instant,
    what: OrderKind,
}

/// Kind of an order, with its object.
#[derive(Clone, Copy)]
enum OrderKind {
    Move(SessionId),
    Copy(ContentKey),
}

impl SentOrder {
    /// Whether no answer will come after the end of this attachment. A copy continues without the master.
    pub(super) fn ends_with(&self, attachment: AttachmentId) -> bool {
        matches!(self.what, OrderKind::Move(_)) && self.attachment == attachment
    }
}

impl OrderKind {
    fn name(self) -> &'static str {
        match self {
            Self::Move(_) => "move",
            Self::Copy(_) => "replicate",
        }
    }
}

impl SharedState {
    /// Sends the core's new orders.
    pub(super) fn send_orders(&self, inner: &mut StateInner, now: Now) {
        for order in inner.cluster.poll_orders() {
            match order {
                Order::Probe(node) => self.probe(inner, node),
                Order::DialBack(attachment) => self.order_dial(inner, attachment),
                Order::Move(step) => self.send_move(inner, now, step),
                Order::Replicate { key, from, to, rate, why } => {
                    debug!(from = %inner.node_name(from), to = %inner.node_name(to), rate, reason = ?why, "copy ordered");
                    self.replicate(inner, now, key, (from, to), rate);
                }
                Order::Evict { key, node } => self.evict(inner, key, node),
                Order::Recheck { key, node } => self.recheck(inner, key, node),
                Order::Relay { node, title, rate, upstreams } => {
                    let order = inner.relay(now, self.feed_key(&title), &title, rate, &upstreams);
                    self.send_unanswered(inner, node, "relay", order.map(Body::Relay));
                }
                Order::NoRelay { node, title, why } => {
                    let order = v1::Relay {
                        title: title.to_string(),
                        key: self.feed_key(&title).0.to_vec(),
                        refusal: Some(v1::Refusal {
                            reason: why.code.reason().to_owned(),
                            retry_after_ms: why.retry_after_ms(),
                            message: why.message,
                        }),
                        ..v1::Relay::default()
                    };
                    self.send_unanswered(inner, node, "relay", Some(Body::Relay(order)));
                }
                Order::EndSurplus { session, node } => {
                    let text = "the session also runs at another node; use one seat of an answer";
                    self.end_session(inner, node, session, Fault::new(Code::TicketReplayed, text));
                }
                Order::EndRevoked { session, node } => {
                    self.end_session(inner, node, session, Fault::new(Code::Denied, "the viewer's token was revoked"));
                }
                Order::EndPublisher(RivalPublisher { node, title, publisher }) => {
                    let publisher_id = publisher.0.to_be_bytes().to_vec();
                    let order = v1::EndPublisher { title: title.to_string(), publisher_id };
                    self.send_unanswered(inner, node, "end_publisher", Some(Body::EndPublisher(order)));
                }
            }
        }
    }

    fn end_session(&self, inner: &StateInner, node: NodeId, session: SessionId, why: Fault) {
        let order = EndSession { session, why }.to_pb();
        self.send_unanswered(inner, node, "end_session", Some(Body::EndSession(order)));
    }

    fn probe(&self, inner: &mut StateInner, node: NodeId) {
        inner.probed.insert(node);
        let id = inner.number();
        let sent = inner.send(node, Body::Probe(v1::Probe { id }));
        self.metrics.order("probe", if sent { "sent" } else { "dropped" });
    }

    fn send_move(&self, inner: &mut StateInner, now: Now, step: SessionMove) {
        let id = inner.number();
        let feed = inner.cluster.feeds().session(step.session).map(|used| used.title.clone());
        let order = match feed {
            Some(title) => inner.move_feed(now, self.until(now), self.feed_key(&title), &title, step, id),
            None => inner.move_to(now, self.until(now), step, id),
        };
        let order = order.map(Body::Move);
        if !self.order(inner, step.from, order, (id, OrderKind::Move(step.session)), now.instant + MOVE_TIMEOUT) {
            inner.cluster.handle_move_answer(step.session, false);
        }
    }

    fn replicate(&self, inner: &mut StateInner, now: Now, key: ContentKey, (from, to): (NodeId, NodeId), rate: u64) {
        let id = inner.number();
        let order = inner.copy_of(now, key, from, rate, id).map(Body::Replicate);
        if !self.order(inner, to, order, (id, OrderKind::Copy(key)), now.instant + COPY_TIMEOUT) {
            inner.cluster.handle_copy_answer(now, key, to, false);
        }
    }

    /// Sends an order that has no answer.
    pub(super) fn send_unanswered(&self, inner: &StateInner, node: NodeId, what: &'static str, order: Option<Body>) {
        let sent = order.map(|order| inner.send(node, order));
        self.metrics.order(what, sent.map_or("void", |sent| if sent { "sent" } else { "dropped" }));
    }

    /// Sends an order that has an answer. `None` is an order that has become void.
    fn order(
        &self,
        inner: &mut StateInner,
        node: NodeId,
        order: Option<Body>,
        (id, what): (u64, OrderKind),
        until: Instant,
    ) -> bool {
        let attachment = inner.channels.get(&node).map(|channel| channel.attachment);
        let result = match attachment.zip(order) {
            None => "void",
            Some((attachment, order)) => {
                if inner.send(node, order) {
                    inner.sent.insert(id, SentOrder { attachment, until, what });
                    "sent"
                } else {
                    "dropped"
                }
            }
        };
        self.metrics.order(what.name(), result);
        result == "sent"
    }

    fn evict(&self, inner: &mut StateInner, key: ContentKey, node: NodeId) {
        self.send_for_copy(inner, node, key, "evict", |title, content_id| Body::Evict(v1::Evict { title, content_id }));
    }

    fn recheck(&self, inner: &mut StateInner, key: ContentKey, node: NodeId) {
        self.send_for_copy(inner, node, key, "recheck", |title, content_id| {
            Body::Recheck(v1::Recheck { title, content_id })
        });
    }

    /// Sends an order for a copy that has no answer: the catalog shows the result.
    fn send_for_copy(
        &self,
        inner: &StateInner,
        node: NodeId,
        key: ContentKey,
        what: &'static str,
        order: impl FnOnce(String, Vec<u8>) -> Body,
    ) {
        let named = inner.cluster.described(key).and_then(|facts| Some((facts.title.to_string(), facts.content?)));
        self.send_unanswered(inner, node, what, named.map(|(title, content)| order(title, content.0.to_vec())));
    }

    /// Handles the answer to a move order. Late or unexpected answers are ignored.
    pub(crate) fn moved(&self, attachment: AttachmentId, id: u64, refusal: Option<&Fault>) {
        let mut inner = self.lock();
        let sent = inner.sent.get(&id).filter(|sent| sent.attachment == attachment);
        let Some(SentOrder { what: OrderKind::Move(session), .. }) = sent else { return };
        let session = *session;
        self.answered(&mut inner, id, refusal);
        inner.cluster.handle_move_answer(session, refusal.is_none());
        self.send_orders(&mut inner, now());
    }

    /// Handles the answer to a copy order, perhaps over a later attachment than the order's.
    pub(crate) fn replicated(&self, attachment: AttachmentId, id: u64, refusal: Option<&Fault>) {
        let mut inner = self.lock();
        // A copy of the previous process does not count for this one.
        if !inner.cluster.roster().is_current(attachment) {
            return;
        }
        let sent = inner.sent.get(&id).filter(|sent| sent.attachment.node == attachment.node);
        let Some(SentOrder { what: OrderKind::Copy(key), .. }) = sent else { return };
        let key = *key;
        self.answered(&mut inner, id, refusal);
        let now = now();
        inner.cluster.handle_copy_answer(now, key, attachment.node, refusal.is_none());
        self.send_orders(&mut inner, now);
    }

    fn answered(&self, inner: &mut StateInner, id: u64, refusal: Option<&Fault>) {
        let Some(sent) = inner.sent.remove(&id) else { return };
        self.metrics.order(sent.what.name(), if refusal.is_none() { "done" } else { "refused" });
        if let Some(refusal) = refusal {
            debug!(order = sent.what.name(), id, reason = refusal.code.reason(), error = %refusal, "order refused");
        }
    }

    /// Drops orders whose answer is overdue.
    pub(super) fn expire(&self, inner: &mut StateInner, now: Now) {
        inner.sent.retain(|_, sent| {
            let wanted = now.instant < sent.until;
            if !wanted {
                self.metrics.order(sent.what.name(), "late");
            }
            wanted
        });
    }
}

impl StateInner {
    /// Sends a message to a node. Returns false if its channel is closed or full.
    pub(super) fn send(&self, node: NodeId, body: Body) -> bool {
        let message = Ok(v1::AttachResponse { body: Some(body) });
        let sent = self.channels.get(&node).is_some_and(|channel| channel.to_node.try_send(message).is_ok());
        if !sent {
            debug!(node = %self.node_name(node), "order not sent: node channel closed or full");
        }
        sent
    }

    /// Name of a node, for logs; empty once it is forgotten.
    pub(super) fn node_name(&self, node: NodeId) -> String {
        self.cluster.roster().node(node).map(|node| node.name().to_string()).unwrap_or_default()
    }

    /// A move order with a ticket for the new seat: same session, same content, whole range.
    fn move_to(&self, now: Now, until: Option<u64>, step: SessionMove, id: u64) -> Option<v1::Move> {
        let known = self.cluster.ledger().session(step.session)?;
        let facts = self.cluster.described(self.cluster.ledger().content(step.session)?)?;
        let contact = &self.channels.get(&step.to)?.contact;
        let claims = fetch_claims(now, contact, &facts, step.session);
        let claims = Claims { until, purpose: known.purpose, rate: step.rate, rid: format!("move-{id}"), ..claims };
        let seat = contact.seat(&claims).ok()?;
        Some(v1::Move { id, session_id: step.session.0.to_be_bytes().to_vec(), seat: Some(seat) })
    }

    /// A move order for a session of a feed.
    fn move_feed(
        &self,
        now: Now,
        until: Option<u64>,
        key: FeedKey,
        title: &Title,
        step: SessionMove,
        id: u64,
    ) -> Option<v1::Move> {
        let used = self.cluster.feeds().session(step.session)?;
        let contact = &self.channels.get(&step.to)?.contact;
        let (right, until) = if used.to.is_some() { (Right::Relay, None) } else { (Right::Watch, until) };
        let grant = FeedGrant::to_get(right, key);
        let claims = contact.feed_claims(now, until, title, step.session, &grant, step.rate);
        let seat = contact.seat(&Claims { rid: format!("move-{id}"), ..claims }).ok()?;
        Some(v1::Move { id, session_id: step.session.0.to_be_bytes().to_vec(), seat: Some(seat) })
    }

    /// A relay order with the seats of the upstreams.
    fn relay(
        &self,
        now: Now,
        key: FeedKey,
        title: &Title,
        rate: u64,
        upstreams: &[(NodeId, SessionId)],
    ) -> Option<v1::Relay> {
        let grant = FeedGrant::to_get(Right::Relay, key);
        let seats = upstreams.iter().filter_map(|(node, session)| {
            let contact = &self.channels.get(node)?.contact;
            // Relay sessions belong to the cluster and last as long as there are viewers.
            contact.seat(&contact.feed_claims(now, None, title, *session, &grant, rate)).ok()
        });
        let seats: Vec<v1::Seat> = seats.collect();
        (!seats.is_empty()).then(|| v1::Relay {
            title: title.to_string(),
            key: key.0.to_vec(),
            seats,
            refusal: None,
            request_id: String::new(),
        })
    }

    /// A copy order with a ticket for the source that reserves nothing: copies use what viewers leave.
    fn copy_of(&self, now: Now, key: ContentKey, from: NodeId, rate: u64, id: u64) -> Option<v1::Replicate> {
        let facts = self.cluster.described(key)?;
        let content = facts.content?;
        let contact = &self.channels.get(&from)?.contact;
        let request_id = format!("copy-{id}");
        let session = self.cluster.new_session(&mut rand::rng());
        let claims = Claims { rid: request_id.clone(), ..fetch_claims(now, contact, &facts, session) };
        Some(v1::Replicate {
            id,
            title: facts.title.to_string(),
            content_id: content.0.to_vec(),
            size: facts.size,
            source: Some(contact.seat(&claims).ok()?),
            rate_bps: rate,
            request_id,
        })
    }
}

/// Claims to fetch a whole content from a node without a reserved rate or a time limit.
fn fetch_claims(now: Now, contact: &NodeContact, facts: &TitleMetadata<'_>, session: SessionId) -> Claims {
    let content = facts.content.map(|content| content.to_string());
    let issued = now.unix_ms / 1000;
    Claims { cid: content, ..Claims::new(&contact.node, session, facts.title, Purpose::Fetch, issued) }
}
