//! Progress of transfers on standard error: bars for people, JSON lines for programs, or nothing.

use std::{
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use serde_json::json;
use usher_proto::{Bitrate, Fault, NodeName};

use super::output::{note, note_json};
use crate::driver::{FetchEvent, Outcome};

/// Progress format on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ProgressMode {
    /// Bars on a terminal, otherwise no progress
    Auto,
    /// Bars
    Bar,
    /// A JSON object per line
    Json,
    /// No progress
    None,
}

/// The last failure that was reported; while the same one repeats, there is no news.
#[derive(Debug, Default)]
pub(super) struct LastFault(Mutex<String>);

impl LastFault {
    /// Whether `fault` differs from the last one; it is the last one from now on.
    pub(super) fn is_new(&self, fault: &Fault) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = *last != fault.message;
        if new {
            last.clone_from(&fault.message);
        }
        new
    }

    /// Forgets the last failure, so that it is news if it happens again.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Time between two JSON lines of one title: short enough for a smooth display, long enough for a log.
pub(super) const JSON_INTERVAL: Duration = Duration::from_millis(250);

/// The progress of all titles of a command.
#[derive(Clone, Debug)]
pub(super) enum ProgressView {
    Bars(MultiProgress),
    Json,
    Plain,
}

impl ProgressView {
    pub(super) fn new(mode: ProgressMode) -> Self {
        match mode {
            ProgressMode::Bar => Self::Bars(MultiProgress::new()),
            ProgressMode::Auto if std::io::stderr().is_terminal() => Self::Bars(MultiProgress::new()),
            ProgressMode::Auto | ProgressMode::None => Self::Plain,
            ProgressMode::Json => Self::Json,
        }
    }

    /// Prints a line for people, above the bars; not in JSON mode.
    pub(super) fn note(&self, text: &str) {
        match self {
            Self::Bars(bars) => bars.suspend(|| note(text)),
            Self::Plain => note(text),
            Self::Json => {}
        }
    }

    /// Begins the progress of one title.
    pub(super) fn title(&self, title: &str) -> TitleProgress {
        let bar = match self {
            Self::Bars(bars) => {
                let bar = bars.add(ProgressBar::new(0).with_style(style()));
                bar.set_prefix(title.to_owned());
                Some(bar)
            }
            Self::Json | Self::Plain => None,
        };
        let state = TitleState { started: Instant::now(), node: String::new(), first: None, printed: None };
        let last = LastFault::default();
        TitleProgress { view: self.clone(), title: title.to_owned(), bar, last, state: Mutex::new(state) }
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
struct TitleState {
    started: Instant,
    node: String,
    /// Verified bytes of the first report: bytes of an earlier run do not count for the rate.
    first: Option<u64>,
    /// When the last JSON line was printed.
    printed: Option<Instant>,
}

/// The progress of one title.
#[derive(Debug)]
pub(super) struct TitleProgress {
    view: ProgressView,
    title: String,
    bar: Option<ProgressBar>,
    last: LastFault,
    state: Mutex<TitleState>,
}

impl TitleProgress {
    /// Shows a report of the driver.
    pub(super) fn show(&self, event: &FetchEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
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
                if matches!(self.view, ProgressView::Json) {
                    self.json(&json!({ "event": "sources", "title": self.title, "nodes": names }));
                }
            }
            FetchEvent::Progress { verified, received, total } => self.moved(&mut state, *verified, *received, *total),
            FetchEvent::SeatFailed(fault) => match self.view {
                ProgressView::Json => self.json(&json!({
                    "event": "lost", "title": self.title, "node": state.node,
                    "reason": fault.code.reason(), "message": fault.message,
                })),
                _ if self.last.is_new(fault) => {
                    self.view.note(&format!("{}: {fault}; trying again", self.title));
                }
                _ => {}
            },
        }
    }

    fn moved(&self, state: &mut TitleState, verified: u64, received: u64, total: u64) {
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
                bar.set_message(format!("from {} ({received} bytes not yet verified)", state.node));
            }
        }
        let due = state.printed.is_none_or(|printed| printed.elapsed() >= JSON_INTERVAL) || verified == total;
        if matches!(self.view, ProgressView::Json) && due {
            state.printed = Some(Instant::now());
            let rate = Bitrate::over(verified.saturating_sub(first), state.started.elapsed());
            self.json(&json!({
                "event": "progress", "title": self.title, "bytes": verified, "received": received, "total": total,
                "node": state.node, "rate_bps": rate.0,
            }));
        }
    }

    /// Ends with a line about the finished title.
    pub(super) fn done(&self, outcome: &Outcome, line: &str, output: &str) {
        self.clear();
        match self.view {
            ProgressView::Json => self.json(&outcome_json("done", outcome, output)),
            _ => self.view.note(line),
        }
    }

    /// Ends with a failure. In JSON mode it is printed here, otherwise by the command.
    pub(super) fn failed(&self, fault: &Fault) {
        self.clear();
        if matches!(self.view, ProgressView::Json) {
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
        note_json(event);
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
