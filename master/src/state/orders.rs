//! Carries out what the core orders: down the channels of nodes, and their answers back to the core. Owns the numbers
//! that pair the two. Decides nothing.

use std::time::{Duration, Instant};

use tracing::debug;
use usher_proto::{
    Fault, SessionId, Title,
    feed::FeedKey,
    pb::v1::{self, attach_response::Body},
    ticket::{Claims, FeedGrant, LIFETIME_SECS, Purpose, Right},
};

use super::{Card, Inner, State, now, session};
use crate::core::{
    NodeId, Now,
    catalog::{Facts, Work},
    cluster::Order,
    feeds::Rival,
    moves::Step,
    roster::Link,
};

/// How long an answer to a move is waited for. The core gives up sooner, and the session stays.
const MOVING: Duration = Duration::from_secs(10);

/// How long word of a copy is waited for: the catalog tells of it too, and the core has a patience of its own.
const COPYING: Duration = Duration::from_secs(24 * 3600);

/// An order that went out.
pub(super) struct Sent {
    link: Link,
    until: Instant,
    what: What,
}

/// What was ordered.
#[derive(Clone, Copy)]
enum What {
    Move(SessionId),
    Copy(Work),
}

impl Sent {
    /// Whether nobody will answer once this attachment is over. A copy goes on without the master.
    pub(super) fn ends_with(&self, link: Link) -> bool {
        matches!(self.what, What::Move(_)) && self.link == link
    }
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Move(_) => "move",
            Self::Copy(_) => "replicate",
        }
    }
}

impl State {
    /// Sends the orders that the core has given since the last time.
    pub(super) fn carry(&self, inner: &mut Inner, now: Now) {
        for order in inner.cluster.orders() {
            match order {
                Order::Probe(node) => self.probe(inner, node),
                Order::Move(step) => self.order_move(inner, now, step),
                Order::Replicate { work, from, to, rate, why } => {
                    debug!(from = from.0, to = to.0, rate, ?why, "a copy is ordered");
                    self.replicate(inner, now, work, (from, to), rate);
                }
                Order::Evict { work, node } => self.evict(inner, work, node),
                Order::Recheck { work, node } => self.recheck(inner, work, node),
                Order::Relay { node, title, rate, upstreams } => {
                    let order = inner.relay(now, self.feed_key(&title), &title, rate, &upstreams);
                    self.tell(inner, node, "relay", order.map(Body::Relay));
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
                    self.tell(inner, node, "relay", Some(Body::Relay(order)));
                }
                Order::EndPublisher(Rival { node, title, publisher }) => {
                    let publisher_id = publisher.0.to_be_bytes().to_vec();
                    let order = v1::EndPublisher { title: title.to_string(), publisher_id };
                    self.tell(inner, node, "end_publisher", Some(Body::EndPublisher(order)));
                }
            }
        }
    }

    fn probe(&self, inner: &mut Inner, node: NodeId) {
        inner.silent.insert(node);
        let id = inner.number();
        let sent = inner.send(node, Body::Probe(v1::Probe { id }));
        self.metrics.order("probe", if sent { "sent" } else { "dropped" });
    }

    fn order_move(&self, inner: &mut Inner, now: Now, step: Step) {
        let id = inner.number();
        let feed = inner.cluster.feeds().session(step.session).map(|used| used.title.clone());
        let order = match feed {
            Some(title) => inner.move_feed(now, self.until(now), self.feed_key(&title), &title, step, id),
            None => inner.move_to(now, self.until(now), step, id),
        };
        let order = order.map(Body::Move);
        if !self.order(inner, step.from, order, (id, What::Move(step.session)), now.instant + MOVING) {
            inner.cluster.moved(step.session, false);
        }
    }

