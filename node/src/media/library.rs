//! The library as others see it: opens, finds, tells, closes. Owns the threads' lives.

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
    catalog::{Catalog, Copy, FindError, Subscription, lock},
    hashing::{self, Queue},
    index::{Bad, Index},
    keeper::Keeper,
    open::{OpenError, OpenMedia},
    replicas::{self, Replicas},
    shared::{Progress, Shared},
    volume::Volume,
    watch::{Message, Watch},
};

/// Events that may wait for the keeper before it gives up on them and scans everything.
const EVENTS: usize = 16_384;

/// Rejected files that are told to people.
const REJECTED: usize = 1000;

/// Where the media are, and where to remember what was found.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folders that hold the titles; a copy's volume is its position here.
    pub volumes: Vec<PathBuf>,
    /// The index file; made when it is missing.
    pub index: PathBuf,
    /// Where copies are kept that the master orders; `None` to take none.
    pub replicas: Option<replicas::Config>,
}

/// Counts of the library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Copies that are offered: a title on two volumes counts twice.
    pub titles: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Copies that are not hashed yet.
    pub unhashed: u64,
    /// Files that are not offered.
    pub rejected_files: u32,
    /// Those of them whose bytes are not what they were when they were hashed.
    pub damaged_files: u32,
    /// Files whose content was looked at since the start.
    pub probed_files: u64,
    /// Bytes that were hashed since the start.
    pub hashed_bytes: u64,
}

/// A file that is not offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its volume, counted from 0.
    pub volume: u16,
    /// Its path in the volume; what is not UTF-8 is replaced.
    pub path: String,
    /// Why, for people.
    pub reason: String,
}

pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Inner {
    fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        // A full channel wakes the keeper as well.
        drop(self.shared.keeper.try_send(Message::Stop));
        self.shared.queue.stop();
        self.shared.tick();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The titles of one node. Cheap to clone; its threads end with the last clone.
#[derive(Clone)]
pub struct Library(pub(super) Arc<Inner>);

impl Library {
    /// Opens the index, checks the volumes, and begins to scan, hash and watch in the background.
    pub async fn open(config: Config) -> Result<Self> {
        tokio::task::spawn_blocking(move || Self::start(&config)).await.context("open the media library")?
    }

    fn start(config: &Config) -> Result<Self> {
        let volumes = Volume::all(&config.volumes)?;
        let index = Index::open(&config.index)?;
        let catalog = Catalog::default();
        let mut indexed = Vec::new();
        for volume in &volumes {
            let number = index.volume(volume.path.as_os_str().as_bytes()).context("write the index")?;
            let (rejected, _) = index.rejected(number, 0).context("read the index")?;
            let damaged = index.damaged(number).context("read the index")?;
            catalog.count_bad(Bad { rejected: rejected.into(), damaged });
            indexed.push(number);
        }
        let replicas = match &config.replicas {
            Some(config) => {
                Replicas::open(config, volumes.iter().map(|volume| volume.path.as_path()), catalog.clone())?
            }
            None => None,
        };
        let (keeper, events) = sync_channel(EVENTS);
        let shared = Arc::new(Shared {
            volumes,
            indexed,
            index,
            replicas,
            catalog,
            queue: Queue::default(),
            progress: watch::Sender::new(Progress::default()),
            keeper,
            damaged: watch::Sender::default(),
            overflow: Arc::default(),
            unwatched: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            not_offered: AtomicU64::new(0),
            probed: AtomicU64::new(0),
            hashed_bytes: AtomicU64::new(0),
        });
        let watch =
            Watch::new(shared.keeper.clone(), shared.overflow.clone()).context("begin to watch the media folders")?;
        let keeper = Keeper::new(shared.clone(), watch, events);
        let hasher = shared.clone();
        let inner = Arc::new(Inner { shared, threads: Mutex::default() });
        let threads = [
            std::thread::Builder::new().name("media-keeper".to_owned()).spawn(move || keeper.run()),
            std::thread::Builder::new().name("media-hasher".to_owned()).spawn(move || hashing::run(&hasher)),
        ];
        for thread in threads {
            lock(&inner.threads).push(thread.context("start a thread of the media library")?);
        }
        Ok(Self(inner))
    }

    /// Waits until the first scan is done: everything probed, not yet hashed.
    pub async fn scanned(&self) {
        let mut progress = self.0.shared.progress.subscribe();
        // Fails only when the sender is gone, and this library holds it.
        drop(progress.wait_for(|progress| progress.scanned || self.0.shared.stopping()).await);
    }

    /// Waits until nothing is left to hash.
    pub async fn hashed(&self) {
        let shared = &self.0.shared;
        let mut progress = shared.progress.subscribe();
        let done = |progress: &Progress| progress.scanned && shared.catalog.counts().unhashed == 0;
        drop(progress.wait_for(|progress| done(progress) || shared.stopping()).await);
    }

    /// A view of the catalog that follows it: a snapshot, then changes without a gap.
    pub fn subscribe(&self) -> Subscription {
        self.0.shared.catalog.subscribe()
    }

    /// The best copy of a title; of the content asked for, if one is.
    pub fn find(&self, title: &Title, content: Option<ContentId>) -> Result<Copy, FindError> {
        self.copies(title, content)?.into_iter().next().ok_or(FindError::NotFound)
    }

    /// All copies of a title, the best first; of the content asked for, if one is. At least one.
    pub fn copies(&self, title: &Title, content: Option<ContentId>) -> Result<Vec<Copy>, FindError> {
        self.0.shared.catalog.copies(title, content)
    }

    /// Opens a copy for serving. Never follows a link or leaves the volume; checks that the file is the one that was
    /// found. Blocks.
    pub fn open_copy(&self, copy: &Copy) -> Result<OpenMedia, OpenError> {
        OpenMedia::open(&self.0.shared, copy)
    }

    /// Hashes what is here of a content again, when nothing else is to be hashed: someone got other bytes. What is damaged
    /// leaves the catalog. Returns the copies that are looked at.
    pub(crate) fn recheck(&self, title: &Title, content: ContentId) -> usize {
        let shared = &self.0.shared;
        let copies = shared.catalog.copies(title, Some(content)).unwrap_or_default();
        copies.iter().filter(|copy| shared.queue.check((copy.title.clone(), copy.volume))).count()
    }

    /// What the master ordered; `None` on a node that takes nothing.
    pub(crate) fn replicas(&self) -> Option<&Arc<Replicas>> {
        self.0.shared.replicas.as_ref()
    }

    /// Counts.
    pub fn stats(&self) -> Stats {
        let shared = &self.0.shared;
        let counts = shared.catalog.counts();
        Stats {
            titles: counts.copies,
            bytes: counts.bytes,
            unhashed: counts.unhashed,
            rejected_files: counts.rejected,
            damaged_files: counts.damaged,
            probed_files: shared.probed.load(Ordering::Relaxed),
            hashed_bytes: shared.hashed_bytes.load(Ordering::Relaxed),
        }
    }

    /// Files that are not offered, with the reason; at most 1000. Reads the index: blocks for a moment.
    pub fn rejected(&self) -> Vec<Rejected> {
        let shared = &self.0.shared;
        let mut all = Vec::new();
        for (volume, number) in (0_u16..).zip(&shared.indexed) {
            let found = shared.index.rejected(*number, REJECTED - all.len());
            let found = found.inspect_err(|error| tracing::warn!(error = format!("{error:#}"), "index cannot be read"));
            let found = found.unwrap_or_default().1.into_iter();
            all.extend(found.map(|(path, reason)| {
                let path = String::from_utf8_lossy(&path).into_owned();
                Rejected { volume, path, reason }
            }));
        }
        all
    }

    /// Ends the threads and waits for them; what they found is on the disk then. Clones find what they find, and hear
    /// of nothing more; the index is free for others when the last of them, and of what they opened, is dropped.
    pub async fn close(&self) {
        self.0.stop();
        let threads = std::mem::take(&mut *lock(&self.0.threads));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the media library ended by a bug");
                }
            }
        });
        drop(joined.await);
    }
}
