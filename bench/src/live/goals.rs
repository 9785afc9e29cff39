//! Goals for the figures of live feeds, and whether they are met. Pure: rows come in, lines come out.

use std::fmt::Write as _;

use super::{fanout, handoff, join, lost, slow};
use crate::peers::table::Row;

/// A figure that may be no greater than this.
struct Goal {
    case: &'static str,
    metric: &'static str,
    most: Most,
}

enum Most {
    /// Times the peer's.
    Ratio(f64),
    /// In the metric's unit.
    Figure(f64),
}

const GOALS: [Goal; 9] = [
    Goal { case: fanout::CASE, metric: fanout::COST, most: Most::Ratio(0.5) },
    // A picture's time and 10 ms.
    Goal { case: handoff::CASE, metric: handoff::HALF, most: Most::Figure(50.0) },
    Goal { case: join::CASE, metric: join::HALF, most: Most::Figure(150.0) },
    Goal { case: slow::CASE, metric: slow::MISSED, most: Most::Figure(0.0) },
    // Limit of the groups that the node keeps.
    Goal { case: slow::CASE, metric: slow::MEMORY, most: Most::Figure(512.0) },
    Goal { case: lost::CASE, metric: lost::LONGEST, most: Most::Figure(1000.0) },
    Goal { case: lost::CASE, metric: lost::AGAIN, most: Most::Figure(0.0) },
    Goal { case: lost::CASE, metric: lost::MISSED, most: Most::Figure(0.0) },
    Goal { case: lost::CASE, metric: lost::FAILED, most: Most::Figure(0.0) },
];

/// A line for each goal of which there is a figure.
pub(super) fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    for goal in &GOALS {
        for row in rows.iter().filter(|row| (row.case.as_str(), row.metric) == (goal.case, goal.metric)) {
            let (figure, most, what) = match goal.most {
                Most::Ratio(most) => (row.ratio, most, format!(" times {}'s", row.against)),
                Most::Figure(most) => (Some(row.usher), most, String::new()),
            };
            let Some(figure) = figure else { continue };
            let verdict = if figure <= most { "goal met:   " } else { "GOAL MISSED:" };
            let line = writeln!(out, "{verdict} {}: {}: {figure:.2}{what}, at most {most}", row.case, row.metric);
            line.expect("a String takes everything");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::table::{Results, SELF};

    #[test]
    fn goals_are_judged() {
        let mut results = Results::default();
        for (peer, cost) in [(fanout::MOQ, 2.0), (SELF, 0.8)] {
            results.enter(fanout::CASE, peer, 0, vec![(fanout::COST, cost)]);
        }
        results.enter(slow::CASE, SELF, 0, vec![(slow::MISSED, 1.0), ("another metric", 1.0)]);
        let text = text(&results.rows());
        let lines: Vec<&str> = text.lines().collect();
        let met = "goal met:    fanout: relay CPU-s per viewer-Gbit: 0.40 times moq-relay's, at most 0.5";
        assert_eq!(lines[0], met);
        assert!(lines.len() == 2 && lines[1].starts_with("GOAL MISSED: slow: "), "{text}");
    }

    #[test]
    fn without_the_peer_nothing_is_judged() {
        let mut results = Results::default();
        results.enter(fanout::CASE, SELF, 0, vec![(fanout::COST, 0.8)]);
        assert_eq!(text(&results.rows()), "");
    }
}
