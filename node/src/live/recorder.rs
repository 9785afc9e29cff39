//! The folder of recordings. Completes the files that an earlier run left unfinished.

mod recovery;

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, RenameFlags};

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

/// Renames a file to the first of these names that is free, in the same folder. Returns the name.
pub(super) fn rename(path: &Path, names: impl Iterator<Item = String>) -> io::Result<Option<String>> {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    for name in names {
        let target = folder.join(&name);
        match rustix::fs::renameat_with(CWD, path, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => continue,
            // The file system does not support the flag.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                if target.symlink_metadata().is_ok() {
                    continue;
                }
                fs::rename(path, &target)?;
            }
            Err(error) => return Err(error.into()),
        }
        File::open(folder)?.sync_all()?;
        return Ok(Some(name));
    }
    Err(ErrorKind::AlreadyExists.into())
}
