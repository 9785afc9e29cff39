//! The files of one recording. A file gets its title's name when it is complete and on the disk, and never replaces
//! another. All functions block. Does not know where groups come from.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rustix::fs::FlockOperation;
use tracing::{error, info};

use crate::{
    core::{
        feed::CompleteGroup,
        record::{self, MAX_FILES, PART_EXTENSION, RecordingPlan, RecordingTarget},
    },
    live::recorder::{Recorder, rename},
};

/// Bytes written between syncs, so that little is left to sync at the end, and a crash loses little.
const SYNC_INTERVAL: u64 = 64 << 20;

/// Writes one recording.
#[derive(Debug)]
pub(super) struct RecordingWriter {
    recorder: Arc<Recorder>,
    target: RecordingTarget,
    /// In the form used in file names.
    time: String,
    plan: RecordingPlan,
    part: Option<PartFile>,
    groups: u64,
    titles: Vec<String>,
}

/// A file that is being written.
#[derive(Debug)]
struct PartFile {
    file: File,
    path: PathBuf,
    /// Bytes of complete groups.
    bytes: u64,
    synced: u64,
}

impl RecordingWriter {
    pub(super) fn new(recorder: Arc<Recorder>, target: RecordingTarget, time: String) -> Self {
        let plan = RecordingPlan::new(target.format);
        Self { recorder, target, time, plan, part: None, groups: 0, titles: Vec::new() }
    }

    /// Titles of the completed files.
    pub(super) fn titles(&self) -> &[String] {
        &self.titles
    }

    /// Number of groups written.
    pub(super) fn groups(&self) -> u64 {
        self.groups
    }

    /// Appends a group. After an error the file ends before the group.
    pub(super) fn write(&mut self, group: &CompleteGroup) -> io::Result<()> {
        let step = self.plan.handle_group(&group.head);
        if step.file || self.part.is_none() {
            self.finish();
            self.part = Some(PartFile::create(&self.folder(), &self.target, &self.time)?);
        }
        let Some(part) = &mut self.part else { return Ok(()) };
        let head = step.head.then(|| group.head.head.clone());
        let media: Vec<Bytes> = head.into_iter().chain(group.frames.iter().map(record::media)).collect();
        part.append(&media)?;
        self.groups += 1;
        Ok(())
    }

    /// Completes the current file.
    pub(super) fn finish(&mut self) {
        let Some(part) = self.part.take() else { return };
        let path = part.path.clone();
        match part.keep(&self.target, &self.time) {
            Ok(Some(name)) => {
                let title = format!("{}/{name}", self.target.folder);
                info!(title, "recorded file complete");
                self.titles.push(title);
            }
            Ok(None) => {}
            Err(error) => error!(?path, %error, "cannot complete a recorded file: the next start recovers it"),
        }
    }

    fn folder(&self) -> PathBuf {
        self.recorder.root.join(&self.target.folder)
    }
}

impl PartFile {
    /// Creates a file whose name, with and without suffix, is free.
    fn create(folder: &Path, target: &RecordingTarget, time: &str) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for number in 1..=MAX_FILES {
            let name = target.file(time, number);
            let path = folder.join(format!("{name}{PART_EXTENSION}"));
            if folder.join(name).symlink_metadata().is_ok() {
                continue;
            }
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    // The lock keeps a starting node from recovering it.
                    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                    return Ok(Self { file, path, bytes: 0, synced: 0 });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(
            ErrorKind::AlreadyExists,
            format!("{MAX_FILES} recordings of {time} exist in {}", folder.display()),
        ))
    }

    fn append(&mut self, media: &[Bytes]) -> io::Result<()> {
        if let Err(error) = usher_files::write_all(&mut &self.file, media.iter().map(|media| &**media)) {
            // A player cannot use a partial group.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += media.iter().map(|media| media.len() as u64).sum::<u64>();
        if self.bytes - self.synced >= SYNC_INTERVAL {
            self.synced = self.bytes;
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Renames the file to its final name, which is returned, or removes an empty file.
    fn keep(self, target: &RecordingTarget, time: &str) -> io::Result<Option<String>> {
        if self.bytes == 0 {
            fs::remove_file(&self.path)?;
            return Ok(None);
        }
        let names = (1..=MAX_FILES).map(|number| target.file(time, number));
        rename(&self.file, &self.path, names)
    }
}
