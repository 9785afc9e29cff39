//! Recordings: a feed that is published here becomes a title of the node's own, written beside it by a task that follows the
//! room as a viewer does, so that a disk holds up nothing but its recording. Owns when one begins and ends; what is in its
//! files is `core::record`'s. Refuses to know how titles are found.

mod file;
mod leftover;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use tracing::{error, info, warn};
use usher_proto::{Code, Fault, Title, feed::Link, model::Offer, ticket::FeedGrant};

use self::file::Tape;
use super::{Inner, Live, Room, Source};
use crate::core::{
    feed::CompleteGroup,
    record::{FOLDER, RecordingTarget},
};

/// The last second that has four digits for its year.
const LAST: i64 = 253_402_300_799_000;

/// Where recordings go.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// The volume of the library.
    root: PathBuf,
}

impl Recorder {
    /// Looks whether recordings could be written below this folder.
    ///
    /// # Errors
    /// Names the folder and what is wrong with it.
    pub(crate) fn check(root: &Path) -> Result<()> {
        let text = root.display();
        let about = std::fs::metadata(root).with_context(|| format!("look at the folder of recordings {text}"))?;
        ensure!(about.is_dir(), "{text} is not a folder; name one with --recordings DIR");
        let access = rustix::fs::access(root, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
        access.with_context(|| format!("write to the folder of recordings {text}"))
    }

    /// Makes titles of what a run before this one did not finish. Blocks.
    ///
    /// # Errors
    /// As [`Recorder::check`].
    pub(crate) fn open(root: PathBuf) -> Result<Arc<Self>> {
        Self::check(&root)?;
        leftover::rescue(&root.join(FOLDER));
        Ok(Arc::new(Self { root }))
    }
}

/// A recording that runs.
#[derive(Debug)]
pub(super) struct Recording {
    place: RecordingTarget,
    /// One past its last group, once that is known.
    until: AtomicU64,
}

impl Live {
    /// From here on feeds are recorded that ask for it.
    pub(crate) fn record_with(&self, recorder: Arc<Recorder>) {
        drop(self.recorder.set(recorder));
    }

    /// Where the feed of a publisher is recorded; `None` when it does not ask for that.
    ///
    /// # Errors
    /// `UNEQUIPPED` where nothing is, as [`RecordingTarget::new`].
    pub(super) fn place(
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

    /// A publisher has come whose feed is recorded at `place`, or is not. To be called under the room's lock.
    pub(super) fn record(self: &Arc<Self>, room: &Arc<Room>, inner: &mut Inner, place: Option<RecordingTarget>) {
        if inner.recording.as_ref().map(|running| &running.place) == place.as_ref() {
            // It goes on in the same file.
            return;
        }
        if let Some(running) = inner.recording.take() {
            running.until.store(inner.feed.newest() + 1, Ordering::Relaxed);
        }
        let (Some(place), Some(recorder)) = (place, self.recorder.get()) else { return };
        let recording = Arc::new(Recording { place, until: AtomicU64::new(u64::MAX) });
        inner.recording = Some(Arc::clone(&recording));
        let tape = Tape::new(Arc::clone(recorder), recording.place.clone(), time(inner.started_ms));
        let from = inner.feed.resume_from();
        self.tasks.spawn(run(Arc::clone(self), Arc::clone(room), recording, tape, from));
    }
}

/// What is to be done for a recording.
enum Next {
    Write(CompleteGroup),
    Wait,
    Over,
}

impl Room {
    fn next(&self, live: &Live, recording: &Arc<Recording>, from: u64, last: Option<Link>) -> Next {
        let mut inner = self.lock();
        let until = recording.until.load(Ordering::Relaxed);
        let here = matches!(inner.source, Source::Publisher { .. } | Source::Away(_)) && inner.ended.is_none();
        let over = !here || until < u64::MAX || live.stop.is_cancelled();
        match inner.feed.next_complete(from, last, over.then_some(until)) {
            Some(group) => Next::Write(group),
            None if over => {
                // Under the lock, so that a publisher who comes now has a recording of its own.
                inner.recording.take_if(|running| Arc::ptr_eq(running, recording));
                Next::Over
            }
            None => Next::Wait,
        }
    }
}

/// Writes whole groups until the feed is over, or no more of it is sent here.
async fn run(live: Arc<Live>, room: Arc<Room>, recording: Arc<Recording>, mut tape: Tape, mut from: u64) {
    let title = room.title.clone();
    let (mut changed, mut last, mut missing) = (room.changed.subscribe(), None, 0);
    loop {
        changed.borrow_and_update();
        let group = match room.next(&live, &recording, from, last) {
            Next::Write(group) => group,
            Next::Over => break,
            Next::Wait => {
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
        let written = blocking(tape, move |tape| tape.write(&group)).await;
        let Some((back, result)) = written else { return };
        tape = back;
        if let Err(error) = result {
            error!(%title, %error, "a recording cannot be written; it ends with what is there, and the feed goes on");
            room.lock().recording.take_if(|running| Arc::ptr_eq(running, &recording));
            break;
        }
    }
    let Some((tape, ())) = blocking(tape, Tape::finish).await else { return };
    info!(feed = %title, titles = ?tape.titles(), groups = tape.groups(), missing, "recording is over");
}

/// Lets a tape do what waits for the disk. `None` when that failed by a bug, or the runtime goes down.
async fn blocking<T: Send + 'static>(
    mut tape: Tape,
    work: impl FnOnce(&mut Tape) -> T + Send + 'static,
) -> Option<(Tape, T)> {
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut tape);
        (tape, result)
    });
    done.await.inspect_err(|error| error!(%error, "a recording was given up; it is a title after the next start")).ok()
}

/// A publisher's time as it stands in names.
fn time(unix_ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(unix_ms.clamp(0, LAST)).unwrap_or(0));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string().replace(['-', ':'], "")
}
