//! The copies that the master ordered, beside the operator's volumes: which there are, how much room they take, and who
//! may read them. Owns the quota and the folder; the catalog shows its copies as a volume of their own. Refuses to know
//! where they come from. Its functions wait for the disk, unless they say otherwise.

mod folder;
mod growing;
mod held;
#[cfg(test)]
mod tests;

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
    catalog::{Catalog, Copy, lock},
    open::OpenError,
};
use crate::core::{pull::Wanted, room};
pub(crate) use folder::Files;
use folder::{Bad, Folder, Found};
pub(crate) use growing::Growing;
pub(crate) use held::Held;

/// The number of their volume: a node has no operator's volume of this number.
pub(crate) const VOLUME: u16 = u16::MAX;

/// How long what is there of a copy waits for another try.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Where ordered copies are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Their folder; made when it is missing, unless they may take nothing.
    pub folder: PathBuf,
    /// Bytes that they may take; `None` for 10 GB, but at most a tenth of what is free at the start.
    pub quota: Option<u64>,
}

/// What is there of a copy that is not coming in now.
struct Kept {
    /// Bytes of its files.
    bytes: u64,
    /// Groups that this process verified; `None` for what a process before it left.
    groups: Option<u64>,
    since: SystemTime,
}

/// Room that is reserved for a copy that comes in.
struct Reserved {
    title: Title,
    bytes: u64,
}

#[derive(Default)]
struct State {
    /// What is offered.
    copies: BTreeMap<Title, Arc<Held>>,
    /// Bytes of the whole ones.
    whole: u64,
    /// By the name of their files.
    coming: HashMap<String, Reserved>,
    kept: HashMap<String, Kept>,
}

impl State {
    /// Bytes that are given to copies. What is kept for another try is not among them: it makes room.
    fn used(&self) -> u64 {
        self.coming.values().fold(self.whole, |sum, reserved| sum.saturating_add(reserved.bytes))
    }

    fn kept_bytes(&self) -> u64 {
        self.kept.values().fold(0, |sum, kept| sum.saturating_add(kept.bytes))
    }
}

/// The copies of one node.
pub(crate) struct Replicas {
    folder: Folder,
    quota: u64,
    catalog: Catalog,
    state: Mutex<State>,
    next: AtomicU64,
    /// Bytes that were free when somebody looked last.
    free: AtomicU64,
}

