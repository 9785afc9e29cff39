//! The figures of one run as BALANCER-style rows: what was lost against what had to be lost.

use serde::Serialize;

use super::{optimum::Optimum, simulation::RunFigures};

/// One run's figures. Shares are in per cent, differences in points.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RunRow {
    /// The scenario's name.
    pub(crate) scenario: String,
    /// The policy's name.
    pub(crate) policy: String,
    /// The run's seed.
    pub(crate) seed: u64,
    /// Sessions that began, or were refused, in the counted time.
    pub(crate) offered_sessions: u64,
    /// Share of offered bits not delivered.
    pub(crate) lost_pct: f64,
    /// The same with free, unlimited migration over the copies as placed.
    pub(crate) optimum_pct: f64,
    /// The same with every title everywhere.
    pub(crate) any_copy_optimum_pct: f64,
    /// Share of session-seconds on a node more than 1 % above its real capacity.
    pub(crate) above_capacity_pct: f64,
    /// Sessions refused, of those offered.
    pub(crate) refused_pct: f64,
    /// Moves per offered session.
    pub(crate) moves_per_session: f64,
    /// Copies begun, in the warm-up too.
    pub(crate) copies: u64,
    /// Mean over time of the highest utilisation of a node, at most 1.
    pub(crate) max_util: f64,
    /// The least that it could be, by fluid flow over the copies as placed.
    pub(crate) opt_max_util: f64,
    /// The utilisation under which 99 % of all nodes and seconds lie.
    pub(crate) p99_util: f64,
    /// Mean change of a node's utilisation by sessions within 10 s, in points.
    pub(crate) oscillation: f64,
    /// The worst 10 s: lost share less the optimum's, in points.
    pub(crate) worst10s_pp: f64,
}

impl RunRow {
    pub(crate) fn new(scenario: &str, policy: &str, seed: u64, figures: &RunFigures, optimum: &Optimum) -> Self {
        let sessions = figures.offered_sessions.max(1) as f64;
        let worst = shares(figures)
            .zip(&optimum.windows)
            .map(|(lost, window)| lost - if window[0] > 0 { 100.0 * window[1] as f64 / window[0] as f64 } else { 0.0 });
        Self {
            scenario: scenario.to_owned(),
            policy: policy.to_owned(),
            seed,
            offered_sessions: figures.offered_sessions,
            lost_pct: pct(figures.lost, figures.delivered + figures.lost),
            optimum_pct: optimum.static_pct(),
            any_copy_optimum_pct: optimum.any_copy_pct(),
            above_capacity_pct: pct(figures.above, figures.played),
            refused_pct: 100.0 * figures.refused as f64 / sessions,
            moves_per_session: figures.moves as f64 / sessions,
            copies: figures.copies,
            max_util: figures.max_util,
            opt_max_util: optimum.max_util,
            p99_util: figures.p99_util,
            oscillation: figures.oscillation,
            worst10s_pp: worst.fold(0.0, f64::max),
        }
    }
}

/// The lost share of each window in per cent.
pub(crate) fn shares(figures: &RunFigures) -> impl Iterator<Item = f64> + '_ {
    figures.windows.iter().map(|&(delivered, lost, _)| pct(lost, delivered + lost))
}

fn pct(part: u128, whole: u128) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}
