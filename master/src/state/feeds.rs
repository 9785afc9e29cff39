//! Feeds: updates from nodes, seats for publishers, and the keys that sign feeds.

use std::sync::{Arc, PoisonError};

use usher_proto::{
    Title,
    feed::FeedKey,
    model::{Feeds, Publish, RelayWanted},
};

use super::{NodeContact, SharedState, now};
use crate::core::{Now, cluster::PublishRefused, roster::AttachmentId};

/// Limit of cached keys: more feeds than a node carries.
const KEYS: usize = 4096;

/// Seats for a publisher.
pub(crate) struct PublishSeats {
    /// Best first; at least one.
    pub(crate) contacts: Vec<Arc<NodeContact>>,
    pub(crate) reason: String,
    pub(crate) seed: [u8; 32],
    pub(crate) key: FeedKey,
    pub(crate) now: Now,
}

impl SharedState {
    /// Key that signs a feed's groups.
    pub(super) fn feed_key(&self, title: &Title) -> FeedKey {
        // No invariant spans this lock.
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS {
            keys.clear();
        }
        *keys.entry(title.clone()).or_insert_with(|| self.secret.feed_key(title))
    }

    /// Handles a node's list of feeds.
    pub(crate) fn feeds(&self, attachment: AttachmentId, feeds: Feeds) {
        let mut inner = self.lock();
        let now = now();
        inner.cluster.handle_feeds(now, attachment, feeds);
        self.send_orders(&mut inner, now);
    }

    /// Handles a node's request for an upstream.
    pub(crate) fn relay_wanted(&self, attachment: AttachmentId, wanted: &RelayWanted) {
        let mut inner = self.lock();
        let now = now();
        inner.cluster.handle_relay_wanted(now, attachment, wanted, &mut rand::rng());
        self.send_orders(&mut inner, now);
    }

    /// Decides where a publisher sends.
    pub(crate) fn ingest(&self, publish: &Publish) -> Result<PublishSeats, PublishRefused> {
        let mut inner = self.lock();
        let now = now();
        let ingest = inner.cluster.publish(now, publish, &mut rand::rng())?;
        self.send_orders(&mut inner, now);
        let contacts = ingest.nodes.iter().filter_map(|node| Some(Arc::clone(&inner.channels.get(node)?.contact)));
        let contacts = contacts.collect();
        drop(inner);
        let (seed, key) = (self.secret.feed_seed(&publish.title), self.feed_key(&publish.title));
        Ok(PublishSeats { contacts, reason: ingest.reason, seed, key, now })
    }
}
