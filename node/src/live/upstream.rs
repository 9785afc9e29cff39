//! Where a feed comes from when no publisher sends it here: the upstreams that the master names.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use usher_proto::{
    Title,
    model::{Failed, MAX_FEEDS, Relay},
    pb::v1,
};

use super::{
    feed::{FeedOrigin, LiveFeed},
    feeds::Feeds,
    relay,
};
use crate::sync::lock;

/// How long an order for a feed that nobody watches yet is good.
const ORDER_TTL: Duration = Duration::from_secs(20);

impl Feeds {
    /// Looks for an upstream of a feed that nobody sends here, unless that is being done.
    pub(super) fn seek_upstream(self: &Arc<Self>, feed: &Arc<LiveFeed>) {
        let mut inner = feed.lock();
        if !matches!(inner.origin, FeedOrigin::None) || inner.relaying.is_some() || inner.ended.is_some() {
            return;
        }
        let cancel = self.stop.child_token();
        inner.relaying = Some(cancel.clone());
        let ordered = lock(&self.relay_orders).remove(&feed.title);
        if let Some((_, relay)) = ordered.filter(|(at, _)| at.elapsed() < ORDER_TTL) {
            inner.upstreams.send_replace(Some(relay));
        }
        let upstreams = inner.upstreams.subscribe();
        drop(inner);
        self.tasks.spawn(relay::run(Arc::clone(self), Arc::clone(feed), upstreams, cancel));
    }

    /// The master names upstreams of a feed.
    pub(crate) fn handle_relay_order(self: &Arc<Self>, relay: Relay) {
        let feed = lock(&self.feeds).get(&relay.title).cloned();
        if let Some(feed) = feed {
            {
                let mut inner = feed.lock();
                inner.upstreams.send_replace(Some(relay));
                if matches!(inner.origin, FeedOrigin::Awaited(_)) {
                    // Its publisher has come back at another node.
                    inner.origin = FeedOrigin::None;
                }
            }
            if feed.has_subscribers() {
                self.seek_upstream(&feed);
            }
            return;
        }
        let mut ordered = lock(&self.relay_orders);
        ordered.retain(|_, (at, _)| at.elapsed() < ORDER_TTL);
        if ordered.len() < MAX_FEEDS {
            ordered.insert(relay.title.clone(), (Instant::now(), relay));
        }
    }

    /// Asks the master for an upstream, when it is next told anything.
    pub(super) fn request_upstream(&self, title: &Title, failed: &[Failed]) {
        let failed = failed
            .iter()
            .map(|failed| v1::SeatFailure { node: failed.node.to_string(), reason: failed.code.reason().to_owned() });
        let wanted = v1::RelayWanted { title: title.to_string(), failed: failed.collect() };
        let mut all = lock(&self.relay_requests);
        all.retain(|other| other.title != wanted.title);
        all.push(wanted);
        drop(all);
        self.updates.notify_one();
    }

    /// What the master is to be asked for, once.
    pub(crate) fn take_relay_requests(&self) -> Vec<v1::RelayWanted> {
        std::mem::take(&mut *lock(&self.relay_requests))
    }
}
