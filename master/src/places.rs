//! A fair set behind a lock, whose members leave it on drop.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::core::fair_set::{Entry, FairSet};

/// Limited places. Clones share them.
pub(crate) struct Places<K, V>(Arc<Mutex<FairSet<K, V>>>);

impl<K, V> Clone for Places<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A place, free again on drop.
pub(crate) struct Place<K: Hash + Eq + Clone, V> {
    places: Places<K, V>,
    owner: K,
    id: u64,
}

impl<K: Hash + Eq + Clone, V> Places<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(FairSet::new(most))))
    }

    /// A place for this owner, and the member that has to leave for it; `None` without a place.
    pub(crate) fn enter(&self, owner: K, member: V, in_use: impl Fn(&V) -> bool) -> Option<(Place<K, V>, Option<V>)> {
        match self.lock().enter(owner.clone(), member, in_use) {
            Entry::Member { id, displaced } => Some((Place { places: self.clone(), owner, id }, displaced)),
            Entry::Refused => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, FairSet<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone, V> Place<K, V> {
    pub(crate) fn owner(&self) -> &K {
        &self.owner
    }
}

impl<K: Hash + Eq + Clone, V> Drop for Place<K, V> {
    fn drop(&mut self) {
        self.places.lock().leave(&self.owner, self.id);
    }
}
