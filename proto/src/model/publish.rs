//! Publishing a feed and relaying it from node to node: requests, answers and orders, validated.

use super::{
    MAX_EXCLUDE, MAX_FAILED,
    feed::{publisher, title},
    invalid::{Check, Invalid},
    request::{Failed, failures},
    setup::SeatAddress,
};
use crate::{
    code::{Code, Fault},
    feed::FeedKey,
    id::{self, NodeName, PublisherId, SessionId},
    pb::v1,
    text::{printable, printable_within},
    title::Title,
    units::{Bitrate, MAX_RATE},
};

/// A publisher's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The feed.
    pub title: Title,
    /// This run of the publisher.
    pub publisher: PublisherId,
    /// Expected rate, if known.
    pub rate: Option<Bitrate>,
    /// The publisher's zone, empty if unknown.
    pub zone: String,
    /// Nodes not to choose.
    pub exclude: Vec<NodeName>,
    /// Seats that failed; their nodes are in `exclude` too, unless they were full.
    pub failed: Vec<Failed>,
    /// It ends another publisher.
    pub take_over: bool,
    /// The node keeps the feed as a title.
    pub record: bool,
}

impl TryFrom<v1::PublishRequest> for Publish {
    type Error = Invalid;

    fn try_from(request: v1::PublishRequest) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let title = check.take("title", title(&request.title));
        let publisher = check.take("publisher_id", publisher(&request.publisher_id));
        check.require(request.rate_bps <= MAX_RATE, "rate_bps", || format!("at most {MAX_RATE} bit/s"));
        let zone = check.take("zone", id::zone(&request.zone)).unwrap_or_default().to_owned();
        let (exclude, failed) = failures(&mut check, &request.exclude, &request.failed);
        check.done(title.zip(publisher).map(|(title, publisher)| Self {
            title,
            publisher,
            rate: (request.rate_bps > 0).then_some(Bitrate(request.rate_bps)),
            zone,
            exclude,
            failed,
            take_over: request.take_over,
            record: request.record,
        }))
    }
}

/// Seats for a publisher.
#[derive(Clone)]
pub struct Published {
    /// Names the session.
    pub session: SessionId,
    /// Best first; at least one.
    pub seats: Vec<SeatAddress>,
    /// The seed of the key to sign groups with; a secret.
    pub seed: [u8; 32],
    /// Why the first seat was chosen.
    pub reason: String,
}

impl TryFrom<v1::PublishResponse> for Published {
    type Error = Invalid;

    fn try_from(answer: v1::PublishResponse) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let session = check.take("session_id", answer.session_id.parse::<SessionId>());
        let seed = check.take("feed_seed", answer.feed_seed.as_slice().try_into().map_err(|_| "expected 32 bytes"));
        let seats: Vec<_> = answer.seats.into_iter().filter_map(|seat| SeatAddress::try_from(seat).ok()).collect();
        check.require(!seats.is_empty(), "seats", || "no seat that can be dialled".to_owned());
        let reason = printable(&answer.reason);
        check.done(session.zip(seed).map(|(session, seed)| Self { session, seats, seed, reason }))
    }
}

/// A node's request for an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayWanted {
    /// The feed.
    pub title: Title,
    /// Upstreams that failed.
    pub failed: Vec<Failed>,
}

impl TryFrom<v1::RelayWanted> for RelayWanted {
    type Error = Invalid;

    fn try_from(wanted: v1::RelayWanted) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let title = check.take("title", title(&wanted.title));
        let (_, failed) = failures(&mut check, &[], &wanted.failed);
        check.done(title.map(|title| Self { title, failed }))
    }
}

/// The upstreams of a feed.
#[derive(Clone, Debug)]
pub struct Relay {
    /// The feed.
    pub title: Title,
    /// Public key of the groups' signatures.
    pub key: FeedKey,
    /// Best first, or the reason that there is none.
    pub seats: Result<Vec<SeatAddress>, Fault>,
    /// The request id, for logs.
    pub request_id: String,
}

impl TryFrom<v1::Relay> for Relay {
    type Error = Invalid;

    fn try_from(relay: v1::Relay) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let title = check.take("title", title(&relay.title));
        let key = check.take("key", FeedKey::try_from(relay.key.as_slice()));
        let seats = match relay.refusal {
            Some(no) => Err((&no).into()),
            None => {
                let seats = relay.seats.into_iter().take(MAX_FAILED);
                let seats: Vec<_> = seats.filter_map(|seat| SeatAddress::try_from(seat).ok()).collect();
                check.require(!seats.is_empty(), "seats", || "no seat that can be dialled".to_owned());
                Ok(seats)
            }
        };
        let request_id = printable_within(&relay.request_id, 64);
        check.done(title.zip(key).map(|(title, key)| Self { title, key, seats, request_id }))
    }
}

/// A publisher's session to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndPublisher {
    /// The feed.
    pub title: Title,
    /// The publisher.
    pub publisher: PublisherId,
}

impl TryFrom<v1::EndPublisher> for EndPublisher {
    type Error = Invalid;

    fn try_from(end: v1::EndPublisher) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let title = check.take("title", title(&end.title));
        let publisher = check.take("publisher_id", publisher(&end.publisher_id));
        check.done(title.zip(publisher).map(|(title, publisher)| Self { title, publisher }))
    }
}

const _: () = assert!(MAX_FAILED <= MAX_EXCLUDE);

/// The code of a refusal that ends a publisher because another one took over.
pub const TAKEN_OVER: Code = Code::Exists;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers() {
        let request = v1::PublishRequest {
            title: "live/a".into(),
            publisher_id: vec![1; 16],
            failed: vec![v1::SeatFailure { node: "n".into(), reason: "TIMEOUT".into(), ..Default::default() }],
            ..v1::PublishRequest::default()
        };
        let publish = Publish::try_from(request.clone()).expect("valid");
        assert_eq!((publish.exclude.len(), publish.failed.len()), (1, 1));
        let wrong = v1::PublishRequest { title: "a.ts".into(), publisher_id: vec![], zone: "a b".into(), ..request };
        let Err(Invalid(violations)) = Publish::try_from(wrong) else { panic!("taken") };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["title", "publisher_id", "zone"]);
        assert!(Published::try_from(v1::PublishResponse::default()).is_err());
        assert!(Relay::try_from(v1::Relay { title: "live/a".into(), key: vec![0; 32], ..Default::default() }).is_err());
        let refusal = Some(v1::Refusal { reason: "NOT_FOUND".into(), ..v1::Refusal::default() });
        let none = v1::Relay { title: "live/a".into(), key: vec![0; 32], refusal, ..Default::default() };
        let relay = Relay::try_from(none).expect("valid");
        assert_eq!(relay.seats.map_err(|fault| fault.code).err(), Some(Code::NotFound));
    }
}
