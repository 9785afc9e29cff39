//! Which names of a folder are looked at. Owns the rule of what is skipped in silence.

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
};

use rustix::fs::{AtFlags, Dir, FileType, statat};

use super::volume::Fingerprint;

/// Whether a name is of no interest: hidden, or by custom unfinished.
pub(crate) fn skipped(name: &[u8]) -> bool {
    name.starts_with(b".") || name.ends_with(b".part") || name.ends_with(b"~") || name.ends_with(b".tmp")
}

/// Whether any part of a path is of no interest.
pub(crate) fn skipped_path(path: &Path) -> bool {
    path.iter().any(|part| skipped(part.as_bytes()))
}

/// The names in a folder that are of interest.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) folders: Vec<Vec<u8>>,
    pub(crate) files: Vec<Vec<u8>>,
}

/// Reads an open folder.
pub(crate) fn names(folder: &OwnedFd) -> io::Result<Names> {
    let mut names = Names::default();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if skipped(name) {
            continue;
        }
        let kind = match entry.file_type() {
            // Not every file system tells.
            FileType::Unknown => match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(_) => continue, // It went meanwhile.
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

/// Whether a folder holds nothing at all.
pub(crate) fn is_empty(folder: &OwnedFd) -> io::Result<bool> {
    for entry in Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a name in a folder is, without opening it (which others would be told).
pub(crate) enum Seen {
    File(Fingerprint),
    Folder,
    /// Nothing, or nothing that is ever offered.
    Nothing,
}

/// Looks at a name in a folder. The empty name is the folder itself.
pub(crate) fn look(folder: &OwnedFd, name: &OsStr) -> io::Result<Seen> {
    let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(Seen::Nothing),
        Err(error) => return Err(error.into()),
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Seen::File(Fingerprint::from_stat(&stat)),
        FileType::Directory => Seen::Folder,
        _ => Seen::Nothing,
    })
}
