//! Writing keys and certificates: all or none, private from the first byte, and replacing files only when asked to.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use usher_files::{Draft, Existing};

/// Mode of a private key's file.
pub(crate) const SECRET: u32 = 0o600;

/// Mode of a certificate's file, less the process's umask.
pub(crate) const PUBLIC: u32 = 0o644;

/// A file exists and is not to be replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} exists; use --force to replace it", .0.display())]
pub struct Exists(pub PathBuf);

/// A file to write.
pub(crate) struct File<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
    pub(crate) mode: u32,
}

/// Fails with [`Exists`] for the first path that exists, also as a dangling link, unless `force`.
pub(crate) fn refuse_existing<'a>(paths: impl IntoIterator<Item = &'a PathBuf>, force: bool) -> Result<(), Exists> {
    let mut there = paths.into_iter().filter(|path| path.symlink_metadata().is_ok());
    match there.next() {
        Some(path) if !force => Err(Exists(path.clone())),
        _ => Ok(()),
    }
}

/// Creates `dir` and its parents, readable by their owner only. Existing ones keep their mode.
pub(crate) fn directory(dir: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("create directory {}", dir.display()))
}

/// Writes all files or none: drafts of all are written and synced before the first is renamed. Without `force` the rename
/// itself refuses to replace, so that two concurrent calls cannot undo each other.
pub(crate) fn files(files: &[File<'_>], force: bool) -> anyhow::Result<()> {
    let stage = |file: &File<'_>| {
        let draft = Draft::write(file.path, file.mode, file.text.as_bytes());
        draft.with_context(|| format!("write {}", file.path.display()))
    };
    let staged = files.iter().map(stage).collect::<anyhow::Result<Vec<_>>>()?;
    let existing = if force { Existing::Replace } else { Existing::Keep };
    let mut placed = Vec::new();
    for (draft, file) in staged.into_iter().zip(files) {
        if let Err(error) = place(draft, file.path, existing) {
            if !force {
                // Only files that this call has put in place.
                for path in placed {
                    if let Err(error) = fs::remove_file(path) {
                        tracing::warn!(path = %Path::display(path), %error, "file of a failed command not removed");
                    }
                }
            }
            return Err(error);
        }
        placed.push(file.path);
    }
    Ok(())
}

fn place(draft: Draft, path: &Path, existing: Existing) -> anyhow::Result<()> {
    match draft.place(path, existing) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Exists(path.to_owned()).into()),
        placed => placed.with_context(|| format!("put {} in place", path.display())),
    }
}
