//! A bounded map of what happened lately: entries leave after a fixed time, or when newer ones need their room. Every
//! step takes amortised constant time.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// Entries of the last `lifetime`, at most `most` of them.
pub struct RecentMap<K, V> {
    lifetime: Duration,
    most: usize,
    entries: HashMap<K, Timed<V>>,
    /// By insertion. Entries that left early stay here until their turn.
    order: VecDeque<(Instant, u64, K)>,
    /// Number of the next insertion.
    next: u64,
}

struct Timed<V> {
    since: Instant,
    number: u64,
    value: V,
}

impl<K: Copy + Eq + Hash, V> RecentMap<K, V> {
    /// An empty map.
    pub fn new(lifetime: Duration, most: usize) -> Self {
        Self { lifetime, most: most.max(1), entries: HashMap::new(), order: VecDeque::new(), next: 0 }
    }

    /// Inserts an entry, or replaces the value and the time of an old one.
    pub fn insert(&mut self, now: Instant, key: K, value: V) {
        self.forget(now);
        self.next += 1;
        self.entries.insert(key, Timed { since: now, number: self.next, value });
        self.order.push_back((now, self.next, key));
        // Entries that were removed or replaced also take room in the queue.
        while self.entries.len() > self.most || self.order.len() > 2 * self.most {
            self.forget_oldest();
        }
    }

    /// The value of an entry.
    pub fn get(&self, now: Instant, key: &K) -> Option<&V> {
        self.entries.get(key).filter(|entry| !self.is_over(now, entry.since)).map(|entry| &entry.value)
    }

    /// The value of an entry, for changes that do not prolong it.
    pub fn get_mut(&mut self, now: Instant, key: &K) -> Option<&mut V> {
        let lifetime = self.lifetime;
        let entry = self.entries.get_mut(key)?;
        (now.saturating_duration_since(entry.since) < lifetime).then_some(&mut entry.value)
    }

    /// Removes an entry.
    pub fn remove(&mut self, now: Instant, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        (!self.is_over(now, entry.since)).then_some(entry.value)
    }

    /// Removes entries that are over.
    pub fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(since, ..)| self.is_over(now, *since)) {
            self.forget_oldest();
        }
    }

    /// Number of entries, those that are over but not removed yet included.
    #[cfg(test)]
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    fn is_over(&self, now: Instant, since: Instant) -> bool {
        now.saturating_duration_since(since) >= self.lifetime
    }

    fn forget_oldest(&mut self) {
        let Some((_, number, key)) = self.order.pop_front() else { return };
        if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_leave_by_age_and_by_number() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut recent = RecentMap::new(Duration::from_secs(10), 3);
        recent.insert(at(0), 'a', 1);
        recent.insert(at(5), 'b', 2);
        assert_eq!(
            (recent.get(at(9), &'a'), recent.get(at(10), &'a'), recent.get(at(10), &'b')),
            (Some(&1), None, Some(&2))
        );
        *recent.get_mut(at(9), &'a').expect("there") += 10;
        assert_eq!(recent.get(at(9), &'a'), Some(&11));
        // A new value starts anew.
        recent.insert(at(9), 'a', 3);
        assert_eq!(recent.get(at(18), &'a'), Some(&3));
        assert_eq!(recent.remove(at(18), &'b'), None);
        // The oldest makes room.
        ['c', 'd', 'e'].into_iter().for_each(|key| recent.insert(at(18), key, 0));
        assert_eq!((recent.get(at(18), &'a'), recent.entries()), (None, 3));
        // One key that is set again and again does not grow the queue.
        (0..100).for_each(|value| recent.insert(at(18), 'c', value));
        assert!(recent.order.len() <= 6 && recent.get(at(18), &'c') == Some(&99));
        recent.forget(at(28));
        assert_eq!((recent.entries(), recent.order.len()), (0, 0));
    }
}
