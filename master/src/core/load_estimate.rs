//! Estimate of one node's load: bit/s in use, bit/s available, and the uncertainty of both. All integers: bit/s and
//! thousandths of a standard deviation. Knows neither titles nor which node it describes.
//!
//! The level is the node's last committed rate, reduced by expected departures, plus background traffic, plus every
//! reservation that the node has not confirmed. Available is the capacity, reduced while the node delivers less than
//! its sessions request, while background traffic fluctuates, and during warm-up.

mod background;
mod capacity;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use usher_proto::{model::Report, units};

use self::{background::BackgroundTraffic, capacity::CapacityEstimator};
use super::{
    fixed::{self, ONE},
    ledger::PendingLoad,
};

/// Averaging time of departures: long enough for a node with a hundred sessions of some minutes to show a few.
const DEPARTURES: Duration = Duration::from_secs(60);

/// Duration of a new process's warm-up, during which its caches are cold.
const WARM_UP: Duration = Duration::from_secs(60);

/// Share of the capacity available at the start of warm-up: 1 in 4.
const WARM_UP_SHARE: u64 = 4;

/// Upper limit of the variance reserve as a share of the capacity: 1 in 20.
const MAX_VARIANCE_SHARE: u64 = 20;

/// Upper limit of the copy reserve as a share of the available rate: 1 in 32. It lets a few titles be copied at their
/// playback rate, so that the copies serve viewers from the start; otherwise a full node could never shed its hot
/// titles.
const MAX_COPY_SHARE: u64 = 32;

/// Upper limit of a committed rate's age. An older node is not chosen anyway.
const MAX_AGE: Duration = Duration::from_secs(30);

/// A message later than the fastest moves the estimated start by one part in 1024 of the difference: enough for a clock
/// that is off by 100 ppm to appear 0.1 s late, and too little for a few slow messages to matter.
const DRIFT: u32 = 1024;

/// Parameters shared by all nodes.
#[derive(Clone, Copy, Debug)]
pub struct ClusterStats {
    /// Number of masters that decide concurrently. Each knows only its own reservations and assumes as many from each
    /// of the others.
    pub masters: u64,
    /// Effective session size for variance, bit/s: the mean square of session rates over their mean.
    pub grain: u64,
    /// Variance of background traffic over all nodes, in squared millionths of the capacity.
    pub pool: u64,
}

impl Default for ClusterStats {
    fn default() -> Self {
        Self { masters: 1, grain: 8_000_000, pool: 0 }
    }
}

/// Capacity that every node is trusted to have, bit/s: a usual server. A larger claim counts as far as it is proven: up to
/// twice the highest rate that a node of the cluster has delivered to its sessions.
pub const TRUSTED: u64 = 10_000_000_000;

/// Load estimate of one node.
#[derive(Clone, Debug)]
pub struct LoadEstimate {
    /// Capacity as the node claims it.
    claimed: u64,
    /// The part of it that is trusted.
    capacity: u64,
    /// Highest rate delivered to sessions that the master assigned, bit/s.
    proven: u64,
    estimator: CapacityEstimator,
    /// Estimated start of the process; `None` before its first message.
    started: Option<Instant>,
    committed: u64,
    /// Time at which `committed` was measured.
    stated: Instant,
    /// Decaying sums: kbit/s of sessions that ended, and kbit/s times milliseconds carried.
    ended: u64,
    carried: u64,
    /// Bit/s of sessions that ended since the last report.
    ended_since_report: u64,
    background: BackgroundTraffic,
}

/// Available bit/s of a node, and what reduces them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Available {
    /// Bit/s available.
    pub rate: u64,
    /// Reduction because the node delivers less than its sessions request, bit/s.
    pub shortfall: u64,
    /// Warm-up reserve of a new process, bit/s.
    pub warm_up: u64,
    /// Variance reserve for fluctuating background traffic, bit/s.
    pub variance: u64,
    /// Reserve for copies read from this node, bit/s.
    pub copying: u64,
    /// Bit/s by which background traffic is below its mean, and likely to return.
    pub dip: u64,
    /// Bit/s of the claimed capacity that are not trusted yet.
    pub unproven: u64,
}

impl Available {
    /// Sustainable bit/s, warm-up and variance reserves included.
    pub fn with_reserves(&self) -> u64 {
        self.rate.saturating_add(self.warm_up).saturating_add(self.variance)
    }

