//! Request ids, which connect the logs of master, node and client.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use rand::RngExt as _;
use tonic::{Response, Status, metadata::MetadataMap};
use tracing::{Span, debug_span};
use usher_proto::Fault;

/// Metadata key in requests and answers.
const KEY: &str = "x-request-id";

/// Longest accepted id.
const MAX_BYTES: usize = 64;

/// The client's id if it is safe to log, otherwise a new one.
pub(super) fn of(metadata: &MetadataMap) -> String {
    let given = metadata.get(KEY).and_then(|value| value.to_str().ok()).filter(|id| fits(id));
    given.map_or_else(|| format!("{:016x}", rand::rng().random::<u64>()), str::to_owned)
}

/// Whether a text is a valid id.
pub(super) fn fits(id: &str) -> bool {
    (1..=MAX_BYTES).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Journal tag of one of a call's requests; 0 is the first. Stable while the master runs, and never 0.
pub(crate) fn tag(id: &str, request: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (id, request).hash(&mut hasher);
    hasher.finish().max(1)
}

/// Splits the id of a call from the index of its request: `ID`, or `ID/2` for the third.
pub(super) fn parse(text: &str) -> Option<(&str, usize)> {
    let (id, request) = match text.split_once('/') {
        Some((id, request)) => (id, request.parse().ok()?),
        None => (text, 0),
    };
    fits(id).then_some((id, request))
}

/// The span of one call: every log line within carries its request id, and its viewer once that is known.
pub(super) fn span(id: &str) -> Span {
    debug_span!("request", request_id = id, viewer = tracing::field::Empty)
}

/// An answer with its request id.
pub(super) fn answer<T>(id: &str, message: T) -> Response<T> {
    let mut response = Response::new(message);
    if let Ok(value) = id.parse() {
        response.metadata_mut().insert(KEY, value);
    }
    response
}

/// A failure with its request id.
pub(super) fn failure(id: &str, fault: &Fault) -> Status {
    let mut status = fault.to_status();
    if let Ok(value) = id.parse() {
        status.metadata_mut().insert(KEY, value);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_ids_are_taken() {
        let long = "x".repeat(65);
        for (given, taken) in [("a-b_c.9", true), ("", false), ("a b", false), ("a\u{7f}", false), (&long, false)] {
            let mut metadata = MetadataMap::new();
            if let Ok(value) = given.parse() {
                metadata.insert(KEY, value);
            }
            let id = of(&metadata);
            assert_eq!(id == given, taken, "{given}");
            assert!(taken || id.len() == 16);
        }
    }

    #[test]
    fn each_request_of_a_call_has_its_tag() {
        assert_eq!(
            [parse("a"), parse("a/2"), parse("a/b"), parse("a b"), parse("")].map(|p| p.map(|p| p.1)),
            [Some(0), Some(2), None, None, None]
        );
        assert_eq!(tag("a", 0), tag("a", 0));
        assert!(tag("a", 0) != tag("a", 1) && tag("a", 0) != tag("b", 0));
    }
}
