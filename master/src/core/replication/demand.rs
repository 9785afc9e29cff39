//! Demand per title: requested bit/s per second, averaged over seconds and over minutes. Owns the table of recently
//! requested titles and the order in which the planner examines them.
//!
//! A request only adds a number; the estimates are updated when a title is examined, about once a second. A title takes
//! about 120 bytes, and up to [`MOST`] are kept. A full table evicts the coldest of eight for a new title; a title
//! without requests for [`IDLE`] is removed.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState},
    time::{Duration, Instant},
};

use usher_proto::units;

use super::super::fixed::{self, ONE};

/// Limit of titles: 120 MB.
pub(super) const MOST: usize = 1_000_000;

/// Time after which an idle title is removed; the slow estimate has then decayed to 0.25 %.
const IDLE: Duration = Duration::from_secs(3600);

/// Time constant that shows a flash crowd within seconds.
const FAST: Duration = Duration::from_secs(15);

/// Time constant of steady demand; about one session's duration.
const SLOW: Duration = Duration::from_secs(600);

/// Forecast horizon: roughly the time to copy a film.
const HORIZON: Duration = Duration::from_secs(120);

/// Slots checked for idle titles per call: a full table takes a minute.
const TEND: usize = 16_384;

/// Titles compared to choose one to evict.
const LOTS: usize = 8;

/// Requests since the last examination that put a title ahead of those requested once.
const BUSY: u8 = 4;

/// Fraction bits of the estimates, so that thousands of roundings a minute do not accumulate.
const POINT: u32 = 16;

/// Demand of one title, bit/s per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DemandRates {
    pub(super) fast: u64,
    pub(super) slow: u64,
}

impl DemandRates {
    /// Bit/s of sessions that start within the horizon and still run at its end, for sessions of `rate` bit/s with mean
    /// duration `mean`.
    pub(super) fn inflow(self, rate: u64, mean: Duration) -> u64 {
        // Variance of the fast estimate of a Poisson stream: demand · rate / (2 · 15 s). One extra session is assumed,
        // so that the first request of a cold title is not taken for a flash crowd.
        let seen = self.slow.saturating_add(rate / FAST.as_secs());
        let deviation = u128::from(seen) * u128::from(rate) / u128::from(2 * FAST.as_secs());
        let deviation = u64::try_from(deviation.isqrt()).unwrap_or(u64::MAX);
        let flash = self.fast.saturating_sub(self.slow).saturating_sub(deviation.saturating_mul(3));
        let mean_ms = units::millis(mean);
        let staying_ms = fixed::mul(mean_ms, ONE - fixed::decay(HORIZON, mean));
        let inflow = u128::from(self.slow.saturating_add(flash)) * u128::from(staying_ms) / 1000;
        u64::try_from(inflow).unwrap_or(u64::MAX)
    }

    /// Bit/s in use in the steady state.
    pub(super) fn steady(self, mean: Duration) -> u64 {
        self.slow.saturating_mul(mean.as_secs())
    }
}

/// A title to examine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DueTitle<T> {
    pub(super) title: T,
    pub(super) rates: DemandRates,
    /// Whether a request was refused since the last examination.
    pub(super) refused: bool,
}

struct DemandEntry<T> {
    title: T,
    fast: u64,
    slow: u64,
    /// Bit/s requested since `at_ms`.
    pending: u64,
    at_ms: u64,
    asks: u8,
    used: bool,
    due: bool,
    busy: bool,
    refused: bool,
}

/// Table of recently requested titles.
pub(super) struct Demand<T> {
    start: Instant,
    most: usize,
    entries: Vec<DemandEntry<T>>,
    free: Vec<u32>,
    /// Keyed by the title's hash: two titles with equal 64-bit hashes would share an estimate, which is harmless.
    index: HashMap<u64, u32, BuildHasherDefault<PassThroughHasher>>,
    hasher: RandomState,
    urgent: VecDeque<u32>,
    busy: VecDeque<u32>,
    due: VecDeque<u32>,
    hand: usize,
}

/// Passes a key through that is already a hash.
#[derive(Default)]
struct PassThroughHasher(u64);

impl Hasher for PassThroughHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl<T: Copy + Eq + Hash> Demand<T> {
    pub(super) fn new(start: Instant, most: usize) -> Self {
        Self {
            start,
            most: most.max(1),
            entries: Vec::new(),
            free: Vec::new(),
            index: HashMap::default(),
            hasher: RandomState::new(),
            urgent: VecDeque::new(),
            busy: VecDeque::new(),
            due: VecDeque::new(),
            hand: 0,
        }
    }

    /// Records a request for `rate` bit/s. O(1).
    pub(super) fn handle_request(&mut self, now: Instant, title: T, rate: u64) {
        let slot = self.slot(now, title);
        let entry = &mut self.entries[slot as usize];
        entry.pending = entry.pending.saturating_add(rate);
        entry.asks = entry.asks.saturating_add(1);
        if !entry.due {
            entry.due = true;
            self.due.push_back(slot);
        }
        if entry.asks >= BUSY && !entry.busy {
            entry.busy = true;
            self.busy.push_back(slot);
        }
    }

    /// Records that a request was refused. O(1).
    pub(super) fn handle_refusal(&mut self, now: Instant, title: T) {
        let slot = self.slot(now, title);
        if !std::mem::replace(&mut self.entries[slot as usize].refused, true) {
            self.urgent.push_back(slot);
        }
    }

