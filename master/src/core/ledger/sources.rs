//! Clients by source: what each of them holds, and how much it reserved lately without using it. Knows no node and no
//! session.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::RESERVATION;
use crate::core::{
    fixed::{self, ONE},
    recent::RecentMap,
};

/// Time constant of unused reservations: a client that stops wasting them is as good as any other after some minutes.
const WASTE: Duration = Duration::from_secs(60);

/// Time after which the waste of a source is forgotten entirely, and starts anew if it goes on.
const FORGET: Duration = Duration::from_secs(600);

/// Sources whose waste is remembered: 1 MB.
const MOST: usize = 16_384;

/// Bit/s of unused reservations that nobody is blamed for: eight sessions of full-HD video that were not started.
const EXCUSED: u64 = 64_000_000;

/// Rates of one source are far below this limit, so that sums of a few of them fit.
const LIMIT: u64 = 1 << 60;

/// A client as the ledger tells it from others: an opaque number, derived from the prefix of its address or from what
/// it authenticated as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(pub u64);

/// Reservations and sessions of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Bit/s of reservations whose tickets were not redeemed.
    pub unredeemed: u64,
    /// Number of these.
    pub tickets: u32,
    /// Bit/s of running sessions.
    pub running: u64,
    /// Number of these.
    pub sessions: u32,
}

impl Holding {
    /// Adds a reservation or a running session.
    pub(super) fn add(&mut self, unredeemed: bool, rate: u64) {
        let (sum, count) = self.of(unredeemed);
        (*sum, *count) = (sum.saturating_add(rate), count.saturating_add(1));
    }

    /// Removes a reservation or a running session.
    pub(super) fn remove(&mut self, unredeemed: bool, rate: u64) {
        let (sum, count) = self.of(unredeemed);
        (*sum, *count) = (sum.saturating_sub(rate), count.saturating_sub(1));
    }

    fn of(&mut self, unredeemed: bool) -> (&mut u64, &mut u32) {
        if unredeemed { (&mut self.unredeemed, &mut self.tickets) } else { (&mut self.running, &mut self.sessions) }
    }
}

/// Unused reservations of a source.
struct Waste {
    /// Bit/s at `at`; decays.
    rate: u64,
    at: Instant,
}

impl Waste {
    fn at(&self, now: Instant) -> u64 {
        fixed::mul(self.rate, fixed::decay(now.saturating_duration_since(self.at), WASTE).min(ONE))
    }
}

/// All sources that hold something or wasted something lately.
pub(super) struct Sources {
    holdings: HashMap<Source, Holding>,
    waste: RecentMap<Source, Waste>,
    /// Sources whose reservations were released for others, until it shows whether they are used.
    displaced: RecentMap<Source, ()>,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            holdings: HashMap::new(),
            waste: RecentMap::new(FORGET, MOST),
            displaced: RecentMap::new(RESERVATION, MOST),
        }
    }
}

impl Sources {
    pub(super) fn holding(&self, source: Source) -> Holding {
        self.holdings.get(&source).copied().unwrap_or_default()
    }

    /// Changes what a source holds.
    pub(super) fn change(&mut self, source: Source, change: impl FnOnce(&mut Holding)) {
        let holding = self.holdings.entry(source).or_default();
        change(holding);
        if *holding == Holding::default() {
            self.holdings.remove(&source);
        }
    }

    /// Adds a reservation that expired without a session.
    pub(super) fn handle_wasted(&mut self, now: Instant, source: Source, rate: u64) {
        let rate = self.wasted(now, source).saturating_add(rate).min(LIMIT);
        match self.waste.get_mut(now, &source) {
            Some(waste) => *waste = Waste { rate, at: now },
            None => self.waste.insert(now, source, Waste { rate, at: now }),
        }
    }

    /// Takes back a reservation that counted as unused: its session started late.
    pub(super) fn handle_used(&mut self, now: Instant, source: Source, rate: u64) {
        if let Some(waste) = self.waste.get_mut(now, &source) {
            *waste = Waste { rate: waste.at(now).saturating_sub(rate), at: now };
        }
    }

    /// Bit/s that a source reserved lately without using them.
    pub(super) fn wasted(&self, now: Instant, source: Source) -> u64 {
        self.waste.get(now, &source).map_or(0, |waste| waste.at(now))
    }

    /// Handles the release of a source's reservation for another one.
    pub(super) fn handle_displaced(&mut self, now: Instant, source: Source) {
        self.displaced.insert(now, source, ());
    }

    /// Whether a reservation of a source was released for another one so lately that it may still be used.
    pub(super) fn was_displaced(&self, now: Instant, source: Source) -> bool {
        self.displaced.get(now, &source).is_some()
    }

    /// Whether a source wastes more than it uses, beyond what everyone is excused.
    pub(super) fn is_wasteful(&self, now: Instant, source: Source) -> bool {
        self.wasted(now, source) > self.holding(source).running.saturating_add(EXCUSED)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.holdings.len(), self.waste.entries())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Source = Source(1);
    const RATE: u64 = 8_000_000;

    #[test]
    fn a_source_is_wasteful_while_it_wastes_more_than_it_uses() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut sources = Sources::default();
        (0..8).for_each(|_| sources.handle_wasted(start, A, RATE));
        assert!(!sources.is_wasteful(start, A), "excused");
        sources.handle_wasted(start, A, RATE);
        assert!(sources.is_wasteful(start, A));
        // A session that started after all, or another one that runs.
        sources.handle_used(start, A, RATE);
        assert!(!sources.is_wasteful(start, A));
        (0..8).for_each(|_| sources.handle_wasted(start, A, RATE));
        sources.change(A, |holding| holding.add(false, 8 * RATE));
        assert!(!sources.is_wasteful(start, A), "a house with many viewers");
        sources.change(A, |holding| holding.remove(false, 8 * RATE));
        assert!(sources.is_wasteful(start, A) && !sources.is_wasteful(at(60), A));
        assert_eq!(sources.wasted(at(60), A) / 1_000_000, 47, "16 × 8 Mbit/s / e");
        assert_eq!(sources.wasted(at(600), A), 0);
        assert_eq!(sources.wasted(start, Source(2)), 0);
    }

    #[test]
    fn sources_are_forgotten() {
        let start = Instant::now();
        let mut sources = Sources::default();
        for source in 0..2 * MOST as u64 {
            sources.change(Source(source), |holding| holding.add(true, RATE));
            sources.change(Source(source), |holding| holding.remove(true, RATE));
            sources.handle_wasted(start, Source(source), RATE);
        }
        assert_eq!(sources.len(), (0, MOST));
        sources.handle_wasted(start + FORGET, A, 1);
        assert_eq!((sources.len(), sources.wasted(start + FORGET, A)), ((0, 1), 1));
    }
}
