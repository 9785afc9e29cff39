//! A viewer or a relaying node of a feed: counted for as long as it is here.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::watch as signal;
use tracing::debug;
use usher_proto::{Fault, Title, feed::FeedKey, pb::wire::FeedStart};

use super::{feed::LiveFeed, feeds::Feeds};

/// Someone who watches a feed, or relays it, until it drops.
pub(crate) struct SubscriberGuard {
    live: Arc<Feeds>,
    pub(crate) feed: Arc<LiveFeed>,
    relay: bool,
}

impl Feeds {
    /// Someone comes who wants a feed; where it is not here, it is sought.
    ///
    /// # Errors
    /// `NO_CAPACITY` when too many feeds are here.
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
    /// Follows what comes.
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
        debug!(title = %self.feed.title, relay = self.relay, "left");
    }
}
