//! Background traffic on a node's network link, which the master did not place: last value, mean and variance over 15
//! minutes, and change between reports. Knows one node.

use std::time::{Duration, Instant};

use usher_proto::units;

/// Averaging time of mean and variance.
const MEMORY_MS: u64 = 900_000;

/// Weight of one change in its moving average: one in 20.
const CHANGES: u64 = 20;

/// Observation time after which a node's own variance counts as much as that of all nodes.
const POOL_WEIGHT: Duration = Duration::from_secs(300);

/// Fraction bits of the mean.
const POINT: u32 = 10;

#[derive(Clone, Debug, Default)]
pub(super) struct BackgroundTraffic {
    /// Bit/s.
    last: u64,
    /// Bit/s between reports.
    change: u64,
    /// Millionths of the capacity, with [`POINT`] fraction bits.
    mean: u64,
    /// Squared millionths.
    variance: u64,
    seen: Option<(Instant, Instant)>,
    watched: Duration,
}

impl BackgroundTraffic {
    pub(super) fn handle_report(&mut self, now: Instant, rate: u64, capacity: u64) {
        let part = (u128::from(rate) * 1_000_000 / u128::from(capacity.max(1))) as u64;
        match self.seen {
            None => {
                self.mean = part << POINT;
                self.seen = Some((now, now));
            }
            Some((first, before)) => {
                let passed = now.saturating_duration_since(before);
                let millis = units::millis(passed).min(MEMORY_MS);
                let off = (part << POINT).abs_diff(self.mean);
                let step = off * millis / MEMORY_MS;
                self.mean = if part << POINT > self.mean { self.mean + step } else { self.mean - step };
                let square = (off >> POINT) * (off >> POINT);
                let step = square.abs_diff(self.variance) * millis / MEMORY_MS;
                self.variance = if square > self.variance { self.variance + step } else { self.variance - step };
                let change = rate.abs_diff(self.last);
                self.change = self.change - self.change / CHANGES + change / CHANGES;
                self.seen = Some((first, now));
                self.watched = now.saturating_duration_since(first);
            }
        }
        self.last = rate;
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn unsteady(&self) -> u64 {
        self.change
    }

    pub(super) fn variance(&self) -> Option<u64> {
        self.seen.map(|_| self.variance)
    }

    /// Standard deviation in millionths of the capacity: a mix of the node's own, weighted by its observation time, and
    /// that of all nodes. At least half of the pooled deviation, since a quiet quarter of an hour proves little.
    pub(super) fn deviation(&self, pool: u64) -> u64 {
        let (own, all) = (self.watched.as_secs().min(MEMORY_MS / 1000), POOL_WEIGHT.as_secs());
        let mixed = (self.variance.saturating_mul(own) + pool.saturating_mul(all)) / (own + all);
        mixed.max(pool / 4).isqrt()
    }

    /// Bit/s below the mean.
    pub(super) fn dip(&self, capacity: u64) -> u64 {
        let mean = u128::from(self.mean >> POINT) * u128::from(capacity) / 1_000_000;
        (mean as u64).saturating_sub(self.last)
    }

    /// Bit/s above the mean, if that is more than a standard deviation; else 0.
    pub(super) fn excess(&self, capacity: u64, pool: u64) -> u64 {
        let of = |part: u64| (u128::from(part) * u128::from(capacity) / 1_000_000) as u64;
        let above = self.last.saturating_sub(of(self.mean >> POINT));
        if above > of(self.deviation(pool)) { above } else { 0 }
    }
}
