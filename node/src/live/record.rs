//! Recordings of feeds that are published here. A task subscribes to the feed and writes a title of the library, so
//! that a slow disk delays only its recording. Owns when a recording starts and ends; `core::record` owns the layout of
//! its files. Does not know how titles are found.

mod file;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use tracing::{error, info, warn};
use usher_proto::{Code, Fault, Title, feed::Link, model::Offer, ticket::FeedGrant, units::LAST_UNIX_SECOND};

use self::file::RecordingWriter;
use super::{
    feed::{FeedInner, FeedOrigin, LiveFeed, Recording},
    feeds::Feeds,
};
use crate::core::{feed::CompleteGroup, record::RecordingTarget};

impl Feeds {
    /// Records, from now on, the feeds that ask for it.
    pub(crate) fn record_with(&self, recorder: Arc<super::Recorder>) {
        drop(self.recorder.set(recorder));
    }

    /// Where to record a publisher's feed; `None` when its ticket does not ask for a recording.
    ///
    /// # Errors
    /// `UNEQUIPPED` where feeds are not recorded, and as [`RecordingTarget::new`].
    pub(super) fn recording_target(
        &self,
        title: &Title,
        grant: &FeedGrant,
        offer: &Offer,
    ) -> Result<Option<RecordingTarget>, Fault> {
        if !grant.record {
            return Ok(None);
        }
        if self.recorder.get().is_none() {
            return Err(Fault::new(Code::Unequipped, "this node does not record feeds (--recordings); resolve again"));
        }
        RecordingTarget::new(title, &offer.medium.media_type).map(Some)
    }

    /// Starts, continues or ends the recording for a new publisher's `target`. Call it under the feed's lock.
    pub(super) fn start_recording(
        self: &Arc<Self>,
        feed: &Arc<LiveFeed>,
        inner: &mut FeedInner,
        target: Option<RecordingTarget>,
    ) {
        if inner.recording.as_ref().map(|running| &running.target) == target.as_ref() {
            // The recording continues in the same file.
            return;
        }
        if let Some(running) = inner.recording.take() {
            running.until.store(inner.cache.newest() + 1, Ordering::Relaxed);
        }
        let (Some(target), Some(recorder)) = (target, self.recorder.get()) else { return };
        let recording = Arc::new(Recording { target, until: AtomicU64::new(u64::MAX) });
        inner.recording = Some(Arc::clone(&recording));
        let writer = RecordingWriter::new(Arc::clone(recorder), recording.target.clone(), time(inner.started_ms));
        let from = inner.cache.resume_from();
        self.tasks.spawn(run(Arc::clone(self), Arc::clone(feed), recording, writer, from));
    }
}

/// The next action of a recording.
enum RecordingTurn {
    Write(CompleteGroup),
    Wait,
    Over,
}

impl LiveFeed {
    fn next(&self, live: &Feeds, recording: &Arc<Recording>, from: u64, last: Option<Link>) -> RecordingTurn {
        let mut inner = self.lock();
        let until = recording.until.load(Ordering::Relaxed);
        let here =
            matches!(inner.origin, FeedOrigin::Publisher { .. } | FeedOrigin::Awaited(_)) && inner.ended.is_none();
        let over = !here || until < u64::MAX || live.stop.is_cancelled();
        match inner.cache.next_complete(from, last, over.then_some(until)) {
            Some(group) => RecordingTurn::Write(group),
            None if over => {
                // Under the lock, so that a publisher admitted now starts a recording of its own.
                inner.recording.take_if(|running| Arc::ptr_eq(running, recording));
                RecordingTurn::Over
            }
            None => RecordingTurn::Wait,
        }
    }
}

/// Writes complete groups until the feed ends, or has no publisher here.
async fn run(
    live: Arc<Feeds>,
    feed: Arc<LiveFeed>,
    recording: Arc<Recording>,
    mut writer: RecordingWriter,
    mut from: u64,
) {
    let title = feed.title.clone();
    let (mut changed, mut last, mut missing) = (feed.changed.subscribe(), None, 0);
    loop {
        changed.borrow_and_update();
        let group = match feed.next(&live, &recording, from, last) {
            RecordingTurn::Write(group) => group,
            RecordingTurn::Over => break,
            RecordingTurn::Wait => {
                tokio::select! {
                    _ = changed.changed() => {}
                    () = live.stop.cancelled() => {}
                }
                continue;
            }
        };
        if group.missing > 0 {
            missing += group.missing;
            warn!(%title, groups = group.missing, before = group.head.sequence, missing, "groups missing in a recording");
        }
        (from, last) = (group.head.sequence + 1, Some(group.link));
        let written = blocking(writer, move |writer| writer.write(&group)).await;
        let Some((back, result)) = written else { return };
        writer = back;
        if let Err(error) = result {
            error!(%title, %error, "cannot write a recording: it ends here, and the feed continues");
            feed.lock().recording.take_if(|running| Arc::ptr_eq(running, &recording));
            break;
        }
    }
    let Some((writer, ())) = blocking(writer, RecordingWriter::finish).await else { return };
    info!(%title, titles = ?writer.titles(), groups = writer.groups(), missing, "recording ended");
}

/// Runs blocking work of a writer. `None` when it panicked, or the runtime shuts down.
async fn blocking<T: Send + 'static>(
    mut writer: RecordingWriter,
    work: impl FnOnce(&mut RecordingWriter) -> T + Send + 'static,
) -> Option<(RecordingWriter, T)> {
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut writer);
        (writer, result)
    });
    done.await.inspect_err(|error| error!(%error, "recording aborted: the next start recovers it")).ok()
}

/// A publisher's time in the form used in file names.
fn time(unix_ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0).min(LAST_UNIX_SECOND * 1000));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string().replace(['-', ':'], "")
}
