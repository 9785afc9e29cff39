//! Bytes of a connection that may wait for acknowledgement, sent or not. Data that is read from a disk long before it
//! can leave the node is cold when it does, and takes memory. So the window is a small multiple of the bandwidth-delay
//! product (rate times shortest round trip), and never so little that a near client notices.

use std::time::{Duration, Instant};

/// Minimum in bytes: two quanta, and 4 Gbit/s at 1 ms.
pub const LEAST: u64 = 512 << 10;

/// One of very many viewers.
const VIEWERS: u64 = 12 << 20;

/// Bounds of the minimum while all sessions are paced, in bytes: 96 Mbit/s at 1 ms, and it grows soon where a viewer
/// takes more. With few viewers it is higher, since a window that holds a whole read of a player costs fewer packets
/// and wake-ups.
const LEAST_PACED: (u64, u64) = (12 << 10, 64 << 10);

/// Additional initial window of a viewer, in bytes for each second of the round trip: 48 Mbit/s, so that a distant
/// viewer has its first group as soon as others.
const FIRST: u64 = 6 << 20;

/// Maximum in bytes: 1 Gbit/s at 64 ms, and the memory that a client can hold that acknowledges nothing.
pub const MOST: u64 = 8 << 20;

/// Multiple of the bandwidth-delay product. Slow start doubles it each round trip, and the measured rate is a round
/// trip old.
const TIMES: u64 = 3;

/// Minimum time over which the rate is measured while a session takes all it can get.
const SPAN: Duration = Duration::from_millis(20);

/// The same while all sessions are paced: a player reads in bursts that leave at line rate.
const SPAN_PACED: Duration = Duration::from_millis(250);

/// Age beyond which a round trip no longer describes the path.
const OLD: Duration = Duration::from_secs(10);

/// Kinds of sessions that send on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Senders {
    /// At least one session takes all it can get.
    Greedy,
    /// All sessions are paced viewers.
    Paced {
        /// Number of viewers that share the memory of the node; 0 for those that need not.
        on_node: usize,
    },
}

impl Senders {
    fn least(self) -> u64 {
        match self {
            Self::Greedy => LEAST,
            Self::Paced { on_node } => {
                let share = VIEWERS / u64::try_from(on_node).unwrap_or(u64::MAX).max(1);
                share.clamp(LEAST_PACED.0, LEAST_PACED.1)
            }
        }
    }

    /// Minimum time over which the rate is measured; a longer round trip replaces it.
    fn span(self) -> Duration {
        match self {
            Self::Greedy => SPAN,
            Self::Paced { .. } => SPAN_PACED,
        }
    }
}

/// Size of the send window of one connection.
#[derive(Debug)]
pub struct WindowSize {
    bytes: u64,
    /// Start of the measurement of `written`.
    since: Instant,
    written: u64,
    /// The shortest round trip, and when it was measured.
    shortest: Option<(Instant, Duration)>,
}

