//! One feed of a node: its cached groups, its origin and its subscribers. Owns its lock, which is short and never held
//! across an await. Knows no other feeds.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch as signal;
use tokio_util::sync::CancellationToken;
use usher_proto::{
    Code, Fault, NodeName, PublisherId, Title,
    feed::FeedKey,
    model::{FeedState, Medium, Relay},
    pb::{v1, wire::FeedStart},
};

use crate::{
    core::{feed::FeedCache, record::RecordingTarget},
    sync::lock,
};

/// One feed.
pub(crate) struct LiveFeed {
    pub(crate) title: Title,
    pub(crate) key: FeedKey,
    pub(super) inner: Mutex<FeedInner>,
    /// Notified of new pieces and changes of state.
    pub(super) changed: signal::Sender<()>,
    pub(super) viewers: AtomicU32,
    pub(super) relays: AtomicU32,
    /// The farthest start that a subscriber asked for, in milliseconds before the newest group.
    pub(super) back_ms: AtomicU64,
}

/// The state of a feed that its lock guards.
pub(super) struct FeedInner {
    pub(super) cache: FeedCache,
    pub(super) medium: Option<Medium>,
    pub(super) started_ms: i64,
    pub(super) origin: FeedOrigin,
    /// One past the last group of an ended feed.
    pub(super) ended: Option<u64>,
    /// The upstreams that the master named last.
    pub(super) upstreams: signal::Sender<Option<Relay>>,
    /// Cancels the task that relays the feed from an upstream.
    pub(super) relaying: Option<CancellationToken>,
    /// The recording in progress.
    pub(super) recording: Option<Arc<Recording>>,
}

/// A recording in progress.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) target: RecordingTarget,
    /// One past its last group, once known.
    pub(super) until: AtomicU64,
}

/// The origin of a feed.
pub(super) enum FeedOrigin {
    /// No origin yet.
    None,
    /// A publisher; `end` carries the reason to end its session.
    Publisher { id: PublisherId, number: u64, end: signal::Sender<Option<Fault>> },
    /// A publisher whose session ended early.
    Awaited(PublisherId),
    /// A node that relays the feed to this one.
    Upstream(NodeName),
}

impl LiveFeed {
    pub(super) fn new(title: Title, key: FeedKey, window: Duration) -> Self {
        let inner = FeedInner {
            cache: FeedCache::new(window),
            medium: None,
            started_ms: 0,
            origin: FeedOrigin::None,
            ended: None,
            upstreams: signal::Sender::default(),
            relaying: None,
            recording: None,
        };
        Self {
            title,
            key,
            inner: Mutex::new(inner),
            changed: signal::Sender::new(()),
            viewers: AtomicU32::default(),
            relays: AtomicU32::default(),
            back_ms: AtomicU64::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, FeedInner> {
        lock(&self.inner)
    }

    /// The farthest start that a subscriber asked for, in milliseconds before the newest group.
    pub(super) fn back_ms(&self) -> u64 {
        self.back_ms.load(Ordering::Relaxed)
    }

    /// Whether any viewer or relay is subscribed.
    pub(super) fn has_subscribers(&self) -> bool {
        self.viewers.load(Ordering::Relaxed) > 0 || self.relays.load(Ordering::Relaxed) > 0
    }

    /// Waits until the media type and tracks are known; for ever, if they never are.
    ///
    /// # Errors
    /// `NOT_FOUND` when the feed ended.
    pub(crate) async fn medium_known(&self) -> Result<(), Fault> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            {
                let inner = self.lock();
                if inner.ended.is_some() {
                    return Err(Fault::new(Code::NotFound, format!("`{}` has ended", self.title)));
                }
                if inner.medium.is_some() {
                    return Ok(());
                }
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The least number of a publisher's next group, at least the `least` of its ticket; and the newest number here.
    pub(crate) fn first_group(&self, least: u64) -> (u64, u64) {
        let newest = self.newest();
        (least.max(newest + 1), newest)
    }

    /// Number of the newest group; 0 for none.
    pub(crate) fn newest(&self) -> u64 {
        self.lock().cache.newest()
    }

    /// The group a viewer starts with.
    pub(crate) fn start_group(&self, start: &FeedStart) -> u64 {
        self.lock().cache.start_group(start)
    }

    /// The set-up information without the parts that depend on the session.
    pub(crate) fn setup(&self) -> v1::Setup {
        let inner = self.lock();
        let medium = inner.medium.clone().unwrap_or_default();
        v1::Setup {
            title: self.title.to_string(),
            media_type: medium.media_type,
            tracks: medium.tracks,
            bitrate_bps: inner.cache.bitrate().0,
            streamable: true,
            ..v1::Setup::default()
        }
    }

    /// The state to report to the master; `None` when the feed ended.
    pub(super) fn state(&self, window_ms: u64) -> Option<FeedState> {
        let inner = self.lock();
        let (publisher, upstream, interrupted) = match &inner.origin {
            FeedOrigin::Publisher { id, .. } => (Some(*id), None, false),
            FeedOrigin::Awaited(id) => (Some(*id), None, true),
            FeedOrigin::Upstream(node) => (None, Some(node.clone()), false),
            FeedOrigin::None => (None, None, true),
        };
        let medium = inner.medium.clone().unwrap_or_default();
        inner.ended.is_none().then(|| FeedState {
            title: self.title.clone(),
            publisher,
            upstream,
            interrupted,
            viewers: self.viewers.load(Ordering::Relaxed),
            relays: self.relays.load(Ordering::Relaxed),
            newest: inner.cache.newest(),
            started_ms: inner.started_ms,
            bitrate: inner.cache.bitrate(),
            medium,
            window_ms,
        })
    }
}
