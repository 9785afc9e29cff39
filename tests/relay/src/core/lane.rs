//! One direction of a link: a serial line of a rate behind a drop-tail queue, then loss by chance, then a delay.
//!
//! Owns what is on its way and when it leaves. A datagram is any `T` with a length; its destination is left to the caller.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use usher_proto::Bitrate;

/// Bytes on the wire before each datagram's own: the headers of IPv4 and UDP. They take their time on the line too.
pub const HEADERS: u64 = 28;

/// Impairments of one direction. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// From the end of the line to the other side, one way.
    pub delay: Duration,
    /// Of the line; `None` for one that takes no time.
    pub rate: Option<Bitrate>,
    /// Bytes that may wait for the line, with [`HEADERS`] and with what is on the line just then. An empty queue takes a
    /// datagram of any length.
    pub queue: u64,
    /// Datagrams lost by chance on the line, of a million.
    pub loss_ppm: u32,
    /// Which of them: the same seed always loses the same datagrams by number.
    pub seed: u64,
}

impl Settings {
    /// Whether the `n`th datagram of this direction is lost by chance, counted from 0.
    pub fn loses(&self, n: u64) -> bool {
        // Scaled to the million without a remainder to speak of: the high half of a product.
        let chance = (u128::from(mix(self.seed, n)) * 1_000_000) >> 64;
        chance < u128::from(self.loss_ppm)
    }
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) at its `n`th step: a
/// generator that can be asked for any step without the ones before.
fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Counts of datagrams so far. A datagram in none of the last three was passed on, or is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams that came in.
    pub datagrams: u64,
    /// Their bytes, without [`HEADERS`].
    pub bytes: u64,
    /// Datagrams lost by chance.
    pub lost: u64,
    /// Datagrams that found the queue full.
    pub dropped: u64,
    /// Datagrams that a black hole took.
    pub swallowed: u64,
    /// When the first of all came in.
    pub first: Option<Instant>,
}

/// One direction and what is on its way.
#[derive(Debug)]
pub struct Lane<T> {
    settings: Settings,
    hole: bool,
    counts: Counts,
    /// When the line has sent what waits for it.
    free_at: Option<Instant>,
    /// Datagrams that wait for the line: when each will have been sent, and its bytes with headers.
    waiting: VecDeque<(Instant, u64)>,
    /// The sum of their bytes.
    backlog: u64,
    /// Datagrams that arrive, and when.
    flying: VecDeque<(Instant, T)>,
}

impl<T> Lane<T> {
    /// Nothing is on its way.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            hole: false,
            counts: Counts::default(),
            free_at: None,
            waiting: VecDeque::new(),
            backlog: 0,
            flying: VecDeque::new(),
        }
    }

    /// From now on everything that comes in vanishes, or nothing any more. Datagrams on their way go on.
    pub fn set_hole(&mut self, hole: bool) {
        self.hole = hole;
    }

    /// A datagram of `len` bytes comes in. Times never go back.
    pub fn offer(&mut self, now: Instant, len: usize, what: T) {
        let n = self.counts.datagrams;
        self.counts.first.get_or_insert(now);
        self.counts.datagrams += 1;
        self.counts.bytes += len as u64;
        if self.hole {
            self.counts.swallowed += 1;
            return;
        }
        let Some(sent) = self.line(now, len as u64 + HEADERS) else {
            self.counts.dropped += 1;
            return;
        };
        // After the line: what is lost on the way has taken its time there all the same.
        if self.settings.loses(n) {
            self.counts.lost += 1;
            return;
        }
        self.flying.push_back((sent + self.settings.delay, what));
    }

    /// When the line will have sent `bytes` more; `None` if there is no room for them.
    fn line(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        let Some(rate) = self.settings.rate else { return Some(now) };
        while let Some(sent) = pop_due(&mut self.waiting, now) {
            self.backlog -= sent;
        }
        if self.backlog > 0 && self.backlog + bytes > self.settings.queue {
            return None;
        }
        let begins = self.free_at.map_or(now, |free_at| free_at.max(now));
        let sent = begins + rate.time_for(bytes)?;
        self.free_at = Some(sent);
        self.waiting.push_back((sent, bytes));
        self.backlog += bytes;
        Some(sent)
    }

    /// The next datagram that has arrived by `now`.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        pop_due(&mut self.flying, now)
    }

    /// When the next datagram arrives.
    pub fn deadline(&self) -> Option<Instant> {
        self.flying.front().map(|(at, _)| *at)
    }

    /// Counts of datagrams so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// Takes the first of what is in the order of its times, if its time has come.
fn pop_due<T>(queue: &mut VecDeque<(Instant, T)>, now: Instant) -> Option<T> {
    let due = queue.front().is_some_and(|(at, _)| *at <= now);
    due.then(|| queue.pop_front()).flatten().map(|(_, what)| what)
}

#[cfg(test)]
mod tests;
