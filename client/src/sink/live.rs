//! Destination of a feed's media: a pipe or device, written at once, or a file that gets its name when the recording is
//! complete. Independent of groups and nodes.

use std::{fs::File, io::ErrorKind, os::fd::AsFd as _, path::PathBuf, sync::Arc};

use bytes::Bytes;
use rustix::fs::FlockOperation;
use usher_files::Existing;
use usher_proto::{Code, Fault};

use super::{exists, file::not_own, pipe::fault, run_blocking};
use crate::driver::FeedSink;

/// Writes a feed to a file, pipe or device.
#[derive(Debug)]
pub struct LiveSink {
    out: Arc<File>,
    place: Option<Place>,
}

/// A file on its way.
#[derive(Debug)]
struct Place {
    part: PathBuf,
    target: PathBuf,
    force: bool,
}

impl LiveSink {
    /// Writes to `out`, which may block. A reader that left is [`Code::Cancelled`].
    pub fn through(out: File) -> Self {
        Self { out: Arc::new(out), place: None }
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// [`Code::Disk`] when there is none.
    pub fn stdout() -> Result<Self, Fault> {
        let out = std::io::stdout().as_fd().try_clone_to_owned();
        let out = out.map_err(|error| Fault::new(Code::Disk, format!("open standard output: {error}")))?;
        Ok(Self::through(out.into()))
    }

    /// Writes `target`, which must not exist unless `force`; as `target.part` until [`LiveSink::keep`]. A part that holds
    /// bytes is kept, too, unless `force`.
    ///
    /// # Errors
    /// [`Code::Exists`], [`Code::Disk`].
    pub fn file(target: PathBuf, force: bool) -> Result<Self, Fault> {
        if target.symlink_metadata().is_ok() && !force {
            return Err(exists(&target));
        }
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = target.with_file_name(name);
        let made = usher_files::open_own(&part, 0o666).map_err(|error| not_own(&part, &error))?;
        if rustix::fs::flock(&made, FlockOperation::NonBlockingLockExclusive).is_err() {
            let text = format!("{} is being written by another usher; wait for it", part.display());
            return Err(Fault::new(Code::Exists, text));
        }
        let failed = |error: std::io::Error| Fault::new(Code::Disk, format!("write {}: {error}", part.display()));
        if !force && made.metadata().map_err(failed)?.len() > 0 {
            let text = format!(
                "{} holds an interrupted recording or something else; move it away, or overwrite it with --force",
                part.display()
            );
            return Err(Fault::new(Code::Exists, text));
        }
        made.set_len(0).map_err(failed)?;
        Ok(Self { out: Arc::new(made), place: Some(Place { part, target, force }) })
    }

    /// Keeps the first `bytes` bytes and gives the file its name; removes the file when `bytes` is 0.
    ///
    /// # Errors
    /// [`Code::Exists`] for a file that was made meanwhile, [`Code::Disk`].
    pub async fn keep(self, bytes: u64) -> Result<(), Fault> {
        let Self { out, place } = self;
        let Some(Place { part, target, force }) = place else { return Ok(()) };
        run_blocking(move || {
            let failed = |error: std::io::Error| Fault::new(Code::Disk, format!("{}: {error}", target.display()));
            if bytes == 0 {
                return std::fs::remove_file(&part).map_err(failed);
            }
            out.set_len(bytes).map_err(failed)?;
            let existing = if force { Existing::Replace } else { Existing::Keep };
            match usher_files::place(&out, &part, &target, existing) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(exists(&target)),
                placed => placed.map_err(failed),
            }
        })
        .await
    }
}

impl FeedSink for LiveSink {
    async fn write(&mut self, media: Vec<Bytes>) -> Result<(), Fault> {
        let out = Arc::clone(&self.out);
        let write = move || usher_files::write_all(&mut &*out, media.iter().map(|media| &**media));
        run_blocking(move || write().map_err(|error| fault(&error))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media() -> Vec<Bytes> {
        ["one", "", "two"].into_iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
    }

    #[tokio::test]
    async fn a_recording_has_its_name_once_it_is_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let (target, part) = (dir.path().join("a.ts"), dir.path().join("a.ts.part"));
        let mut sink = LiveSink::file(target.clone(), false).expect("made");
        sink.write(media()).await.expect("written");
        assert!(part.exists() && !target.exists());
        sink.keep(6).await.expect("kept");
        assert_eq!((std::fs::read(&target).expect("read"), part.exists()), (b"onetwo".to_vec(), false));
        assert_eq!(LiveSink::file(target.clone(), false).map_err(|fault| fault.code).err(), Some(Code::Exists));
        let mut sink = LiveSink::file(target.clone(), true).expect("made");
        sink.write(media()).await.expect("written");
        sink.keep(6).await.expect("kept over the old one");
    }

    #[tokio::test]
    async fn a_part_that_is_not_ours_is_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let (target, part) = (dir.path().join("a.ts"), dir.path().join("a.ts.part"));
        let refused = |force| LiveSink::file(target.clone(), force).map_err(|fault| fault.code).err();
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "mine").expect("written");
        std::os::unix::fs::symlink(&precious, &part).expect("linked");
        assert_eq!((refused(false), refused(true)), (Some(Code::Exists), Some(Code::Exists)));
        assert_eq!(std::fs::read(&precious).expect("read"), b"mine");
        std::fs::remove_file(&part).expect("removed");
        std::fs::write(&part, "an earlier recording").expect("written");
        assert_eq!(refused(false), Some(Code::Exists));
        let sink = LiveSink::file(target.clone(), true).expect("overwritten");
        assert_eq!(refused(true), Some(Code::Exists), "being written");
        sink.keep(0).await.expect("gone");
    }

    #[tokio::test]
    async fn nothing_is_left_of_nothing_and_no_other_file_is_lost() {
        let dir = tempfile::tempdir().expect("a folder");
        let target = dir.path().join("a.ts");
        LiveSink::file(target.clone(), false).expect("made").keep(0).await.expect("gone");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
        let mut sink = LiveSink::file(target.clone(), false).expect("made");
        sink.write(media()).await.expect("written");
        std::fs::write(&target, "another").expect("written");
        assert_eq!(sink.keep(6).await.map_err(|fault| fault.code), Err(Code::Exists));
        assert_eq!(std::fs::read(&target).expect("read"), b"another");
    }
}
