//! Output of the commands: finished texts and JSON to standard output, lines about progress to standard error, and the forms
//! that several commands share.

use std::io::Write as _;

use serde_json::json;
use usher_proto::{Code, pb::v1};

use super::failure::Failure;

/// Writes `text` to standard output. A closed pipe is no failure: its reader has seen enough.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Disk, format!("write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes an indented JSON document to standard output.
pub(super) fn print_json(document: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{document:#}\n"))
}

/// Writes a line to standard error, which may be closed.
pub(super) fn note(text: &str) {
    let mut err = std::io::stderr().lock();
    if writeln!(err, "{text}").is_err() {
        tracing::trace!("standard error is closed");
    }
}

/// Writes `text` over the previous line of a terminal, of `length` characters, and returns its own length. An empty text
/// clears the line.
pub(super) fn rewrite(length: usize, text: &str) -> usize {
    if length == 0 && text.is_empty() {
        return 0;
    }
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