    /// Bit/s available as a last resort. Warm-up and variance reserves are used before refusing a viewer: a refusal
    /// costs a whole session, more than the reserves save.
    pub fn upper_limit(&self) -> u64 {
        self.with_reserves().saturating_sub(self.dip).max(self.rate)
    }
}

impl LoadEstimate {
    /// Estimate of a node that has just attached, and claims this capacity.
    pub fn new(now: Instant, claimed: u64) -> Self {
        let capacity = claimed.min(TRUSTED);
        Self {
            claimed,
            capacity,
            proven: 0,
            estimator: CapacityEstimator::new(now, capacity),
            started: None,
            committed: 0,
            stated: now,
            ended: 0,
            carried: 0,
            ended_since_report: 0,
            background: BackgroundTraffic::default(),
        }
    }

    /// Handles the node's committed rate at `uptime`, and the bit/s of sessions that ended since the previous message.
    pub fn handle_committed(&mut self, now: Instant, uptime: Duration, committed: u64, ended: u64) {
        let at = self.sent_at(now, uptime);
        if at < self.stated && self.carried > 0 {
            return;
        }
        let passed = at.saturating_duration_since(self.stated);
        self.add_carried(passed, ended);
        self.ended_since_report = self.ended_since_report.saturating_add(ended);
        (self.committed, self.stated) = (committed, at.max(self.stated));
    }

    /// Handles a report.
    pub fn handle_report(&mut self, now: Instant, report: &Report) {
        let at = self.sent_at(now, Duration::from_millis(report.uptime_ms));
        if report.committed.0 == self.committed && at > self.stated {
            // No update is in flight: the committed rate still holds.
            self.add_carried(at - self.stated, 0);
            self.stated = at;
        }
        let ended = std::mem::take(&mut self.ended_since_report);
        // Bytes that no session of this second accounts for are background traffic.
        let sent = report.egress.0.min(self.capacity).saturating_sub(report.elastic.0);
        let unexplained = sent.saturating_sub(self.committed.max(report.committed.0).saturating_add(ended));
        let background = report.background.0.saturating_add(unexplained).min(self.capacity);
        self.background.handle_report(now, background, self.capacity);
        // Traffic beyond the reserved rates counts as sent: a node that starves one session while it serves others is
        // not slow.
        let used = report.delivered.0.saturating_add(report.elastic.0).saturating_add(background);
        self.estimator.handle_report(now, report.demand.0, report.delivered.0, used);
    }

    /// Handles the rate that the node delivers to sessions of the master's own choice: the proof of its capacity.
    pub fn handle_proof(&mut self, delivered: u64) {
        self.proven = self.proven.max(delivered);
    }

    /// Highest rate that was proven, bit/s.
    pub fn proven(&self) -> u64 {
        self.proven
    }

    /// Trusts the claimed capacity up to twice the highest rate that any node has `proven`, and never less than before.
    pub fn trust(&mut self, proven: u64) {
        let capacity = self.claimed.min(proven.saturating_mul(2)).max(self.capacity);
        if capacity > self.capacity {
            self.capacity = capacity;
            self.estimator.raise_capacity(capacity);
        }
    }

    /// Handles a refusal of the node, which limits its committed rate.
    pub fn handle_limit(&mut self, now: Instant, limit: u64) {
        if limit < self.estimator.estimate() {
            self.estimator.handle_limit(now, limit);
        }
    }

    /// Bit/s in use now.
    pub fn level(&self, now: Instant, promised: PendingLoad, masters: u64) -> u64 {
        let stay = self.remaining_share(now);
        let running = fixed::mul(self.committed, stay);
        // A reservation redeemed at once may have ended as well; one in flight has not.
        let pending = fixed::mul(promised.rate.saturating_mul(masters), ONE / 2 + stay / 2);
        let leaving = fixed::mul(promised.leaving, stay);
        (running + pending + self.background.last()).saturating_sub(leaving)
    }

