//! The library's public interface. Owns its threads.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    thread::JoinHandle,
};

use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use usher_proto::{ContentId, Title};

use super::{
    catalog::{Catalog, Subscription},
    copy::{Copy, FindError, OpenError, RejectedCounts},
    hashing,
    index::Index,
    indexer::Indexer,
    open::OpenMedia,
    queue::HashQueue,
    replicas::{ReplicaConfig, ReplicaStore},
    shared::{Progress, Shared},
    volume::Volume,
    watch::{FolderWatcher, IndexerMessage},
};
use crate::sync::lock;

/// Events queued for the indexer before it drops them and scans everything.
const EVENTS: usize = 16_384;

/// Most rejected files that are listed.
const REJECTED: usize = 1000;

/// Settings of the library.
#[derive(Clone, Debug)]
pub struct LibraryConfig {
    /// Folders that hold the titles; a copy's volume is its position here.
    pub volumes: Vec<PathBuf>,
    /// Index file; created when missing.
    pub index: PathBuf,
    /// Where copies ordered by the master are kept; `None` to take none.
    pub replicas: Option<ReplicaConfig>,
}

/// Counts of the library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LibraryStats {
    /// Offered copies: a title on two volumes counts twice.
    pub titles: u64,
    /// Bytes of the offered copies.
    pub bytes: u64,
    /// Offered copies that are not hashed yet.
    pub unhashed: u64,
    /// Files that are not offered.
    pub rejected_files: u32,
    /// Those whose bytes changed since they were hashed.
    pub damaged_files: u32,
    /// Files probed since the start.
    pub probed_files: u64,
    /// Bytes hashed since the start.
    pub hashed_bytes: u64,
}

/// A file that is not offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedFile {
    /// Volume, counted from 0.
    pub volume: u16,
    /// Path in the volume; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Why it is not offered, in words.
    pub reason: String,
}

pub(super) struct LibraryInner {
    pub(super) shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl LibraryInner {
    fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        // A full channel wakes the indexer as well.
        drop(self.shared.indexer.try_send(IndexerMessage::Stop));
        self.shared.queue.stop();
        self.shared.tick();
    }
}

impl Drop for LibraryInner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The titles of one node. Cheap to clone; its threads end with the last clone.
#[derive(Clone)]
pub struct Library(pub(super) Arc<LibraryInner>);

impl Library {
    /// Opens the index and checks the volumes, then scans, hashes and watches in the background.
    pub async fn open(config: LibraryConfig) -> Result<Self> {
        tokio::task::spawn_blocking(move || Self::start(&config)).await.context("open the media library")?
    }

    fn start(config: &LibraryConfig) -> Result<Self> {
        let volumes = Volume::all(&config.volumes)?;
        let index = Index::open(&config.index)?;
        let catalog = Catalog::default();
        let mut indexed = Vec::new();
        for volume in &volumes {
            let number = index.volume_number(volume.path.as_os_str().as_bytes()).context("write the index")?;
            let (rejected, _) = index.rejected(number, 0).context("read the index")?;
            let damaged = index.damaged_count(number).context("read the index")?;
            catalog.add_rejected(RejectedCounts { rejected: rejected.into(), damaged });
            indexed.push(number);
        }
        let replicas = match &config.replicas {
            Some(config) => {
                ReplicaStore::open(config, volumes.iter().map(|volume| volume.path.as_path()), catalog.clone())?
            }
            None => None,
        };
        let (indexer, events) = sync_channel(EVENTS);
        let shared = Arc::new(Shared {
            volumes,
            indexed,
            index,
            replicas,
            catalog,
            queue: HashQueue::default(),
            progress: watch::Sender::new(Progress::default()),
            indexer,
            damaged: watch::Sender::default(),
            overflow: Arc::default(),
            unwatched: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            not_offered: AtomicU64::new(0),
            probed: AtomicU64::new(0),
            hashed_bytes: AtomicU64::new(0),
        });
        let watch =
            FolderWatcher::new(shared.indexer.clone(), shared.overflow.clone()).context("watch the media folders")?;
        let indexer = Indexer::new(shared.clone(), watch, events);
        let hasher = shared.clone();
        let inner = Arc::new(LibraryInner { shared, threads: Mutex::default() });
        let threads = [
            std::thread::Builder::new().name("media-indexer".to_owned()).spawn(move || indexer.run()),
            std::thread::Builder::new().name("media-hasher".to_owned()).spawn(move || hashing::run(&hasher)),
        ];
        for thread in threads {
            lock(&inner.threads).push(thread.context("start a thread of the media library")?);
        }
        Ok(Self(inner))
    }

