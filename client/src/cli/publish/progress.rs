//! Progress of a published feed on standard error: lines for people, one of which is rewritten on a terminal, or JSON lines
//! for programs.

use std::{
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
};

use serde_json::json;
use usher_proto::{Fault, NodeName, Title};

use crate::{
    cli::{
        output::{duration, note, note_json, rewrite},
        progress::{LastFault, ProgressMode},
    },
    core::table::clean,
    driver::{PublishEvent, PublishStats},
};

/// The progress of one published feed.
pub(super) struct PublishProgress {
    title: String,
    format: LineFormat,
    last: LastFault,
    /// Length of the line that is rewritten.
    line: Mutex<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LineFormat {
    /// Events, and statistics in a line that is rewritten.
    Rewritten,
    /// Events only.
    Events,
    Json,
    None,
}

impl PublishProgress {
    pub(super) fn new(mode: ProgressMode, title: &Title) -> Self {
        let format = match mode {
            ProgressMode::Bar => LineFormat::Rewritten,
            ProgressMode::Auto if std::io::stderr().is_terminal() => LineFormat::Rewritten,
            ProgressMode::Auto => LineFormat::Events,
            ProgressMode::Json => LineFormat::Json,
            ProgressMode::None => LineFormat::None,
        };
        Self { title: clean(title.as_str()), format, last: LastFault::default(), line: Mutex::default() }
    }

    /// Shows an event of the feed.
    pub(super) fn show(&self, event: &PublishEvent) {
        if self.format == LineFormat::Json {
            return note_json(&event_json(&self.title, event));
        }
        let title = &self.title;
        let line = match event {
            PublishEvent::Medium(_) => return,
            PublishEvent::Seated { node, reason } => {
                self.last.clear();
                if reason.is_empty() {
                    format!("{title}: to {node}")
                } else {
                    format!("{title}: to {node} ({})", clean(reason))
                }
            }
            PublishEvent::SeatFailed(fault) if self.last.is_new(fault) => format!("{title}: {fault}; trying again"),
            PublishEvent::SeatFailed(_) => return,
            PublishEvent::Warning(text) => format!("{title}: warning: {text}"),
            PublishEvent::Progress(stats) => {
                if self.format == LineFormat::Rewritten {
                    self.rewrite(&text(title, stats));
                }
                return;
            }
        };
        // Failures and warnings are printed in every mode.
        if self.format != LineFormat::None || !matches!(event, PublishEvent::Seated { .. }) {
            self.rewrite("");
            note(&line);
        }
    }

    /// Ends with the statistics of the whole feed.
    pub(super) fn done(&self, stats: &PublishStats) {
        self.rewrite("");
        match self.format {
            LineFormat::Json => note_json(&status_json("done", &self.title, stats)),
            LineFormat::None => {}
            LineFormat::Rewritten | LineFormat::Events => note(&format!("{}: ended", text(&self.title, stats))),
        }
    }

    /// Ends with a failure. In JSON mode it is printed here, otherwise by the command.
    pub(super) fn failed(&self, fault: &Fault) {
        self.rewrite("");
        if self.format == LineFormat::Json {
            let (reason, exit) = (fault.code.reason(), fault.code.exit());
            let event = json!({
                "event": "error", "title": self.title, "reason": reason, "exit": exit, "message": fault.message,
            });
            note_json(&event);
        }
    }

    fn rewrite(&self, text: &str) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        *line = rewrite(*line, text);
    }
}

fn text(title: &str, status: &PublishStats) -> String {
    let time = duration(usher_proto::units::millis(status.elapsed));
    let PublishStats { node, rate, groups, given_up, waiting, .. } = status;
    let to = node.as_ref().map_or_else(|| "no node yet".to_owned(), |node| format!("to {node}"));
    let mut text = format!("{title}: {to}, {time}, {rate}, {groups} groups");
    if *given_up > 0 {
        text.push_str(&format!(", {given_up} dropped"));
    }
    if *waiting >= 1 << 20 {
        text.push_str(&format!(", {} MiB waiting", waiting >> 20));
    }
    text
}

fn event_json(title: &str, event: &PublishEvent) -> serde_json::Value {
    match event {
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

/// Statistics of a feed as JSON.
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
    fn lines_for_people_and_programs() {
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
        assert!(text("live/a", &status).ends_with("7 groups, 2 dropped, 3 MiB waiting"));
        let line = event_json("live/a", &PublishEvent::Progress(status));
        assert_eq!((&line["event"], &line["node"], &line["given_up"]), (&json!("progress"), &json!(null), &json!(2)));
        let line = event_json("live/a", &PublishEvent::SeatFailed(Fault::new(Code::Draining, "x")));
        assert_eq!((&line["event"], &line["reason"]), (&json!("lost"), &json!("DRAINING")));
    }
}