    fn replicate(&self, inner: &mut Inner, now: Now, work: Work, (from, to): (NodeId, NodeId), rate: u64) {
        let id = inner.number();
        let order = inner.copy_of(now, work, from, rate, id).map(Body::Replicate);
        if !self.order(inner, to, order, (id, What::Copy(work)), now.instant + COPYING) {
            inner.cluster.copied(now, work, to, false);
        }
    }

    /// Sends an order that is not answered.
    fn tell(&self, inner: &Inner, node: NodeId, what: &'static str, order: Option<Body>) {
        let sent = order.map(|order| inner.send(node, order));
        self.metrics.order(what, sent.map_or("void", |sent| if sent { "sent" } else { "dropped" }));
    }

    /// Sends an order that will be answered. `None` is one that makes no sense any more.
    fn order(
        &self,
        inner: &mut Inner,
        node: NodeId,
        order: Option<Body>,
        (id, what): (u64, What),
        until: Instant,
    ) -> bool {
        let link = inner.channels.get(&node).map(|channel| channel.link);
        let result = match link.zip(order) {
            None => "void",
            Some((link, order)) => {
                if inner.send(node, order) {
                    inner.sent.insert(id, Sent { link, until, what });
                    "sent"
                } else {
                    "dropped"
                }
            }
        };
        self.metrics.order(what.name(), result);
        result == "sent"
    }

    fn evict(&self, inner: &mut Inner, work: Work, node: NodeId) {
        self.name(inner, node, work, "evict", |title, content_id| Body::Evict(v1::Evict { title, content_id }));
    }

    fn recheck(&self, inner: &mut Inner, work: Work, node: NodeId) {
        self.name(inner, node, work, "recheck", |title, content_id| Body::Recheck(v1::Recheck { title, content_id }));
    }

    /// Sends an order that names a copy and is not answered: the catalog tells what came of it.
    fn name(
        &self,
        inner: &Inner,
        node: NodeId,
        work: Work,
        what: &'static str,
        order: impl FnOnce(String, Vec<u8>) -> Body,
    ) {
        let named = inner.cluster.described(work).and_then(|facts| Some((facts.title.to_string(), facts.content?)));
        self.tell(inner, node, what, named.map(|(title, content)| order(title, content.0.to_vec())));
    }

    /// A node told how an order to move went. An answer that comes too late, or to nothing, is left out.
    pub(crate) fn moved(&self, link: Link, id: u64, refusal: Option<&Fault>) {
        let mut inner = self.lock();
        let sent = inner.sent.get(&id).filter(|sent| sent.link == link);
        let Some(Sent { what: What::Move(session), .. }) = sent else { return };
        let session = *session;
        self.answered(&mut inner, id, refusal);
        inner.cluster.moved(session, refusal.is_none());
        self.carry(&mut inner, now());
    }

    /// A node told how an order to copy went, perhaps over another attachment than the order's.
    pub(crate) fn replicated(&self, link: Link, id: u64, refusal: Option<&Fault>) {
        let mut inner = self.lock();
        // What an older process copied, this one does not have.
        if !inner.cluster.roster().is_current(link) {
            return;
        }
        let sent = inner.sent.get(&id).filter(|sent| sent.link.node == link.node);
        let Some(Sent { what: What::Copy(work), .. }) = sent else { return };
        let work = *work;
        self.answered(&mut inner, id, refusal);
        let now = now();
        inner.cluster.copied(now, work, link.node, refusal.is_none());
        self.carry(&mut inner, now);
    }

    fn answered(&self, inner: &mut Inner, id: u64, refusal: Option<&Fault>) {
        let Some(sent) = inner.sent.remove(&id) else { return };
        self.metrics.order(sent.what.name(), if refusal.is_none() { "done" } else { "refused" });
        if let Some(refusal) = refusal {
            debug!(order = sent.what.name(), id, reason = refusal.code.reason(), %refusal, "a node refused an order");
        }
    }

