//! Subscribers of a feed: viewers and relaying nodes.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::watch as signal;
use tracing::debug;
use usher_proto::{Fault, Title, feed::FeedKey, pb::wire::FeedStart};

use super::{feed::LiveFeed, feeds::Feeds};

/// A subscription to a feed, until it drops.
pub(crate) struct SubscriberGuard {
    live: Arc<Feeds>,
    pub(crate) feed: Arc<LiveFeed>,
    relay: bool,
}

impl Feeds {
    /// Subscribes to a feed; a feed without an origin is requested from the master.
    ///
    /// # Errors
    /// `NO_CAPACITY` when this node has too many feeds, `TICKET_MISMATCH` when the feed is here under another key.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        title: &Title,
        key: FeedKey,
        relay: bool,
        start: &FeedStart,
    ) -> Result<SubscriberGuard, Fault> {
        let feed = self.get_or_create(title, key)?;
        feed.back_ms.fetch_max(start.back_ms.min(self.window_ms()), Ordering::Relaxed);
        let count = if relay { &feed.relays } else { &feed.viewers };
        count.fetch_add(1, Ordering::Relaxed);
        self.updates.notify_one();
        let subscriber = SubscriberGuard { live: Arc::clone(self), feed, relay };
        self.seek_upstream(&subscriber.feed);
        Ok(subscriber)
    }
}

impl SubscriberGuard {
    /// Receives a notification of each change of the feed.
    pub(crate) fn follow(&self) -> signal::Receiver<()> {
        self.feed.changed.subscribe()
    }
}

impl Drop for SubscriberGuard {
    fn drop(&mut self) {
        let count = if self.relay { &self.feed.relays } else { &self.feed.viewers };
        count.fetch_sub(1, Ordering::Relaxed);
        self.feed.changed.send_replace(());
        self.live.updates.notify_one();
        debug!(title = %self.feed.title, relay = self.relay, "subscriber left");
    }
}
