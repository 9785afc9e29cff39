//! Recovers the recordings of a node that died: truncates them to their complete part and gives them their titles. All
//! functions block. Skips files that another node is writing, and files that are no recordings.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

use rustix::fs::FlockOperation;
use tracing::{info, warn};

use super::rename;
use crate::core::record::{self, MAX_FILES, PART_EXTENSION};

/// Bytes of a transport stream packet.
const PACKET_LEN: u64 = 188;

/// Most parts of a title.
const MAX_DEPTH: usize = 512;

/// Recovers the recordings below a folder.
pub(super) fn recover(folder: &Path) {
    let mut folders = vec![(folder.to_owned(), MAX_DEPTH)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                warn!(?folder, %error, "cannot recover recordings of a folder");
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth > 0 => folders.push((path, depth - 1)),
                Ok(kind) if kind.is_file() => match recover_file(&path) {
                    Ok(Some(name)) => info!(?path, name, "unfinished recording recovered"),
                    Ok(None) => {}
                    Err(error) => warn!(?path, %error, "cannot recover an unfinished recording"),
                },
                _ => {}
            }
        }
    }
}

/// Recovers one file and returns its new name; `None` for a file that is no recording, is being written, or has no
/// complete part.
fn recover_file(path: &Path) -> io::Result<Option<String>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((stem, end)) = name.strip_suffix(PART_EXTENSION).and_then(|name| name.rsplit_once('.')) else {
        return Ok(None);
    };
    if !matches!(end, "ts" | "mp4") {
        return Ok(None);
    }
    let Some(file) = usher_files::existing(path)? else { return Ok(None) };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    let size = file.metadata()?.len();
    let good = if end == "ts" { size / PACKET_LEN * PACKET_LEN } else { record::complete_len(boxes(&file), size) };
    if good == 0 {
        fs::remove_file(path)?;
        return Ok(None);
    }
    file.set_len(good)?;
    let names = (1..=MAX_FILES).map(|number| match number {
        1 => format!("{stem}.{end}"),
        number => format!("{stem}-{number}.{end}"),
    });
    rename(&file, path, names)
}

/// The boxes of an MP4 file, up to the first invalid one.
fn boxes(file: &File) -> impl Iterator<Item = ([u8; 4], u64)> {
    let mut at = 0_u64;
    std::iter::from_fn(move || {
        let (mut head, mut long) = ([0; 8], [0; 8]);
        file.read_exact_at(&mut head, at).ok()?;
        let [a, b, c, d, kind @ ..] = head;
        let length = match u32::from_be_bytes([a, b, c, d]) {
            1 => {
                file.read_exact_at(&mut long, at.checked_add(8)?).ok()?;
                u64::from_be_bytes(long)
            }
            length => length.into(),
        };
        at = at.checked_add(length).filter(|_| length >= 8)?;
        Some((kind, length))
    })
}
