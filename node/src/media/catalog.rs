//! The catalog in memory and its subscribers. Knows no file and no index.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::Notify;
use usher_proto::{
    ContentId, Title,
    model::{CatalogCopy, Origin},
};

use super::copy::{Copy, CopyKey, CopyRecord, FindError, RejectedCounts};
use crate::sync::lock;

/// Most copies and removals in one batch of changes: half of what a page to the master holds, so that a batch is always
/// one page.
const BATCH: usize = 2500;

/// Changes queued for one subscriber before it has to start over.
const PENDING: usize = 20_000;

/// One page of the changes since the last call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New or changed copies, as they are now.
    pub copies: Vec<CatalogCopy>,
    /// Removed copies: title and volume.
    pub removals: Vec<(Title, u16)>,
    /// Number of files that are not offered.
    pub rejected_files: u32,
    /// Number of those whose bytes changed since they were hashed.
    pub damaged_files: u32,
    /// Too many changes were queued: ignore the other fields and take a new snapshot.
    pub resync: bool,
}

#[derive(Default)]
struct PendingChanges {
    keys: BTreeSet<CopyKey>,
    rejected: bool,
    overflow: bool,
}

#[derive(Default)]
struct Subscriber {
    pending: Mutex<PendingChanges>,
    wake: Notify,
}

#[derive(Default)]
struct CatalogState {
    /// Boxed: tree nodes are at best two thirds full, and keys alone waste less of that.
    records: BTreeMap<CopyKey, Box<CopyRecord>>,
    unhashed: u64,
    bytes: u64,
    rejected: u32,
    damaged: u32,
    subscribers: Vec<Weak<Subscriber>>,
}

impl CatalogState {
    fn notify(&mut self, change: impl Fn(&mut PendingChanges)) {
        self.subscribers.retain(|subscriber| {
            let Some(subscriber) = subscriber.upgrade() else { return false };
            change(&mut lock(&subscriber.pending));
            subscriber.wake.notify_one();
            true
        });
    }

    fn changed(&mut self, key: &CopyKey) {
        self.notify(|pending| {
            if pending.keys.len() >= PENDING {
                pending.keys.clear();
                pending.overflow = true;
            } else if !pending.overflow {
                pending.keys.insert(key.clone());
            }
        });
    }

    fn forget(&mut self, record: &CopyRecord) {
        self.unhashed -= u64::from(record.content.is_none());
        self.bytes = self.bytes.saturating_sub(record.size);
    }
}

/// Counts of the catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CatalogCounts {
    pub(crate) copies: u64,
    pub(crate) unhashed: u64,
    pub(crate) bytes: u64,
    pub(crate) rejected: u32,
    pub(crate) damaged: u32,
}

/// The copies that are offered now.
#[derive(Clone, Default)]
pub(crate) struct Catalog(Arc<Mutex<CatalogState>>);

impl Catalog {
    /// Offers a copy, or replaces an offered one.
    pub(crate) fn put(&self, key: CopyKey, record: CopyRecord) {
        let mut state = lock(&self.0);
        state.changed(&key);
        state.unhashed += u64::from(record.content.is_none());
        state.bytes = state.bytes.saturating_add(record.size);
        if let Some(old) = state.records.insert(key, Box::new(record)) {
            state.forget(&old);
        }
    }

    /// Sets a copy's content, unless the file changed since. Returns whether it was set.
    pub(crate) fn hashed(&self, key: &CopyKey, id: u64, content: ContentId) -> bool {
        let mut state = lock(&self.0);
        let Some(record) = state.records.get_mut(key).filter(|record| record.id == id) else { return false };
        let first = record.content.replace(content).is_none();
        state.unhashed -= u64::from(first);
        state.changed(key);
        true
    }

    /// Withdraws a copy. Returns whether it was offered.
    pub(crate) fn remove(&self, key: &CopyKey) -> bool {
        let mut state = lock(&self.0);
        let Some(record) = state.records.remove(key) else { return false };
        state.forget(&record);
        state.changed(key);
        true
    }

    /// Adds to the counts of files that are not offered.
    pub(crate) fn add_rejected(&self, delta: RejectedCounts) {
        if delta != RejectedCounts::default() {
            let add = |count: u32, delta: i64| {
                let count = i64::from(count).saturating_add(delta).clamp(0, u32::MAX.into());
                u32::try_from(count).unwrap_or(u32::MAX)
            };
            let mut state = lock(&self.0);
            (state.rejected, state.damaged) = (add(state.rejected, delta.rejected), add(state.damaged, delta.damaged));
            state.notify(|pending| pending.rejected = true);
        }
    }

