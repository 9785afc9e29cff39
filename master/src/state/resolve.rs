//! Requests for seats: the decision under the lock with the data for its answer, and the wait for probed nodes.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;
use usher_proto::{SessionId, model::Resolve, pb::v1};

use super::{NodeContact, SharedState, StateInner, now, view};
use crate::core::{
    NodeId, Now,
    balancer::{NoChoice, Verdict},
    cluster::{Decision, Refused, SeatRequest},
    ledger::Source,
    roster::PROBE,
    viewers::TokenViewer,
};

/// The client that asks for seats.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// The viewer, if it has an identity.
    pub(crate) viewer: Option<&'a TokenViewer>,
    /// How the core tells it from others.
    pub(crate) source: Option<Source>,
}

/// A decision with the data for its answer.
pub(crate) struct Placement {
    pub(crate) decision: Decision,
    /// Contact of the first seat, then of the alternates.
    pub(crate) contacts: Vec<Arc<NodeContact>>,
    pub(crate) reason: String,
    pub(crate) now: Now,
    /// Set for a feed.
    pub(crate) live: Option<v1::Live>,
}

/// Why there is no seat.
pub(crate) struct PlacementRefused {
    pub(crate) refused: Box<Refused>,
    /// Set if a seat may become available once a silent node answers.
    pub(crate) probe_wait: Option<ProbeWait>,
}

/// A wait for probed nodes.
pub(crate) struct ProbeWait {
    nodes: Vec<NodeId>,
    /// Deadline of their answers.
    until: Instant,
    probe_answers: watch::Receiver<()>,
}

impl SharedState {
    /// Decides one request of a client; `tag` names it in the journal.
    pub(crate) fn resolve(
        &self,
        session: SessionId,
        resolve: &Resolve,
        tag: u64,
        asker: Asker<'_>,
    ) -> Result<Placement, PlacementRefused> {
        let started = Instant::now();
        let mut inner = self.lock();
        let now = now();
        let Asker { viewer, source } = asker;
        let request = SeatRequest { tag, viewer, source, ..SeatRequest::from(resolve) };
        let decision = inner.cluster.resolve(now, session, &request, &mut rand::rng());
        self.send_orders(&mut inner, now);
        let seated = self.seat(&inner, now, decision, tag);
        drop(inner);
        self.metrics.decided(started.elapsed(), 1);
        seated
    }

    /// Decides several requests of a client; see [`crate::core::cluster::Cluster::resolve_many`].
    pub(crate) fn resolve_many(
        &self,
        resolves: &[(SessionId, &Resolve, u64)],
        Asker { viewer, source }: Asker<'_>,
    ) -> Vec<Result<Placement, PlacementRefused>> {
        let started = Instant::now();
        let requests = resolves.iter().map(|(session, resolve, tag)| {
            (*session, SeatRequest { tag: *tag, viewer, source, ..SeatRequest::from(*resolve) })
        });
        let requests: Vec<_> = requests.collect();
        let mut inner = self.lock();
        let now = now();
        let decisions = inner.cluster.resolve_many(now, &requests, &mut rand::rng());
        self.send_orders(&mut inner, now);
        let seated = decisions.into_iter().zip(resolves);
        let seated = seated.map(|(decision, (_, _, tag))| self.seat(&inner, now, decision, *tag)).collect();
        drop(inner);
        self.metrics.decided(started.elapsed(), resolves.len());
        seated
    }

    fn seat(
        &self,
        inner: &StateInner,
        now: Now,
        decision: Result<Decision, Refused>,
        tag: u64,
    ) -> Result<Placement, PlacementRefused> {
        self.metrics.outcome(&decision);
        decision.map(|decision| self.seated(inner, now, decision)).map_err(|refused| {
            let probing = matches!(refused, Refused::NoChoice { why: NoChoice::Probing(_), .. });
            let record = inner.cluster.decision(tag).filter(|_| probing);
            let probe_wait = record.map(|record| {
                let unsure = record.holders.iter().flatten().filter(|one| one.verdict == Verdict::Unsure);
                let nodes = unsure.map(|one| one.node).collect();
                ProbeWait { nodes, until: now.instant + PROBE, probe_answers: self.probe_answers.subscribe() }
            });
            PlacementRefused { refused: Box::new(refused), probe_wait }
        })
    }

    fn seated(&self, inner: &StateInner, now: Now, decision: Decision) -> Placement {
        let live = decision.title.is_live().then(|| {
            let feed = inner.cluster.feeds().get(&decision.title);
            feed.map(|feed| view::live(&inner.cluster, feed, self.feed_key(&decision.title))).unwrap_or_default()
        });
        Placement { live, ..inner.seat(now, decision) }
    }

    /// Waits until one of the nodes sends a message or leaves, or the deadline passes.
    pub(crate) async fn probe_answered(&self, ProbeWait { nodes, until, mut probe_answers }: ProbeWait) {
        let answered = async {
            // The sender lives as long as this state.
            while probe_answers.changed().await.is_ok() {
                let inner = self.lock();
                if nodes.iter().any(|node| !inner.probed.contains(node)) {
                    return;
                }
            }
        };
        // After a timeout the request is decided as things are.
        let _late = tokio::time::timeout_at(until.into(), answered).await;
    }
}

impl StateInner {
    fn seat(&self, now: Now, decision: Decision) -> Placement {
        let nodes = std::iter::once(decision.first).chain(decision.alternates.iter().flatten().copied());
        let contacts = nodes.filter_map(|node| Some(Arc::clone(&self.channels.get(&node)?.contact))).collect();
        let reason = self.cluster.reason(&decision).map(|reason| reason.to_string()).unwrap_or_default();
        Placement { decision, contacts, reason, now, live: None }
    }
}
