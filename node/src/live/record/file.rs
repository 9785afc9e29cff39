//! The files of one recording: each has its name once it is whole and on the disk, and never takes another's. Everything
//! here blocks. Refuses to know where groups come from.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, IoSlice, Write as _},
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

/// So many bytes are given to the disk at a time, so that little is left to be done at the end, and little is lost by a
/// crash.
const SYNC_INTERVAL: u64 = 64 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct RecordingWriter {
    recorder: Arc<Recorder>,
    target: RecordingTarget,
    /// In names.
    time: String,
    plan: RecordingPlan,
    part: Option<PartFile>,
    groups: u64,
    titles: Vec<String>,
}

/// A file that is written.
#[derive(Debug)]
struct PartFile {
    file: File,
    path: PathBuf,
    /// Of whole groups.
    bytes: u64,
    synced: u64,
}

impl RecordingWriter {
    pub(super) fn new(recorder: Arc<Recorder>, target: RecordingTarget, time: String) -> Self {
        let plan = RecordingPlan::new(target.format);
        Self { recorder, target, time, plan, part: None, groups: 0, titles: Vec::new() }
    }

    /// What became titles.
    pub(super) fn titles(&self) -> &[String] {
        &self.titles
    }

    /// Groups that were written.
    pub(super) fn groups(&self) -> u64 {
        self.groups
    }

    /// Appends a group. Of one that fails nothing stays.
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

    /// The present file is whole.
    pub(super) fn finish(&mut self) {
        let Some(part) = self.part.take() else { return };
        let path = part.path.clone();
        match part.keep(&self.target, &self.time) {
            Ok(Some(name)) => {
                let title = format!("{}/{name}", self.target.folder);
                info!(title, "a recording has become a title");
                self.titles.push(title);
            }
            Ok(None) => {}
            Err(error) => error!(?path, %error, "a recording keeps its unfinished name until the next start"),
        }
    }

    fn folder(&self) -> PathBuf {
        self.recorder.root.join(&self.target.folder)
    }
}

impl PartFile {
    /// A new file, whose name and whose later one nobody has.
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
                    // A node that starts leaves it alone.
                    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                    return Ok(Self { file, path, bytes: 0, synced: 0 });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(
            ErrorKind::AlreadyExists,
            format!("{MAX_FILES} recordings of {time} are in {}", folder.display()),
        ))
    }

    fn append(&mut self, media: &[Bytes]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = media.iter().map(|media| IoSlice::new(media)).collect();
        if let Err(error) = write_all(&self.file, &mut slices) {
            // What is torn is of no use to a player.
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

    /// Gives it its name, which is returned, or removes it when nothing is in it.
    fn keep(self, target: &RecordingTarget, time: &str) -> io::Result<Option<String>> {
        if self.bytes == 0 {
            fs::remove_file(&self.path)?;
            return Ok(None);
        }
        self.file.sync_all()?;
        let names = (1..=MAX_FILES).map(|number| target.file(time, number));
        rename(&self.path, names)
    }
}

fn write_all(mut file: &File, mut rest: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
