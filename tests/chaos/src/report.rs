//! The report of a run, as text and as JSON. The evaluation is left to `run`.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::core::{plan::Kind, tally::Spread};

/// One run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Seed of the plan and of all choices.
    pub seed: u64,
    /// Duration of the faults.
    pub minutes: f64,
    /// Number of clients that ended.
    pub outputs: u64,
    /// Number of those that played.
    pub plays: u64,
    /// Outputs that differ from their sources.
    pub wrong_bytes: u64,
    /// Clients that ended with an error, or did not end.
    pub client_errors: u64,
    /// Stalls of all players.
    pub stalls: u64,
    /// Sum of the stalls' durations.
    pub stalled_ms: u64,
    /// Injected faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Skipped faults by kind: the program lacks the command, or the cluster had not recovered.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Faults that could not be injected or undone.
    pub broken: Vec<String>,
    /// Interruptions of affected players, beyond the spacing of a paced session.
    pub gap_ms: BTreeMap<&'static str, Spread>,
    /// Interruptions of affected fetches; progress lines come every 250 ms.
    pub fetch_gap_ms: BTreeMap<&'static str, Spread>,
    /// Gaps of unaffected players at the same times: the noise of machine and harness.
    pub unaffected_gap_ms: Spread,
    /// The longest interruptions of players.
    pub worst: Vec<String>,
}

impl Report {
    /// Whether every client received every byte.
    pub fn is_good(&self) -> bool {
        self.wrong_bytes == 0 && self.client_errors == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}, {:.1} min: {} outputs ({} played), {} with wrong bytes, {} client errors, {} stalls of {:.1} s in all",
            self.seed,
            self.minutes,
            self.outputs,
            self.plays,
            self.wrong_bytes,
            self.client_errors,
            self.stalls,
            self.stalled_ms as f64 / 1000.0,
        )?;
        writeln!(f, "{:<10} {:>6}  {:^27}  {:^27}", "", "", "gaps of plays, ms", "gaps of fetches, ms")?;
        let head = ["n", "p50", "p99", "max"].map(|name| format!("{name:>6}")).concat();
        writeln!(f, "{:<10} {:>6}  {:<27}  {head}", "fault", "times", head)?;
        for kind in Kind::ALL.map(Kind::name) {
            let times = self.faults.get(kind).copied().unwrap_or_default();
            let skipped = self.skipped.get(kind).map_or_else(String::new, |skipped| format!("  {skipped} skipped"));
            if times > 0 || !skipped.is_empty() {
                let of = |gaps: &BTreeMap<_, Spread>| cells(&gaps.get(kind).copied().unwrap_or_default());
                writeln!(f, "{kind:<10} {times:>6}  {:<27}  {}{skipped}", of(&self.gap_ms), of(&self.fetch_gap_ms))?;
            }
        }
        writeln!(f, "{:<10} {:>6}  {}", "unaffected", "", cells(&self.unaffected_gap_ms))?;
        for line in &self.worst {
            writeln!(f, "  {line}")?;
        }
        for line in &self.broken {
            writeln!(f, "broken: {line}")?;
        }
        Ok(())
    }
}

fn cells(spread: &Spread) -> String {
    format!("{:>6}{:>6}{:>6}{:>6}", spread.n, spread.p50, spread.p99, spread.max)
}
