//! A file: written as `NAME.part` beside its place, with `NAME.part.state` beside that, and moved there when every byte
//! is verified. A second run takes up where the first left off.
//!
//! Knows no titles and no nodes. The claims of the state are checked against the bytes on the disk before they are used.

mod part;

use std::{
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use usher_files::Existing;
use usher_proto::{Code, ContentId, Fault};

pub(super) use self::part::not_own;
use self::part::{Names, Part, Wanted, fault};
use super::{exists, run_blocking};
use crate::{
    core::{assembler::Chunk, state::Header},
    driver::{Sink, TransferInfo},
};

/// A file on its way.
#[derive(Debug)]
pub struct FileSink {
    target: PathBuf,
    force: bool,
    names: Names,
    /// Shared with the blocking threads; one call at a time is running, but it may outlive its waiter.
    part: Arc<Mutex<Option<Part>>>,
    notices: Vec<String>,
}

/// Locks the part. After a panic its state is usable: the next run checks the files.
fn lock(part: &Mutex<Option<Part>>) -> MutexGuard<'_, Option<Part>> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FileSink {
    /// Will write `target`, which must not exist unless `force`.
    pub fn new(target: PathBuf, force: bool) -> Self {
        let stem = stem(&target);
        let beside = |suffix: &str| {
            let mut name = stem.clone();
            name.push(suffix);
            target.with_file_name(name)
        };
        let names = Names { part: beside(".part"), state: beside(".part.state") };
        Self { target, force, names, part: Arc::default(), notices: Vec::new() }
    }

    /// Where the file will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Notices for the user about an earlier run's part; each is returned once.
    pub fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Whether a second run could go on from what is there.
    pub fn resumable(&self) -> bool {
        lock(&self.part).as_ref().is_some_and(Part::is_resumable)
    }

    /// Runs `work` with the open part on a blocking thread.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Option<Part>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let part = Arc::clone(&self.part);
        run_blocking(move || work(&mut lock(&part))).await
    }

    /// Checks that the target can be written, before any byte is fetched.
    pub fn check(&self) -> Result<(), Fault> {
        // The name itself counts, even where it is a link to nowhere.
        match self.target.symlink_metadata() {
            Ok(meta) if meta.is_dir() => {
                let text = format!("{} is a folder; choose another -o", self.target.display());
                Err(Fault::new(Code::Exists, text))
            }
            Ok(meta) if !meta.is_file() && !meta.is_symlink() => {
                let text =
                    format!("{} is no regular file and is not replaced; choose another -o", self.target.display());
                Err(Fault::new(Code::Exists, text))
            }
            Ok(_) if !self.force => Err(exists(&self.target)),
            _ => Ok(()),
        }
    }
}

/// The common start of the names of the part and its state: the file's name, cut and made unique again if it is so long
/// that a file system, which allows 255 bytes, would not take it with `.part.state` behind.
fn stem(target: &Path) -> OsString {
    const LONGEST: usize = 255 - ".part.state".len();
    let name = target.file_name().unwrap_or_default();
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let hash = blake3::hash(name.as_encoded_bytes()).to_hex();
    let hash = hash.get(..16).unwrap_or_default();
    let name = name.to_string_lossy();
    let fits = LONGEST - 1 - hash.len();
    let stem: String = name.char_indices().take_while(|(at, c)| at + c.len_utf8() <= fits).map(|(_, c)| c).collect();
    format!("{stem}-{hash}").into()
}

impl Sink for FileSink {
    async fn begin(&mut self, about: &TransferInfo) -> Result<u64, Fault> {
        self.check()?;
        let header = about.content.map(|content| Header {
            content,
            size: about.size,
            range: about.range.clone(),
            title: about.title.clone(),
        });
        let wanted = Wanted { header, range: about.range.clone(), force: self.force };
        let (names, folder) = (self.names.clone(), self.target.parent().map(Path::to_owned));
        let opened = self.with(move |part| {
            if let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(&folder).map_err(|error| fault("make folder", &folder, &error))?;
            }
            let mut notices = Vec::new();
            let opened = part.insert(Part::open(names, &wanted, &mut notices)?);
            Ok((opened.recorded(), notices))
        });
        let (recorded, mut notices) = opened.await?;
        self.notices.append(&mut notices);
        Ok(recorded)
    }

    async fn write<T: Send + 'static>(
        &mut self,
        make: impl FnOnce() -> (Vec<Chunk>, T) + Send + 'static,
    ) -> Result<T, Fault> {
        let write = move |part: &mut Option<Part>| {
            let (chunks, made) = make();
            match part {
                Some(part) => part.write(&chunks).map(|()| made),
                None => Err(Fault::new(Code::Internal, "the file is not open")),
            }
        };
        self.with(write).await
    }

    async fn finish(&mut self, _content: ContentId) -> Result<(), Fault> {
        let (draft, target) = (self.names.part.clone(), self.target.clone());
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        let exists = exists(&self.target);
        let placed = self.with(move |part| {
            // The file stays open, and with it locked, until it is in its place.
            let Some(mut whole) = part.take() else { return Ok(false) };
            whole.flush()?;
            match usher_files::place(whole.file(), &draft, &target, existing) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(exists),
                Err(error) => Err(fault("move into place", &target, &error)),
            }
        });
        if placed.await?
            && let Err(error) = std::fs::remove_file(&self.names.state)
        {
            tracing::warn!(path = %self.names.state.display(), %error, "the state file could not be removed");
        }
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), Fault> {
        let names = self.names.clone();
        let pause = move |part: &mut Option<Part>| {
            match part {
                Some(open) if open.is_empty() => {
                    *part = None;
                    for path in [&names.part, &names.state] {
                        if let Err(error) = std::fs::remove_file(path) {
                            tracing::debug!(%error, "an empty part could not be removed");
                        }
                    }
                }
                Some(open) => {
                    // The reason for the pause matters more than a full disk here, which it may well be.
                    if let Err(error) = open.flush() {
                        tracing::debug!(%error, "the state could not be written");
                    }
                }
                None => {}
            }
            Ok(())
        };
        self.with(pause).await
    }
}

#[cfg(test)]
mod tests;
