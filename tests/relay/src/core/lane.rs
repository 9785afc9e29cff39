//! One direction of a link: a serial line with a rate behind a drop-tail queue, then random loss, then a delay.
//!
//! Owns the datagrams in flight and their arrival times. A datagram is any `T` with a length; its destination is left to the
//! caller.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use usher_proto::Bitrate;

/// Bytes of the IPv4 and UDP headers of each datagram. The line sends them too.
pub const HEADERS: u64 = 28;

/// Impairments of one direction. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Delay from the end of the line to the other side.
    pub delay: Duration,
    /// Rate of the line; `None` for an unlimited one.
    pub rate: Option<Bitrate>,
    /// Bytes that may wait for the line, including [`HEADERS`] and the datagram on the line. An empty queue accepts a
    /// datagram of any length.
    pub queue: u64,
    /// Datagrams lost at random, of a million.
    pub loss_ppm: u32,
    /// Seed of the loss: the same seed always loses the same datagrams by number.
    pub seed: u64,
}

impl Settings {
    /// Whether the `n`th datagram of this direction is lost at random, counted from 0.
    pub fn loses(&self, n: u64) -> bool {
        // Scales to a million: the high half of the product.
        let chance = (u128::from(mix(self.seed, n)) * 1_000_000) >> 64;
        chance < u128::from(self.loss_ppm)
    }
}

/// The `n`th value of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), which
/// computes any step without the ones before.
fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Counts of datagrams so far. A datagram in none of `lost`, `dropped` and `swallowed` was delivered or is in
/// flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Offered datagrams.
    pub datagrams: u64,
    /// Their bytes, without [`HEADERS`].
    pub bytes: u64,
    /// Datagrams lost at random.
    pub lost: u64,
    /// Datagrams dropped because the queue was full.
    pub dropped: u64,
    /// Datagrams lost in a black hole.
    pub swallowed: u64,
    /// Time of the first offered datagram.
    pub first: Option<Instant>,
}

/// One direction and its datagrams in flight.
#[derive(Debug)]
pub struct Lane<T> {
    settings: Settings,
    hole: bool,
    counts: Counts,
    /// When the line has sent all waiting datagrams.
    free_at: Option<Instant>,
    /// Datagrams that wait for the line: the end of each one's transmission, and its bytes with headers.
    waiting: VecDeque<(Instant, u64)>,
    /// The sum of their bytes.
    backlog: u64,
    /// Datagrams in flight with their arrival times.
    in_flight: VecDeque<(Instant, T)>,
}

impl<T> Lane<T> {
    /// A lane without datagrams.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            hole: false,
            counts: Counts::default(),
            free_at: None,
            waiting: VecDeque::new(),
            backlog: 0,
            in_flight: VecDeque::new(),
        }
    }

    /// Begins or ends a black hole, which loses every offered datagram. Datagrams in flight are not affected.
    pub fn set_hole(&mut self, hole: bool) {
        self.hole = hole;
    }

    /// Offers a datagram of `len` bytes. Times never go back.
    pub fn offer(&mut self, now: Instant, len: usize, what: T) {
        let n = self.counts.datagrams;
        self.counts.first.get_or_insert(now);
        self.counts.datagrams += 1;
        self.counts.bytes += len as u64;
        if self.hole {
            self.counts.swallowed += 1;
            return;
        }
        let Some(sent) = self.enqueue(now, len as u64 + HEADERS) else {
            self.counts.dropped += 1;
            return;
        };
        // After the line, since a lost datagram takes its time there too.
        if self.settings.loses(n) {
            self.counts.lost += 1;
            return;
        }
        self.in_flight.push_back((sent + self.settings.delay, what));
    }

    /// Adds `bytes` to the queue; returns the end of their transmission, or `None` when the queue is full.
    fn enqueue(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
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
        pop_due(&mut self.in_flight, now)
    }

    /// When the next datagram arrives.
    pub fn deadline(&self) -> Option<Instant> {
        self.in_flight.front().map(|(at, _)| *at)
    }

    /// Counts of datagrams so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// Takes the first item of a queue in order of time, if it is due.
fn pop_due<T>(queue: &mut VecDeque<(Instant, T)>, now: Instant) -> Option<T> {
    let due = queue.front().is_some_and(|(at, _)| *at <= now);
    due.then(|| queue.pop_front()).flatten().map(|(_, what)| what)
}

#[cfg(test)]
mod tests;
