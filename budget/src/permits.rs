//! Shares behind a lock, and permits that give back on drop what was taken.

use std::{
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::shares::{Exceeded, Shares};

/// Thread-safe [`Shares`]. Clones share one budget.
pub struct Permits<K>(Arc<Mutex<Shares<K>>>);

impl<K> Clone for Permits<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Hash + Eq> Permits<K> {
    /// Permits for these shares.
    pub fn new(shares: Shares<K>) -> Self {
        Self(Arc::new(Mutex::new(shares)))
    }

    /// Takes `units` for this holder until the permit is dropped.
    ///
    /// # Errors
    /// Why it may not have them.
    pub fn take(&self, key: K, units: u64) -> Result<Permit<K>, Exceeded>
    where
        K: Clone,
    {
        self.lock().take(key.clone(), units)?;
        Ok(Permit { shares: self.clone(), key, units })
    }

    /// Units that this holder has.
    pub fn held(&self, key: &K) -> u64 {
        self.lock().held(key)
    }

    /// Units in use by all holders.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Changes the capacity; permits stay valid.
    pub fn set_capacity(&self, capacity: u64) {
        self.lock().set_capacity(capacity);
    }

    /// Nothing under this lock panics half-way, so its tables stay right.
    fn lock(&self) -> MutexGuard<'_, Shares<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Units of a budget, given back on drop.
pub struct Permit<K: Hash + Eq> {
    shares: Permits<K>,
    key: K,
    units: u64,
}

impl<K: Hash + Eq> Permit<K> {
    /// The holder.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Units that it holds.
    pub fn units(&self) -> u64 {
        self.units
    }
}

impl<K: Hash + Eq> Drop for Permit<K> {
    fn drop(&mut self) {
        self.shares.lock().release(&self.key, self.units);
    }
}

impl<K: Hash + Eq + fmt::Debug> fmt::Debug for Permit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("key", &self.key).field("units", &self.units).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_permits_give_back() {
        let permits = Permits::new(Shares::new(4));
        let two = permits.take("a", 2).expect("half");
        assert_eq!(permits.take("a", 1).err(), Some(Exceeded::Share));
        let one = permits.clone().take("b", 1).expect("half of the rest");
        assert_eq!((*two.key(), two.units(), permits.used(), permits.held(&"b")), ("a", 2, 3, 1));
        drop(two);
        assert_eq!((permits.used(), permits.held(&"a")), (1, 0));
        permits.set_capacity(1);
        assert_eq!(permits.take("c", 1).err(), Some(Exceeded::Capacity));
        drop(one);
        assert_eq!(permits.take("c", 1).map(|permit| permit.units()), Ok(1));
        assert_eq!(permits.used(), 0);
    }
}
