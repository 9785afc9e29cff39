//! Writing keys and certificates: whole or not at all, private from the first byte, nothing replaced unasked.
//!
//! It refuses to know what is in the files.

use std::fs::{self, DirBuilder, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use tempfile::NamedTempFile;

/// Mode of a private key's file.
pub(crate) const SECRET: u32 = 0o600;

/// Mode of a certificate's file, less the process's umask.
pub(crate) const PUBLIC: u32 = 0o644;

/// There is a file already, and nobody said to replace it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} exists; use --force to replace it", .0.display())]
pub struct Exists(pub PathBuf);

/// A file to be.
pub(crate) struct File<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
    pub(crate) mode: u32,
}

/// Fails with [`Exists`] for the first path that is there, even as a dangling link.
pub(crate) fn refuse_existing<'a>(paths: impl IntoIterator<Item = &'a PathBuf>, force: bool) -> Result<(), Exists> {
    let mut there = paths.into_iter().filter(|path| path.symlink_metadata().is_ok());
    match there.next() {
        Some(path) if !force => Err(Exists(path.clone())),
        _ => Ok(()),
    }
}

/// Makes `dir` and its parents, readable by their owner only. One that exists keeps its mode.
pub(crate) fn directory(dir: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("create directory {}", dir.display()))
}

/// Writes every file, or none: all are staged in full beside their places, and synced, before the first is renamed.
/// Without `force` the rename itself refuses to replace, so that two of these at once cannot undo each other.
pub(crate) fn files(files: &[File<'_>], force: bool) -> anyhow::Result<()> {
    let staged = files.iter().map(stage).collect::<anyhow::Result<Vec<_>>>()?;
    let mut placed = Vec::new();
    for (temp, file) in staged.into_iter().zip(files) {
        if let Err(error) = place(temp, file.path, force) {
            if !force {
                // Only what this call has just put there.
                for path in placed {
                    if let Err(error) = fs::remove_file(path) {
                        tracing::warn!(path = %Path::display(path), %error, "could not take back a file");
                    }
                }
            }
            return Err(error);
        }
        placed.push(file.path);
    }
    for file in files {
        sync_directory(parent(file.path))?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn stage(file: &File<'_>) -> anyhow::Result<NamedTempFile> {
    let stage = || {
        // The mode is given to open(2): the file is never readable by others, not even for a moment.
        let mut temp = tempfile::Builder::new()
            .prefix(".usher-")
            .permissions(Permissions::from_mode(file.mode))
            .tempfile_in(parent(file.path))?;
        temp.write_all(file.text.as_bytes())?;
        temp.as_file().sync_all()?;
        std::io::Result::Ok(temp)
    };
    stage().with_context(|| format!("write {}", file.path.display()))
}

fn place(temp: NamedTempFile, path: &Path, force: bool) -> anyhow::Result<()> {
    let placed = if force { temp.persist(path) } else { temp.persist_noclobber(path) };
    match placed {
        Ok(_) => Ok(()),
        Err(failed) if failed.error.kind() == std::io::ErrorKind::AlreadyExists => Err(Exists(path.to_owned()).into()),
        Err(failed) => Err(anyhow!(failed.error).context(format!("put {} in place", path.display()))),
    }
}

/// A rename is on the disk only once its directory is.
fn sync_directory(dir: &Path) -> anyhow::Result<()> {
    let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("sync directory {}", dir.display()))
}
