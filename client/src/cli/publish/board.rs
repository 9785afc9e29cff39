//! Tells on standard error how a feed goes: lines for people, of which one is rewritten on a terminal, and JSON for programs.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
};

use serde_json::json;
use usher_proto::{Fault, NodeName, Title};

use crate::{
    cli::{duration, meter::Mode, note},
    core::table::clean,
    driver::{PublishEvent, PublishStats},
};

/// See the module.
pub(super) struct Board {
    title: String,
    how: How,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// With a line that is rewritten.
    Line,
    /// What happens, and no more.
    Events,
    Json,
    None,
}

#[derive(Default)]
struct State {
    /// The length of the line that is rewritten.
    line: usize,
    /// The last failure that people were told of: while it repeats, nothing is new.
    told: String,
}

impl Board {
    pub(super) fn new(mode: Mode, title: &Title) -> Self {
        let how = match mode {
            Mode::Bar => How::Line,
            Mode::Auto if std::io::stderr().is_terminal() => How::Line,
            Mode::Auto => How::Events,
            Mode::Json => How::Json,
            Mode::None => How::None,
        };
        Self { title: clean(title.as_str()), how, state: Mutex::default() }
    }

    /// Shows what the driver tells.
    pub(super) fn show(&self, told: &PublishEvent) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.how == How::Json {
            return note(&event(&self.title, told).to_string());
        }
        let title = &self.title;
        let line = match told {
            PublishEvent::Medium(_) => return,
            PublishEvent::Seated { node, reason } => {
                state.told.clear();
                if reason.is_empty() {
                    format!("{title}: to {node}")
                } else {
                    format!("{title}: to {node} ({})", clean(reason))
                }
            }
            PublishEvent::SeatFailed(fault) if state.told == fault.message => return,
            PublishEvent::SeatFailed(fault) => {
                state.told.clone_from(&fault.message);
                format!("{title}: {fault}; trying on")
            }
            PublishEvent::Warning(text) => format!("{title}: warning: {text}"),
            PublishEvent::Progress(status) => {
                if self.how == How::Line {
                    rewrite(&mut state, &text(title, status));
                }
                return;
            }
        };
        // Trouble is told to everybody.
        if self.how != How::None || !matches!(told, PublishEvent::Seated { .. }) {
            rewrite(&mut state, "");
            note(&line);
        }
    }

    /// The feed is over.
    pub(super) fn done(&self, status: &PublishStats) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        rewrite(&mut state, "");
        match self.how {
            How::Json => note(&status_json("done", &self.title, status).to_string()),
            How::None => {}
            How::Line | How::Events => note(&format!("{}: over", text(&self.title, status))),
        }
    }

    /// It failed. People are told by the command.
    pub(super) fn failed(&self, fault: &Fault) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        rewrite(&mut state, "");
        if self.how == How::Json {
            let (reason, exit) = (fault.code.reason(), fault.code.exit());
            let event = json!({
                "event": "error", "title": self.title, "reason": reason, "exit": exit, "message": fault.message,
            });
            note(&event.to_string());
        }
    }
}

/// Writes a line over the one before, if there is any.
fn rewrite(state: &mut State, text: &str) {
    if state.line == 0 && text.is_empty() {
        return;
    }
    let blank = " ".repeat(state.line.saturating_sub(text.len()));
    let back = if text.is_empty() { "\r" } else { "" };
    let mut err = std::io::stderr().lock();
    if write!(err, "\r{text}{blank}{back}").and_then(|()| err.flush()).is_err() {
        tracing::trace!("standard error is closed");
    }
    state.line = text.len();
}

fn text(title: &str, status: &PublishStats) -> String {
    let time = duration(usher_proto::units::millis(status.elapsed));
    let PublishStats { node, rate, groups, given_up, waiting, .. } = status;
    let place = node.as_ref().map_or_else(|| "nowhere yet".to_owned(), |node| format!("to {node}"));
    let mut text = format!("{title}: {place}, {time}, {rate}, {groups} groups");
    if *given_up > 0 {
        text.push_str(&format!(", {given_up} given up"));
    }
    if *waiting >= 1 << 20 {
        text.push_str(&format!(", {} MiB waiting", waiting >> 20));
    }
    text
}

fn event(title: &str, told: &PublishEvent) -> serde_json::Value {
    match told {
        PublishEvent::Medium(medium) => {
            let codecs: Vec<&str> = medium.tracks.iter().map(|track| track.codec.as_str()).collect();
            json!({ "event": "input", "title": title, "media_type": medium.media_type, "codecs": codecs })
        }
        PublishEvent::Seated { node, reason } => {
            json!({ "event": "node", "title": title, "node": node.as_str(), "why": reason })
        }
        PublishEvent::SeatFailed(fault) => {
            let (reason, message) = (fault.code.reason(), &fault.message);
            json!({ "event": "lost", "title": title, "reason": reason, "message": message })
        }
        PublishEvent::Warning(text) => json!({ "event": "warning", "title": title, "message": text }),
        PublishEvent::Progress(status) => status_json("progress", title, status),
    }
}

/// How a feed goes, as JSON.
pub(super) fn status_json(event: &str, title: impl std::fmt::Display, status: &PublishStats) -> serde_json::Value {
    json!({
        "event": event,
        "title": title.to_string(),
        "node": status.node.as_ref().map(NodeName::as_str),
        "rate_bps": status.rate.0,
        "bytes": status.bytes,
        "groups": status.groups,
        "given_up": status.given_up,
        "waiting": status.waiting,
        "seconds": status.elapsed.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use usher_proto::{Bitrate, Code};

    use super::*;

    #[test]
    fn how_it_goes_for_people_and_programs() {
        let mut status = PublishStats {
            node: NodeName::parse("n1").ok(),
            rate: Bitrate(8_000_000),
            bytes: 5,
            groups: 7,
            elapsed: Duration::from_secs(65),
            ..PublishStats::default()
        };
        assert_eq!(text("live/a", &status), format!("live/a: to n1, 1:05, {}, 7 groups", Bitrate(8_000_000)));
        (status.node, status.given_up, status.waiting) = (None, 2, 3 << 20);
        assert!(text("live/a", &status).ends_with("7 groups, 2 given up, 3 MiB waiting"));
        let line = event("live/a", &PublishEvent::Progress(status));
        assert_eq!((&line["event"], &line["node"], &line["given_up"]), (&json!("progress"), &json!(null), &json!(2)));
        let line = event("live/a", &PublishEvent::SeatFailed(Fault::new(Code::Draining, "x")));
        assert_eq!((&line["event"], &line["reason"]), (&json!("lost"), &json!("DRAINING")));
    }
}