impl Replicas {
    /// Opens the folder, which must lie apart from the volumes, and offers the whole copies in it. Nothing of them is
    /// hashed again.
    pub(super) fn open<'a>(
        config: &Config,
        volumes: impl Iterator<Item = &'a Path>,
        catalog: Catalog,
    ) -> Result<Option<Arc<Self>>> {
        if config.quota == Some(0) && !config.folder.exists() {
            return Ok(None);
        }
        if let Some(volume) = Folder::overlap(&config.folder, volumes) {
            let (folder, volume) = (config.folder.display(), volume.display());
            let what =
                format!("copies in {folder} and the media folder {volume} overlap: choose another with --replicas");
            if config.quota.is_some_and(|quota| quota > 0) {
                bail!(what);
            }
            // Nobody asked for copies: the node does what it did without them.
            tracing::warn!("{what}; this node takes no copies");
            return Ok(None);
        }
        let folder = Folder::open(&config.folder)?;
        let found = folder.scan()?;
        let mut state = State::default();
        let next = AtomicU64::new(0);
        for one in found {
            match one {
                Found::Whole(setup, modified) => {
                    let groups = tree::groups(setup.size);
                    let held = Held::new(next.fetch_add(1, Ordering::Relaxed), *setup, modified, groups);
                    match held {
                        // One title is offered with one content; the folder never holds two unless someone put it there.
                        Ok(held) if !state.copies.contains_key(&held.title) => {
                            state.whole = state.whole.saturating_add(room::cost(held.size));
                            catalog.put((held.title.clone(), VOLUME), held.record(Origin::Replica));
                            state.copies.insert(held.title.clone(), Arc::new(held));
                        }
                        Ok(held) => tracing::warn!(title = %held.title, "a second copy of a title is not offered"),
                        Err(fault) => tracing::warn!(%fault, "a copy is not offered"),
                    }
                }
                Found::Part(name, bytes, since) => {
                    state.kept.insert(name, Kept { bytes, groups: None, since });
                }
            }
        }
        let held = state.whole.saturating_add(state.kept_bytes());
        let quota = config.quota.unwrap_or_else(|| room::allowance(folder.free().unwrap_or(0), held));
        let free = AtomicU64::new(0);
        let replicas = Self { folder, quota, catalog, state: Mutex::new(state), next, free };
        replicas.look();
        let state = lock(&replicas.state);
        tracing::info!(copies = state.copies.len(), used = state.whole, quota, "copies that the master ordered");
        drop(state);
        Ok(Some(Arc::new(replicas)))
    }

    fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Bytes that copies may take. Does not block.
    pub(crate) fn quota(&self) -> u64 {
        self.quota
    }

    /// Bytes of them that were free when somebody looked last. Does not block.
    pub(crate) fn last_free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Looks how many bytes are free, and forgets what was kept for too long.
    pub(crate) fn look(&self) {
        self.free.store(self.room(), Ordering::Relaxed);
    }

    /// Bytes that are free, on the disk too.
    fn room(&self) -> u64 {
        let mut state = lock(&self.state);
        self.sweep(&mut state, SystemTime::now());
        let (left, kept) = (self.quota.saturating_sub(state.used()), state.kept_bytes());
        drop(state);
        left.min(self.folder.free().unwrap_or(0).saturating_add(kept))
    }

    /// Deletes what waits for another try for too long, or beyond the quota: the oldest first.
    fn sweep(&self, state: &mut State, now: SystemTime) {
        loop {
            let oldest = state.kept.iter().min_by_key(|(_, kept)| kept.since);
            let Some((name, kept)) = oldest.map(|(name, kept)| (name.clone(), kept)) else { return };
            let over = state.used().saturating_add(state.kept_bytes()) > self.quota;
            // A clock that was set back makes nothing old.
            if !over && !now.duration_since(kept.since).is_ok_and(|age| age >= KEPT) {
                return;
            }
            state.kept.remove(&name);
            self.folder.remove(&name);
        }
    }

    /// Reserves room for a copy, and opens what is there of it. `None` when it is here already.
    ///
    /// # Errors
    /// `DISK` when there is no room, `EXISTS` when the title is here with other content, or comes in.
    pub(crate) fn begin(self: &Arc<Self>, wanted: &Wanted) -> Result<Option<Growing>, Fault> {
        let Wanted { title, content, size } = wanted;
        let name = folder::name(title, *content);
        let (bytes, free) = (room::cost(*size), self.room());
        let mut state = lock(&self.state);
        match state.copies.get(title) {
            Some(held) if held.content == *content && held.is_whole() => return Ok(None),
            Some(held) if held.content != *content => {
                let what = format!("a copy of `{title}` with content {} is here: evict it first", held.content);
                return Err(Fault::new(Code::Exists, what));
            }
            _ if state.coming.values().any(|reserved| reserved.title == *title) => {
                return Err(Fault::new(Code::Exists, format!("a copy of `{title}` comes in already")));
            }
            _ => {}
        }
        let left = self.quota.saturating_sub(state.used()).min(free);
        if bytes > left {
            let (needed, left, quota) = (units::bytes(bytes), units::bytes(left), units::bytes(self.quota));
            let what = format!("a copy of `{title}` takes {needed}, and {left} of {quota} are free");
            return Err(Fault::new(Code::Disk, what));
        }
        let before = state.kept.remove(&name);
        state.coming.insert(name.clone(), Reserved { title: title.clone(), bytes });
        self.sweep(&mut state, SystemTime::now());
        drop(state);
        self.look();
        let mut growing = Growing {
            store: self.clone(),
            wanted: wanted.clone(),
            name,
            begun: None,
            groups: 0,
            held: None,
            fresh: true,
            over: false,
        };
        if let Some(kept) = before {
            self.go_on(&mut growing, kept.groups)?;
        }
        Ok(Some(growing))
    }

    /// Takes up what is there of a copy, if any of it is good.
    fn go_on(&self, growing: &mut Growing, known: Option<u64>) -> Result<(), Fault> {
        match self.folder.reopen(&growing.name, known) {
            Ok((setup, files, groups)) if groups > 0 && setup.size == growing.wanted.size => {
                (growing.begun, growing.groups, growing.fresh) = (Some((setup, Arc::new(files))), groups, false);
                growing.publish()
            }
            Ok(_) => Ok(()),
            Err(Bad::Content(why)) => {
                tracing::warn!(title = %growing.wanted.title, why, "what was kept of a copy is of no use");
                Ok(())
            }
            Err(Bad::Io(error)) => Err(growing::disk(&error)),
        }
    }

    fn offer_growing(&self, held: Arc<Held>) {
        let (key, record) = ((held.title.clone(), VOLUME), held.record(Origin::Growing));
        lock(&self.state).copies.insert(held.title.clone(), held);
        self.catalog.put(key, record);
    }

    fn offer_whole(&self, name: &str, held: &Held) {
        let mut state = lock(&self.state);
        state.coming.remove(name);
        state.whole = state.whole.saturating_add(room::cost(held.size));
        *lock(&held.files) = None;
        // Under the lock, so that it is not put back after an eviction.
        self.catalog.put((held.title.clone(), VOLUME), held.record(Origin::Replica));
    }

    /// A copy does not come in any more; `kept` are the bytes, and the groups, that stay for another try.
    fn ended(&self, name: &str, title: &Title, held: Option<&Held>, kept: Option<(u64, u64)>) {
        let mut state = lock(&self.state);
        state.coming.remove(name);
        if let Some(held) = held {
            state.copies.remove(title);
            self.catalog.remove(&(title.clone(), VOLUME));
            held.growth.send_modify(|growth| growth.failed = true);
        }
        match kept {
            Some((bytes, groups)) => {
                let kept = Kept { bytes, groups: Some(groups), since: SystemTime::now() };
                state.kept.insert(name.to_owned(), kept);
                self.sweep(&mut state, SystemTime::now());
            }
            None => self.folder.remove(name),
        }
        drop(state);
        self.look();
    }

    /// Deletes a copy, and what is kept of it. One that comes in is not touched. Returns whether there was one.
    pub(crate) fn evict(&self, title: &Title, content: ContentId) -> bool {
        let name = folder::name(title, content);
        let mut state = lock(&self.state);
        if state.coming.contains_key(&name) {
            return false;
        }
        let kept = state.kept.remove(&name).is_some();
        let whole = state.copies.get(title).is_some_and(|held| held.content == content);
        if whole {
            self.forget(&mut state, title);
        }
        self.folder.remove(&name);
        drop(state);
        self.look();
        kept || whole
    }

    /// Verifies a whole copy again that someone got other bytes of. One that is damaged is deleted: it can be made anew.
    pub(super) fn check(&self, copy: &Copy, stop: &dyn Fn() -> bool) {
        let Ok((held, files)) = self.open_copy(copy) else { return };
        if !held.is_whole() {
            // What comes in is verified as it comes.
            return;
        }
        let title = &held.title;
        match files.verified(held.content, stop) {
            Ok(groups) if groups == tree::groups(held.size) => {
                tracing::info!(%title, "a client's word that a copy is damaged was not confirmed");
            }
            Ok(_) if stop() => {}
            Ok(_) => {
                let name = folder::name(title, held.content);
                tracing::error!(%title, content = %held.content, "copy damaged: its bytes are not what they were; it is deleted, and the master may order it again");
                let mut state = lock(&self.state);
                // An eviction may have been first.
                if state.copies.get(title).is_some_and(|now| now.id == held.id) {
                    self.forget(&mut state, title);
                    self.folder.remove(&name);
                }
                drop(state);
                held.growth.send_modify(|growth| growth.damaged = true);
                self.look();
            }
            Err(error) => tracing::warn!(%title, %error, "a copy cannot be read"),
        }
    }

    fn forget(&self, state: &mut State, title: &Title) {
        if let Some(held) = state.copies.remove(title) {
            state.whole = state.whole.saturating_sub(room::cost(held.size));
            self.catalog.remove(&(title.clone(), VOLUME));
        }
    }

    /// Opens a copy for a session.
    pub(super) fn open_copy(&self, copy: &Copy) -> Result<(Arc<Held>, Arc<Files>), OpenError> {
        let held = lock(&self.state).copies.get(&copy.title).filter(|held| held.id == copy.id).cloned();
        let held = held.ok_or(OpenError::Gone)?;
        let coming = lock(&held.files).clone();
        if let Some(files) = coming {
            return Ok((held, files));
        }
        match self.folder.open_whole(&folder::name(&held.title, held.content)) {
            Ok(files) => Ok((held, Arc::new(files))),
            Err(Bad::Io(error)) => Err(error.into()),
            Err(Bad::Content(why)) => {
                let mut state = lock(&self.state);
                // An eviction may have been first.
                if state.copies.get(&held.title).is_some_and(|now| now.id == held.id) {
                    tracing::warn!(title = %held.title, why, "a copy is of no use any more and was deleted");
                    self.forget(&mut state, &held.title);
                    self.folder.remove(&folder::name(&held.title, held.content));
                }
                Err(OpenError::Gone)
            }
        }
    }
}
