//! How many bytes of a connection may wait for their acknowledgement, sent or not. What is read from a disk long before
//! it can leave is cold when it does, and takes memory: so it is a small multiple of what is on its way at the rate that
//! was seen and the shortest round trip (bandwidth-delay product), and never so little that a near client notices.

use std::time::{Duration, Instant};

/// The least, in bytes: two pieces, and 4 Gbit/s at 1 ms.
pub const LEAST: u64 = 512 << 10;

/// What a node holds of all its viewers together who acknowledge late, in bytes, as far as the least of each allows:
/// each has an equal share.
const VIEWERS: u64 = 12 << 20;

/// The least while all sessions are paced, in bytes: 96 Mbit/s at 1 ms, and it grows soon where a viewer takes more. With
/// few viewers it is more, since a window that takes a whole mouthful of a player costs fewer packets and wake-ups.
const LEAST_PACED: (u64, u64) = (12 << 10, 64 << 10);

/// What a viewer has to begin with beyond that, for each second of the round trip: 48 Mbit/s, so that a far one has its
/// first group as soon as others.
const FIRST: u64 = 6 << 20;

/// The most, in bytes: 1 Gbit/s at 64 ms, and what a client can hold that acknowledges nothing.
pub const MOST: u64 = 8 << 20;

/// Times the bandwidth-delay product. Slow start doubles it each round trip, and the rate that was seen is a round trip
/// old.
const TIMES: u64 = 3;

/// What the rate is taken over, while somebody takes all there is.
const SPAN: Duration = Duration::from_millis(20);

/// The same while all sessions are paced: a player reads by the mouthful, and each leaves at line rate.
const SPAN_PACED: Duration = Duration::from_millis(250);

/// A round trip this old tells nothing of the path any more.
const OLD: Duration = Duration::from_secs(10);

/// Who sends on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Senders {
    /// Among others one who takes all there is.
    Greedy,
    /// Viewers alone, each of them paced.
    Paced {
        /// As many as share what the whole node holds of them; 0 for those who need not.
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

    /// The rate is taken over so much time, or a round trip if that is longer.
    fn span(self) -> Duration {
        match self {
            Self::Greedy => SPAN,
            Self::Paced { .. } => SPAN_PACED,
        }
    }
}

/// The window of one connection.
#[derive(Debug)]
pub struct Window {
    bytes: u64,
    /// Written since then.
    since: Instant,
    written: u64,
    /// The shortest round trip, and when it was seen.
    shortest: Option<(Instant, Duration)>,
}

impl Window {
    /// The least.
    pub fn new(now: Instant) -> Self {
        Self { bytes: LEAST, since: now, written: 0, shortest: None }
    }

    /// So many bytes were written. Whether it is time to [`Window::measure`].
    pub fn wrote(&mut self, now: Instant, bytes: u64, senders: Senders) -> bool {
        self.written = self.written.saturating_add(bytes);
        let round_trip = self.shortest.map_or(Duration::ZERO, |(_, shortest)| shortest);
        now.saturating_duration_since(self.since) >= round_trip.max(senders.span())
    }

    /// The window when a session begins, by its round trip: a viewer who is alone has enough for a first group, and a fetch
    /// what there is, which is at least its own. `None` when it stays as it is.
    pub fn begin(&mut self, round_trip: Duration, senders: Senders) -> Option<u64> {
        if senders == Senders::Greedy {
            return self.set(self.bytes.max(LEAST));
        }
        let first = u128::from(FIRST) * round_trip.as_micros() / 1_000_000;
        self.set(u64::try_from(first).unwrap_or(LEAST).saturating_add(senders.least()).min(LEAST))
    }

