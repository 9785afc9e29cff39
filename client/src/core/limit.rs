//! A token bucket for `--limit-rate`: says how long to wait after each read, so that flow control slows the sender.
//! Refuses to know who reads.

use std::time::{Duration, Instant};

use usher_proto::Bitrate;

/// A bucket holds this much time's worth of bytes: short enough that no second sees much more than its rate.
const BURST: Duration = Duration::from_millis(100);

/// The least a bucket holds, in bytes: one read.
const LEAST_BURST: u64 = 16 * 1024;

/// One rate, shared by everything that takes from it.
#[derive(Clone, Debug)]
pub struct Limit {
    rate: Bitrate,
    /// When the bytes taken so far are paid for. A debt is a moment in the future.
    paid: Option<Instant>,
}

impl Limit {
    /// A full bucket for `rate`; a rate of 0 limits nothing.
    pub fn new(rate: Bitrate) -> Self {
        Self { rate, paid: None }
    }

    /// Takes `bytes` that were read at `now`; answers how long to wait before the next read.
    pub fn take(&mut self, now: Instant, bytes: u64) -> Duration {
        let Some(cost) = self.rate.time_for(bytes) else { return Duration::ZERO };
        let burst = self.rate.time_for(LEAST_BURST).unwrap_or_default().max(BURST);
        let full = now.checked_sub(burst).unwrap_or(now);
        let paid = self.paid.map_or(full, |paid| paid.max(full));
        // A cost beyond the clock's range is a rate that never pays it: an hour is as good, and the caller can stop.
        let paid = paid.checked_add(cost).unwrap_or(now + Duration::from_secs(3600));
        self.paid = Some(paid);
        paid.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_passes_a_seconds_bytes() {
        for (rate, read) in [(8_000_000, 1400), (80_000_000, 16 * 1024), (1_000_000, 16 * 1024), (64_000, 999)] {
            let (start, mut limit) = (Instant::now(), Limit::new(Bitrate(rate)));
            let (mut now, mut bytes) = (start, 0);
            while now < start + Duration::from_secs(10) {
                now += limit.take(now, read);
                bytes += read;
            }
            let expected = 10 * rate / 8;
            let burst = (rate / 80).max(LEAST_BURST) + read;
            assert!((expected..=expected + burst).contains(&bytes), "{bytes} at {rate} bit/s in reads of {read}");
        }
    }

    #[test]
    fn a_pause_saves_no_more_than_a_burst() {
        let (start, mut limit) = (Instant::now(), Limit::new(Bitrate(8_000_000)));
        limit.take(start, 100_000);
        let later = start + Duration::from_secs(100);
        assert_eq!(limit.take(later, 100_000), Duration::ZERO);
        assert_eq!(limit.take(later, 100_000), Duration::from_millis(100));
    }

    #[test]
    fn no_rate_and_no_bytes_wait_for_nothing() {
        assert_eq!(Limit::new(Bitrate(0)).take(Instant::now(), u64::MAX), Duration::ZERO);
        assert_eq!(Limit::new(Bitrate(1)).take(Instant::now(), 0), Duration::ZERO);
        assert!(Limit::new(Bitrate(1)).take(Instant::now(), u64::MAX) >= Duration::from_secs(3600));
    }
}
