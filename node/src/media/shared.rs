//! What the library's threads share: the volumes, the index, the catalog, the hashing queue and the state of affairs.
//! Owns no decision.

use std::{
    collections::HashSet,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::SyncSender,
    },
};

use tokio::sync::watch;
use usher_proto::Title;

use super::{
    catalog::{Catalog, Key},
    hashing::Queue,
    index,
    replicas::Replicas,
    volume::Volume,
    watch::Message,
};

/// The state of affairs, for those who wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The first scan is done.
    pub(crate) scanned: bool,
    /// Grows whenever a title was hashed, changed or went.
    pub(crate) tick: u64,
}

/// Shared by all threads of one library.
pub(crate) struct Shared {
    pub(crate) volumes: Vec<Volume>,
    /// Numbers of the volumes in the index, in the same order.
    pub(crate) indexed: Vec<u32>,
    pub(crate) index: index::Index,
    /// What the master ordered; `None` on a node that takes nothing.
    pub(crate) replicas: Option<Arc<Replicas>>,
    pub(crate) catalog: Catalog,
    pub(crate) queue: Queue,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) keeper: SyncSender<Message>,
    /// The ids of files that were found damaged since the start, for who has them open.
    pub(crate) damaged: watch::Sender<HashSet<u64>>,
    /// The watcher told more than the keeper could take: everything is scanned again.
    pub(crate) overflow: Arc<AtomicBool>,
    /// Some folder is not watched: only scans see its changes.
    pub(crate) unwatched: AtomicBool,
    pub(crate) stopping: AtomicBool,
    /// Files that were not offered since the last scan began.
    pub(crate) not_offered: AtomicU64,
    /// Files whose content was looked at since the start.
    pub(crate) probed: AtomicU64,
    /// Bytes hashed since the start.
    pub(crate) hashed_bytes: AtomicU64,
}

impl Shared {
    /// The volume of this number.
    pub(crate) fn volume(&self, number: u16) -> Option<&Volume> {
        self.volumes.get(usize::from(number))
    }

    /// The index key of a path.
    pub(crate) fn key(&self, volume: &Volume, path: &Path) -> Vec<u8> {
        let number = self.indexed.get(usize::from(volume.number)).copied().unwrap_or(u32::MAX);
        index::key(number, path.as_os_str().as_bytes())
    }

    /// The index key of a copy.
    pub(crate) fn copy_key(&self, (title, volume): &Key) -> Option<Vec<u8>> {
        self.volume(*volume).map(|volume| self.key(volume, Path::new(title.as_str())))
    }

    /// Tells those who wait that something changed.
    pub(crate) fn tick(&self) {
        self.progress.send_modify(|progress| progress.tick = progress.tick.wrapping_add(1));
    }

    /// Whether the threads are to end.
    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Asks the keeper to look at a file again.
    pub(crate) fn look_again(&self, volume: u16, path: impl Into<PathBuf>) {
        if self.keeper.try_send(Message::Look(volume, path.into())).is_err() {
            self.overflow.store(true, Ordering::Release);
        }
    }

    /// Takes a title out of the offer, if it is in.
    pub(crate) fn withdraw(&self, volume: u16, title: Title) {
        if self.catalog.remove(&(title, volume)) {
            self.tick();
        }
    }
}
