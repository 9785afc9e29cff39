//! Progress on standard error: bars for people, JSON lines for programs, or nothing.

use std::{
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use serde_json::json;
use usher_proto::{Bitrate, Fault, NodeName};

use super::note;
use crate::driver::{FetchEvent, Outcome};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// Bars on a terminal, else none.
    Auto,
    /// Bars.
    Bar,
    /// One JSON object a line on standard error.
    Json,
    /// No progress.
    None,
}

/// Between two JSON lines of one title: enough for a smooth display, little for a log.
const JSON_EVERY: Duration = Duration::from_millis(250);

/// Shows the progress of all titles of a command.
#[derive(Clone, Debug)]
pub(super) enum Board {
    Bars(MultiProgress),
    Json,
    Plain,
}

impl Board {
    pub(super) fn new(mode: Mode) -> Self {
        match mode {
            Mode::Bar => Self::Bars(MultiProgress::new()),
            Mode::Auto if std::io::stderr().is_terminal() => Self::Bars(MultiProgress::new()),
            Mode::Auto | Mode::None => Self::Plain,
            Mode::Json => Self::Json,
        }
    }

    /// A line for people, above the bars; programs get none.
    pub(super) fn note(&self, text: &str) {
        match self {
            Self::Bars(bars) => bars.suspend(|| note(text)),
            Self::Plain => note(text),
            Self::Json => {}
        }
    }

    /// The meter of one title.
    pub(super) fn meter(&self, title: &str) -> Meter {
        let bar = match self {
            Self::Bars(bars) => {
                let bar = bars.add(ProgressBar::new(0).with_style(style()));
                bar.set_prefix(title.to_owned());
                Some(bar)
            }
            Self::Json | Self::Plain => None,
        };
        let state = State { started: Instant::now(), node: String::new(), first: None, said: None, told: None };
        Meter { board: self.clone(), title: title.to_owned(), bar, state: Mutex::new(state) }
    }
}

fn style() -> ProgressStyle {
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // A display of a rate that is measured as a float; sizes and sums stay integers.
        let text = Bitrate((state.per_sec() * 8.0) as u64).to_string();
        out.write_str(&text).unwrap_or_default();
    };
    let template = "{prefix:30!} [{bar:24}] {percent:>3}% {bytes:>10}/{total_bytes} {rate:>12} ETA {eta} {msg}";
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
        .progress_chars("=> ")
}

#[derive(Debug)]
struct State {
    started: Instant,
    node: String,
    /// Verified bytes at the first sight: what an earlier run left does not count for the rate.
    first: Option<u64>,
    said: Option<Instant>,
    /// The last failure that people were told of: while it repeats, nothing is new.
    told: Option<String>,
}

/// Shows one title.
#[derive(Debug)]
pub(super) struct Meter {
    board: Board,
    title: String,
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

impl Meter {
    /// Shows what the driver tells.
    pub(super) fn show(&self, progress: &FetchEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            FetchEvent::Seated { node, .. } => {
                state.node = node.to_string();
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("from {node}"));
                }
            }
            FetchEvent::Sources(nodes) => {
                let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
                state.node = names.join(", ");
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("from {}", state.node));
                }
                if matches!(self.board, Board::Json) {
                    self.json(&json!({ "event": "sources", "title": self.title, "nodes": names }));
                }
            }
            FetchEvent::Progress { verified, received, total } => self.moved(&mut state, *verified, *received, *total),
            FetchEvent::SeatFailed(fault) => match self.board {
                Board::Json => self.json(&json!({
                    "event": "lost", "title": self.title, "node": state.node,
                    "reason": fault.code.reason(), "message": fault.message,
                })),
                _ if state.told.as_ref() == Some(&fault.message) => {}
                _ => {
                    self.board.note(&format!("{}: {fault}; trying on", self.title));
                    state.told = Some(fault.message.clone());
                }
            },
        }
    }

    fn moved(&self, state: &mut State, verified: u64, received: u64, total: u64) {
        let first = match state.first {
            Some(first) => first,
            None => {
                state.first = Some(verified.min(received));
                if let Some(bar) = &self.bar {
                    bar.set_length(total);
                    bar.set_position(verified);
                    bar.reset_eta();
                }
                verified.min(received)
            }
        };
        if let Some(bar) = &self.bar {
            bar.set_position(verified);
            if received > verified {
                bar.set_message(format!("from {} ({received} bytes to be verified)", state.node));
            }
        }
        let due = state.said.is_none_or(|said| said.elapsed() >= JSON_EVERY) || verified == total;
        if matches!(self.board, Board::Json) && due {
            state.said = Some(Instant::now());
            let rate = Bitrate::over(verified.saturating_sub(first), state.started.elapsed());
            self.json(&json!({
                "event": "progress", "title": self.title, "bytes": verified, "received": received, "total": total,
                "node": state.node, "rate_bps": rate.0,
            }));
        }
    }

    /// The title is there: one line about it.
    pub(super) fn done(&self, outcome: &Outcome, line: &str, output: &str) {
        self.clear();
        match self.board {
            Board::Json => self.json(&outcome_json("done", outcome, output)),
            _ => self.board.note(line),
        }
    }

    /// The title failed. Programs get a line; people get theirs from the command.
    pub(super) fn failed(&self, fault: &Fault) {
        self.clear();
        if matches!(self.board, Board::Json) {
            let (reason, exit) = (fault.code.reason(), fault.code.exit());
            self.json(&json!({
                "event": "error", "title": self.title, "reason": reason, "exit": exit, "message": fault.message,
            }));
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn json(&self, event: &serde_json::Value) {
        note(&event.to_string());
    }
}

/// A finished transfer as JSON.
pub(super) fn outcome_json(event: &str, outcome: &Outcome, output: &str) -> serde_json::Value {
    let moved = outcome.bytes.saturating_sub(outcome.resumed);
    json!({
        "event": event,
        "title": outcome.title.as_str(),
        "bytes": outcome.bytes,
        "total": outcome.bytes,
        "resumed": outcome.resumed,
        "seconds": outcome.elapsed.as_secs_f64(),
        "rate_bps": Bitrate::over(moved, outcome.elapsed).0,
        "node": outcome.node.as_ref().map(ToString::to_string),
        "why": outcome.reason,
        "request_id": outcome.request_id,
        "content_id": outcome.content.to_string(),
        "output": output,
    })
}