    /// Discards refusals that cannot be relieved.
    pub(super) fn clear_urgent(&mut self) {
        for slot in self.urgent.drain(..) {
            self.entries[slot as usize].refused = false;
        }
    }

    /// Whether a refused title waits to be examined.
    pub(super) fn is_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// Next title to examine: refused titles first, then frequently requested ones.
    pub(super) fn poll_due(&mut self, now: Instant) -> Option<DueTitle<T>> {
        let now_ms = self.ms(now);
        loop {
            let (slot, queue) = if let Some(slot) = self.urgent.pop_front() {
                (slot, DueQueue::Urgent)
            } else if let Some(slot) = self.busy.pop_front() {
                (slot, DueQueue::Busy)
            } else {
                (self.due.pop_front()?, DueQueue::Due)
            };
            let entry = &mut self.entries[slot as usize];
            // A slot that was examined or reassigned since it was queued is skipped.
            let is_worth_it = match queue {
                DueQueue::Urgent => entry.refused,
                DueQueue::Busy => std::mem::take(&mut entry.busy) && entry.asks > 0,
                DueQueue::Due => std::mem::take(&mut entry.due) && entry.asks > 0,
            };
            if is_worth_it && entry.used {
                entry.settle(now_ms);
                let refused = std::mem::take(&mut entry.refused);
                return Some(DueTitle { title: entry.title, rates: entry.rates(), refused });
            }
        }
    }

    /// Current demand of a title; zero without recent requests. O(1).
    pub(super) fn rates(&self, now: Instant, title: &T) -> DemandRates {
        let Some(&slot) = self.index.get(&self.hasher.hash_one(title)) else { return DemandRates::default() };
        self.entries[slot as usize].at(self.ms(now)).1
    }

    /// Removes idle titles, one part of the table per call.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        let idle_ms = units::millis(IDLE);
        let now_ms = self.ms(now);
        for _ in 0..TEND.min(self.entries.len()) {
            let slot = self.turn();
            let entry = &mut self.entries[slot as usize];
            let is_queued = entry.due || entry.busy || entry.refused;
            if entry.used && !is_queued && now_ms.saturating_sub(entry.at_ms) >= idle_ms {
                entry.used = false;
                self.index.remove(&self.hasher.hash_one(self.entries[slot as usize].title));
                self.free.push(slot);
            }
        }
    }

    /// Number of titles.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    fn slot(&mut self, now: Instant, title: T) -> u32 {
        let hash = self.hasher.hash_one(title);
        if let Some(&slot) = self.index.get(&hash) {
            return slot;
        }
        let slot = self.place(now);
        let at_ms = self.ms(now);
        let entry = DemandEntry {
            title,
            fast: 0,
            slow: 0,
            pending: 0,
            at_ms,
            asks: 0,
            used: true,
            due: false,
            busy: false,
            refused: false,
        };
        match self.entries.get_mut(slot as usize) {
            // Queue entries of the slot pass to the new title; a refusal does not.
            Some(old) => *old = DemandEntry { due: old.due, busy: old.busy, ..entry },
            None => self.entries.push(entry),
        }
        self.index.insert(hash, slot);
        slot
    }

    /// Slot for a new title.
    fn place(&mut self, now: Instant) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        if self.entries.len() < self.most {
            return u32::try_from(self.entries.len()).expect("a table has fewer than 2^32 titles");
        }
        let now_ms = self.ms(now);
        let lots: [u32; LOTS] = std::array::from_fn(|_| self.turn());
        let coldest = lots.into_iter().min_by_key(|&slot| {
            let entry = &self.entries[slot as usize];
            (entry.refused, entry.at(now_ms).1.slow)
        });
        let coldest = coldest.expect("lots were drawn");
        self.index.remove(&self.hasher.hash_one(self.entries[coldest as usize].title));
        coldest
    }

    fn turn(&mut self) -> u32 {
        self.hand = if self.hand + 1 < self.entries.len() { self.hand + 1 } else { 0 };
        u32::try_from(self.hand).expect("a table has fewer than 2^32 titles")
    }

    fn ms(&self, now: Instant) -> u64 {
        units::millis(now.saturating_duration_since(self.start))
    }
}

enum DueQueue {
    Urgent,
    Busy,
    Due,
}

impl<T> DemandEntry<T> {
    fn settle(&mut self, now_ms: u64) {
        (self.fast, self.slow) = self.at(now_ms).0;
        (self.pending, self.asks, self.at_ms) = (0, 0, self.at_ms.max(now_ms));
    }

    fn rates(&self) -> DemandRates {
        DemandRates { fast: self.fast >> POINT, slow: self.slow >> POINT }
    }

    /// Estimates at a time, with and without fraction bits.
    fn at(&self, now_ms: u64) -> ((u64, u64), DemandRates) {
        // Requests since then count as evenly spread, over at least a millisecond.
        let elapsed_ms = now_ms.saturating_sub(self.at_ms).max(1);
        let inflow = ((u128::from(self.pending) * 1000) << POINT) / u128::from(elapsed_ms);
        let inflow = u64::try_from(inflow).unwrap_or(u64::MAX);
        let after = |before: u64, constant: Duration| {
            let left = fixed::decay(Duration::from_millis(elapsed_ms), constant);
            fixed::mul(before, left).saturating_add(fixed::mul(inflow, ONE - left))
        };
        let (fast, slow) = (after(self.fast, FAST), after(self.slow, SLOW));
        ((fast, slow), DemandRates { fast: fast >> POINT, slow: slow >> POINT })
    }
}
