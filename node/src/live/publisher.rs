//! Publishers of feeds: one at a time a feed. A publisher whose session ends early may come back within a grace period.

use std::sync::Arc;

use tokio::sync::watch as signal;
use tracing::{info, warn};
use usher_proto::{
    Code, Fault, PublisherId, Title,
    model::{Offer, TAKEN_OVER},
    ticket::FeedGrant,
};

use super::{
    feed::{FeedOrigin, LiveFeed},
    feeds::Feeds,
};

/// A publisher's hold on its feed; dropping it before [`Self::finish`] starts the grace period.
pub(crate) struct PublisherGuard {
    live: Arc<Feeds>,
    pub(crate) feed: Arc<LiveFeed>,
    id: PublisherId,
    number: u64,
    end: signal::Receiver<Option<Fault>>,
    /// Whether the publisher ended the feed.
    finished: bool,
}

impl Feeds {
    /// Admits a publisher with a valid ticket.
    ///
    /// # Errors
    /// `UNEQUIPPED` where feeds are not accepted, or not recorded as the ticket demands; `EXISTS` while another
    /// publisher sends the feed; `NO_CAPACITY` when memory is full of feeds that cannot be shortened.
    pub(crate) fn publish(
        self: &Arc<Self>,
        title: &Title,
        grant: &FeedGrant,
        offer: Offer,
    ) -> Result<PublisherGuard, Fault> {
        if !self.settings.ingest {
            return Err(Fault::new(Code::Unequipped, "this node accepts no feeds; resolve again"));
        }
        let target = self.recording_target(title, grant, &offer)?;
        self.evict_to_fit()?;
        let (ender, end) = signal::channel(None);
        let number = self.subscription();
        let feed = self.get_or_create(title, grant.key)?;
        {
            let mut inner = feed.lock();
            match &inner.origin {
                FeedOrigin::Publisher { id, end, .. } if *id != grant.publisher => {
                    if !grant.take_over {
                        let text = format!("`{title}` is being published; take it over with --take-over");
                        return Err(Fault::new(Code::Exists, text));
                    }
                    let text = format!("another publisher has taken over `{title}`");
                    end.send_replace(Some(Fault::new(TAKEN_OVER, text)));
                }
                FeedOrigin::Publisher { end, .. } => {
                    // The publisher reconnected before its old session was found dead.
                    end.send_replace(Some(Fault::new(Code::Cancelled, "replaced by a newer session")));
                }
                FeedOrigin::None | FeedOrigin::Awaited(_) | FeedOrigin::Upstream(_) => {}
            }
            if let Some(relaying) = inner.relaying.take() {
                relaying.cancel();
            }
            inner.origin = FeedOrigin::Publisher { id: grant.publisher, number, end: ender };
            if inner.medium.is_none() {
                inner.started_ms = offer.started_ms;
            }
            inner.medium = Some(offer.medium);
            self.start_recording(&feed, &mut inner, target);
        }
        feed.changed.send_replace(());
        self.updates.notify_one();
        info!(%title, publisher = %grant.publisher, "publisher admitted");
        Ok(PublisherGuard { live: Arc::clone(self), feed, id: grant.publisher, number, end, finished: false })
    }
}

impl PublisherGuard {
    /// Waits until the session must end. Returns the reason.
    pub(crate) async fn ended(&mut self) -> Fault {
        loop {
            if let Some(fault) = self.end.borrow_and_update().clone() {
                return fault;
            }
            if self.end.changed().await.is_err() {
                return Fault::new(Code::Cancelled, "replaced by another session");
            }
        }
    }

    /// Ends the feed at the publisher's request; `end` is one past its last group.
    pub(crate) fn finish(&mut self, end: u64) {
        self.finished = true;
        self.live.end_feed(&self.feed, end);
    }
}

impl Drop for PublisherGuard {
    fn drop(&mut self) {
        let mut inner = self.feed.lock();
        let own = matches!(&inner.origin, FeedOrigin::Publisher { number, .. } if *number == self.number);
        if self.finished || !own {
            return;
        }
        let elsewhere = self.end.borrow().as_ref().is_some_and(|why| matches!(why.code, TAKEN_OVER | Code::Draining));
        if elsewhere && self.feed.has_subscribers() {
            // The feed continues at another node: relay it for its subscribers here.
            inner.origin = FeedOrigin::None;
            drop(inner);
            return self.live.seek_upstream(&self.feed);
        }
        inner.origin = FeedOrigin::Awaited(self.id);
        drop(inner);
        self.live.updates.notify_one();
        warn!(title = %self.feed.title, grace_s = self.live.settings.grace.as_secs(), "publisher left: waiting for it to come back");
        let (live, feed, id) = (Arc::clone(&self.live), Arc::clone(&self.feed), self.id);
        let stop = live.stop.clone();
        let tasks = live.tasks.clone();
        tasks.spawn(async move {
            let grace = tokio::time::sleep(live.settings.grace);
            if stop.run_until_cancelled(grace).await.is_none() {
                return;
            }
            let mut inner = feed.lock();
            if !matches!(&inner.origin, FeedOrigin::Awaited(other) if *other == id) {
                return;
            }
            if feed.has_subscribers() {
                // The publisher may have moved to another node.
                inner.origin = FeedOrigin::None;
                drop(inner);
                live.seek_upstream(&feed);
            } else {
                let end = inner.cache.newest() + 1;
                drop(inner);
                live.end_feed(&feed, end);
            }
        });
    }
}
