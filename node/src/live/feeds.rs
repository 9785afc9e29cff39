//! All feeds of a node: looks them up, counts their memory, and ends them. Each lock is short and never held across an
//! await; `core::feed` owns what is kept of a feed.

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

/// How long a feed waits for a publisher that left without a word.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

/// What the operator set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FeedSettings {
    /// Whether feeds may be sent here.
    pub(crate) ingest: bool,
    /// How much of a feed is kept.
    pub(crate) window: Duration,
    /// Media of all feeds together, in bytes.
    pub(crate) memory: u64,
    /// See [`GRACE`].
    pub(crate) grace: Duration,
}

/// The feeds of a node.
pub(crate) struct Feeds {
    pub(super) settings: FeedSettings,
    pub(super) feeds: Mutex<HashMap<Title, Arc<LiveFeed>>>,
    /// Upstreams that the master named before anyone came.
    pub(super) relay_orders: Mutex<HashMap<Title, (Instant, Relay)>>,
    /// What the master is to be asked for.
    pub(super) relay_requests: Mutex<Vec<v1::RelayWanted>>,
    pub(super) bytes: AtomicU64,
    pub(super) subscriptions: AtomicU64,
    /// Where feeds are recorded; nowhere, unless that is said.
    pub(super) recorder: OnceLock<Arc<Recorder>>,
    /// Something is to be told to the master.
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

    /// A number for a session's groups that no other has.
    pub(crate) fn subscription(&self) -> u64 {
        self.subscriptions.fetch_add(1, Ordering::Relaxed)
    }

    /// How much of a feed is kept, in milliseconds.
    pub(crate) fn window_ms(&self) -> u64 {
        usher_proto::units::millis(self.settings.window)
    }

    /// Media of all feeds, in bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The feed of this title, made if it is not here.
    pub(super) fn get_or_create(&self, title: &Title, key: FeedKey) -> Result<Arc<LiveFeed>, Fault> {
        let mut feeds = lock(&self.feeds);
        let many = feeds.len() >= MAX_FEEDS;
        match feeds.entry(title.clone()) {
            Entry::Occupied(known) if known.get().key == key => Ok(Arc::clone(known.get())),
            Entry::Occupied(_) => {
                Err(Fault::new(Code::TicketMismatch, format!("`{title}` is here under another key; resolve again")))
            }
            Entry::Vacant(_) if many => {
                Err(Fault::new(Code::NoCapacity, format!("a node carries at most {MAX_FEEDS} feeds")))
            }
            Entry::Vacant(free) => {
                Ok(Arc::clone(free.insert(Arc::new(LiveFeed::new(title.clone(), key, self.settings.window)))))
            }
        }
    }

    /// The master wants this publisher to end: another one is elsewhere.
    pub(crate) fn end_publisher(&self, title: &Title, publisher: PublisherId) {
        let Some(feed) = lock(&self.feeds).get(title).cloned() else { return };
        let inner = feed.lock();
        if let FeedOrigin::Publisher { id, end, .. } = &inner.origin
            && *id == publisher
        {
            end.send_replace(Some(Fault::new(TAKEN_OVER, format!("another publisher has taken over `{title}`"))));
        }
    }

    /// Sends every publisher elsewhere.
    pub(crate) fn drain(&self) {
        let feeds: Vec<_> = lock(&self.feeds).values().cloned().collect();
        for feed in feeds {
            if let FeedOrigin::Publisher { end, .. } = &feed.lock().origin {
                end.send_replace(Some(Fault::new(Code::Draining, "the node is draining; resolve again")));
            }
        }
    }

    /// Waits until there may be something to tell. For one caller.
    pub(crate) async fn updated(&self) {
        self.updates.notified().await;
    }

    /// All feeds, as the master is told of them.
    pub(crate) fn states(&self) -> Vec<FeedState> {
        let feeds: Vec<_> = lock(&self.feeds).values().cloned().collect();
        let mut states: Vec<_> = feeds.iter().filter_map(|feed| feed.state(self.window_ms())).collect();
        states.sort_by(|a, b| a.title.cmp(&b.title));
        states
    }

    /// A feed has changed from so many bytes to so many. To be called under its lock.
    pub(super) fn update_bytes(&self, inner: &FeedInner, before: u64) {
        // One that is over is not counted any more.
        if inner.ended.is_none() {
            self.bytes.fetch_add(inner.cache.bytes(), Ordering::Relaxed);
            self.bytes.fetch_sub(before, Ordering::Relaxed);
        }
    }

    /// Makes all feeds fit.
    pub(super) fn evict_to_fit(&self) -> Result<(), Fault> {
        while self.bytes.load(Ordering::Relaxed) >= self.settings.memory {
            let feeds: Vec<_> = lock(&self.feeds).values().cloned().collect();
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

    /// The feed is over, after the groups before this one.
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
        info!(title = %feed.title, "feed is over");
    }

    /// The feed is not among the node's any more; those who have it keep it.
    pub(super) fn remove(&self, feed: &Arc<LiveFeed>) {
        let mut feeds = lock(&self.feeds);
        if feeds.get(&feed.title).is_some_and(|known| Arc::ptr_eq(known, feed)) {
            feeds.remove(&feed.title);
        }
        drop(feeds);
        self.updates.notify_one();
    }

    /// Ends all that was begun here.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
