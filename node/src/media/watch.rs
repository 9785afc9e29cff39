//! Watches the file system. Turns its events into hints for the indexer and never waits: events that do not fit the
//! indexer's channel cause a full scan.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
};

use anyhow::Result;
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode},
};

use crate::sync::lock;

/// A possible change of a path. A hint only indicates when to inspect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeHint {
    /// A new path.
    Created,
    /// Bytes were written to it.
    Written,
    /// Its writer closed it, or a rename put it in place.
    Complete,
    /// It was removed.
    Gone,
    /// Anything else.
    Touched,
}

/// A message to the indexer.
pub(crate) enum IndexerMessage {
    /// The file system reported a change of an absolute path.
    Event(ChangeHint, PathBuf),
    /// A report on a file of a volume.
    File(u16, PathBuf, FileReport),
    /// The library is closed.
    Stop,
}

/// A difference between a file and its index entry.
pub(crate) enum FileReport {
    /// Any difference.
    Outdated,
    /// The file with this id cannot be read to its end, for this reason.
    Unreadable(u64, String),
    /// The file with this id no longer has its hash.
    Damaged(u64),
}

/// The hint of an event; `None` for events caused by the library itself, and for halves of a pair.
fn hint(kind: EventKind) -> Option<ChangeHint> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(ChangeHint::Complete),
        EventKind::Access(_) => None,
        EventKind::Create(CreateKind::Folder) => Some(ChangeHint::Complete),
        EventKind::Create(_) => Some(ChangeHint::Created),
        EventKind::Modify(ModifyKind::Data(_)) => Some(ChangeHint::Written),
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Some(ChangeHint::Gone),
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Name(_)) => Some(ChangeHint::Complete),
        EventKind::Remove(RemoveKind::Any | RemoveKind::File | RemoveKind::Folder | RemoveKind::Other) => {
            Some(ChangeHint::Gone)
        }
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => Some(ChangeHint::Touched),
    }
}

/// The watcher of all volumes, folder by folder. Each folder is watched before it is read, so that no change is missed.
pub(crate) struct FolderWatcher(Mutex<RecommendedWatcher>);

impl FolderWatcher {
    /// Starts without folders. Its thread outlives this value briefly, so it holds only the indexer's channel, and no
    /// file.
    pub(crate) fn new(indexer: SyncSender<IndexerMessage>, overflow: Arc<AtomicBool>) -> Result<Self> {
        let missed = move |indexer: &SyncSender<IndexerMessage>| {
            overflow.store(true, Ordering::Release);
            // Wakes the indexer; if the channel is full, the indexer is awake.
            drop(indexer.try_send(IndexerMessage::Event(ChangeHint::Touched, PathBuf::new())));
        };
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.need_rescan() => missed(&indexer),
            Ok(event) => {
                let Some(hint) = hint(event.kind) else { return };
                for path in event.paths {
                    if indexer.try_send(IndexerMessage::Event(hint, path)).is_err() {
                        missed(&indexer);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "watching media folders failed: scanning them again");
                missed(&indexer);
            }
        };
        let config = notify::Config::default().with_follow_symlinks(false);
        Ok(Self(Mutex::new(RecommendedWatcher::new(handler, config)?)))
    }

    /// Watches a folder, without those below it.
    pub(crate) fn add(&self, folder: &Path) -> notify::Result<()> {
        lock(&self.0).watch(folder, RecursiveMode::NonRecursive)
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, MetadataKind};

    use super::*;

    #[test]
    fn hints() {
        for (kind, expected) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), None),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), None),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), Some(ChangeHint::Complete)),
            (EventKind::Create(CreateKind::File), Some(ChangeHint::Created)),
            (EventKind::Create(CreateKind::Folder), Some(ChangeHint::Complete)),
            (EventKind::Modify(ModifyKind::Data(DataChange::Any)), Some(ChangeHint::Written)),
            (EventKind::Modify(ModifyKind::Name(RenameMode::From)), Some(ChangeHint::Gone)),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), Some(ChangeHint::Complete)),
            (EventKind::Modify(ModifyKind::Name(RenameMode::Both)), None),
            (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), Some(ChangeHint::Touched)),
            (EventKind::Remove(RemoveKind::File), Some(ChangeHint::Gone)),
        ] {
            assert_eq!(hint(kind), expected, "{kind:?}");
        }
    }
}
