//! The store of the copies: which exist, the disk space they take, and which sessions may read them.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};
use usher_proto::{Code, ContentId, Fault, Title, model::Origin, tree, units};

use super::{
    super::{
        catalog::Catalog,
        copy::{Copy, OpenError},
    },
    folder::{self, FoundReplica, ReplicaFileError, ReplicaFiles, ReplicaFolder},
    replica::Replica,
};
use crate::{
    core::{pull::ReplicaSpec, quota},
    sync::lock,
};

/// The volume number of the copies; no operator's volume has it.
pub(crate) const VOLUME: u16 = u16::MAX;

/// Settings of the copies ordered by the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// Folder of the copies; created when missing, unless the quota is 0.
    pub folder: PathBuf,
    /// Most bytes that copies may take; `None` for 10 GB, but at most a tenth of the space free at the start.
    pub quota: Option<u64>,
}

/// How long a partial copy is kept for another attempt.
const PARTIAL_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A copy that is not complete and not being received.
struct PartialReplica {
    /// Bytes of its files.
    bytes: u64,
    /// Groups verified by this process; `None` for files of an earlier one.
    groups: Option<u64>,
    since: SystemTime,
}

/// Space reserved for an incoming copy.
struct Reservation {
    title: Title,
    bytes: u64,
}

/// The state on the disk of a copy to receive.
pub(super) enum ReserveOutcome {
    /// All of it.
    Complete,
    /// Nothing.
    New,
    /// A partial copy, with the number of groups that this process verified, if it did.
    Resume(Option<u64>),
}

#[derive(Default)]
struct StoreState {
    /// The offered copies.
    copies: BTreeMap<Title, Arc<Replica>>,
    /// Bytes of the complete ones.
    complete_bytes: u64,
    /// By file name.
    incoming: HashMap<String, Reservation>,
    partial: HashMap<String, PartialReplica>,
}

impl StoreState {
    /// Bytes given to copies. Partial copies do not count: they are deleted when space is needed.
    fn used(&self) -> u64 {
        self.incoming.values().fold(self.complete_bytes, |sum, reserved| sum.saturating_add(reserved.bytes))
    }

    fn partial_bytes(&self) -> u64 {
        self.partial.values().fold(0, |sum, kept| sum.saturating_add(kept.bytes))
    }
}

/// The copies of one node.
pub(crate) struct ReplicaStore {
    pub(super) folder: ReplicaFolder,
    quota: u64,
    pub(super) catalog: Catalog,
    state: Mutex<StoreState>,
    next: AtomicU64,
    /// Free bytes at the last refresh.
    free: AtomicU64,
}

