//! Comparison of the contenders' figures. Pure: measurements are the input, rows the output.

use std::fmt::Write as _;

use serde::Serialize;

/// The contender that all others are compared with.
pub(crate) const USHER: &str = "usher";

/// A measured program, and the suffix of the case when Usher is compared with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Follows the case's name; empty for none.
    pub(crate) suffix: &'static str,
}

/// Usher itself.
pub(crate) const SELF: Peer = Peer { name: USHER, suffix: "" };

/// Figures by metric; a metric's name includes its unit.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// All measurements.
#[derive(Debug, Default)]
pub(crate) struct Results {
    measurements: Vec<Measurement>,
}

#[derive(Debug)]
struct Measurement {
    case: &'static str,
    peer: Peer,
    rep: usize,
    metric: &'static str,
    value: f64,
}

/// Usher against one peer in one metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    /// The metric with its unit; less is better unless the name says otherwise.
    pub(crate) metric: &'static str,
    /// The peer; empty when there was none.
    pub(crate) against: &'static str,
    /// Usher's figure by the peer's: the median of the repetitions' own ratios.
    pub(crate) ratio: Option<f64>,
    /// The least of them.
    pub(crate) min: Option<f64>,
    /// The greatest of them.
    pub(crate) max: Option<f64>,
    /// Usher's median.
    pub(crate) usher: f64,
    /// The peer's median.
    pub(crate) peer: Option<f64>,
}

impl Results {
    /// Adds the figures of one contender in one repetition.
    pub(crate) fn enter(&mut self, case: &'static str, peer: Peer, rep: usize, figures: Figures) {
        self.measurements.extend(figures.into_iter().map(|(metric, value)| Measurement {
            case,
            peer,
            rep,
            metric,
            value,
        }));
    }

    /// One row for each of Usher's metrics and each peer that has it, in the order of their addition. A metric that no
    /// peer has gets a row without ratios.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut seen = Vec::new();
        for entry in self.measurements.iter().filter(|entry| entry.peer == SELF) {
            let key = (entry.case, entry.metric);
            if !seen.contains(&key) {
                seen.push(key);
                rows.extend(self.compared_with(entry.case, entry.metric));
            }
        }
        rows
    }

    fn compared_with(&self, case: &str, metric: &'static str) -> Vec<Row> {
        let of = |peer: Peer| -> Vec<(usize, f64)> {
            let measurements =
                self.measurements.iter().filter(|entry| (entry.case, entry.metric, entry.peer) == (case, metric, peer));
            measurements.map(|entry| (entry.rep, entry.value)).collect()
        };
        let usher = of(SELF);
        let values = |measurements: &[(usize, f64)]| measurements.iter().map(|(_, value)| *value).collect::<Vec<_>>();
        let mine = median(values(&usher)).unwrap_or_default();
        let mut peers: Vec<Peer> = Vec::new();
        for entry in self.measurements.iter().filter(|entry| (entry.case, entry.metric) == (case, metric)) {
            if entry.peer != SELF && !peers.contains(&entry.peer) {
                peers.push(entry.peer);
            }
        }
        if peers.is_empty() {
            let (case, against) = (case.to_owned(), "");
            return vec![Row { case, metric, against, ratio: None, min: None, max: None, usher: mine, peer: None }];
        }
        let row = |peer: Peer| {
            let theirs = of(peer);
            let ratios: Vec<f64> = usher.iter().filter_map(|one| ratio(*one, &theirs)).collect();
            let case = if peer.suffix.is_empty() { case.to_owned() } else { format!("{case}-{}", peer.suffix) };
            Row {
                case,
                metric,
                against: peer.name,
                ratio: median(ratios.clone()),
                min: ratios.iter().copied().reduce(f64::min),
                max: ratios.iter().copied().reduce(f64::max),
                usher: mine,
                peer: median(values(&theirs)),
            }
        };
        peers.into_iter().map(row).collect()
    }
}

/// One repetition's figure by the peer's of the same repetition; `None` where that is too small to divide by.
fn ratio((rep, value): (usize, f64), theirs: &[(usize, f64)]) -> Option<f64> {
    let (_, peer) = theirs.iter().find(|(other, _)| *other == rep)?;
    Some(value / peer).filter(|ratio| ratio.is_finite())
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(if values.len() % 2 == 1 { upper } else { values[values.len() / 2 - 1].midpoint(upper) })
}

/// The rows for people.
pub(crate) fn text(rows: &[Row]) -> String {
    let wide = rows.iter().map(|row| row.metric.len()).max().unwrap_or_default();
    let mut out = format!(
        "{:<15} {:<wide$} {:<12} {:>7} {:>7} {:>7} {:>11} {:>11}\n",
        "CASE", "METRIC", "AGAINST", "RATIO", "MIN", "MAX", "USHER", "PEER"
    );
    let two = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    for row in rows {
        let against = if row.against.is_empty() { "-" } else { row.against };
        let peer = row.peer.map_or_else(|| "-".to_owned(), figure);
        let line = writeln!(
            out,
            "{:<15} {:<wide$} {:<12} {:>7} {:>7} {:>7} {:>11} {:>11}",
            row.case,
            row.metric,
            against,
            two(row.ratio),
            two(row.min),
            two(row.max),
            figure(row.usher),
            peer
        );
        line.expect("a String takes everything");
    }
    out
}

/// Three or four digits that count.
fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The rows for programs.
pub(crate) fn json(rows: &[Row]) -> serde_json::Value {
    serde_json::json!({ "rows": rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NGINX: Peer = Peer { name: "nginx", suffix: "h1" };

    fn results() -> Results {
        let mut results = Results::default();
        for (rep, (theirs, ours)) in [(1.0, 2.0), (2.0, 1.0), (4.0, 6.0)].into_iter().enumerate() {
            results.enter("one", NGINX, rep, vec![("wall s", theirs)]);
            results.enter("one", SELF, rep, vec![("wall s", ours), ("memory kB", 5.0)]);
        }
        results
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![3.0, 1.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn ratios_are_of_one_repetition_each() {
        let rows = results().rows();
        let wall = Row {
            case: "one-h1".to_owned(),
            metric: "wall s",
            against: "nginx",
            ratio: Some(1.5),
            min: Some(0.5),
            max: Some(2.0),
            usher: 2.0,
            peer: Some(2.0),
        };
        assert_eq!(rows[0], wall);
        assert_eq!((rows.len(), rows[1].against, rows[1].ratio, rows[1].usher), (2, "", None, 5.0));
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        let mut results = Results::default();
        results.enter("one", NGINX, 0, vec![("CPU s", 0.0)]);
        results.enter("one", SELF, 0, vec![("CPU s", 1.0)]);
        results.enter("one", SELF, 1, vec![("CPU s", 3.0)]);
        let rows = results.rows();
        assert_eq!((rows[0].ratio, rows[0].usher, rows[0].peer), (None, 2.0, Some(0.0)));
    }

    #[test]
    fn json_has_the_agreed_keys() {
        let rows = results().rows();
        let expected = serde_json::json!({"rows": [
            {"case": "one-h1", "metric": "wall s", "against": "nginx", "ratio": 1.5, "min": 0.5, "max": 2.0,
             "usher": 2.0, "peer": 2.0},
            {"case": "one", "metric": "memory kB", "against": "", "ratio": null, "min": null, "max": null,
             "usher": 5.0, "peer": null},
        ]});
        assert_eq!(json(&rows), expected);
    }

    #[test]
    fn the_table_has_a_line_for_each_row() {
        let text = text(&results().rows());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("1.50    0.50    2.00        2.00        2.00"), "{text}");
    }
}
