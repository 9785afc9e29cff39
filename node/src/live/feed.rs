//! One feed of a node: what is kept of it, who sends it here and who has it from here. Owns its lock, which is short and
//! never held across an await. Refuses to know other feeds.

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
    /// Something came, or ended.
    pub(super) changed: signal::Sender<()>,
    pub(super) viewers: AtomicU32,
    pub(super) relays: AtomicU32,
    /// How far back somebody wanted to begin, in milliseconds.
    pub(super) back_ms: AtomicU64,
}

pub(super) struct FeedInner {
    pub(super) cache: FeedCache,
    pub(super) medium: Option<Medium>,
    pub(super) started_ms: i64,
    pub(super) origin: FeedOrigin,
    /// One past the last group of a feed that is over.
    pub(super) ended: Option<u64>,
    /// Upstreams as the master named them last.
    pub(super) upstreams: signal::Sender<Option<Relay>>,
    /// Ends the task that looks for an upstream.
    pub(super) relaying: Option<CancellationToken>,
    /// The recording that runs.
    pub(super) recording: Option<Arc<Recording>>,
}

/// A recording that runs.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) target: RecordingTarget,
    /// One past its last group, once that is known.
    pub(super) until: AtomicU64,
}

/// Who sends a feed here.
pub(super) enum FeedOrigin {
    /// Nobody.
    None,
    /// A publisher; the session is told here why it is to end.
    Publisher { id: PublisherId, number: u64, end: signal::Sender<Option<Fault>> },
    /// A publisher that is awaited.
    Awaited(PublisherId),
    /// Another node.
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
        let (viewers, relays) = (AtomicU32::new(0), AtomicU32::new(0));
        Self {
            title,
            key,
            inner: Mutex::new(inner),
            changed: signal::Sender::new(()),
            viewers,
            relays,
            back_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, FeedInner> {
        lock(&self.inner)
    }

    /// How far back somebody wanted to begin, in milliseconds.
    pub(super) fn back_ms(&self) -> u64 {
        self.back_ms.load(Ordering::Relaxed)
    }

    /// Whether somebody has it from here.
    pub(super) fn has_subscribers(&self) -> bool {
        self.viewers.load(Ordering::Relaxed) > 0 || self.relays.load(Ordering::Relaxed) > 0
    }

    /// Waits until it is known what the feed consists of. For ever, if it never is.
    pub(crate) async fn medium_known(&self) -> Result<(), Fault> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            {
                let inner = self.lock();
                if inner.ended.is_some() {
                    return Err(Fault::new(Code::NotFound, format!("`{}` is over", self.title)));
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

    /// The least number of a publisher's next new group, which its ticket wants to be no less than `least`; and the newest
    /// that is here.
    pub(crate) fn first_group(&self, least: u64) -> (u64, u64) {
        let newest = self.newest();
        (least.max(newest + 1), newest)
    }

    /// The newest group that has begun; 0 for none.
    pub(crate) fn newest(&self) -> u64 {
        self.lock().cache.newest()
    }

    /// The group with which a viewer begins.
    pub(crate) fn start_group(&self, start: &FeedStart) -> u64 {
        self.lock().cache.start_group(start)
    }

    /// The set-up information, all but what is the session's own.
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