    /// The copy with this key.
    pub(crate) fn copy(&self, key: &CopyKey) -> Option<Copy> {
        lock(&self.0).records.get(key).map(|record| Copy::new(key, record))
    }

    /// The titles of a volume.
    pub(crate) fn of_volume(&self, volume: u16) -> Vec<Title> {
        let state = lock(&self.0);
        state.records.keys().filter(|key| key.1 == volume).map(|key| key.0.clone()).collect()
    }

    /// The copies of a title, best first; at least one. With `content`, only copies of that content. Hashed copies come
    /// before others, then complete ones, then newer ones.
    pub(crate) fn copies(&self, title: &Title, content: Option<ContentId>) -> Result<Vec<Copy>, FindError> {
        let state = lock(&self.0);
        let span = (Bound::Included((title.clone(), 0)), Bound::Included((title.clone(), u16::MAX)));
        let mut any = false;
        let fits = state.records.range(span).inspect(|_| any = true);
        let fits = fits.filter(|(_, record)| content.is_none() || record.content == content);
        let mut fits: Vec<_> = fits.collect();
        fits.sort_by_key(|(_, record)| {
            let complete = record.origin != Origin::Growing;
            std::cmp::Reverse((record.content.is_some(), complete, record.modified_ms))
        });
        match fits.as_slice() {
            [] if any => Err(FindError::OtherContent),
            [] => Err(FindError::NotFound),
            fits => Ok(fits.iter().map(|(key, record)| Copy::new(key, record)).collect()),
        }
    }

    pub(crate) fn counts(&self) -> CatalogCounts {
        let state = lock(&self.0);
        let copies = state.records.len() as u64;
        CatalogCounts {
            copies,
            unhashed: state.unhashed,
            bytes: state.bytes,
            rejected: state.rejected,
            damaged: state.damaged,
        }
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        let subscriber = Arc::new(Subscriber::default());
        lock(&self.0).subscribers.push(Arc::downgrade(&subscriber));
        Subscription { catalog: self.clone(), subscriber }
    }
}

/// A view of the catalog that follows its changes.
pub struct Subscription {
    catalog: Catalog,
    subscriber: Arc<Subscriber>,
}

impl Subscription {
    /// A page of at most `most` copies in key order: the first page without `after`, each following one after the last
    /// copy of the page before. A page with fewer copies is the last. [`Self::changed`] continues from the first page,
    /// so it also reports changes made between two pages. Paged because a copy of the whole catalog would be the node's
    /// peak of memory.
    pub fn page(&mut self, after: Option<&CopyKey>, most: usize) -> Vec<CatalogCopy> {
        let state = lock(&self.catalog.0);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        if after.is_none() {
            *lock(&self.subscriber.pending) = PendingChanges::default();
        }
        state.records.range((from, Bound::Unbounded)).take(most).map(|(key, record)| record.page_entry(key)).collect()
    }

    /// Number of files that are not offered now.
    pub fn rejected_files(&self) -> u32 {
        lock(&self.catalog.0).rejected
    }

    /// Number of those whose bytes changed since they were hashed.
    pub fn damaged_files(&self) -> u32 {
        lock(&self.catalog.0).damaged
    }

    /// Waits for changes since the snapshot or the last call. Returns at most 2500 copies and removals. Cancel-safe:
    /// the next call returns the rest.
    pub async fn changed(&mut self) -> Changes {
        loop {
            if let Some(changes) = self.take() {
                return changes;
            }
            self.subscriber.wake.notified().await;
        }
    }

    fn take(&mut self) -> Option<Changes> {
        let state = lock(&self.catalog.0);
        let mut pending = lock(&self.subscriber.pending);
        let (rejected_files, damaged_files) = (state.rejected, state.damaged);
        if pending.overflow {
            return Some(Changes { resync: true, rejected_files, damaged_files, ..Changes::default() });
        }
        if pending.keys.is_empty() && !pending.rejected {
            return None;
        }
        pending.rejected = false;
        let mut changes = Changes { rejected_files, damaged_files, ..Changes::default() };
        for _ in 0..BATCH {
            let Some(key) = pending.keys.pop_first() else { break };
            match state.records.get(&key) {
                Some(record) => changes.copies.push(record.page_entry(&key)),
                None => changes.removals.push(key),
            }
        }
        Some(changes)
    }
}

#[cfg(test)]
mod tests;
