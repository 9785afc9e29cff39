//! A client's request for a title, validated.

use std::fmt;

use super::{
    MAX_EXCLUDE, MAX_FAILED,
    equipment::Requirements,
    invalid::{Check, Invalid},
};
use crate::{
    code::Code,
    id::{self, ContentId, NodeName},
    pb::v1,
    ticket::{MAX_TOKEN_BYTES, Purpose},
    title::Title,
    units::{Bitrate, MAX_RATE},
};

/// A title by name or by content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// The name.
    Title(Title),
    /// The content, under whatever name.
    Content(ContentId),
}

impl What {
    /// From the two alternatives of a request.
    pub fn parse(title: Option<&str>, content: Option<&str>) -> Result<Self, Invalid> {
        match (title, content) {
            (Some(title), None) => Title::parse(title).map(Self::Title).map_err(|e| Invalid::one("title", e)),
            (None, Some(id)) => id.parse().map(Self::Content).map_err(|e| Invalid::one("content_id", e)),
            _ => Err(Invalid::one("what", "name a title or a content_id")),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Title(title) => title.fmt(f),
            Self::Content(content) => content.fmt(f),
        }
    }
}

impl TryFrom<v1::LocateRequest> for What {
    type Error = Invalid;

    fn try_from(request: v1::LocateRequest) -> Result<Self, Invalid> {
        use v1::locate_request::What as Pb;
        match &request.what {
            Some(Pb::Title(title)) => Self::parse(Some(title), None),
            Some(Pb::ContentId(id)) => Self::parse(None, Some(id)),
            None => Self::parse(None, None),
        }
    }
}

/// The way in which set-up information reaches the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The node, first on the stream.
    Redirect,
    /// The master, in its answer.
    Brokered,
}

/// A byte range that ends before it begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("end must be above start, or 0 for the title's end")]
pub struct RangeError;

/// A half-open byte range; the default is the whole title.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte; `None` means the title's end.
    pub end: Option<u64>,
}

impl Range {
    /// From a message: no message means the whole, end 0 means the title's end.
    pub fn parse(range: Option<v1::ByteRange>) -> Result<Self, RangeError> {
        let range = range.unwrap_or_default();
        let end = (range.end > 0).then_some(range.end);
        if end.is_some_and(|end| end <= range.start) {
            return Err(RangeError);
        }
        Ok(Self { start: range.start, end })
    }

    /// The same within a title of `size` bytes: an end past the title's is cut. `None` when nothing is left.
    pub fn within(self, size: u64) -> Option<std::ops::Range<u64>> {
        let end = self.end.unwrap_or(size).min(size);
        (self.start < end).then_some(self.start..end)
    }

    /// As a message.
    pub fn to_pb(self) -> v1::ByteRange {
        v1::ByteRange { start: self.start, end: self.end.unwrap_or(0) }
    }
}

/// A request for one title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// The requested title.
    pub what: What,
    /// Play or fetch.
    pub purpose: Purpose,
    /// The requested bytes of it.
    pub range: Range,
    /// Redirect or brokered.
    pub mode: Mode,
    /// Nodes not to choose.
    pub exclude: Vec<NodeName>,
    /// The client's zone, empty if unknown.
    pub zone: String,
    /// The rate to reserve, if not the title's own.
    pub rate: Option<Bitrate>,
    /// Seats that did not serve; their nodes are in `exclude` too, unless they were full.
    pub failed: Vec<Failed>,
    /// Required capabilities of the node.
    pub needs: Requirements,
}

/// A seat that did not serve.
#[derive(Clone, PartialEq, Eq)]
pub struct Failed {
    /// The node.
    pub node: NodeName,
    /// Why; `Timeout` and `Network` say that it does not answer.
    pub code: Code,
    /// The seat's ticket, not verified; empty if the client did not send it. Never shown.
    pub ticket: String,
}

impl Failed {
    /// A failed seat without its ticket.
    pub fn new(node: NodeName, code: Code) -> Self {
        Self { node, code, ticket: String::new() }
    }

    /// As a message.
    pub fn to_pb(&self) -> v1::SeatFailure {
        let Self { node, code, ticket } = self;
        v1::SeatFailure { node: node.to_string(), reason: code.reason().to_owned(), ticket: ticket.clone() }
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed").field("node", &self.node).field("code", &self.code).finish_non_exhaustive()
    }
}

/// Nodes that must not be chosen, and the seats that failed, of which all but the full ones are among them.
pub(super) fn failures(
    check: &mut Check,
    exclude: &[String],
    seats: &[v1::SeatFailure],
) -> (Vec<NodeName>, Vec<Failed>) {
    check.require(exclude.len() <= MAX_EXCLUDE, "exclude", || {
        format!("at most {MAX_EXCLUDE} nodes, not {}", exclude.len())
    });
    let exclude = exclude.iter().take(MAX_EXCLUDE).enumerate();
    let mut exclude: Vec<NodeName> =
        exclude.filter_map(|(i, name)| check.take(&format!("exclude[{i}]"), NodeName::parse(name))).collect();
    let tried = seats.len();
    check.require(tried <= MAX_FAILED, "failed", || format!("at most {MAX_FAILED} seats, not {tried}"));
    let mut failed = Vec::new();
    for (i, seat) in seats.iter().take(MAX_FAILED).enumerate() {
        let Some(node) = check.take(&format!("failed[{i}].node"), NodeName::parse(&seat.node)) else { continue };
        let code = Code::from_reason(&seat.reason);
        // A full node may have room by now, or be given some.
        if !matches!(code, Code::NoCapacity | Code::BudgetExceeded) && !exclude.contains(&node) {
            exclude.push(node.clone());
        }
        check.require(seat.ticket.len() <= MAX_TOKEN_BYTES, &format!("failed[{i}].ticket"), || "too long".to_owned());
        failed.push(Failed { node, code, ticket: seat.ticket.clone() });
    }
    (exclude, failed)
}

