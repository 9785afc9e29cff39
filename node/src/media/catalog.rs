//! The catalog in memory, and who wants to hear of its changes. Owns the compact form of a copy (about 160 bytes
//! beside its name); knows no file and no index.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use thiserror::Error;
use tokio::sync::Notify;
use usher_media::probe::MediaType;
use usher_proto::{
    Bitrate, ContentId, Title,
    model::{CatalogCopy, Origin},
};

use super::index::Bad;

/// Copies and removals of one batch of changes: half of what one page to the master may hold, so that a batch is
/// always one page.
const BATCH: usize = 2500;

/// Changes that wait for one subscriber before it is told to start over.
const PENDING: usize = 20_000;

/// Names a copy: a title on a volume.
pub type Key = (Title, u16);

/// What is kept in memory of a copy.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Names this state of the file in the index; a changed file gets another.
    pub(crate) id: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Unix milliseconds.
    pub(crate) modified_ms: i64,
    /// Milliseconds, 0 when unknown; four bytes hold 49 days.
    pub(crate) duration_ms: u32,
    /// Once hashed.
    pub(crate) content: Option<ContentId>,
    /// One byte instead of a text.
    pub(crate) media_type: MediaType,
    /// Plays before it is whole.
    pub(crate) streamable: bool,
    /// How it came here.
    pub(crate) origin: Origin,
}

/// The mean rate of `size` bytes over `duration_ms`; 0 when the duration is unknown.
pub(crate) fn bitrate(size: u64, duration_ms: u64) -> Bitrate {
    Bitrate::over(size, std::time::Duration::from_millis(duration_ms))
}

/// One copy of a title, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The title.
    pub title: Title,
    /// Its volume, counted from 0.
    pub volume: u16,
    /// Its content, once hashed.
    pub content: Option<ContentId>,
    /// Bytes, at least 1.
    pub size: u64,
    /// Mean rate; 0 when the duration is unknown.
    pub bitrate: Bitrate,
    /// For example `video/mp4`.
    pub media_type: &'static str,
    /// Milliseconds, 0 when unknown.
    pub duration_ms: u64,
    /// Unix milliseconds.
    pub modified_ms: i64,
    /// Whether it plays before it is whole.
    pub streamable: bool,
    /// The state of the file that was found.
    pub(crate) id: u64,
}

impl Copy {
    fn new((title, volume): &Key, record: &Record) -> Self {
        Self {
            title: title.clone(),
            volume: *volume,
            content: record.content,
            size: record.size,
            bitrate: bitrate(record.size, record.duration_ms.into()),
            media_type: record.media_type.name(),
            duration_ms: record.duration_ms.into(),
            modified_ms: record.modified_ms,
            streamable: record.streamable,
            id: record.id,
        }
    }
}

/// Why a title is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FindError {
    /// No volume has it.
    #[error("this node has no such title")]
    NotFound,
    /// It is here with other content than asked for, or not hashed yet.
    #[error("this node has the title, but not the content asked for")]
    OtherContent,
}

/// What changed since the last look; one page of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New or changed copies, as they are now.
    pub copies: Vec<CatalogCopy>,
    /// Copies that are gone: title and volume.
    pub removals: Vec<(Title, u16)>,
    /// Files that are not offered, in all.
    pub rejected_files: u32,
    /// Those of them whose bytes are not what they were when they were hashed.
    pub damaged_files: u32,
    /// Too much changed at once: nothing else here counts, take a new snapshot.
    pub resync: bool,
}

#[derive(Default)]
struct Pending {
    keys: BTreeSet<Key>,
    rejected: bool,
    overflow: bool,
}

#[derive(Default)]
struct Subscriber {
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// Boxed: a tree's nodes are two thirds full at best, and keys alone waste less of them.
    records: BTreeMap<Key, Box<Record>>,
    unhashed: u64,
    bytes: u64,
    rejected: u32,
    damaged: u32,
    subscribers: Vec<Weak<Subscriber>>,
}

impl State {
    fn tell(&mut self, change: impl Fn(&mut Pending)) {
        self.subscribers.retain(|subscriber| {
            let Some(subscriber) = subscriber.upgrade() else { return false };
            change(&mut lock(&subscriber.pending));
            subscriber.wake.notify_one();
            true
        });
    }

    fn changed(&mut self, key: &Key) {
        self.tell(|pending| {
            if pending.keys.len() >= PENDING {
                pending.keys.clear();
                pending.overflow = true;
            } else if !pending.overflow {
                pending.keys.insert(key.clone());
            }
        });
    }

    fn forget(&mut self, record: &Record) {
        self.unhashed -= u64::from(record.content.is_none());
        self.bytes = self.bytes.saturating_sub(record.size);
    }
}

/// A lock whose data stay sound when a holder panics: every update under it is complete before it can fail.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts of the catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) copies: u64,
    pub(crate) unhashed: u64,
    pub(crate) bytes: u64,
    pub(crate) rejected: u32,
    pub(crate) damaged: u32,
}

