//! Feeds as nodes report them and as sessions describe them, validated.

use super::{
    catalog::is_media_type,
    invalid::{Check, Invalid},
};
use crate::{
    feed::FeedKey,
    id::{NodeName, PublisherId},
    pb::{v1, wire},
    text::is_invisible,
    title::Title,
    units::{Bitrate, MAX_RATE},
};

/// Most feeds of one node.
pub const MAX_FEEDS: usize = 1000;

/// Most tracks of one feed.
const MAX_TRACKS: usize = 64;

/// The name of a feed.
pub(super) fn title(name: &str) -> Result<Title, String> {
    let title = Title::parse(name).map_err(|error| error.to_string())?;
    if title.is_live() { Ok(title) } else { Err(format!("a feed's name is live/NAME, not `{title}`")) }
}

pub(super) fn publisher(bytes: &[u8]) -> Result<PublisherId, &'static str> {
    bytes.try_into().map(|bytes| PublisherId(u128::from_be_bytes(bytes))).map_err(|_| "expected 16 bytes")
}

/// Largest number of a group that a session may begin with: no feed gets there, and nothing that is added overflows.
const MAX_GROUP: u64 = 1 << 62;

/// Format of a feed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Medium {
    /// For example `video/mp2t`.
    pub media_type: String,
    /// Its elementary streams.
    pub tracks: Vec<v1::Track>,
}

impl Medium {
    fn take(check: &mut Check, media_type: String, tracks: Vec<v1::Track>) -> Self {
        check.require(is_media_type(&media_type), "media_type", || "expected type/subtype".to_owned());
        check.require(tracks.len() <= MAX_TRACKS, "tracks", || format!("at most {MAX_TRACKS}, not {}", tracks.len()));
        let short = |text: &str| text.len() <= 32 && !text.chars().any(is_invisible);
        let named = tracks.iter().all(|track| short(&track.codec) && short(&track.language));
        check.require(named, "tracks", || "codec and language are words of at most 32 bytes".to_owned());
        Self { media_type, tracks }
    }
}

/// A publisher's description of its feed.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Its format.
    pub medium: Medium,
    /// Unix milliseconds when it began.
    pub started_ms: i64,
}

impl TryFrom<wire::FeedOffer> for Offer {
    type Error = Invalid;

    fn try_from(offer: wire::FeedOffer) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let medium = Medium::take(&mut check, offer.media_type, offer.tracks);
        check.done(Some(Self { medium, started_ms: offer.started_ms }))
    }
}

/// A feed that a node carries.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedState {
    /// Its name.
    pub title: Title,
    /// The publisher that sends it to this node; `None` when it comes from another node.
    pub publisher: Option<PublisherId>,
    /// The node that it comes from; `None` when it is sent here, or there is none now.
    pub upstream: Option<NodeName>,
    /// The publisher or the upstream is disconnected.
    pub interrupted: bool,
    /// Number of sessions that watch it on this node.
    pub viewers: u32,
    /// Number of nodes that receive it from this node.
    pub relays: u32,
    /// The newest group that has begun; 0 for none.
    pub newest: u64,
    /// Unix milliseconds when its publisher began.
    pub started_ms: i64,
    /// Measured rate.
    pub bitrate: Bitrate,
    /// Its format.
    pub medium: Medium,
    /// Milliseconds of media that the node keeps.
    pub window_ms: u64,
}

impl TryFrom<v1::FeedState> for FeedState {
    type Error = Invalid;

    fn try_from(feed: v1::FeedState) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let title = check.take("title", title(&feed.title));
        let sent = !feed.publisher_id.is_empty();
        let publisher = if sent { check.take("publisher_id", publisher(&feed.publisher_id)) } else { None };
        let relayed = !feed.upstream.is_empty();
        let upstream = if relayed { check.take("upstream", NodeName::parse(&feed.upstream)) } else { None };
        check.require(feed.bitrate_bps <= MAX_RATE, "bitrate_bps", || format!("at most {MAX_RATE} bit/s"));
        // A relay that has not got its first group yet does not know what it is.
        let medium = if feed.media_type.is_empty() {
            Medium::default()
        } else {
            Medium::take(&mut check, feed.media_type, feed.tracks)
        };
        check.done(title.map(|title| Self {
            title,
            publisher,
            upstream,
            interrupted: feed.interrupted,
            viewers: feed.viewers,
            relays: feed.relays,
            newest: feed.newest_group,
            started_ms: feed.started_ms,
            bitrate: Bitrate(feed.bitrate_bps),
            medium,
            window_ms: feed.window_ms,
        }))
    }
}

impl FeedState {
    /// As a message.
    pub fn to_pb(&self) -> v1::FeedState {
        v1::FeedState {
            title: self.title.to_string(),
            publisher_id: self.publisher.map(|id| id.0.to_be_bytes().to_vec()).unwrap_or_default(),
            upstream: self.upstream.as_ref().map(ToString::to_string).unwrap_or_default(),
            interrupted: self.interrupted,
            viewers: self.viewers,
            relays: self.relays,
            newest_group: self.newest,
            started_ms: self.started_ms,
            bitrate_bps: self.bitrate.0,
            media_type: self.medium.media_type.clone(),
            tracks: self.medium.tracks.clone(),
            window_ms: self.window_ms,
        }
    }
}

