//! Progress of a watched feed on standard error: lines for people, or JSON lines for programs.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use usher_proto::{Title, units};

use crate::{
    cli::{
        output::{note, note_json},
        progress::{JSON_INTERVAL, LastFault, ProgressMode},
    },
    driver::{FeedEvent, FeedStats},
};

/// The progress of one feed.
pub(super) struct FeedProgress<'a> {
    title: &'a Title,
    mode: ProgressMode,
    last: LastFault,
    dropped: AtomicU64,
    /// When the last JSON line was printed.
    printed: Mutex<Option<Instant>>,
    started: Instant,
}

impl<'a> FeedProgress<'a> {
    pub(super) fn new(title: &'a Title, mode: ProgressMode) -> Self {
        let (last, dropped, printed) = (LastFault::default(), AtomicU64::new(0), Mutex::default());
        Self { title, mode, last, dropped, printed, started: Instant::now() }
    }

    /// Shows an event of the feed.
    pub(super) fn show(&self, event: &FeedEvent) {
        let title = self.title;
        if self.mode == ProgressMode::Json {
            return self.json(event);
        }
        match event {
            FeedEvent::Seated { node, reason } if reason.is_empty() => note(&format!("{title}: from {node}")),
            FeedEvent::Seated { node, reason } => note(&format!("{title}: from {node} ({reason})")),
            FeedEvent::SeatFailed(fault) if self.last.is_new(fault) => note(&format!("{fault}; trying again")),
            FeedEvent::SeatFailed(_) => {}
            FeedEvent::Progress(stats) => {
                self.last.clear();
                let before = self.dropped.swap(stats.dropped, Ordering::Relaxed);
                if stats.dropped > before {
                    let now = groups(stats.dropped - before);
                    note(&format!("{title}: {now} dropped to keep up, {} in all", stats.dropped));
                }
            }
        }
    }

    fn json(&self, event: &FeedEvent) {
        let title = self.title.as_str();
        let line = match event {
            FeedEvent::Seated { node, reason } => {
                json!({ "event": "seated", "title": title, "node": node.as_str(), "reason": reason })
            }
            FeedEvent::SeatFailed(fault) => {
                json!({ "event": "lost", "title": title, "reason": fault.code.reason(), "message": fault.message })
            }
            FeedEvent::Progress(stats) => {
                let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
                if printed.is_some_and(|printed| printed.elapsed() < JSON_INTERVAL) {
                    return;
                }
                *printed = Some(Instant::now());
                stats_json("progress", title, *stats, self.started.elapsed())
            }
        };
        note_json(&line);
    }
}

/// The statistics of a feed as JSON.
pub(super) fn stats_json(event: &str, title: &str, stats: FeedStats, elapsed: Duration) -> serde_json::Value {
    json!({
        "event": event,
        "title": title,
        "bytes": stats.bytes,
        "groups": stats.groups,
        "dropped_groups": stats.dropped,
        "elapsed_ms": units::millis(elapsed),
    })
}

/// A number of groups in words.
pub(super) fn groups(count: u64) -> String {
    if count == 1 { "1 group".to_owned() } else { format!("{count} groups") }
}
