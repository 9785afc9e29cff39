//! The folder of recordings. Completes the files that an earlier run left unfinished.

mod recovery;

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use usher_files::Existing;

use crate::core::record::FOLDER;

/// The folder of recordings.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// The volume of the library that holds them.
    pub(super) root: PathBuf,
}

impl Recorder {
    /// Checks that recordings can be written below this folder.
    ///
    /// # Errors
    /// Names the folder and the problem.
    pub(crate) fn check(root: &Path) -> Result<()> {
        let text = root.display();
        let about = std::fs::metadata(root).with_context(|| format!("open the folder of recordings {text}"))?;
        ensure!(about.is_dir(), "{text} is not a folder; name one with --recordings DIR");
        let access = rustix::fs::access(root, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
        access.with_context(|| format!("write to the folder of recordings {text}"))
    }

    /// Checks the folder and recovers unfinished recordings of an earlier run. Blocks.
    ///
    /// # Errors
    /// As [`Recorder::check`].
    pub(crate) fn open(root: PathBuf) -> Result<Arc<Self>> {
        Self::check(&root)?;
        recovery::recover(&root.join(FOLDER));
        Ok(Arc::new(Self { root }))
    }
}

/// Renames a finished file to the first of these names that is free, in the same folder, when it is on the disk. Returns
/// the name.
pub(super) fn rename(file: &File, path: &Path, names: impl Iterator<Item = String>) -> io::Result<Option<String>> {
    for name in names {
        match usher_files::place(file, path, &path.with_file_name(&name), Existing::Keep) {
            Ok(()) => return Ok(Some(name)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}