    /// Forgets the orders that nobody answered.
    pub(super) fn expire(&self, inner: &mut Inner, now: Now) {
        inner.sent.retain(|_, sent| {
            let wanted = now.instant < sent.until;
            if !wanted {
                self.metrics.order(sent.what.name(), "late");
            }
            wanted
        });
    }
}

impl Inner {
    /// Sends a message down a node's channel; false when there is none or it is full.
    pub(super) fn send(&self, node: NodeId, body: Body) -> bool {
        let message = Ok(v1::AttachResponse { body: Some(body) });
        let sent = self.channels.get(&node).is_some_and(|channel| channel.to_node.try_send(message).is_ok());
        if !sent {
            debug!(node = node.0, "an order was not sent: the channel to the node is closed or full");
        }
        sent
    }

    /// The order with a ticket for the new seat: the same session, the same content, all of it.
    fn move_to(&self, now: Now, until: Option<u64>, step: Step, id: u64) -> Option<v1::Move> {
        let known = self.cluster.ledger().session(step.session)?;
        let facts = self.cluster.described(self.cluster.ledger().work(step.session)?)?;
        let card = &self.channels.get(&step.to)?.card;
        let claims = whole(now, card, &facts, step.session);
        let claims = Claims { until, purpose: known.purpose, rate: step.rate, rid: format!("move-{id}"), ..claims };
        let seat = card.seat(&claims).ok()?;
        Some(v1::Move { id, session_id: step.session.0.to_be_bytes().to_vec(), seat: Some(seat) })
    }

    /// The same for a session of a feed.
    fn move_feed(
        &self,
        now: Now,
        until: Option<u64>,
        key: FeedKey,
        title: &Title,
        step: Step,
        id: u64,
    ) -> Option<v1::Move> {
        let used = self.cluster.feeds().session(step.session)?;
        let card = &self.channels.get(&step.to)?.card;
        let (right, until) = if used.to.is_some() { (Right::Relay, None) } else { (Right::Watch, until) };
        let grant = FeedGrant::to_get(right, key);
        let claims = card.feed_claims(now, until, title, step.session, &grant, step.rate);
        let seat = card.seat(&Claims { rid: format!("move-{id}"), ..claims }).ok()?;
        Some(v1::Move { id, session_id: step.session.0.to_be_bytes().to_vec(), seat: Some(seat) })
    }

    /// The seats of a feed's upstreams.
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
            let card = &self.channels.get(node)?.card;
            // A relay lasts as long as somebody watches: its sessions are the cluster's own.
            card.seat(&card.feed_claims(now, None, title, *session, &grant, rate)).ok()
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

    /// The order with a ticket for the source, which reserves nothing there: a copy takes what viewers leave.
    fn copy_of(&self, now: Now, work: Work, from: NodeId, rate: u64, id: u64) -> Option<v1::Replicate> {
        let facts = self.cluster.described(work)?;
        let content = facts.content?;
        let card = &self.channels.get(&from)?.card;
        let request_id = format!("copy-{id}");
        let claims = Claims { rid: request_id.clone(), ..whole(now, card, &facts, session()) };
        Some(v1::Replicate {
            id,
            title: facts.title.to_string(),
            content_id: content.0.to_vec(),
            size: facts.size,
            source: Some(card.seat(&claims).ok()?),
            rate_bps: rate,
            request_id,
        })
    }
}

/// The right to fetch all of a content from a node, at no reserved rate, for as long as that takes.
fn whole(now: Now, card: &Card, facts: &Facts<'_>, session: SessionId) -> Claims {
    let issued = now.unix_ms / 1000;
    Claims {
        until: None,
        feed: None,
        aud: card.node.clone(),
        jti: session.to_string(),
        title: facts.title.to_string(),
        cid: facts.content.map(|content| content.to_string()),
        start: 0,
        end: None,
        purpose: Purpose::Fetch,
        rate: 0,
        nbf: issued,
        exp: issued.saturating_add(LIFETIME_SECS),
        rid: String::new(),
        burst: false,
    }
}
