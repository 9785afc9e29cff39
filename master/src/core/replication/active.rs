//! Orders in progress, and backoff after failures.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::super::NodeId;

/// Grace of a copy beyond four times its expected duration; then it is given up.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Time after which an eviction without effect may be ordered again.
const EVICTION: Duration = Duration::from_secs(60);

/// Backoff after the first failure; doubles with each, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(10);

/// Longest backoff.
const LONGEST: Duration = Duration::from_secs(640);

/// Limit of remembered failures.
const FAILURES: usize = 4096;

/// A copy in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct ActiveCopy {
    pub(super) from: NodeId,
    pub(super) since: Instant,
    pub(super) size: u64,
    pub(super) rate: u64,
    /// Whether it arrives fast enough to be served meanwhile.
    pub(super) relief: bool,
    /// Whether the target's catalog lists it.
    pub(super) seen: bool,
    until: Instant,
}

/// Copies in progress by title and target, and evictions in progress.
pub(super) struct ActiveCopies<T> {
    copies: BTreeMap<(T, NodeId), ActiveCopy>,
    evictions: BTreeMap<(T, NodeId), Instant>,
}

impl<T: Copy + Ord> ActiveCopies<T> {
    pub(super) fn new() -> Self {
        Self { copies: BTreeMap::new(), evictions: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }

    pub(super) fn start(
        &mut self,
        now: Instant,
        title: T,
        (from, to): (NodeId, NodeId),
        size: u64,
        rate: u64,
        relief: bool,
    ) {
        let seconds = size.saturating_mul(8) / rate.max(1);
        let until = now + TIMEOUT + Duration::from_secs(seconds.saturating_mul(4).min(7 * 86_400));
        self.copies.insert((title, to), ActiveCopy { from, since: now, size, rate, relief, seen: false, until });
    }

    pub(super) fn end(&mut self, title: T, to: NodeId) -> Option<ActiveCopy> {
        self.copies.remove(&(title, to))
    }

    pub(super) fn evict(&mut self, now: Instant, title: T, node: NodeId) {
        self.evictions.insert((title, node), now + EVICTION);
    }

    pub(super) fn is_going(&self, title: T, node: NodeId) -> bool {
        self.evictions.contains_key(&(title, node))
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.copies.retain(|(_, to), run| *to != node && run.from != node);
        self.evictions.retain(|(_, at), _| *at != node);
    }

    /// Gives up overdue orders.
    pub(super) fn expire(&mut self, now: Instant) {
        self.copies.retain(|_, run| run.until > now);
        self.evictions.retain(|_, until| *until > now);
    }

    pub(super) fn of(&self, title: T) -> impl Iterator<Item = (NodeId, ActiveCopy)> {
        self.copies.range((title, NodeId(0))..=(title, NodeId(u32::MAX))).map(|((_, to), run)| (*to, *run))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ActiveCopy> {
        self.copies.values()
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = (T, NodeId, &mut ActiveCopy)> {
        self.copies.iter_mut().map(|((title, to), run)| (*title, *to, run))
    }
}

/// Failed keys, each with the end of its backoff and its failure count.
pub(super) struct Backoff<K>(BTreeMap<K, (Instant, u32)>);

impl<K: Copy + Ord> Backoff<K> {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn failed(&mut self, now: Instant, key: K) {
        if self.0.len() >= FAILURES && !self.0.contains_key(&key) {
            self.0.pop_first();
        }
        let (until, failures) = self.0.entry(key).or_insert((now, 0));
        *until = now + (FIRST * (1 << (*failures).min(6))).min(LONGEST);
        *failures += 1;
    }

    pub(super) fn succeeded(&mut self, key: &K) {
        self.0.remove(key);
    }

    pub(super) fn is_blocked(&self, now: Instant, key: &K) -> bool {
        self.0.get(key).is_some_and(|(until, _)| *until > now)
    }

    /// Forgets keys without failures for as long as the longest backoff.
    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|_, (until, _)| *until + LONGEST > now);
    }

    pub(super) fn forget(&mut self, is_gone: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| !is_gone(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off_exponentially() {
        let (now, key) = (Instant::now(), 1);
        let mut backoff = Backoff::new();
        for wait in [10, 20, 40, 80, 160, 320, 640, 640] {
            backoff.failed(now, key);
            let wait = Duration::from_secs(wait);
            assert!(
                backoff.is_blocked(now + wait - Duration::from_millis(1), &key)
                    && !backoff.is_blocked(now + wait, &key)
            );
        }
        backoff.succeeded(&key);
        assert!(!backoff.is_blocked(now, &key));
        for key in 0..2 * FAILURES {
            backoff.failed(now, i32::try_from(key).expect("small"));
        }
        assert_eq!(backoff.0.len(), FAILURES);
        backoff.expire(now + FIRST + LONGEST);
        assert!(backoff.0.is_empty());
    }

    #[test]
    fn an_overdue_order_is_given_up() {
        let (now, node) = (Instant::now(), NodeId);
        let mut active = ActiveCopies::new();
        active.start(now, 7, (node(0), node(1)), 1000, 80, true);
        active.start(now, 8, (node(1), node(2)), 1000, 80, true);
        active.evict(now, 7, node(3));
        assert_eq!((active.of(7).count(), active.is_going(7, node(3))), (1, true));
        active.expire(now + Duration::from_secs(459));
        assert_eq!((active.len(), active.is_going(7, node(3))), (2, false));
        active.expire(now + Duration::from_secs(460));
        assert_eq!(active.len(), 0);
        active.start(now, 7, (node(0), node(1)), 1000, 80, true);
        active.start(now, 8, (node(1), node(2)), 1000, 80, true);
        active.forget(node(2));
        assert_eq!(active.all_mut().map(|(title, to, _)| (title, to)).collect::<Vec<_>>(), [(7, node(1))]);
    }
}