/// All feeds of a node; each title once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Feeds(pub Vec<FeedState>);

impl TryFrom<v1::Feeds> for Feeds {
    type Error = Invalid;

    fn try_from(feeds: v1::Feeds) -> Result<Self, Invalid> {
        if feeds.feeds.len() > MAX_FEEDS {
            return Err(Invalid::one("feeds", format!("at most {MAX_FEEDS}, not {}", feeds.feeds.len())));
        }
        let mut check = Check::default();
        let mut all: Vec<FeedState> = Vec::with_capacity(feeds.feeds.len());
        for (i, feed) in feeds.feeds.into_iter().enumerate() {
            all.extend(check.take(&format!("feeds[{i}]"), FeedState::try_from(feed)));
        }
        all.sort_by(|a, b| a.title.cmp(&b.title));
        let twice = all.windows(2).any(|two| matches!(two, [a, b] if a.title == b.title));
        check.require(!twice, "feeds", || "each title once".to_owned());
        check.done(Some(Self(all)))
    }
}

/// Description of a feed for a viewer, before it dials.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveInfo {
    /// Public key of the groups' signatures.
    pub key: FeedKey,
    /// Unix milliseconds.
    pub started_ms: i64,
    /// Milliseconds back from now that can be watched.
    pub window_ms: u64,
}

impl TryFrom<v1::Live> for LiveInfo {
    type Error = Invalid;

    fn try_from(live: v1::Live) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let key = check.take("key", FeedKey::try_from(live.key.as_slice()));
        check.done(key.map(|key| Self { key, started_ms: live.started_ms, window_ms: live.window_ms }))
    }
}

/// The set-up information of a feed's session.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedSetupInfo {
    /// Its name.
    pub title: Title,
    /// For example `video/mp2t`.
    pub media_type: String,
    /// Measured rate.
    pub bitrate: Bitrate,
    /// Names the streams of the session's groups.
    pub subscription: u64,
    /// The first group that comes, or the least number of the first that may be sent.
    pub first: u64,
    /// The newest that has begun; 0 for none.
    pub newest: u64,
    /// Milliseconds of the feed that the node keeps.
    pub window_ms: u64,
}

impl TryFrom<v1::Setup> for FeedSetupInfo {
    type Error = Invalid;

    fn try_from(setup: v1::Setup) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let title = check.take("title", title(&setup.title));
        check.require(is_media_type(&setup.media_type), "media_type", || "expected type/subtype".to_owned());
        check.require(setup.feed.is_some(), "feed", || "this is no feed".to_owned());
        let feed = setup.feed.unwrap_or_default();
        let numbers = [feed.first_group, feed.newest_group].iter().all(|number| *number <= MAX_GROUP);
        check.require(numbers, "feed", || format!("groups have numbers up to {MAX_GROUP}"));
        check.done(title.map(|title| Self {
            title,
            media_type: setup.media_type,
            bitrate: Bitrate(setup.bitrate_bps),
            subscription: feed.subscription,
            first: feed.first_group,
            newest: feed.newest_group,
            window_ms: feed.window_ms,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> v1::FeedState {
        v1::FeedState {
            title: "live/a".into(),
            publisher_id: vec![1; 16],
            bitrate_bps: 5,
            media_type: "video/mp2t".into(),
            ..v1::FeedState::default()
        }
    }

    #[test]
    fn states() {
        let good = FeedState::try_from(state()).expect("valid");
        assert_eq!(good.to_pb(), state());
        for (what, wrong) in [
            ("a file", v1::FeedState { title: "a".into(), ..state() }),
            ("a path", v1::FeedState { title: "live/../a".into(), ..state() }),
            ("publisher", v1::FeedState { publisher_id: vec![1; 15], ..state() }),
            ("upstream", v1::FeedState { upstream: "A B".into(), ..state() }),
            ("rate", v1::FeedState { bitrate_bps: u64::MAX, ..state() }),
            ("type", v1::FeedState { media_type: "x".into(), ..state() }),
            ("tracks", v1::FeedState { tracks: vec![v1::Track::default(); 65], ..state() }),
        ] {
            assert!(FeedState::try_from(wrong).is_err(), "{what}");
        }
        assert!(Feeds::try_from(v1::Feeds { feeds: vec![state(), state()] }).is_err(), "twice");
        assert!(Feeds::try_from(v1::Feeds { feeds: vec![state(); MAX_FEEDS + 1] }).is_err(), "many");
        let unknown = v1::FeedState { media_type: String::new(), publisher_id: vec![], ..state() };
        assert!(FeedState::try_from(unknown).is_ok());
    }

    #[test]
    fn descriptions() {
        assert!(LiveInfo::try_from(v1::Live { key: vec![0; 31], ..v1::Live::default() }).is_err());
        assert!(FeedSetupInfo::try_from(v1::Setup { title: "live/a".into(), ..v1::Setup::default() }).is_err());
        let starting = |first_group| {
            let feed = Some(v1::FeedSetup { first_group, ..v1::FeedSetup::default() });
            FeedSetupInfo::try_from(v1::Setup {
                title: "live/a".into(),
                media_type: "video/mp2t".into(),
                feed,
                ..v1::Setup::default()
            })
        };
        assert!(starting(MAX_GROUP).is_ok() && starting(u64::MAX).is_err());
    }
}
