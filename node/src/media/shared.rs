//! State shared by the library's threads: the volumes, the index, the catalog, the hashing queue and the progress.
//! Decides nothing.

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
    catalog::Catalog,
    copy::CopyKey,
    index,
    queue::HashQueue,
    replicas::ReplicaStore,
    volume::Volume,
    watch::{FileReport, IndexerMessage},
};

/// Progress of the library's threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The first scan is done.
    pub(crate) scanned: bool,
    /// Incremented whenever a title is hashed, changes or is removed.
    pub(crate) tick: u64,
}

/// State shared by all threads of one library.
pub(crate) struct Shared {
    pub(crate) volumes: Vec<Volume>,
    /// Numbers of the volumes in the index, in the same order.
    pub(crate) indexed: Vec<u32>,
    pub(crate) index: index::Index,
    /// The copies ordered by the master; `None` on a node that takes none.
    pub(crate) replicas: Option<Arc<ReplicaStore>>,
    pub(crate) catalog: Catalog,
    pub(crate) queue: HashQueue,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) indexer: SyncSender<IndexerMessage>,
    /// Ids of the files found damaged since the start, for sessions that have them open.
    pub(crate) damaged: watch::Sender<HashSet<u64>>,
    /// The watcher dropped events: everything is scanned again.
    pub(crate) overflow: Arc<AtomicBool>,
    /// Some folder is not watched: only scans find its changes.
    pub(crate) unwatched: AtomicBool,
    pub(crate) stopping: AtomicBool,
    /// Files not offered since the last scan began.
    pub(crate) not_offered: AtomicU64,
    /// Files probed since the start.
    pub(crate) probed: AtomicU64,
    /// Bytes hashed since the start.
    pub(crate) hashed_bytes: AtomicU64,
}

impl Shared {
    /// The volume with this number.
    pub(crate) fn volume(&self, number: u16) -> Option<&Volume> {
        self.volumes.get(usize::from(number))
    }

    /// The index key of a path.
    pub(crate) fn key(&self, volume: &Volume, path: &Path) -> Vec<u8> {
        let number = self.indexed.get(usize::from(volume.number)).copied().unwrap_or(u32::MAX);
        index::key(number, path.as_os_str().as_bytes())
    }

    /// The index key of a copy.
    pub(crate) fn copy_key(&self, (title, volume): &CopyKey) -> Option<Vec<u8>> {
        self.volume(*volume).map(|volume| self.key(volume, Path::new(title.as_str())))
    }

    /// Wakes the tasks that wait for progress.
    pub(crate) fn tick(&self) {
        self.progress.send_modify(|progress| progress.tick = progress.tick.wrapping_add(1));
    }

    /// Whether the threads must end.
    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Has the indexer inspect a file again.
    pub(crate) fn reinspect(&self, volume: u16, path: impl Into<PathBuf>) {
        if self.indexer.try_send(IndexerMessage::File(volume, path.into(), FileReport::Outdated)).is_err() {
            self.overflow.store(true, Ordering::Release);
        }
    }

    /// Withdraws a title, if it is offered.
    pub(crate) fn withdraw(&self, volume: u16, title: Title) {
        if self.catalog.remove(&(title, volume)) {
            self.tick();
        }
    }
}
