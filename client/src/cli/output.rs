//! Output of the commands: finished texts and JSON to standard output, lines about progress to standard error, and the forms
//! that several commands share. Everything that a command writes passes here, and no invisible character of a peer's text
//! gets through.

use std::io::Write as _;

use serde_json::json;
use usher_proto::{
    Code,
    pb::v1,
    text::{printable_json, printable_lines},
};

use super::failure::Failure;

/// Writes `text` to standard output. When its reader has left, the command ends: with [`Code::Cancelled`] and no message,
/// which is a success.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(printable_lines(text).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::new(Code::Cancelled, "")),
        Err(error) => Err(Failure::new(Code::Disk, format!("write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes an indented JSON document to standard output.
pub(super) fn print_json(document: &serde_json::Value) -> Result<(), Failure> {
    print(&printable_json(&format!("{document:#}\n")))
}

/// Writes a JSON document on a line of standard output.
pub(super) fn print_json_line(document: &serde_json::Value) -> Result<(), Failure> {
    print(&printable_json(&format!("{document}\n")))
}

/// A JSON array on standard output, whose elements are printed as they come.
#[derive(Debug, Default)]
pub(super) struct JsonArray {
    elements: usize,
}

impl JsonArray {
    /// Prints the next element.
    pub(super) fn print(&mut self, element: &serde_json::Value) -> Result<(), Failure> {
        let before = if self.elements == 0 { "[\n" } else { ",\n" };
        self.elements += 1;
        let element = format!("{element:#}").replace('\n', "\n  ");
        print(&format!("{before}  {}", printable_json(&element)))
    }

    /// Prints the end.
    pub(super) fn finish(self) -> Result<(), Failure> {
        print(if self.elements == 0 { "[]\n" } else { "\n]\n" })
    }
}

/// Writes a line to standard error, which may be closed.
pub(super) fn note(text: &str) {
    let mut err = std::io::stderr().lock();
    if writeln!(err, "{}", printable_lines(text)).is_err() {
        tracing::trace!("standard error is closed");
    }
}

/// Writes a JSON document on a line of standard error.
pub(super) fn note_json(document: &serde_json::Value) {
    note(&printable_json(&document.to_string()));
}

/// Writes `text` over the previous line of a terminal, of `length` characters, and returns its own length. An empty text
/// clears the line.
pub(super) fn rewrite(length: usize, text: &str) -> usize {
    if length == 0 && text.is_empty() {
        return 0;
    }
    let text = printable_lines(text);
    let count = text.chars().count();
    let blank = " ".repeat(length.saturating_sub(count));
    let back = if text.is_empty() { "\r" } else { "" };
    let mut err = std::io::stderr().lock();
    if write!(err, "\r{text}{blank}{back}").and_then(|()| err.flush()).is_err() {
        tracing::trace!("standard error is closed");
    }
    count
}

/// Milliseconds as `1:23:45` or `3:05`; `-` for none.
pub(super) fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (millis, hours) {
        (0, _) => "-".to_owned(),
        (_, 0) => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A number of things, whose plural ends with an `s`.
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// The name of a node's state.
pub(super) fn state(state: i32) -> &'static str {
    match v1::NodeState::try_from(state) {
        Ok(v1::NodeState::Serving) => "serving",
        Ok(v1::NodeState::Draining) => "draining",
        Ok(v1::NodeState::Stale) => "stale",
        Ok(v1::NodeState::Gone) => "gone",
        _ => "unknown",
    }
}

/// A title as JSON.
pub(super) fn title_json(title: &v1::Title) -> serde_json::Value {
    json!({
        "title": title.title,
        "content_id": title.content_id,
        "size": title.size,
        "media_type": title.media_type,
        "duration_ms": title.duration_ms,
        "bitrate_bps": title.bitrate_bps,
        "streamable": title.streamable,
        "nodes": title.nodes,
        "conflict": title.conflict,
        "live": title.live.as_ref().map(live_json),
    })
}

fn live_json(live: &v1::Live) -> serde_json::Value {
    let tracks = live.tracks.iter().map(|track| {
        let kind = match v1::TrackKind::try_from(track.kind) {
            Ok(v1::TrackKind::Video) => "video",
            Ok(v1::TrackKind::Audio) => "audio",
            Ok(v1::TrackKind::Subtitle) => "subtitle",
            _ => "unknown",
        };
        json!({ "kind": kind, "codec": track.codec, "language": track.language })
    });
    json!({
        "started_ms": live.started_ms,
        "viewers": live.viewers,
        "window_ms": live.window_ms,
        "interrupted": live.interrupted,
        "ingest": live.ingest,
        "tracks": tracks.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (millis, text) in [(0, "-"), (999, "0:00"), (185_000, "3:05"), (5_025_000, "1:23:45")] {
            assert_eq!(duration(millis), text);
        }
    }
}