/// The copies that are offered now.
#[derive(Clone, Default)]
pub(crate) struct Catalog(Arc<Mutex<State>>);

impl Catalog {
    /// Offers a copy, or replaces what was offered.
    pub(crate) fn put(&self, key: Key, record: Record) {
        let mut state = lock(&self.0);
        state.changed(&key);
        state.unhashed += u64::from(record.content.is_none());
        state.bytes = state.bytes.saturating_add(record.size);
        if let Some(old) = state.records.insert(key, Box::new(record)) {
            state.forget(&old);
        }
    }

    /// Tells a copy's content, unless the file changed since. Returns whether it was so.
    pub(crate) fn hashed(&self, key: &Key, id: u64, content: ContentId) -> bool {
        let mut state = lock(&self.0);
        let Some(record) = state.records.get_mut(key).filter(|record| record.id == id) else { return false };
        let first = record.content.replace(content).is_none();
        state.unhashed -= u64::from(first);
        state.changed(key);
        true
    }

    /// Takes a copy out of the offer.
    pub(crate) fn remove(&self, key: &Key) -> bool {
        let mut state = lock(&self.0);
        let Some(record) = state.records.remove(key) else { return false };
        state.forget(&record);
        state.changed(key);
        true
    }

    /// Counts files that came to be, or ceased to be, not offered.
    pub(crate) fn count_bad(&self, delta: Bad) {
        if delta != Bad::default() {
            let add = |count: u32, delta: i64| {
                let count = i64::from(count).saturating_add(delta).clamp(0, u32::MAX.into());
                u32::try_from(count).unwrap_or(u32::MAX)
            };
            let mut state = lock(&self.0);
            (state.rejected, state.damaged) = (add(state.rejected, delta.rejected), add(state.damaged, delta.damaged));
            state.tell(|pending| pending.rejected = true);
        }
    }

    /// The copy of this name.
    pub(crate) fn copy(&self, key: &Key) -> Option<Copy> {
        lock(&self.0).records.get(key).map(|record| Copy::new(key, record))
    }

    /// The titles of a volume.
    pub(crate) fn of_volume(&self, volume: u16) -> Vec<Title> {
        let state = lock(&self.0);
        state.records.keys().filter(|key| key.1 == volume).map(|key| key.0.clone()).collect()
    }