    /// Waits until the first scan is done: each file is probed, though not hashed.
    pub async fn scanned(&self) {
        let mut progress = self.0.shared.progress.subscribe();
        // Fails only when the sender is dropped, which this library holds.
        drop(progress.wait_for(|progress| progress.scanned || self.0.shared.stopping()).await);
    }

    /// Waits until all titles are hashed.
    pub async fn hashed(&self) {
        let shared = &self.0.shared;
        let mut progress = shared.progress.subscribe();
        let done = |progress: &Progress| progress.scanned && shared.catalog.counts().unhashed == 0;
        drop(progress.wait_for(|progress| done(progress) || shared.stopping()).await);
    }

    /// A view of the catalog that follows its changes: a snapshot, then changes without a gap.
    pub fn subscribe(&self) -> Subscription {
        self.0.shared.catalog.subscribe()
    }

    /// The best copy of a title; with `content`, of that content.
    pub fn find(&self, title: &Title, content: Option<ContentId>) -> Result<Copy, FindError> {
        self.copies(title, content)?.into_iter().next().ok_or(FindError::NotFound)
    }

    /// All copies of a title, best first; with `content`, of that content. At least one.
    pub fn copies(&self, title: &Title, content: Option<ContentId>) -> Result<Vec<Copy>, FindError> {
        self.0.shared.catalog.copies(title, content)
    }

    /// Opens a copy for serving. Never follows a link or leaves the volume; checks that the file is the indexed one.
    /// Blocks.
    pub fn open_copy(&self, copy: &Copy) -> Result<OpenMedia, OpenError> {
        OpenMedia::open(&self.0.shared, copy)
    }

    /// Queues the copies of a content to be hashed again, after all others: a client received other bytes. A damaged
    /// copy leaves the catalog. Returns the number of copies queued.
    pub(crate) fn recheck(&self, title: &Title, content: ContentId) -> usize {
        let shared = &self.0.shared;
        let copies = shared.catalog.copies(title, Some(content)).unwrap_or_default();
        copies.iter().filter(|copy| shared.queue.push_verify((copy.title.clone(), copy.volume))).count()
    }

    /// The copies ordered by the master; `None` on a node that takes none.
    pub(crate) fn replicas(&self) -> Option<&Arc<ReplicaStore>> {
        self.0.shared.replicas.as_ref()
    }

    /// Counts of the library.
    pub fn stats(&self) -> LibraryStats {
        let shared = &self.0.shared;
        let counts = shared.catalog.counts();
        LibraryStats {
            titles: counts.copies,
            bytes: counts.bytes,
            unhashed: counts.unhashed,
            rejected_files: counts.rejected,
            damaged_files: counts.damaged,
            probed_files: shared.probed.load(Ordering::Relaxed),
            hashed_bytes: shared.hashed_bytes.load(Ordering::Relaxed),
        }
    }

    /// At most 1000 files that are not offered, with the reasons. Reads the index: blocks briefly.
    pub fn rejected(&self) -> Vec<RejectedFile> {
        let shared = &self.0.shared;
        let mut all = Vec::new();
        for (volume, number) in (0_u16..).zip(&shared.indexed) {
            let found = shared.index.rejected(*number, REJECTED - all.len());
            let found =
                found.inspect_err(|error| tracing::warn!(error = format!("{error:#}"), "cannot read the index"));
            let found = found.unwrap_or_default().1.into_iter();
            all.extend(found.map(|(path, reason)| {
                let path = String::from_utf8_lossy(&path).into_owned();
                RejectedFile { volume, path, reason }
            }));
        }
        all
    }

    /// Ends the threads and waits for them; their findings are on the disk then. Clones keep their catalog without
    /// further changes. The index is unlocked when the last clone and the last open copy are dropped.
    pub async fn close(&self) {
        self.0.stop();
        let threads = std::mem::take(&mut *lock(&self.0.threads));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the media library panicked");
                }
            }
        });
        drop(joined.await);
    }
}
