//! Upstreams of feeds that have no publisher here: named by the master, requested from it when a subscriber needs one.

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

/// How long an upstream named for a feed without subscribers stays valid.
const ORDER_TTL: Duration = Duration::from_secs(20);

impl Feeds {
    /// Starts to relay a feed without an origin, unless that is in progress.
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

    /// Handles the master's upstreams for a feed.
    pub(crate) fn handle_relay_order(self: &Arc<Self>, relay: Relay) {
        let feed = lock(&self.feeds).get(&relay.title).cloned();
        if let Some(feed) = feed {
            {
                let mut inner = feed.lock();
                inner.upstreams.send_replace(Some(relay));
                if matches!(inner.origin, FeedOrigin::Awaited(_)) {
                    // Its publisher came back at another node.
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

    /// Adds a request for an upstream, to send to the master.
    pub(super) fn request_upstream(&self, title: &Title, failed: &[Failed]) {
        let wanted = v1::RelayWanted { title: title.to_string(), failed: failed.iter().map(Failed::to_pb).collect() };
        let mut all = lock(&self.relay_requests);
        all.retain(|other| other.title != wanted.title);
        all.push(wanted);
        drop(all);
        self.updates.notify_one();
    }

    /// Takes the requests for upstreams.
    pub(crate) fn take_relay_requests(&self) -> Vec<v1::RelayWanted> {
        std::mem::take(&mut *lock(&self.relay_requests))
    }
}
