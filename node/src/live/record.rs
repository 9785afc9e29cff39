//! Recordings: a feed that is published here becomes a title of the node's own, written beside it by a task that follows the
//! feed as a viewer does, so that a disk holds up nothing but its recording. Owns when one begins and ends; what is in its
//! files is `core::record`'s. Refuses to know how titles are found.

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
use usher_proto::{Code, Fault, Title, feed::Link, model::Offer, ticket::FeedGrant};

use self::file::RecordingWriter;
use super::{
    feed::{FeedInner, FeedOrigin, LiveFeed, Recording},
    feeds::Feeds,
};
use crate::core::{feed::CompleteGroup, record::RecordingTarget};

/// The last second that has four digits for its year.
const LAST_SECOND: i64 = 253_402_300_799_000;

impl Feeds {
    /// From here on feeds are recorded that ask for it.
    pub(crate) fn record_with(&self, recorder: Arc<super::Recorder>) {
        drop(self.recorder.set(recorder));
    }

    /// Where the feed of a publisher is recorded; `None` when it does not ask for that.
    ///
    /// # Errors
    /// `UNEQUIPPED` where nothing is, as [`RecordingTarget::new`].
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
            return Err(Fault::new(Code::Unequipped, "this node records no feeds (--recordings); resolve again"));
        }
        RecordingTarget::new(title, &offer.medium.media_type).map(Some)
    }

    /// A publisher has come whose feed is recorded at `target`, or is not. To be called under the feed's lock.
    pub(super) fn start_recording(
        self: &Arc<Self>,
        feed: &Arc<LiveFeed>,
        inner: &mut FeedInner,
        target: Option<RecordingTarget>,
    ) {
        if inner.recording.as_ref().map(|running| &running.target) == target.as_ref() {
            // It goes on in the same file.
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

/// What is to be done for a recording.
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
                // Under the lock, so that a publisher who comes now has a recording of its own.
                inner.recording.take_if(|running| Arc::ptr_eq(running, recording));
                RecordingTurn::Over
            }
            None => RecordingTurn::Wait,
        }
    }
}

/// Writes whole groups until the feed is over, or no more of it is sent here.
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
            warn!(%title, groups = group.missing, before = group.head.sequence, missing, "groups are missing in a recording");
        }
        (from, last) = (group.head.sequence + 1, Some(group.link));
        let written = blocking(writer, move |writer| writer.write(&group)).await;
        let Some((back, result)) = written else { return };
        writer = back;
        if let Err(error) = result {
            error!(%title, %error, "a recording cannot be written; it ends with what is there, and the feed goes on");
            feed.lock().recording.take_if(|running| Arc::ptr_eq(running, &recording));
            break;
        }
    }
    let Some((writer, ())) = blocking(writer, RecordingWriter::finish).await else { return };
    info!(feed = %title, titles = ?writer.titles(), groups = writer.groups(), missing, "recording is over");
}

/// Lets a writer do what waits for the disk. `None` when that failed by a bug, or the runtime goes down.
async fn blocking<T: Send + 'static>(
    mut writer: RecordingWriter,
    work: impl FnOnce(&mut RecordingWriter) -> T + Send + 'static,
) -> Option<(RecordingWriter, T)> {
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut writer);
        (writer, result)
    });
    done.await.inspect_err(|error| error!(%error, "a recording was given up; it is a title after the next start")).ok()
}

/// A publisher's time as it stands in names.
fn time(unix_ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(unix_ms.clamp(0, LAST_SECOND)).unwrap_or(0));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string().replace(['-', ':'], "")
}
