//! The rate at which a copy may come in: says how long to wait after each read, so that flow control slows the source.
//! Refuses to know what is read.

use std::time::{Duration, Instant};

use usher_proto::Bitrate;

/// Time that is saved up at most while nothing comes: short enough that no second sees much more than the rate.
const BURST: Duration = Duration::from_millis(100);

/// The longest wait that is told: a rate that never pays for what was read is asked about again.
const LONGEST: Duration = Duration::from_secs(3600);

/// One rate.
#[derive(Clone, Debug)]
pub struct Throttle {
    rate: Bitrate,
    /// When the bytes taken so far are paid for.
    paid: Option<Instant>,
}

impl Throttle {
    /// For `rate`; 0 limits nothing.
    pub fn new(rate: Bitrate) -> Self {
        Self { rate, paid: None }
    }

    /// Takes `bytes` that were read at `now`; says how long to wait before the next read.
    pub fn take(&mut self, now: Instant, bytes: u64) -> Duration {
        let Some(cost) = self.rate.time_for(bytes) else { return Duration::ZERO };
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let paid = self.paid.map_or(earliest, |paid| paid.max(earliest));
        let paid = paid.checked_add(cost).unwrap_or(now + LONGEST).min(now + LONGEST);
        self.paid = Some(paid);
        paid.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_passes_a_seconds_bytes() {
        for (rate, read) in [(8_000_000_u64, 1400_u64), (80_000_000, 16 * 1024), (64_000, 999)] {
            let (start, mut throttle) = (Instant::now(), Throttle::new(Bitrate(rate)));
            let (mut now, mut bytes) = (start, 0);
            while now < start + Duration::from_secs(10) {
                now += throttle.take(now, read);
                bytes += read;
            }
            let expected = 10 * rate / 8;
            assert!((expected..=expected + rate / 80 + 2 * read).contains(&bytes), "{bytes} at {rate} in {read}");
        }
    }

    #[test]
    fn a_pause_saves_little_and_no_rate_waits_for_nothing() {
        let (start, mut throttle) = (Instant::now(), Throttle::new(Bitrate(8_000_000)));
        throttle.take(start, 100_000);
        let later = start + Duration::from_secs(100);
        assert_eq!(throttle.take(later, 100_000), Duration::ZERO);
        assert_eq!(throttle.take(later, 100_000), Duration::from_millis(100));
        assert_eq!(Throttle::new(Bitrate(0)).take(start, u64::MAX), Duration::ZERO);
        assert_eq!(Throttle::new(Bitrate(1)).take(start, u64::MAX), LONGEST);
    }
}