impl ReplicaStore {
    /// Opens the folder, which must not overlap the volumes, and offers the complete copies in it without hashing them
    /// again.
    pub(in crate::media) fn open<'a>(
        config: &ReplicaConfig,
        volumes: impl Iterator<Item = &'a Path>,
        catalog: Catalog,
    ) -> Result<Option<Arc<Self>>> {
        if config.quota == Some(0) && !config.folder.exists() {
            return Ok(None);
        }
        if let Some(volume) = ReplicaFolder::overlap(&config.folder, volumes) {
            let (folder, volume) = (config.folder.display(), volume.display());
            let what =
                format!("copies in {folder} and the media folder {volume} overlap: choose another with --replicas");
            if config.quota.is_some_and(|quota| quota > 0) {
                bail!(what);
            }
            // The operator did not ask for copies: warn instead of failing.
            tracing::warn!("{what}; this node accepts no copies");
            return Ok(None);
        }
        let folder = ReplicaFolder::open(&config.folder)?;
        let found = folder.scan()?;
        let mut state = StoreState::default();
        let next = AtomicU64::new(0);
        for one in found {
            match one {
                FoundReplica::Complete(setup, modified) => {
                    let groups = tree::groups(setup.size);
                    let replica = Replica::new(next.fetch_add(1, Ordering::Relaxed), *setup, modified, groups);
                    match replica {
                        // A title is offered with one content; only foreign changes put two into the folder.
                        Ok(replica) if !state.copies.contains_key(&replica.title) => {
                            state.complete_bytes = state.complete_bytes.saturating_add(quota::disk_bytes(replica.size));
                            catalog.put((replica.title.clone(), VOLUME), replica.record(Origin::Replica));
                            state.copies.insert(replica.title.clone(), Arc::new(replica));
                        }
                        Ok(replica) => {
                            tracing::warn!(title = %replica.title, "second copy of a title: not offered")
                        }
                        Err(fault) => tracing::warn!(error = %fault, "copy not offered"),
                    }
                }
                FoundReplica::Partial(name, bytes, since) => {
                    state.partial.insert(name, PartialReplica { bytes, groups: None, since });
                }
            }
        }
        let replica = state.complete_bytes.saturating_add(state.partial_bytes());
        let quota = config.quota.unwrap_or_else(|| quota::default_quota(folder.free().unwrap_or(0), replica));
        let free = AtomicU64::new(0);
        let replicas = Self { folder, quota, catalog, state: Mutex::new(state), next, free };
        replicas.refresh_free();
        let state = lock(&replicas.state);
        tracing::info!(copies = state.copies.len(), used = state.complete_bytes, quota, "copies opened");
        drop(state);
        Ok(Some(Arc::new(replicas)))
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Most bytes that copies may take. Does not block.
    pub(crate) fn quota(&self) -> u64 {
        self.quota
    }

    /// Free bytes at the last refresh. Does not block.
    pub(crate) fn last_free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Updates the free bytes, and deletes partial copies that are too old.
    pub(crate) fn refresh_free(&self) {
        self.free.store(self.free_bytes(), Ordering::Relaxed);
    }

    /// Bytes free within the quota and on the disk.
    fn free_bytes(&self) -> u64 {
        let mut state = lock(&self.state);
        self.sweep(&mut state, SystemTime::now());
        let (left, kept) = (self.quota.saturating_sub(state.used()), state.partial_bytes());
        drop(state);
        left.min(self.folder.free().unwrap_or(0).saturating_add(kept))
    }

    /// Deletes partial copies that are too old or beyond the quota, oldest first.
    fn sweep(&self, state: &mut StoreState, now: SystemTime) {
        loop {
            let oldest = state.partial.iter().min_by_key(|(_, kept)| kept.since);
            let Some((name, kept)) = oldest.map(|(name, kept)| (name.clone(), kept)) else { return };
            let over = state.used().saturating_add(state.partial_bytes()) > self.quota;
            // A clock that was set back makes no copy old.
            if !over && !now.duration_since(kept.since).is_ok_and(|age| age >= PARTIAL_MAX_AGE) {
                return;
            }
            state.partial.remove(&name);
            self.folder.remove(&name);
        }
    }

    /// Reserves space for a copy and returns what is on the disk of it.
    ///
    /// # Errors
    /// `DISK` when space is short, `EXISTS` when the title is here with other content or is being received.
    pub(super) fn reserve(&self, wanted: &ReplicaSpec, name: &str) -> Result<ReserveOutcome, Fault> {
        let ReplicaSpec { title, content, size } = wanted;
        let (bytes, free) = (quota::disk_bytes(*size), self.free_bytes());
        let mut state = lock(&self.state);
        match state.copies.get(title) {
            Some(replica) if replica.content == *content && replica.is_complete() => {
                return Ok(ReserveOutcome::Complete);
            }
            Some(replica) if replica.content != *content => {
                let what = format!("a copy of `{title}` with content {} is here: evict it first", replica.content);
                return Err(Fault::new(Code::Exists, what));
            }
            _ if state.incoming.values().any(|reserved| reserved.title == *title) => {
                return Err(Fault::new(Code::Exists, format!("a copy of `{title}` is being received already")));
            }
            _ => {}
        }
        let left = self.quota.saturating_sub(state.used()).min(free);
        if bytes > left {
            let (needed, left, quota) = (units::bytes(bytes), units::bytes(left), units::bytes(self.quota));
            let what = format!("a copy of `{title}` takes {needed}, but only {left} of {quota} are free");
            return Err(Fault::new(Code::Disk, what));
        }
        let kept = state.partial.remove(name);
        state.incoming.insert(name.to_owned(), Reservation { title: title.clone(), bytes });
        self.sweep(&mut state, SystemTime::now());
        drop(state);
        self.refresh_free();
        Ok(kept.map_or(ReserveOutcome::New, |kept| ReserveOutcome::Resume(kept.groups)))
    }

    pub(super) fn offer_incoming(&self, replica: Arc<Replica>) {
        let (key, record) = ((replica.title.clone(), VOLUME), replica.record(Origin::Growing));
        lock(&self.state).copies.insert(replica.title.clone(), replica);
        self.catalog.put(key, record);
    }

    pub(super) fn offer_complete(&self, name: &str, replica: &Replica) {
        let mut state = lock(&self.state);
        state.incoming.remove(name);
        state.complete_bytes = state.complete_bytes.saturating_add(quota::disk_bytes(replica.size));
        *lock(&replica.files) = None;
        // Under the lock, so that an eviction meanwhile is not undone.
        self.catalog.put((replica.title.clone(), VOLUME), replica.record(Origin::Replica));
    }

    /// Ends receiving a copy; `kept` are the bytes and the groups that stay for another attempt.
    pub(super) fn ended(&self, name: &str, title: &Title, replica: Option<&Replica>, kept: Option<(u64, u64)>) {
        let mut state = lock(&self.state);
        state.incoming.remove(name);
        if let Some(replica) = replica {
            state.copies.remove(title);
            self.catalog.remove(&(title.clone(), VOLUME));
            replica.progress.send_modify(|progress| progress.failed = true);
        }
        match kept {
            Some((bytes, groups)) => {
                let kept = PartialReplica { bytes, groups: Some(groups), since: SystemTime::now() };
                state.partial.insert(name.to_owned(), kept);
                self.sweep(&mut state, SystemTime::now());
            }
            None => self.folder.remove(name),
        }
        drop(state);
        self.refresh_free();
    }

    /// Deletes a copy, complete or partial. A copy that is being received stays. Returns whether one was deleted.
    pub(crate) fn evict(&self, title: &Title, content: ContentId) -> bool {
        let name = folder::name(title, content);
        let mut state = lock(&self.state);
        if state.incoming.contains_key(&name) {
            return false;
        }
        let kept = state.partial.remove(&name).is_some();
        let complete = state.copies.get(title).is_some_and(|replica| replica.content == content);
        if complete {
            self.remove(&mut state, title);
        }
        self.folder.remove(&name);
        drop(state);
        self.refresh_free();
        kept || complete
    }

    /// Verifies a complete copy of which a client received other bytes. Deletes a damaged copy: it can be ordered
    /// again.
    pub(in crate::media) fn verify(&self, copy: &Copy, stop: &dyn Fn() -> bool) {
        let Ok((replica, files)) = self.open_copy(copy) else { return };
        if !replica.is_complete() {
            // Incoming groups are verified anyway.
            return;
        }
        let title = &replica.title;
        match files.verified_groups(replica.content, stop) {
            Ok(groups) if groups == tree::groups(replica.size) => {
                tracing::info!(%title, "copy verified: a client's report of damage is not confirmed");
            }
            Ok(_) if stop() => {}
            Ok(_) => {
                tracing::error!(%title, content = %replica.content, "copy damaged: deleted; the master may order it again");
                self.discard(&replica);
                replica.progress.send_modify(|progress| progress.damaged = true);
                self.refresh_free();
            }
            Err(error) => tracing::warn!(%title, %error, "copy unreadable"),
        }
    }

    fn remove(&self, state: &mut StoreState, title: &Title) {
        if let Some(replica) = state.copies.remove(title) {
            state.complete_bytes = state.complete_bytes.saturating_sub(quota::disk_bytes(replica.size));
            self.catalog.remove(&(title.clone(), VOLUME));
        }
    }

    /// Deletes a complete copy, unless it was evicted meanwhile. Returns whether it did.
    fn discard(&self, replica: &Replica) -> bool {
        let mut state = lock(&self.state);
        let is_here = state.copies.get(&replica.title).is_some_and(|now| now.id == replica.id);
        if is_here {
            self.remove(&mut state, &replica.title);
            self.folder.remove(&folder::name(&replica.title, replica.content));
        }
        is_here
    }

    /// Opens a copy for a session.
    pub(in crate::media) fn open_copy(&self, copy: &Copy) -> Result<(Arc<Replica>, Arc<ReplicaFiles>), OpenError> {
        let replica = lock(&self.state).copies.get(&copy.title).filter(|replica| replica.id == copy.id).cloned();
        let replica = replica.ok_or(OpenError::Gone)?;
        let coming = lock(&replica.files).clone();
        if let Some(files) = coming {
            return Ok((replica, files));
        }
        match self.folder.open_complete(&folder::name(&replica.title, replica.content)) {
            Ok(files) => Ok((replica, Arc::new(files))),
            Err(ReplicaFileError::Io(error)) => Err(error.into()),
            Err(ReplicaFileError::Content(why)) => {
                if self.discard(&replica) {
                    tracing::warn!(title = %replica.title, why, "copy damaged: deleted");
                }
                Err(OpenError::Gone)
            }
        }
    }
}
