//! Explanations of decisions as text.

use std::fmt;

use usher_proto::{Bitrate, ticket::Purpose};

use super::{DecisionRecord, Outcome, Selection};
use crate::core::{
    balancer::{Candidate, Verdict},
    roster::Roster,
};

/// A decision with the names of its nodes.
pub struct Explanation<'a> {
    /// The decision.
    pub record: &'a DecisionRecord,
    /// Source of names and zones.
    pub roster: &'a Roster,
}

impl Explanation<'_> {
    /// The outcome as a sentence.
    pub fn outcome(&self) -> String {
        let record = self.record;
        let how = match &record.outcome {
            Outcome::Refused(why) => return format!("refused: {why}"),
            Outcome::Chosen(how) => how,
        };
        let Some(first) = record.holders[0] else { return "refused: no holder was recorded".to_owned() };
        let name = self.name(&first);
        match how {
            Selection::Best => format!("{name}: the farthest from full"),
            Selection::Only => format!("{name}: the only holder"),
            Selection::Panic => format!("{name}: no holder is healthy, and this one has the most headroom"),
            Selection::Released(count) => {
                let (s, of) = if *count == 1 { ("", "another client") } else { ("s", "other clients") };
                format!("{name}: every holder was full; released {count} unredeemed reservation{s} of {of}")
            }
            Selection::Moved(steps) => {
                let sessions = if *steps == 1 { "a session is".to_owned() } else { format!("{steps} sessions are") };
                format!("{name}: every holder was full; {sessions} moved to make room")
            }
            Selection::Cold => format!("{name}: every holder is full; this one uses its reserve"),
            Selection::Burst => format!("{name}: full only by a short burst of background traffic"),
        }
    }

    /// The node's name; a placeholder if it was forgotten.
    pub fn name(&self, candidate: &Candidate) -> &str {
        self.roster.node(candidate.node).map_or("(forgotten node)", |node| node.name().as_str())
    }

    /// The node's zone; empty if none.
    pub fn zone(&self, candidate: &Candidate) -> &str {
        self.roster.node(candidate.node).map_or("", |node| &node.hello.zone)
    }

    /// The decision's verdict on a holder, in a word.
    pub fn verdict(&self, at: usize, candidate: &Candidate) -> &'static str {
        let chosen = matches!(self.record.outcome, Outcome::Chosen(_));
        match candidate.verdict {
            _ if at == 0 && chosen => "chosen",
            Verdict::Fit if chosen => "alternate",
            verdict => verdict.as_str(),
        }
    }

    /// The reductions of a node's available rate as text; empty if there are none.
    pub fn note(candidate: &Candidate) -> String {
        let available = candidate.available;
        let notes = [
            (available.unproven, "has not proven its capacity"),
            (available.shortfall, "delivers less than its capacity"),
            (available.warm_up, "has just started"),
            (available.variance, "background traffic fluctuates"),
            (available.copying, "copies are read from it"),
        ];
        let notes = notes.iter().filter(|(rate, _)| *rate > 0);
        notes.map(|(rate, why)| format!("{why} (-{})", Bitrate(*rate))).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record;
        let purpose = match record.purpose {
            Purpose::Play => "play",
            Purpose::Fetch => "fetch",
        };
        writeln!(f, "{} to {purpose}, {} to reserve", record.what, record.rate)?;
        writeln!(f, "{}", self.outcome())?;
        if record.holders[0].is_none() {
            return Ok(());
        }
        let header = ["NODE", "ZONE", "VERDICT", "AVAILABLE", "LEVEL", "MARGIN", "NOTE"].map(str::to_owned);
        let rows = record.holders.iter().flatten().enumerate().map(|(at, candidate)| {
            let margin = match candidate.verdict {
                Verdict::Fit | Verdict::Unsure => {
                    format!("{}.{}", candidate.margin / 1000, candidate.margin % 1000 / 100)
                }
                _ => "-".to_owned(),
            };
            let down = candidate.verdict == Verdict::Down;
            let rate = |rate| if down { "-".to_owned() } else { Bitrate(rate).to_string() };
            [
                self.name(candidate).to_owned(),
                self.zone(candidate).to_owned(),
                self.verdict(at, candidate).to_owned(),
                rate(candidate.available.rate),
                rate(candidate.level),
                margin,
                Self::note(candidate),
            ]
        });
        let rows: Vec<[String; 7]> = std::iter::once(header).chain(rows).collect();
        let widths: Vec<usize> =
            (0..7).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        if record.omitted > 0 {
            writeln!(f, "and {} more holders", record.omitted)?;
        }
        writeln!(f, "margin: standard deviations of the node's load between it and full, after this request")
    }
}
