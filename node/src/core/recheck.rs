//! The pace at which copies are hashed again after reports of clients: a bounded part of the disk's bandwidth, whatever
//! clients report. Counts bytes; knows no disk.

use std::time::{Duration, Instant};

/// Bytes per second: a film of 4 GiB in two minutes, and at most a fifth of a spinning disk.
pub const RATE: u64 = 32 << 20;

/// Paces reads at [`RATE`]. Unused time is not saved up.
#[derive(Debug, Default)]
pub struct RecheckPace {
    /// Time from which the next read is allowed.
    free: Option<Instant>,
}

impl RecheckPace {
    /// Allows a read of `bytes` and counts it, or returns the time to wait before the next question.
    pub fn poll_read(&mut self, now: Instant, bytes: u64) -> Result<(), Duration> {
        if let Some(free) = self.free.filter(|free| *free > now) {
            return Err(free - now);
        }
        let micros = u128::from(bytes) * 1_000_000 / u128::from(RATE);
        self.free = Some(now + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rechecks_read_no_faster_than_their_rate() {
        let start = Instant::now();
        let (mut pace, mut now, mut read) = (RecheckPace::default(), start, 0);
        while now < start + Duration::from_secs(10) {
            match pace.poll_read(now, 1 << 20) {
                Ok(()) => read += 1 << 20,
                Err(wait) => now += wait,
            }
        }
        assert!((10 * RATE..=10 * RATE + (2 << 20)).contains(&read), "{read}");
        // An idle hour allows one read at once, not an hour's worth.
        now += Duration::from_secs(3600);
        assert_eq!(pace.poll_read(now, RATE), Ok(()));
        assert_eq!(pace.poll_read(now, 1), Err(Duration::from_secs(1)));
    }
}
