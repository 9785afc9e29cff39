//! The figures as text: a line per scenario and policy, means over its seeds.

use std::fmt::Write as _;

use super::{jobs::Outcome, row::RunRow};

/// Runs of the same scenario and policy, which follow one another.
pub(crate) fn groups(outcomes: &[Outcome]) -> impl Iterator<Item = &[Outcome]> {
    outcomes.chunk_by(|a, b| a.row.scenario == b.row.scenario && a.row.policy == b.row.policy)
}

/// The table.
pub(crate) fn text(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:<10} {:<8} {:>5} {:>9} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8} {:>7} {:>6} {:>8} {:>6} {:>6} {:>6} {:>8}\n",
        "scenario",
        "policy",
        "seeds",
        "sessions",
        "lost %",
        "optimum",
        "gap",
        "gap any",
        "above %",
        "refused%",
        "moves/s",
        "copies",
        "max util",
        "over",
        "p99",
        "oscil.",
        "worst10s"
    );
    for group in groups(outcomes) {
        let first = &group[0].row;
        let mean =
            |of: fn(&RunRow) -> f64| group.iter().map(|outcome| of(&outcome.row)).sum::<f64>() / group.len() as f64;
        let (lost, optimum) = (mean(|row| row.lost_pct), mean(|row| row.optimum_pct));
        let any = lost - mean(|row| row.any_copy_optimum_pct);
        let line = format!(
            "{:<10} {:<8} {:>5} {:>9.0} {lost:>8.4} {optimum:>8.4} {:>8.4} {any:>8.4} {:>7.3} {:>8.4} {:>7.4} {:>6.0} {:>8.3} \
             {:>6.3} {:>6.3} {:>6.3} {:>8.3}",
            first.scenario,
            first.policy,
            group.len(),
            mean(|row| row.offered_sessions as f64),
            lost - optimum,
            mean(|row| row.above_capacity_pct),
            mean(|row| row.refused_pct),
            mean(|row| row.moves_per_session),
            mean(|row| row.copies as f64),
            mean(|row| row.max_util),
            mean(|row| row.max_util - row.opt_max_util),
            mean(|row| row.p99_util),
            mean(|row| row.oscillation),
            mean(|row| row.worst10s_pp),
        );
        // Writing to a string cannot fail.
        writeln!(text, "{line}").expect("a string takes all");
    }
    text
}
