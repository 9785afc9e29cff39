//! Reads folders. Owns the rule which names are skipped silently.

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
};

use rustix::fs::{AtFlags, Dir, FileType, statat};

use super::volume::Fingerprint;

/// Whether a name is skipped: hidden, or unfinished by convention.
pub(crate) fn is_skipped(name: &[u8]) -> bool {
    name.starts_with(b".") || name.ends_with(b".part") || name.ends_with(b"~") || name.ends_with(b".tmp")
}

/// Whether any part of a path is skipped.
pub(crate) fn is_skipped_path(path: &Path) -> bool {
    path.iter().any(|part| is_skipped(part.as_bytes()))
}

/// The names in a folder that are not skipped.
#[derive(Default)]
pub(crate) struct FolderEntries {
    pub(crate) folders: Vec<Vec<u8>>,
    pub(crate) files: Vec<Vec<u8>>,
}

/// Reads an open folder.
pub(crate) fn read_folder(folder: &OwnedFd) -> io::Result<FolderEntries> {
    let mut names = FolderEntries::default();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if is_skipped(name) {
            continue;
        }
        let kind = match entry.file_type() {
            // Not every file system reports it.
            FileType::Unknown => match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(_) => continue, // It was removed meanwhile.
            },
            kind => kind,
        };
        match kind {
            FileType::Directory => names.folders.push(name.to_vec()),
            FileType::RegularFile => names.files.push(name.to_vec()),
            _ => {}
        }
    }
    Ok(names)
}

/// Whether a folder is empty.
pub(crate) fn is_empty(folder: &OwnedFd) -> io::Result<bool> {
    for entry in Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The kind of a name in a folder.
pub(crate) enum EntryKind {
    File(Fingerprint),
    Folder,
    /// Nothing, or a kind that is never offered.
    Other,
}

/// The kind of a name in a folder, found without opening it, which would cause an event. The empty name is the folder
/// itself.
pub(crate) fn entry_kind(folder: &OwnedFd, name: &OsStr) -> io::Result<EntryKind> {
    let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(EntryKind::Other),
        Err(error) => return Err(error.into()),
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File(Fingerprint::from_stat(&stat)),
        FileType::Directory => EntryKind::Folder,
        _ => EntryKind::Other,
    })
}
