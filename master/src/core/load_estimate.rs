//! What the master believes of one node's bandwidth: what is taken, what may be given, and how sure that is. Integers
//! throughout: bit/s, thousandths of a standard deviation. Refuses to know titles, and which node it is.
//!
//! The level is what the node last said that it has promised, shrunk by the departures to be expected since, and what
//! others take of its link, and every promise of the master that the node has not told of. What may be given is the
//! capacity, lowered while the node delivers less than it should, while others' traffic changes from report to report,
//! and while the process is young and its caches are cold.

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

/// Over how long departures are averaged: long enough for a node of a hundred sessions of minutes to show a few.
const DEPARTURES: Duration = Duration::from_secs(60);

/// How long a young process is given less than its capacity.
const WARM_UP: Duration = Duration::from_secs(60);

/// What it is given at first, as a part of its capacity: 1 in 4.
const COLD: u64 = 4;

/// The most that unsteadiness of others' traffic takes off the capacity: 1 in 20.
const UNSTEADY: u64 = 20;

/// The most that is kept free for copies, as a part of what could be given: 1 in 32. Enough for a few titles to come at
/// the pace at which they play, so that the copies serve from their beginnings: a full node would otherwise never get
/// rid of what fills it.
const COPYING: u64 = 32;

/// No word is taken as older than this: after it, the node is not chosen anyway.
const OLDEST: Duration = Duration::from_secs(30);

/// A message that came later than the fastest moves the start by one part in so many of the difference: enough for a
/// clock that is off by 100 millionths to seem a tenth of a second late, and too little for a few slow messages.
const DRIFT: u32 = 1024;

/// What all nodes have in common, for a decision.
#[derive(Clone, Copy, Debug)]
pub struct ClusterStats {
    /// Masters that decide at once; each knows only its own promises, and takes the others' to be as many.
    pub masters: u64,
    /// The size of a session that matters for variance, bit/s: the mean square of their rates over the mean.
    pub grain: u64,
    /// Variance of others' traffic over all nodes, in squared millionths of their capacity.
    pub pool: u64,
}

impl Default for ClusterStats {
    fn default() -> Self {
        Self { masters: 1, grain: 8_000_000, pool: 0 }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct LoadEstimate {
    capacity: u64,
    estimator: CapacityEstimator,
    /// When the process started, as near as its messages tell; `None` before the first.
    started: Option<Instant>,
    committed: u64,
    /// When `committed` was true.
    stated: Instant,
    /// Departures: kbit/s that ended and kbit/s times milliseconds that were carried, both decaying.
    ended: u64,
    carried: u64,
    /// Bit/s that ended since the last report.
    ended_since_report: u64,
    background: BackgroundTraffic,
}

/// What may be given of a node, and what lowers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Available {
    /// Bit/s.
    pub rate: u64,
    /// Bit/s less because it delivered less than it should.
    pub shortfall: u64,
    /// Bit/s less because the process is young.
    pub warm_up: u64,
    /// Bit/s less because others' traffic changes much.
    pub variance: u64,
    /// Bit/s less because copies are made from it.
    pub copying: u64,
    /// Bit/s that others' traffic is below its mean, and will soon take again.
    pub dip: u64,
}

impl Available {
    /// Bit/s that it can send, as far as one knows: youth and caution left aside.
    pub fn with_reserves(&self) -> u64 {
        self.rate.saturating_add(self.warm_up).saturating_add(self.variance)
    }