    /// Available bit/s while copies read `copying` bit/s from the node.
    pub fn available(&self, now: Instant, copying: u64) -> Available {
        let estimated = self.estimator.estimate().min(self.capacity);
        let young = self.started.map_or(Duration::ZERO, |started| now.saturating_duration_since(started));
        let warm_up = if young >= WARM_UP {
            0
        } else {
            let left = (WARM_UP - young).as_millis() as u64;
            let most = estimated - estimated / WARM_UP_SHARE;
            (u128::from(most) * u128::from(left) / WARM_UP.as_millis()) as u64
        };
        let variance = (2 * self.background.unsteady()).min(self.capacity / MAX_VARIANCE_SHARE);
        let rate = (estimated - warm_up).saturating_sub(variance);
        let copying = copying.min(rate / MAX_COPY_SHARE);
        let dip = self.background.dip(self.capacity);
        let (shortfall, unproven) = (self.capacity - estimated, self.claimed - self.capacity);
        Available { rate: rate - copying, shortfall, warm_up, variance, copying, dip, unproven }
    }

    /// Distance from full after `rate` more bit/s, in thousandths of a standard deviation of the load. At least 0, and
    /// meaningful only if `rate` fits.
    pub fn margin(&self, available: u64, level: u64, rate: u64, common: &ClusterStats) -> i64 {
        let room = available.saturating_sub(level.saturating_add(rate));
        // Scaled so that the capacity has 24 bits: the products fit, and the lost precision is far below the
        // uncertainty.
        let shift = (40_u32).saturating_sub(self.capacity.leading_zeros());
        let (room, available, grain) = (room >> shift, available >> shift, (common.grain >> shift).max(1));
        let sessions = (level.saturating_add(rate)).saturating_sub(self.background.last()) >> shift;
        let others = self.background.deviation(common.pool).saturating_mul(self.capacity >> shift) / 1_000_000;
        // Sessions start and end independently; background traffic is unpredictable and counts with two deviations.
        let variance =
            grain.saturating_mul(sessions.max(available / 5)).saturating_add(4 * others.saturating_mul(others));
        let deviation = variance.isqrt().max(1);
        i64::try_from(room.saturating_mul(1000) / deviation).unwrap_or(i64::MAX)
    }

    /// Whether only a short burst of background traffic leaves no capacity: the traffic is well above its mean, `rate`
    /// fits without the excess, and with it exceeds the available rate by at most a tenth.
    pub fn is_burst(&self, available: u64, level: u64, rate: u64, common: &ClusterStats) -> bool {
        let excess = self.background.excess(self.capacity, common.pool);
        let after = level.saturating_add(rate);
        excess > 0 && after.saturating_sub(excess) <= available && after <= available.saturating_add(available / 10)
    }

    /// Variance of background traffic in squared millionths of the capacity; `None` before the first report.
    pub fn variance(&self) -> Option<u64> {
        self.background.variance()
    }

    /// The node's last committed rate, bit/s.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Background traffic, bit/s.
    pub fn background(&self) -> u64 {
        self.background.last()
    }

    /// Estimated deliverable rate, bit/s.
    pub fn capacity(&self) -> u64 {
        self.estimator.estimate()
    }

    /// Mean session duration, once any session has ended.
    pub fn mean_session(&self) -> Option<Duration> {
        self.carried.checked_div(self.ended).map(Duration::from_millis)
    }

    /// Share of the committed rate that has not yet departed, Q32 of [`ONE`].
    fn remaining_share(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.stated).min(MAX_AGE);
        self.mean_session().map_or(ONE, |stays| fixed::decay(age, stays.max(Duration::from_millis(1))))
    }

    fn add_carried(&mut self, passed: Duration, ended: u64) {
        let keep = fixed::decay(passed, DEPARTURES);
        let millis = units::millis(passed).min(3_600_000);
        self.ended = fixed::mul(self.ended, keep).saturating_add(ended / 1000);
        let carried = (self.committed / 1000).saturating_mul(millis);
        self.carried = fixed::mul(self.carried, keep).saturating_add(carried);
    }

    /// Time at which the node sent a message, by this clock. The fastest message determines the start of the process,
    /// and the uptime the rest.
    fn sent_at(&mut self, now: Instant, uptime: Duration) -> Instant {
        // An absurd uptime changes nothing.
        let began = now.checked_sub(uptime).unwrap_or(now);
        let started = match self.started {
            // No message is in flight that long: the node's clock jumped.
            Some(started) if began.saturating_duration_since(started) > MAX_AGE => began,
            // The node's clock may run slower than this one; without the correction every message would appear older
            // each day.
            Some(started) if began > started => started + (began - started) / DRIFT,
            _ => began,
        };
        self.started = Some(started);
        started.checked_add(uptime).map_or(now, |at| at.min(now))
    }
}
