//! A token bucket: returns how long to wait after each read, so that flow control slows the sender.

use std::time::{Duration, Instant};

use usher_proto::Bitrate;

/// Time's worth of bytes that a bucket holds: short enough that no second sees much more than its rate.
const BURST: Duration = Duration::from_millis(100);

/// The least burst of a viewer's limit, bytes: one read.
pub const LEAST_BURST: u64 = 16 * 1024;

/// The longest wait, for a rate that is practically zero; the caller can stop meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// A rate that several readers can share.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: Bitrate,
    /// The least that the bucket holds, bytes.
    least_burst: u64,
    /// Time at which the rate has covered the bytes taken so far; in the future while the bucket is overdrawn.
    paid: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket for `rate` that holds 100 ms worth of bytes, and at least `least_burst`. A rate of 0 limits nothing.
    pub fn new(rate: Bitrate, least_burst: u64) -> Self {
        Self { rate, least_burst, paid: None }
    }

    /// Takes `bytes` that were read at `now`. Returns how long to wait before the next read.
    pub fn take(&mut self, now: Instant, bytes: u64) -> Duration {
        let Some(cost) = self.rate.time_for(bytes) else { return Duration::ZERO };
        let burst = self.rate.time_for(self.least_burst).unwrap_or_default().max(BURST);
        let full = now.checked_sub(burst).unwrap_or(now);
        let paid = self.paid.map_or(full, |paid| paid.max(full));
        let paid = paid.checked_add(cost).unwrap_or(now + WAIT_MAX).min(now + WAIT_MAX);
        self.paid = Some(paid);
        paid.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_passes_a_seconds_bytes() {
        let reads = [(8_000_000, 1400), (80_000_000, LEAST_BURST), (1_000_000, LEAST_BURST), (64_000, 999)];
        for (least, (rate, read)) in [0, LEAST_BURST].into_iter().flat_map(|least| reads.map(|read| (least, read))) {
            let (start, mut bucket) = (Instant::now(), TokenBucket::new(Bitrate(rate), least));
            let (mut now, mut bytes) = (start, 0);
            while now < start + Duration::from_secs(10) {
                now += bucket.take(now, read);
                bytes += read;
            }
            let expected = 10 * rate / 8;
            let burst = (rate / 80).max(least) + read;
            assert!((expected..=expected + burst).contains(&bytes), "{bytes} at {rate} bit/s in reads of {read}");
        }
    }

    #[test]
    fn a_pause_saves_no_more_than_a_burst() {
        for least in [0, LEAST_BURST] {
            let (start, mut bucket) = (Instant::now(), TokenBucket::new(Bitrate(8_000_000), least));
            bucket.take(start, 100_000);
            let later = start + Duration::from_secs(100);
            assert_eq!(bucket.take(later, 100_000), Duration::ZERO);
            assert_eq!(bucket.take(later, 100_000), Duration::from_millis(100));
        }
    }

    #[test]
    fn no_rate_and_no_bytes_need_no_wait() {
        let take = |rate, bytes| TokenBucket::new(Bitrate(rate), LEAST_BURST).take(Instant::now(), bytes);
        assert_eq!(take(0, u64::MAX), Duration::ZERO);
        assert_eq!(take(1, 0), Duration::ZERO);
        assert_eq!(take(1, u64::MAX), WAIT_MAX);
    }
}
