//! Estimates the deliverable rate of a node that delivers less than its sessions request, and when to raise the
//! estimate. After each raise that fails, the next one waits twice as long; otherwise probing and refusing would
//! recreate the overload. Knows one node.

use std::time::{Duration, Instant};

use usher_proto::units;

/// Delivered share of demand, in per cent, below which the node is short; the rest is rounding.
const ENOUGH: u64 = 97;

/// Demand below one part in 20 of the capacity is ignored: one slow session would be half of it.
const MIN_DEMAND: u64 = 20;

/// Shortest and longest wait before a raise.
const WAIT_RANGE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(128));

/// Thousandths of the capacity regained per second; twice that while the estimate is nearly used up, since the raise is
/// then tested at once.
const REGAIN: u64 = 5;

#[derive(Clone, Debug)]
pub(super) struct CapacityEstimator {
    capacity: u64,
    estimate: u64,
    wait: Duration,
    /// The estimate is not raised before this time.
    until: Instant,
    grown: Instant,
}

impl CapacityEstimator {
    pub(super) fn new(now: Instant, capacity: u64) -> Self {
        Self { capacity, estimate: capacity, wait: Duration::ZERO, until: now, grown: now }
    }

    /// Raises the capacity. A node that was not short stays so.
    pub(super) fn raise_capacity(&mut self, capacity: u64) {
        if self.estimate >= self.capacity {
            self.estimate = capacity;
        }
        self.capacity = capacity;
    }

    pub(super) fn estimate(&self) -> u64 {
        self.estimate
    }

    /// Handles one report: bit/s requested by sessions, bit/s delivered to them, and all bit/s sent.
    pub(super) fn handle_report(&mut self, now: Instant, demand: u64, delivered: u64, used: u64) {
        let short = u128::from(delivered) * 100 < u128::from(demand) * u128::from(ENOUGH);
        if short && demand >= self.capacity / MIN_DEMAND {
            self.handle_limit(now, used);
        } else {
            self.regain(now, used);
        }
    }

    /// Lowers the estimate to `limit`: the node has shown that it cannot send more.
    pub(super) fn handle_limit(&mut self, now: Instant, limit: u64) {
        if now >= self.until {
            self.wait = (self.wait * 2).clamp(WAIT_RANGE.0, WAIT_RANGE.1);
        }
        self.until = now + self.wait;
        self.grown = now;
        // A node that sends nothing is handled by its lease.
        self.estimate = self.estimate.min(limit.max(self.capacity / 100));
    }

    fn regain(&mut self, now: Instant, used: u64) {
        let passed = now.saturating_duration_since(self.grown.max(self.until.min(now)));
        self.grown = now;
        if now < self.until {
            return;
        }
        if self.estimate >= self.capacity {
            // After the longest wait without a shortfall, the backoff starts over.
            if now.saturating_duration_since(self.until) >= WAIT_RANGE.1 {
                self.wait = Duration::ZERO;
            }
            return;
        }
        let pressed = u128::from(used) * 10 > u128::from(self.estimate) * 9;
        let thousandths = if pressed { 2 * REGAIN } else { REGAIN };
        let millis = units::millis(passed).min(10_000);
        let more = u128::from(self.capacity) * u128::from(thousandths) * u128::from(millis) / 1_000_000;
        let more = u64::try_from(more).unwrap_or(u64::MAX).max(1);
        self.estimate = self.estimate.saturating_add(more).min(self.capacity);
    }
}
