//! Counted figures: bits offered, delivered and lost, exactly, in bit·µs of the counted time; windows and utilisation.

use crate::sim::{plan::Plan, units::Time};

/// Utilisation is counted in steps of a thousandth.
const STEPS: usize = 1000;

/// Outcome of one run. Times are over the counted seconds only, but for `copies`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunFigures {
    /// Sessions that began, or were refused, in the counted time.
    pub(crate) offered_sessions: u64,
    /// Bit·µs that sessions should have got, by their own times.
    pub(crate) offered: u128,
    /// Bit·µs that nodes delivered.
    pub(crate) delivered: u128,
    /// Bit·µs that were missing: on nodes, in gaps, and of those refused.
    pub(crate) lost: u128,
    /// Sessions lost whole or in their rest.
    pub(crate) refused: u64,
    /// Moves carried out.
    pub(crate) moves: u64,
    /// Copies begun, in the warm-up too.
    pub(crate) copies: u64,
    /// Session-µs played, and those on a node more than 1 % above its real capacity.
    pub(crate) played: u128,
    /// The part of it on a node more than 1 % above its real capacity.
    pub(crate) above: u128,
    /// Mean over time of the highest utilisation of a node; at most 1.
    pub(crate) max_util: f64,
    /// The utilisation under which 99 % of all nodes and seconds lie.
    pub(crate) p99_util: f64,
    /// Mean change of a node's utilisation by sessions from window to window, in points.
    pub(crate) oscillation: f64,
    /// Per window: bit·µs delivered and lost, and the mean highest utilisation.
    pub(crate) windows: Vec<(u128, u128, f64)>,
}

/// Counts while the clock runs.
#[derive(Debug)]
pub(super) struct RunMeter {
    from: Time,
    to: Time,
    counting: bool,
    settled: Time,
    /// Bit/s of sessions without a node.
    unserved: u64,
    figures: RunFigures,
    at_window: (u128, u128),
    histogram: Vec<u64>,
    /// Sum and count of the highest utilisations: of the run and of the window.
    peak: (f64, u64),
    window_peak: (f64, u64),
    levels: Vec<f64>,
    swings: (f64, u64),
}

impl RunMeter {
    pub(super) fn new(plan: &Plan<'_>) -> Self {
        Self {
            from: plan.from,
            to: plan.to,
            counting: false,
            settled: 0,
            unserved: 0,
            figures: RunFigures::default(),
            at_window: (0, 0),
            histogram: vec![0; STEPS + 1],
            peak: (0.0, 0),
            window_peak: (0.0, 0),
            levels: Vec::new(),
            swings: (0.0, 0),
        }
    }

    /// A node carried `sum` bit/s of `sessions` for `span` µs and delivered `delivered` of it.
    pub(super) fn node(&mut self, span: u128, sum: u64, delivered: u64, sessions: usize, above: bool) {
        if self.counting {
            self.figures.delivered += u128::from(delivered) * span;
            self.figures.lost += u128::from(sum - delivered) * span;
            let played = sessions as u128 * span;
            self.figures.played += played;
            self.figures.above += if above { played } else { 0 };
        }
    }

    /// A session of `rate` begins now, or would have, for `duration`.
    pub(super) fn offer(&mut self, now: Time, rate: u64, duration: Time) {
        let span = (now + duration).min(self.to).saturating_sub(now.max(self.from));
        self.figures.offered += u128::from(rate) * u128::from(span);
        self.figures.offered_sessions += u64::from(self.counting);
    }

    /// Counts up to `now` what is lost by sessions without a node.
    pub(super) fn settle(&mut self, now: Time) {
        if self.counting {
            self.figures.lost += u128::from(self.unserved) * u128::from(now - self.settled);
        }
        self.settled = now;
    }

    /// A session loses its node.
    pub(super) fn unserved(&mut self, now: Time, rate: u64) {
        self.settle(now);
        self.unserved += rate;
    }

    /// A session is served again.
    pub(super) fn served(&mut self, now: Time, rate: u64) {
        self.settle(now);
        self.unserved -= rate;
    }

    pub(super) fn refused(&mut self) {
        self.figures.refused += u64::from(self.counting);
    }

    pub(super) fn moved(&mut self) {
        self.figures.moves += u64::from(self.counting);
    }

    pub(super) fn copied(&mut self) {
        self.figures.copies += 1;
    }

    /// Takes a sample of the utilisation of all nodes that are up, each at most 1.
    pub(super) fn utilisation(&mut self, nodes: impl Iterator<Item = f64>) {
        if !self.counting {
            return;
        }
        let mut peak: f64 = 0.0;
        for used in nodes {
            self.histogram[(used * STEPS as f64) as usize] += 1;
            peak = peak.max(used);
        }
        self.window_peak.0 += peak;
        self.window_peak.1 += 1;
    }

    /// Closes a window, if one is open, and opens the next, if there is one. `levels` are the shares of their capacity that
    /// nodes give to sessions. All else must be settled.
    pub(super) fn close_window(&mut self, now: Time, levels: Vec<f64>) {
        if self.counting {
            let (delivered, lost) = (self.figures.delivered, self.figures.lost);
            let peak = self.window_peak.0 / self.window_peak.1.max(1) as f64;
            self.figures.windows.push((delivered - self.at_window.0, lost - self.at_window.1, peak));
            self.at_window = (delivered, lost);
            self.peak = (self.peak.0 + self.window_peak.0, self.peak.1 + self.window_peak.1);
            self.window_peak = (0.0, 0);
            self.swings.0 += self.levels.iter().zip(&levels).map(|(old, new)| (old - new).abs()).sum::<f64>();
            self.swings.1 += levels.len() as u64;
        }
        self.levels = levels;
        self.counting = now < self.to;
    }

    /// The figures of the run.
    pub(super) fn figures(mut self) -> RunFigures {
        let all: u64 = self.histogram.iter().sum();
        let mut below = 0;
        let step = self.histogram.iter().position(|&count| {
            below += count;
            below * 100 >= all * 99
        });
        self.figures.p99_util = step.unwrap_or(0) as f64 / STEPS as f64;
        self.figures.max_util = self.peak.0 / self.peak.1.max(1) as f64;
        self.figures.oscillation = 100.0 * self.swings.0 / self.swings.1.max(1) as f64;
        self.figures
    }
}
