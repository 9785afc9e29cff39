//! The hasher: a background thread that hashes the queued titles, one at a time. Knows files by their copies only.

use std::{cell::RefCell, fs::File, io, path::Path, sync::atomic::Ordering, time::Instant};

use usher_proto::tree::{Builder, GROUP, Hashes, PAGE};

use super::{
    copy::{Copy, CopyKey},
    queue::HashTask,
    read::read_at,
    replicas,
    shared::Shared,
    volume::{Fingerprint, OpenedPath},
    watch::{FileReport, IndexerMessage},
};
use crate::core::recheck::RecheckPace;

/// Bytes of one read.
const READ: usize = 1 << 20;

/// Hashes queued titles until the library is closed.
pub(crate) fn run(shared: &Shared) {
    let (mut buf, mut pace) = (vec![0; READ], RecheckPace::default());
    while let Some(task) = shared.queue.next() {
        match task {
            HashTask::Urgent(key) => hash_title(shared, &key, true, &mut buf),
            HashTask::Hash(key) => hash_title(shared, &key, false, &mut buf),
            HashTask::Verify(key) => verify(shared, &key, &mut pace, &mut buf),
        }
    }
}

/// Precedence of other titles over the next read of a title.
enum Turn<'a> {
    /// No title goes first.
    Urgent,
    /// Urgent titles go first.
    Usual,
    /// All titles without a hash go first, and the pace of rechecks applies.
    Recheck(&'a mut RecheckPace),
}

/// Hashes a copy again of which a client received other bytes.
fn verify(shared: &Shared, key: &CopyKey, pace: &mut RecheckPace, buf: &mut [u8]) {
    let Some(copy) = shared.catalog.copy(key) else { return };
    if key.1 == replicas::VOLUME {
        let waiting = RefCell::new((pace, buf));
        let stop = || {
            let (pace, buf) = &mut *waiting.borrow_mut();
            give_way(shared, pace, PAGE, buf);
            shared.stopping()
        };
        return shared.replicas.iter().for_each(|replicas| replicas.verify(&copy, &stop));
    }
    if copy.content.is_some() {
        hash_file(shared, &copy, Turn::Recheck(pace), buf);
    }
}

/// Hashes the titles that have no hash yet, and waits until a recheck may read `bytes` more.
fn give_way(shared: &Shared, pace: &mut RecheckPace, bytes: u64, buf: &mut [u8]) {
    while !shared.stopping() {
        if let Some(key) = shared.queue.next_unhashed() {
            hash_title(shared, &key, false, buf);
            continue;
        }
        match pace.poll_read(Instant::now(), bytes) {
            Ok(()) => return,
            Err(wait) => shared.queue.wait(wait),
        }
    }
}

fn hash_title(shared: &Shared, key: &CopyKey, urgent: bool, buf: &mut [u8]) {
    if let Some(copy) = shared.catalog.copy(key).filter(|copy| copy.content.is_none()) {
        hash_file(shared, &copy, if urgent { Turn::Urgent } else { Turn::Usual }, buf);
    }
}

/// Hashes a file. A file that had another hash before is reported damaged.
fn hash_file(shared: &Shared, copy: &Copy, turn: Turn<'_>, buf: &mut [u8]) {
    let key = &(copy.title.clone(), copy.volume);
    let path = Path::new(key.0.as_str());
    let (Some(volume), Some(index_key)) = (shared.volume(key.1), shared.copy_key(key)) else { return };
    // Fails only after the indexer ended.
    let report = |report| drop(shared.indexer.send(IndexerMessage::File(key.1, path.to_owned(), report)));
    let unreadable = |error: &dyn std::fmt::Display| {
        report(FileReport::Unreadable(copy.id, format!("cannot be read: {error}")));
    };
    let entry = match shared.index.entry(&index_key) {
        Ok(entry) => entry.filter(|entry| entry.id == copy.id),
        Err(error) => return tracing::error!(title = %key.0, error = format!("{error:#}"), "cannot read the index"),
    };
    let (Some(entry), node) = (entry, volume.open_path(path)) else { return };
    let file = match node {
        Ok(OpenedPath::File(file, fingerprint)) if fingerprint == entry.fingerprint => file,
        Ok(_) => return shared.reinspect(key.1, path),
        Err(error) => return unreadable(&error),
    };
    let hashes = match hash_contents(shared, key, (&file, entry.fingerprint), turn, buf) {
        Ok(Some(hashes)) => hashes,
        Ok(None) if shared.stopping() => return,
        Ok(None) => return shared.reinspect(key.1, path),
        Err(error) => return unreadable(&error),
    };
    match entry.content {
        Some(before) if before != hashes.content => {
            return report(FileReport::Damaged(copy.id));
        }
        Some(_) => tracing::info!(title = %key.0, "copy verified: a client's report of damage is not confirmed"),
        None => {}
    }
    // Also for a file that was hashed before: the stored values may have been the wrong ones.
    match shared.index.set_hashes(&index_key, entry.id, &hashes) {
        Ok(true) => {
            shared.catalog.hashed(key, entry.id, hashes.content);
        }
        Ok(false) => {} // The index holds another state of the file, which is queued.
        Err(error) => tracing::error!(title = %key.0, error = format!("{error:#}"), "cannot write the index"),
    }
    shared.tick();
}

/// Hashes a file's contents; `None` when it changed meanwhile, or the library is closed.
fn hash_contents(
    shared: &Shared,
    key: &CopyKey,
    (file, fingerprint): (&File, Fingerprint),
    mut turn: Turn<'_>,
    buf: &mut [u8],
) -> io::Result<Option<Hashes>> {
    let (mut builder, mut offset) = (Builder::default(), 0);
    while offset < fingerprint.size {
        match &mut turn {
            Turn::Urgent => {}
            // Urgent titles do not interrupt one another.
            Turn::Usual => {
                while let Some(wanted) = shared.queue.next_urgent() {
                    if wanted == *key {
                        turn = Turn::Urgent; // Continue it instead of starting over.
                        break;
                    }
                    hash_title(shared, &wanted, true, buf);
                }
            }
            Turn::Recheck(pace) => give_way(shared, pace, buf.len() as u64, buf),
        }
        if shared.stopping() {
            return Ok(None);
        }
        let got = read_at(file, offset, buf)?;
        if got == 0 {
            break;
        }
        buf[..got].chunks(GROUP as usize).for_each(|group| builder.push(group));
        offset += got as u64;
        shared.hashed_bytes.fetch_add(got as u64, Ordering::Relaxed);
    }
    let same = offset == fingerprint.size && Fingerprint::of(file)? == Some(fingerprint);
    Ok(same.then(|| builder.finish()))
}
