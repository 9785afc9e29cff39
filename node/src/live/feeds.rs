//! All feeds of a node: looks them up, counts their memory, and ends them. Each lock is short and never held across an
//! await. Knows no streams and no frames.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;
use usher_proto::{
    Code, Fault, PublisherId, Title,
    feed::FeedKey,
    model::{FeedState, MAX_FEEDS, Relay, TAKEN_OVER},
    pb::v1,
};

use super::{
    feed::{FeedInner, FeedOrigin, LiveFeed},
    recorder::Recorder,
};
use crate::sync::lock;

/// How long a feed waits for a publisher whose session ended early.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

/// The operator's settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FeedSettings {
    /// Whether publishers are accepted.
    pub(crate) ingest: bool,
    /// How much of a feed is cached.
    pub(crate) window: Duration,
    /// Bytes of cached media, all feeds together.
    pub(crate) memory: u64,
    /// See [`GRACE`].
    pub(crate) grace: Duration,
}

/// The feeds of a node.
pub(crate) struct Feeds {
    pub(super) settings: FeedSettings,
    pub(super) feeds: Mutex<HashMap<Title, Arc<LiveFeed>>>,
    /// Upstreams that the master named for feeds without subscribers yet.
    pub(super) relay_orders: Mutex<HashMap<Title, (Instant, Relay)>>,
    /// Requests for upstreams, to send to the master.
    pub(super) relay_requests: Mutex<Vec<v1::RelayWanted>>,
    pub(super) bytes: AtomicU64,
    pub(super) subscriptions: AtomicU64,
    /// Set where feeds are recorded.
    pub(super) recorder: OnceLock<Arc<Recorder>>,
    /// Notified when a feed's state or the requests change.
    pub(super) updates: Notify,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Feeds {
    pub(crate) fn new(settings: FeedSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            feeds: Mutex::default(),
            relay_orders: Mutex::default(),
            relay_requests: Mutex::default(),
            bytes: AtomicU64::new(0),
            subscriptions: AtomicU64::new(1),
            recorder: OnceLock::new(),
            updates: Notify::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// A subscription number that no other session has.
    pub(crate) fn subscription(&self) -> u64 {
        self.subscriptions.fetch_add(1, Ordering::Relaxed)
    }

    /// How much of a feed is cached, in milliseconds.
    pub(crate) fn window_ms(&self) -> u64 {
        usher_proto::units::millis(self.settings.window)
    }

    /// Bytes of cached media.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The feed of this title, created if it is not here.
    pub(super) fn get_or_create(&self, title: &Title, key: FeedKey) -> Result<Arc<LiveFeed>, Fault> {
        let mut feeds = lock(&self.feeds);
        let is_full = feeds.len() >= MAX_FEEDS;
        match feeds.entry(title.clone()) {
            Entry::Occupied(known) if known.get().key == key => Ok(Arc::clone(known.get())),
            Entry::Occupied(_) => {
                Err(Fault::new(Code::TicketMismatch, format!("`{title}` is here under another key; resolve again")))
            }
            Entry::Vacant(_) if is_full => Err(Fault::new(
                Code::NoCapacity,
                format!("this node has the maximum of {MAX_FEEDS} feeds; resolve again"),
            )),
            Entry::Vacant(free) => {
                Ok(Arc::clone(free.insert(Arc::new(LiveFeed::new(title.clone(), key, self.settings.window)))))
            }
        }
    }

    /// All feeds, so that no lock of a feed is taken under the lock of their map.
    fn all(&self) -> Vec<Arc<LiveFeed>> {
        lock(&self.feeds).values().cloned().collect()
    }

    /// Ends a publisher's session: the master knows another publisher at another node.
    pub(crate) fn end_publisher(&self, title: &Title, publisher: PublisherId) {
        let Some(feed) = lock(&self.feeds).get(title).cloned() else { return };
        let inner = feed.lock();
        if let FeedOrigin::Publisher { id, end, .. } = &inner.origin
            && *id == publisher
        {
            end.send_replace(Some(Fault::new(TAKEN_OVER, format!("another publisher has taken over `{title}`"))));
        }
    }

    /// Ends every publisher's session, so that publishers continue at other nodes.
    pub(crate) fn drain(&self) {
        for feed in self.all() {
            if let FeedOrigin::Publisher { end, .. } = &feed.lock().origin {
                end.send_replace(Some(Fault::new(Code::Draining, "the node is draining; resolve again")));
            }
        }
    }

    /// Waits until a feed's state or the requests change. For one caller.
    pub(crate) async fn updated(&self) {
        self.updates.notified().await;
    }

    /// The states of all feeds, in the order of their titles.
    pub(crate) fn states(&self) -> Vec<FeedState> {
        let mut states: Vec<_> = self.all().iter().filter_map(|feed| feed.state(self.window_ms())).collect();
        states.sort_by(|a, b| a.title.cmp(&b.title));
        states
    }

    /// Counts a change of a feed's cache from `before` bytes. Call it under the feed's lock.
    pub(super) fn update_bytes(&self, inner: &FeedInner, before: u64) {
        // The bytes of an ended feed are not counted.
        if inner.ended.is_none() {
            self.bytes.fetch_add(inner.cache.bytes(), Ordering::Relaxed);
            self.bytes.fetch_sub(before, Ordering::Relaxed);
        }
    }

    /// Evicts the oldest groups of all feeds until they fit in memory.
    pub(super) fn evict_to_fit(&self) -> Result<(), Fault> {
        while self.bytes.load(Ordering::Relaxed) >= self.settings.memory {
            let feeds = self.all();
            let lasting = feeds.iter().filter_map(|feed| {
                let inner = feed.lock();
                Some((inner.cache.oldest().filter(|_| inner.ended.is_none())?, feed))
            });
            let oldest = lasting.min_by_key(|(at, _)| *at);
            let Some((_, feed)) = oldest else {
                let text = "the memory for feeds is full (--live-memory); resolve again";
                return Err(Fault::new(Code::NoCapacity, text).after(Duration::from_secs(5)));
            };
            let mut inner = feed.lock();
            let before = inner.cache.bytes();
            inner.cache.evict_oldest();
            self.update_bytes(&inner, before);
        }
        Ok(())
    }

    /// Ends a feed; `end` is one past its last group.
    pub(super) fn end_feed(&self, feed: &Arc<LiveFeed>, end: u64) {
        let mut inner = feed.lock();
        if inner.ended.is_some() {
            return;
        }
        inner.ended = Some(end.max(1));
        self.bytes.fetch_sub(inner.cache.bytes(), Ordering::Relaxed);
        inner.origin = FeedOrigin::None;
        if let Some(relaying) = inner.relaying.take() {
            relaying.cancel();
        }
        drop(inner);
        self.remove(feed);
        feed.changed.send_replace(());
        info!(title = %feed.title, "feed ended");
    }

    /// Removes a feed; sessions that have it keep it.
    pub(super) fn remove(&self, feed: &Arc<LiveFeed>) {
        let mut feeds = lock(&self.feeds);
        if feeds.get(&feed.title).is_some_and(|known| Arc::ptr_eq(known, feed)) {
            feeds.remove(&feed.title);
        }
        drop(feeds);
        self.updates.notify_one();
    }

    /// Ends all tasks.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