impl WindowSize {
    /// The minimum window.
    pub fn new(now: Instant) -> Self {
        Self { bytes: LEAST, since: now, written: 0, shortest: None }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts written bytes. Returns whether [`WindowSize::handle_round_trip`] is due.
    pub fn handle_written(&mut self, now: Instant, bytes: u64, senders: Senders) -> bool {
        self.written = self.written.saturating_add(bytes);
        let round_trip = self.shortest.map_or(Duration::ZERO, |(_, shortest)| shortest);
        now.saturating_duration_since(self.since) >= round_trip.max(senders.span())
    }

    /// Adjusts the window when a session starts, by the round trip: a single viewer has enough for a first group, and a
    /// fetch at least [`LEAST`]. Returns the new size, if it changed.
    pub fn handle_start(&mut self, round_trip: Duration, senders: Senders) -> Option<u64> {
        if senders == Senders::Greedy {
            return self.set(self.bytes.max(LEAST));
        }
        let first = u128::from(FIRST) * round_trip.as_micros() / 1_000_000;
        self.set(u64::try_from(first).unwrap_or(LEAST).saturating_add(senders.least()).min(LEAST))
    }

    /// Adjusts the window by a measured round trip. Returns the new size, if it changed.
    pub fn handle_round_trip(&mut self, now: Instant, round_trip: Duration, senders: Senders) -> Option<u64> {
        let elapsed = now.saturating_duration_since(self.since).as_nanos().max(1);
        let known = self.shortest.filter(|(at, _)| now.saturating_duration_since(*at) < OLD);
        let (at, shortest) = known.filter(|(_, shortest)| *shortest <= round_trip).unwrap_or((now, round_trip));
        self.shortest = Some((at, shortest));
        let on_its_way = u128::from(self.written) * shortest.as_nanos() / elapsed;
        let bytes = u64::try_from(on_its_way).unwrap_or(MOST).saturating_mul(TIMES);
        (self.since, self.written) = (now, 0);
        let least = match senders {
            Senders::Greedy => LEAST,
            // A viewer writes little between two quanta, which does not mean that its path is slow.
            Senders::Paced { .. } => senders.least().max(self.bytes / 2),
        };
        self.set(bytes.clamp(least, MOST))
    }

    fn set(&mut self, bytes: u64) -> Option<u64> {
        let before = std::mem::replace(&mut self.bytes, bytes);
        (before != bytes).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of very many.
    const VIEWER: Senders = Senders::Paced { on_node: 1_000_000 };

    /// Window after some seconds of a sender that always has data, on a path with this round trip, rate in bytes/s and
    /// queueing delay.
    fn settled(round_trip: Duration, rate: u64, queue: Duration) -> u64 {
        let (mut now, mut bytes) = (Instant::now(), LEAST);
        let mut window = WindowSize::new(now);
        for i in 0..200 {
            let trip = if i == 0 { round_trip } else { round_trip + queue };
            let span = SPAN.max(trip);
            now += span;
            // Limited by the path, and by the window in each of its round trips.
            let path = rate as f64 * span.as_secs_f64();
            let allowed = bytes as f64 * span.as_secs_f64() / trip.as_secs_f64();
            assert!(window.handle_written(now, path.min(allowed) as u64, Senders::Greedy));
            bytes = window.handle_round_trip(now, trip, Senders::Greedy).unwrap_or(bytes);
        }
        bytes
    }

    #[test]
    fn far_and_fast_paths_are_filled_and_near_ones_hold_little() {
        let ms = Duration::from_millis;
        assert_eq!(settled(Duration::from_micros(100), 1_000_000_000, Duration::ZERO), LEAST);
        assert_eq!(settled(Duration::from_micros(100), 16_000_000, ms(30)), LEAST, "queues of its own do not count");
        let product = 12_500_000 / 10;
        assert!(settled(ms(100), 12_500_000, Duration::ZERO) >= product * 2, "100 Mbit/s at 100 ms");
        assert!(settled(ms(100), 12_500_000, ms(50)) >= product * 3 / 2, "with a queue on the way");
        assert_eq!(settled(ms(200), 125_000_000, Duration::ZERO), MOST);
    }

    #[test]
    fn a_longer_path_is_accepted_after_a_while() {
        let mut now = Instant::now();
        let mut window = WindowSize::new(now);
        let mut bytes = LEAST;
        for trip in [1, 200] {
            for _ in 0..60 {
                now += Duration::from_millis(200);
                assert!(window.handle_written(now, 2_000_000, Senders::Greedy));
                bytes = window.handle_round_trip(now, Duration::from_millis(trip), Senders::Greedy).unwrap_or(bytes);
            }
            assert_eq!(bytes, if trip == 1 { LEAST } else { 6_000_000 });
        }
        assert!(!window.handle_written(now, 1, Senders::Greedy), "not within a round trip");
    }

    #[test]
    fn viewers_hold_the_capacity_of_their_path() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let mut window = WindowSize::new(now);
        assert_eq!(window.handle_start(ms(0), VIEWER), Some(LEAST_PACED.0));
        assert_eq!(window.handle_start(ms(0), VIEWER), None, "as it is");
        assert!(
            window.handle_start(ms(30), VIEWER) > Some(128 << 10),
            "a first group and all before it in one round trip"
        );
        assert_eq!(window.handle_start(ms(1000), VIEWER), Some(LEAST));
        assert_eq!(window.handle_start(ms(1), Senders::Greedy), None, "a fetch has no less than others");
        assert_eq!(window.handle_round_trip(now + ms(200), ms(1), Senders::Greedy), None);
        // A burst over a far path: three times what it takes.
        let mut window = WindowSize::new(now);
        assert!(!window.handle_written(now + ms(100), 1_250_000, VIEWER));
        assert!(window.handle_written(now + ms(250), 1_875_000, VIEWER));
        assert_eq!(window.handle_round_trip(now + ms(250), ms(100), VIEWER), Some(3_750_000));
        assert_eq!(window.handle_start(ms(100), Senders::Greedy), None, "a fetch takes what is there");
    }

    #[test]
    fn viewers_share_the_memory_of_the_node() {
        let least = |on_node| Senders::Paced { on_node }.least();
        assert_eq!([0, 1, 192].map(least), [64 << 10; 3]);
        assert_eq!([384, 1024, 50_000].map(least), [32 << 10, 12 << 10, 12 << 10]);
        assert!((1..2000).all(|viewers| least(viewers) >= least(viewers + 1)));
    }

    #[test]
    fn a_burst_at_line_rate_is_no_rate() {
        let (mut now, ms) = (Instant::now(), Duration::from_millis);
        let mut window = WindowSize::new(now);
        assert!(window.handle_start(ms(10), VIEWER) > Some(72 << 10));
        // 32 KiB at once, eight times a second, while a round trip takes 10 ms.
        for _ in 0..16 {
            now += ms(125);
            if window.handle_written(now, 32 << 10, VIEWER) {
                window.handle_round_trip(now, ms(10), VIEWER);
            }
        }
        assert_eq!(window.bytes, LEAST_PACED.0);
    }

    #[test]
    fn an_idle_viewer_costs_little_soon() {
        let (mut now, ms) = (Instant::now(), Duration::from_millis);
        let mut window = WindowSize::new(now);
        let mut bytes = window.handle_start(ms(60), VIEWER).expect("another than for all");
        for _ in 0..10 {
            now += ms(250);
            assert!(window.handle_written(now, 1000, VIEWER));
            let next = window.handle_round_trip(now, ms(100), VIEWER).unwrap_or(bytes);
            assert!(next == LEAST_PACED.0 || next == bytes / 2, "bit by bit: {bytes} {next}");
            bytes = next;
        }
        assert_eq!(bytes, LEAST_PACED.0);
        // It reads on, as fast as it can: each round trip three times as much, until its path is full.
        for _ in 0..8 {
            now += ms(250);
            assert!(window.handle_written(now, bytes.min(500_000) * 5 / 2, VIEWER));
            bytes = window.handle_round_trip(now, ms(100), VIEWER).unwrap_or(bytes);
        }
        assert_eq!(bytes, 1_500_000);
    }
}
