//! Listens to the file system. Turns its events into hints for the keeper and never waits: what does not fit the
//! keeper's channel becomes "look at everything".

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

use super::catalog::lock;

/// What may have happened to a path. The keeper looks for itself: a hint says when, not what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// It is new.
    Created,
    /// Bytes were written to it.
    Written,
    /// Its writer closed it, or it came under this name as it is.
    Complete,
    /// It is not there any more.
    Gone,
    /// Anything else.
    Touched,
}

/// To the keeper.
pub(crate) enum Message {
    /// The file system told of an absolute path.
    Event(Hint, PathBuf),
    /// Someone found that a file is not as the index says.
    Look(u16, PathBuf),
    /// A file with this id could not be read to its end.
    Unreadable(u16, PathBuf, u64, String),
    /// The bytes of a file with this id hash to something else than they did.
    Damaged(u16, PathBuf, u64),
    /// The library is closed.
    Stop,
}

/// The hint in an event; `None` for what the library itself does, and for halves of what comes whole.
fn hint(kind: EventKind) -> Option<Hint> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Hint::Complete),
        EventKind::Access(_) => None,
        EventKind::Create(CreateKind::Folder) => Some(Hint::Complete),
        EventKind::Create(_) => Some(Hint::Created),
        EventKind::Modify(ModifyKind::Data(_)) => Some(Hint::Written),
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Some(Hint::Gone),
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Name(_)) => Some(Hint::Complete),
        EventKind::Remove(RemoveKind::Any | RemoveKind::File | RemoveKind::Folder | RemoveKind::Other) => {
            Some(Hint::Gone)
        }
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => Some(Hint::Touched),
    }
}

/// The watcher of all volumes, folder by folder: each is watched before it is read, so that nothing falls between.
pub(crate) struct Watch(Mutex<RecommendedWatcher>);

impl Watch {
    /// Begins to listen; to nothing yet. Its thread outlives this value by a moment, so it holds the keeper's channel
    /// only, and no file.
    pub(crate) fn new(keeper: SyncSender<Message>, overflow: Arc<AtomicBool>) -> Result<Self> {
        let missed = move |keeper: &SyncSender<Message>| {
            overflow.store(true, Ordering::Release);
            // Wakes the keeper; it is awake if this does not fit.
            drop(keeper.try_send(Message::Event(Hint::Touched, PathBuf::new())));
        };
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if event.need_rescan() => missed(&keeper),
            Ok(event) => {
                let Some(hint) = hint(event.kind) else { return };
                for path in event.paths {
                    if keeper.try_send(Message::Event(hint, path)).is_err() {
                        missed(&keeper);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "watching media folders failed; they are scanned again");
                missed(&keeper);
            }
        };
        let config = notify::Config::default().with_follow_symlinks(false);
        Ok(Self(Mutex::new(RecommendedWatcher::new(handler, config)?)))
    }

    /// Listens to a folder, not to those below.
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
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), Some(Hint::Complete)),
            (EventKind::Create(CreateKind::File), Some(Hint::Created)),
            (EventKind::Create(CreateKind::Folder), Some(Hint::Complete)),
            (EventKind::Modify(ModifyKind::Data(DataChange::Any)), Some(Hint::Written)),
            (EventKind::Modify(ModifyKind::Name(RenameMode::From)), Some(Hint::Gone)),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), Some(Hint::Complete)),
            (EventKind::Modify(ModifyKind::Name(RenameMode::Both)), None),
            (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), Some(Hint::Touched)),
            (EventKind::Remove(RemoveKind::File), Some(Hint::Gone)),
        ] {
            assert_eq!(hint(kind), expected, "{kind:?}");
        }
    }
}