    /// The copies of a title, of the content asked for if one is, the best first; at least one. Hashed ones are better,
    /// then whole ones, then newer ones.
    pub(crate) fn copies(&self, title: &Title, content: Option<ContentId>) -> Result<Vec<Copy>, FindError> {
        let state = lock(&self.0);
        let span = (Bound::Included((title.clone(), 0)), Bound::Included((title.clone(), u16::MAX)));
        let mut any = false;
        let fits = state.records.range(span).inspect(|_| any = true);
        let fits = fits.filter(|(_, record)| content.is_none() || record.content == content);
        let mut fits: Vec<_> = fits.collect();
        fits.sort_by_key(|(_, record)| {
            let whole = record.origin != Origin::Growing;
            std::cmp::Reverse((record.content.is_some(), whole, record.modified_ms))
        });
        match fits.as_slice() {
            [] if any => Err(FindError::OtherContent),
            [] => Err(FindError::NotFound),
            fits => Ok(fits.iter().map(|(key, record)| Copy::new(key, record)).collect()),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = lock(&self.0);
        let copies = state.records.len() as u64;
        Counts {
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

/// A view of the catalog that follows it.
pub struct Subscription {
    catalog: Catalog,
    subscriber: Arc<Subscriber>,
}

impl Subscription {
    /// The catalog in pages of at most `most` copies, in order: the first without `after`, each other behind the last
    /// copy of the one before. [`Self::changed`] goes on from the first, so what changes between two pages is told
    /// too. A page with fewer copies is the last. In pages, since a copy of it all would be the node's peak of memory.
    pub fn page(&mut self, after: Option<&Key>, most: usize) -> Vec<CatalogCopy> {
        let state = lock(&self.catalog.0);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        if after.is_none() {
            *lock(&self.subscriber.pending) = Pending::default();
        }
        state.records.range((from, Bound::Unbounded)).take(most).map(|(key, record)| wire(key, record)).collect()
    }

    /// Files that are not offered, in all, now.
    pub fn rejected_files(&self) -> u32 {
        lock(&self.catalog.0).rejected
    }

    /// Those of them whose bytes are not what they were, now.
    pub fn damaged_files(&self) -> u32 {
        lock(&self.catalog.0).damaged
    }

    /// Waits for a change since the snapshot or the last call, and tells at most 2500 copies and removals of it.
    /// Cancel-safe: what is not returned comes with the next call.
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
                Some(record) => changes.copies.push(wire(&key, record)),
                None => changes.removals.push(key),
            }
        }
        Some(changes)
    }
}

fn wire((title, volume): &Key, record: &Record) -> CatalogCopy {
    CatalogCopy {
        title: title.clone(),
        volume: *volume,
        content: record.content,
        size: record.size,
        modified_ms: record.modified_ms,
        bitrate: bitrate(record.size, record.duration_ms.into()),
        duration_ms: record.duration_ms.into(),
        media_type: record.media_type.name().to_owned(),
        streamable: record.streamable,
        origin: record.origin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, volume: u16) -> Key {
        (Title::parse(name).expect("a title"), volume)
    }

    fn record(id: u64, modified_ms: i64, content: Option<u8>) -> Record {
        Record {
            id,
            size: 1000,
            modified_ms,
            duration_ms: 8000,
            content: content.map(|byte| ContentId([byte; 32])),
            media_type: MediaType::of("video/mp4"),
            streamable: true,
            origin: Origin::Operator,
        }
    }

    #[test]
    fn the_best_copy_is_found() {
        let catalog = Catalog::default();
        let title = key("a", 0).0;
        assert_eq!(catalog.copies(&title, None), Err(FindError::NotFound));
        catalog.put(key("a", 0), record(1, 50, None));
        catalog.put(key("a", 1), record(2, 10, Some(1)));
        catalog.put(key("a", 2), record(3, 20, Some(2)));
        let volume = |content| catalog.copies(&title, content).map(|copies| copies[0].volume);
        assert_eq!(volume(None), Ok(2), "hashed, then newest");
        assert_eq!(volume(Some(ContentId([1; 32]))), Ok(1));
        assert_eq!(volume(Some(ContentId([9; 32]))), Err(FindError::OtherContent));
        assert_eq!(catalog.copies(&title, None).map(|copies| copies[0].bitrate), Ok(Bitrate(1000)));
    }

    #[test]
    fn counts_follow() {
        let catalog = Catalog::default();
        catalog.put(key("a", 0), record(1, 1, None));
        catalog.put(key("a", 0), record(2, 1, None));
        assert!(!catalog.hashed(&key("a", 0), 1, ContentId([0; 32])), "another state of the file");
        assert_eq!(catalog.counts(), Counts { copies: 1, unhashed: 1, bytes: 1000, rejected: 0, damaged: 0 });
        assert!(catalog.hashed(&key("a", 0), 2, ContentId([0; 32])));
        catalog.count_bad(Bad { rejected: 2, damaged: 1 });
        assert_eq!(catalog.counts(), Counts { copies: 1, unhashed: 0, bytes: 1000, rejected: 2, damaged: 1 });
        assert!(catalog.remove(&key("a", 0)) && !catalog.remove(&key("a", 0)));
        catalog.count_bad(Bad { rejected: -5, damaged: -1 });
        assert_eq!(catalog.counts(), Counts::default());
    }

    #[test]
    fn a_subscriber_hears_each_state_once() {
        let catalog = Catalog::default();
        catalog.put(key("a", 0), record(1, 1, None));
        let mut subscription = catalog.subscribe();
        assert_eq!(subscription.page(None, 9).len(), 1);
        assert_eq!(subscription.take(), None);
        catalog.put(key("b", 0), record(2, 1, None));
        catalog.put(key("b", 0), record(3, 7, None));
        catalog.remove(&key("a", 0));
        let changes = subscription.take().expect("changes");
        assert_eq!(changes.copies.iter().map(|copy| copy.modified_ms).collect::<Vec<_>>(), [7]);
        assert_eq!(changes.removals, [key("a", 0)]);
        assert_eq!(subscription.take(), None);
    }

    #[test]
    fn what_changes_between_two_pages_is_told() {
        let catalog = Catalog::default();
        ["a", "b", "c"].iter().for_each(|name| catalog.put(key(name, 0), record(1, 1, None)));
        let mut subscription = catalog.subscribe();
        let names = |page: &[CatalogCopy]| page.iter().map(|copy| copy.title.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&subscription.page(None, 2)), ["a", "b"]);
        catalog.remove(&key("a", 0));
        catalog.put(key("bb", 0), record(2, 1, None));
        assert_eq!(names(&subscription.page(Some(&key("b", 0)), 2)), ["bb", "c"]);
        assert_eq!(names(&subscription.page(Some(&key("c", 0)), 2)), [""; 0]);
        let changes = subscription.take().expect("changes");
        assert_eq!((changes.removals, names(&changes.copies)), (vec![key("a", 0)], vec!["bb".to_owned()]));
    }

    #[test]
    fn a_slow_subscriber_starts_over() {
        let catalog = Catalog::default();
        let mut subscription = catalog.subscribe();
        for i in 0..=PENDING {
            catalog.put(key(&format!("t{i}"), 0), record(i as u64, 1, None));
        }
        assert!(subscription.take().is_some_and(|changes| changes.resync && changes.copies.is_empty()));
        assert_eq!(subscription.page(None, usize::MAX).len(), PENDING + 1);
        catalog.remove(&key("t0", 0));
        assert_eq!(subscription.take().map(|changes| changes.removals.len()), Some(1));
    }
}