impl TryFrom<v1::ResolveRequest> for Resolve {
    type Error = Invalid;

    fn try_from(request: v1::ResolveRequest) -> Result<Self, Invalid> {
        use v1::resolve_request::What as Pb;
        let mut check = Check::default();
        let what = match &request.what {
            Some(Pb::Title(title)) => What::parse(Some(title), None),
            Some(Pb::ContentId(id)) => What::parse(None, Some(id)),
            None => What::parse(None, None),
        };
        let what = match what {
            Ok(what) => Some(what),
            Err(Invalid(violations)) => {
                violations.into_iter().for_each(|v| check.note(&v.field, v.description));
                None
            }
        };
        let purpose = match v1::Purpose::try_from(request.purpose) {
            Ok(v1::Purpose::Fetch) => Purpose::Fetch,
            Ok(_) => Purpose::Play,
            Err(_) => {
                check.note("purpose", format!("{} is no purpose", request.purpose));
                Purpose::Play
            }
        };
        let mode = match v1::Mode::try_from(request.mode) {
            Ok(v1::Mode::Brokered) => Mode::Brokered,
            Ok(_) => Mode::Redirect,
            Err(_) => {
                check.note("mode", format!("{} is no mode", request.mode));
                Mode::Redirect
            }
        };
        let range = check.take("range", Range::parse(request.range)).unwrap_or_default();
        let (exclude, failed) = failures(&mut check, &request.exclude, &request.failed);
        let needs = request.requirements.unwrap_or_default();
        let needs = check.take("requirements", Requirements::try_from(needs)).unwrap_or_default();
        let zone = check.take("zone", id::zone(&request.zone)).unwrap_or_default().to_owned();
        check.require(request.rate_bps <= MAX_RATE, "rate_bps", || format!("at most {MAX_RATE} bit/s"));
        let rate = (request.rate_bps > 0).then_some(Bitrate(request.rate_bps));
        check.done(what.map(|what| Self { what, purpose, range, mode, exclude, zone, rate, failed, needs }))
    }
}

/// A ticket to be signed again, validated; the ticket itself is not.
pub struct Renew {
    /// The node where its session runs.
    pub node: NodeName,
    /// Never shown.
    pub ticket: String,
}

impl TryFrom<v1::RenewRequest> for Renew {
    type Error = Invalid;

    fn try_from(request: v1::RenewRequest) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let node = check.take("node", NodeName::parse(&request.node));
        let ticket = request.ticket;
        check.require((1..=MAX_TOKEN_BYTES).contains(&ticket.len()), "ticket", || "missing or too long".to_owned());
        check.done(node.map(|node| Self { node, ticket }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> v1::ResolveRequest {
        v1::ResolveRequest {
            what: Some(v1::resolve_request::What::Title("a.mp4".into())),
            ..v1::ResolveRequest::default()
        }
    }

    #[test]
    fn a_bare_request_plays_the_whole_title() {
        let resolve = Resolve::try_from(request()).expect("valid");
        assert_eq!((resolve.purpose, resolve.mode, resolve.range), (Purpose::Play, Mode::Redirect, Range::default()));
    }

    #[test]
    fn every_wrong_field_is_named() {
        let wrong = v1::ResolveRequest {
            what: Some(v1::resolve_request::What::Title("../a".into())),
            purpose: 9,
            mode: 9,
            range: Some(v1::ByteRange { start: 5, end: 5 }),
            exclude: vec!["ok".into(), "NOT OK".into()],
            zone: "a b".into(),
            rate_bps: u64::MAX,
            failed: vec![
                v1::SeatFailure { node: "NOT OK".into(), ..v1::SeatFailure::default() },
                v1::SeatFailure { node: "n".into(), ticket: "t".repeat(MAX_TOKEN_BYTES + 1), ..Default::default() },
            ],
            requirements: Some(v1::Requirements { labels: vec!["a b".into()], ..v1::Requirements::default() }),
        };
        let Err(Invalid(violations)) = Resolve::try_from(wrong) else { panic!("taken") };
        let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "title",
                "purpose",
                "mode",
                "range",
                "exclude[1]",
                "failed[0].node",
                "failed[1].ticket",
                "requirements",
                "zone",
                "rate_bps"
            ]
        );
        assert!(Resolve::try_from(v1::ResolveRequest::default()).is_err());
        let many = v1::ResolveRequest { exclude: vec!["n".into(); 10_000], ..request() };
        assert!(Resolve::try_from(many).is_err());
    }

    #[test]
    fn ranges_are_cut_to_the_title() {
        let range = |start, end| Range { start, end };
        assert_eq!(range(0, None).within(10), Some(0..10));
        assert_eq!(range(3, Some(99)).within(10), Some(3..10));
        assert_eq!(range(10, None).within(10), None);
        assert_eq!(range(0, None).within(0), None);
    }
}
