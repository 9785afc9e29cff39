//! Doubt in a node that delivers less than it promised: what it is believed to be able to send, and when to try a
//! little more. Each time that trying more is answered by delivering less, the next try waits twice as long: without
//! that, probing and refusing recreate the very sink that they should avoid. Knows one node.

use std::time::{Duration, Instant};

use usher_proto::units;

/// A node that delivers less than this of what its sessions want, in per cent, is in doubt: below it is no rounding.
const ENOUGH: u64 = 97;

/// Demand below this part of the capacity proves nothing: one slow session would be half of it.
const MIN_DEMAND: u64 = 20;

/// The least and the longest wait before more is tried.
const WAIT_RANGE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(128));

/// Regained in a second, in thousandths of the capacity; twice that when what is believed is nearly all used, and so
/// is tried at once.
const REGAIN: u64 = 5;

#[derive(Clone, Debug)]
pub(super) struct CapacityEstimator {
    capacity: u64,
    estimate: u64,
    wait: Duration,
    /// No more is believed before then.
    until: Instant,
    grown: Instant,
}

impl CapacityEstimator {
    pub(super) fn new(now: Instant, capacity: u64) -> Self {
        Self { capacity, estimate: capacity, wait: Duration::ZERO, until: now, grown: now }
    }

    pub(super) fn estimate(&self) -> u64 {
        self.estimate
    }

    /// What the sessions would have taken, what they got, and all that was sent, in bit/s.
    pub(super) fn handle_report(&mut self, now: Instant, demand: u64, delivered: u64, used: u64) {
        let short = u128::from(delivered) * 100 < u128::from(demand) * u128::from(ENOUGH);
        if short && demand >= self.capacity / MIN_DEMAND {
            self.handle_limit(now, used);
        } else {
            self.regain(now, used);
        }
    }

    /// The node showed that it cannot send more than this.
    pub(super) fn handle_limit(&mut self, now: Instant, limit: u64) {
        if now >= self.until {
            self.wait = (self.wait * 2).clamp(WAIT_RANGE.0, WAIT_RANGE.1);
        }
        self.until = now + self.wait;
        self.grown = now;
        // A node that sends nothing at all is a matter for leases, not for this.
        self.estimate = self.estimate.min(limit.max(self.capacity / 100));
    }

    fn regain(&mut self, now: Instant, used: u64) {
        let passed = now.saturating_duration_since(self.grown.max(self.until.min(now)));
        self.grown = now;
        if now < self.until {
            return;
        }
        if self.estimate >= self.capacity {
            // As long as the longest wait without trouble: the past is past.
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