    /// Bit/s that may be given if there is no other way: youth and caution stand back before a viewer is sent away, for
    /// what they would save is less than the whole session that a refusal costs.
    pub fn upper_limit(&self) -> u64 {
        self.with_reserves().saturating_sub(self.dip).max(self.rate)
    }
}

impl LoadEstimate {
    /// Of a node that has just attached.
    pub fn new(now: Instant, capacity: u64) -> Self {
        Self {
            capacity,
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

    /// The node told what it has promised at that uptime, and bit/s of the sessions that ended since the word before.
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

    /// The node's report.
    pub fn handle_report(&mut self, now: Instant, report: &Report) {
        let at = self.sent_at(now, Duration::from_millis(report.uptime_ms));
        if report.committed.0 == self.committed && at > self.stated {
            // Nothing is on its way: what was true then is true now.
            self.add_carried(at - self.stated, 0);
            self.stated = at;
        }
        let ended = std::mem::take(&mut self.ended_since_report);
        // Bytes that no session of this second accounts for are of somebody else.
        let sent = report.egress.0.min(self.capacity).saturating_sub(report.elastic.0);
        let unexplained = sent.saturating_sub(self.committed.max(report.committed.0).saturating_add(ended));
        let background = report.background.0.saturating_add(unexplained).min(self.capacity);
        self.background.handle_report(now, background, self.capacity);
        // What others took beyond their rates was sent as well: a node that is short of time for one is not slow.
        let used = report.delivered.0.saturating_add(report.elastic.0).saturating_add(background);
        self.estimator.handle_report(now, report.demand.0, report.delivered.0, used);
    }

    /// The node turned a session away, since it can promise only so much.
    pub fn handle_limit(&mut self, now: Instant, limit: u64) {
        if limit < self.estimator.estimate() {
            self.estimator.handle_limit(now, limit);
        }
    }

    /// Bit/s that are taken now.
    pub fn level(&self, now: Instant, promised: PendingLoad, masters: u64) -> u64 {
        let stay = self.remaining_share(now);
        let running = fixed::mul(self.committed, stay);
        // A promise that was redeemed at once may have ended as well; one on its way has not.
        let pending = fixed::mul(promised.rate.saturating_mul(masters), ONE / 2 + stay / 2);
        let leaving = fixed::mul(promised.leaving, stay);
        (running + pending + self.background.last()).saturating_sub(leaving)
    }

    /// What may be given while copies are to take `copying` bit/s.
    pub fn available(&self, now: Instant, copying: u64) -> Available {
        let believed = self.estimator.estimate().min(self.capacity);
        let young = self.started.map_or(Duration::ZERO, |started| now.saturating_duration_since(started));
        let warm_up = if young >= WARM_UP {
            0
        } else {
            let left = (WARM_UP - young).as_millis() as u64;
            let most = believed - believed / COLD;
            (u128::from(most) * u128::from(left) / WARM_UP.as_millis()) as u64
        };
        let variance = (2 * self.background.unsteady()).min(self.capacity / UNSTEADY);
        let rate = (believed - warm_up).saturating_sub(variance);
        let copying = copying.min(rate / COPYING);
        let dip = self.background.dip(self.capacity);
        Available { rate: rate - copying, shortfall: self.capacity - believed, warm_up, variance, copying, dip }
    }

    /// How far the node is from full after `rate` more, in thousandths of a standard deviation of its load; at least 0,
    /// and only meaningful when that fits.
    pub fn margin(&self, available: u64, level: u64, rate: u64, common: &ClusterStats) -> i64 {
        let room = available.saturating_sub(level.saturating_add(rate));
        // In units in which the capacity has 24 bits: products then fit, and what is lost is far below what is known.
        let shift = (40_u32).saturating_sub(self.capacity.leading_zeros());
        let (room, available, grain) = (room >> shift, available >> shift, (common.grain >> shift).max(1));
        let sessions = (level.saturating_add(rate)).saturating_sub(self.background.last()) >> shift;
        let others = self.background.deviation(common.pool).saturating_mul(self.capacity >> shift) / 1_000_000;
        // Sessions come and go one by one; others' traffic may do anything, so it counts with two deviations.
        let variance =
            grain.saturating_mul(sessions.max(available / 5)).saturating_add(4 * others.saturating_mul(others));
        let deviation = variance.isqrt().max(1);
        i64::try_from(room.saturating_mul(1000) / deviation).unwrap_or(i64::MAX)
    }

    /// Whether what is missing is a short burst of others' traffic: it is well above its mean, and `rate` would fit
    /// without that, and with it into a tenth more than may be given.
    pub fn is_burst(&self, available: u64, level: u64, rate: u64, common: &ClusterStats) -> bool {
        let excess = self.background.excess(self.capacity, common.pool);
        let after = level.saturating_add(rate);
        excess > 0 && after.saturating_sub(excess) <= available && after <= available.saturating_add(available / 10)
    }

    /// Variance of others' traffic, in squared millionths of the capacity, once it is known.
    pub fn variance(&self) -> Option<u64> {
        self.background.variance()
    }

    /// Bit/s that the node last said it has promised.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Bit/s that others take.
    pub fn background(&self) -> u64 {
        self.background.last()
    }

    /// Bit/s that it is believed to be able to send.
    pub fn capacity(&self) -> u64 {
        self.estimator.estimate()
    }

    /// The mean time that a session stays, if any have ended.
    pub fn mean_session(&self) -> Option<Duration> {
        self.carried.checked_div(self.ended).map(Duration::from_millis)
    }

    /// The part of what was promised that is still there, of [`ONE`].
    fn remaining_share(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.stated).min(OLDEST);
        self.mean_session().map_or(ONE, |stays| fixed::decay(age, stays.max(Duration::from_millis(1))))
    }

    fn add_carried(&mut self, passed: Duration, ended: u64) {
        let keep = fixed::decay(passed, DEPARTURES);
        let millis = units::millis(passed).min(3_600_000);
        self.ended = fixed::mul(self.ended, keep).saturating_add(ended / 1000);
        let carried = (self.committed / 1000).saturating_mul(millis);
        self.carried = fixed::mul(self.carried, keep).saturating_add(carried);
    }

    /// When the node said something, by this side's clock: the message that travelled fastest tells when the process
    /// started, and its uptime the rest.
    fn sent_at(&mut self, now: Instant, uptime: Duration) -> Instant {
        // An uptime of centuries is a lie, and moves nothing.
        let began = now.checked_sub(uptime).unwrap_or(now);
        let started = match self.started {
            // No message is on its way that long: its clock jumped.
            Some(started) if began.saturating_duration_since(started) > OLDEST => began,
            // Its clock may be slower than this one: without this, every word would seem older each day.
            Some(started) if began > started => started + (began - started) / DRIFT,
            _ => began,
        };
        self.started = Some(started);
        started.checked_add(uptime).map_or(now, |at| at.min(now))
    }
}