    /// The window now that a round trip takes so long; `None` when it stays as it is.
    pub fn measure(&mut self, now: Instant, round_trip: Duration, senders: Senders) -> Option<u64> {
        let elapsed = now.saturating_duration_since(self.since).as_nanos().max(1);
        let known = self.shortest.filter(|(at, _)| now.saturating_duration_since(*at) < OLD);
        let (at, shortest) = known.filter(|(_, shortest)| *shortest <= round_trip).unwrap_or((now, round_trip));
        self.shortest = Some((at, shortest));
        let on_its_way = u128::from(self.written) * shortest.as_nanos() / elapsed;
        let bytes = u64::try_from(on_its_way).unwrap_or(MOST).saturating_mul(TIMES);
        (self.since, self.written) = (now, 0);
        let least = match senders {
            Senders::Greedy => LEAST,
            // Between two turns of a viewer little is written: that alone makes nothing slow.
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

    /// A sender that always has data, on a path with this round trip, rate in bytes/s and queueing delay; the window
    /// after some seconds.
    fn settled(round_trip: Duration, rate: u64, queue: Duration) -> u64 {
        let (mut now, mut bytes) = (Instant::now(), LEAST);
        let mut window = Window::new(now);
        for i in 0..200 {
            let trip = if i == 0 { round_trip } else { round_trip + queue };
            let span = SPAN.max(trip);
            now += span;
            // No more than the path takes, nor than the window lets out in each of its round trips.
            let path = rate as f64 * span.as_secs_f64();
            let allowed = bytes as f64 * span.as_secs_f64() / trip.as_secs_f64();
            assert!(window.wrote(now, path.min(allowed) as u64, Senders::Greedy));
            bytes = window.measure(now, trip, Senders::Greedy).unwrap_or(bytes);
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
    fn a_path_that_became_longer_is_believed_after_a_while() {
        let mut now = Instant::now();
        let mut window = Window::new(now);
        let mut bytes = LEAST;
        for trip in [1, 200] {
            for _ in 0..60 {
                now += Duration::from_millis(200);
                assert!(window.wrote(now, 2_000_000, Senders::Greedy));
                bytes = window.measure(now, Duration::from_millis(trip), Senders::Greedy).unwrap_or(bytes);
            }
            assert_eq!(bytes, if trip == 1 { LEAST } else { 6_000_000 });
        }
        assert!(!window.wrote(now, 1, Senders::Greedy), "not within a round trip");
    }

    #[test]
    fn viewers_hold_what_their_path_holds() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let mut window = Window::new(now);
        assert_eq!(window.begin(ms(0), VIEWER), Some(LEAST_PACED.0));
        assert_eq!(window.begin(ms(0), VIEWER), None, "as it is");
        assert!(window.begin(ms(30), VIEWER) > Some(128 << 10), "a first group and all before it in one round trip");
        assert_eq!(window.begin(ms(1000), VIEWER), Some(LEAST));
        assert_eq!(window.begin(ms(1), Senders::Greedy), None, "a fetch has no less than others");
        assert_eq!(window.measure(now + ms(200), ms(1), Senders::Greedy), None);
        // A burst over a far path: three times what it takes.
        let mut window = Window::new(now);
        assert!(!window.wrote(now + ms(100), 1_250_000, VIEWER));
        assert!(window.wrote(now + ms(250), 1_875_000, VIEWER));
        assert_eq!(window.measure(now + ms(250), ms(100), VIEWER), Some(3_750_000));
        assert_eq!(window.begin(ms(100), Senders::Greedy), None, "a fetch takes what is there");
    }

    #[test]
    fn viewers_share_what_the_node_holds_of_them() {
        let least = |on_node| Senders::Paced { on_node }.least();
        assert_eq!([0, 1, 192].map(least), [64 << 10; 3]);
        assert_eq!([384, 1024, 50_000].map(least), [32 << 10, 12 << 10, 12 << 10]);
        assert!((1..2000).all(|viewers| least(viewers) >= least(viewers + 1)));
    }

    #[test]
    fn a_mouthful_at_line_rate_is_no_rate() {
        let (mut now, ms) = (Instant::now(), Duration::from_millis);
        let mut window = Window::new(now);
        assert!(window.begin(ms(10), VIEWER) > Some(72 << 10));
        // 32 KiB at once, eight times a second, while a round trip takes 10 ms.
        for _ in 0..16 {
            now += ms(125);
            if window.wrote(now, 32 << 10, VIEWER) {
                window.measure(now, ms(10), VIEWER);
            }
        }
        assert_eq!(window.bytes, LEAST_PACED.0);
    }

    #[test]
    fn a_viewer_who_takes_nothing_costs_little_soon() {
        let (mut now, ms) = (Instant::now(), Duration::from_millis);
        let mut window = Window::new(now);
        let mut bytes = window.begin(ms(60), VIEWER).expect("another than for all");
        for _ in 0..10 {
            now += ms(250);
            assert!(window.wrote(now, 1000, VIEWER));
            let next = window.measure(now, ms(100), VIEWER).unwrap_or(bytes);
            assert!(next == LEAST_PACED.0 || next == bytes / 2, "bit by bit: {bytes} {next}");
            bytes = next;
        }
        assert_eq!(bytes, LEAST_PACED.0);
        // It reads on, as fast as it can: each round trip three times as much, until its path is full.
        for _ in 0..8 {
            now += ms(250);
            assert!(window.wrote(now, bytes.min(500_000) * 5 / 2, VIEWER));
            bytes = window.measure(now, ms(100), VIEWER).unwrap_or(bytes);
        }
        assert_eq!(bytes, 1_500_000);
    }
}
