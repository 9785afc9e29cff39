//! The claims of a ticket: the right to a title or a feed on one node, as they are signed.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    code::{Code, Fault},
    feed::FeedKey,
    id::{PublisherId, SessionId, TokenId, ViewerId},
};

/// Seconds for which a ticket can be redeemed. A session that has begun runs until its claim `until`.
pub const LIFETIME_SECS: u64 = 60;

/// Purpose of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Watching: the rate must be held.
    Play,
    /// Downloading: takes the bandwidth that viewers leave.
    Fetch,
}

/// The claims of a ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The node that accepts it.
    pub aud: String,
    /// The session, in hex.
    pub jti: String,
    /// The title.
    pub title: String,
    /// The content id in hex; absent while the title is not hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cid: Option<String>,
    /// First byte granted.
    #[serde(default)]
    pub start: u64,
    /// One past the last byte granted; absent means the title's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
    /// Play or fetch.
    pub purpose: Purpose,
    /// Bit/s reserved.
    pub rate: u64,
    /// Not valid before, Unix seconds.
    pub nbf: u64,
    /// Not valid from, Unix seconds.
    pub exp: u64,
    /// Request id, for logs.
    #[serde(default)]
    pub rid: String,
    /// The node counts as full only because of a short burst of other traffic: it may promise a tenth more than its
    /// capacity for this ticket.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub burst: bool,
    /// End of the session's lifetime, Unix seconds; absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Rights to a feed; absent for a title that is not live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<FeedClaims>,
    /// The viewer, in hex; absent where viewers have no identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<ViewerId>,
    /// The viewer's token, in hex; absent where it has no id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<TokenId>,
}

impl Claims {
    /// Claims on all of `title` at `node` without a reserved rate, issued at `now` (Unix seconds) and to be redeemed within
    /// [`LIFETIME_SECS`]. Callers change single claims with struct update syntax.
    pub fn new(
        node: impl fmt::Display,
        session: SessionId,
        title: impl fmt::Display,
        purpose: Purpose,
        now: u64,
    ) -> Self {
        Self {
            aud: node.to_string(),
            jti: session.to_string(),
            title: title.to_string(),
            cid: None,
            start: 0,
            end: None,
            purpose,
            rate: 0,
            nbf: now,
            exp: now.saturating_add(LIFETIME_SECS),
            rid: String::new(),
            burst: false,
            until: None,
            feed: None,
            sub: None,
            tid: None,
        }
    }
}

/// A right to a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Receive its groups to show them.
    Watch,
    /// Receive its groups to relay them.
    Relay,
    /// Send it.
    Publish,
}

/// The claims of a ticket for a feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedClaims {
    /// To watch, to relay or to publish.
    pub right: Right,
    /// The key that its groups are signed with, in hex.
    pub key: String,
    /// To publish: 16 bytes of the publisher, in hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub publisher: String,
    /// To publish: the least number of its first group.
    #[serde(default)]
    pub first: u64,
    /// To publish: replaces another publisher of the title.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub take_over: bool,
    /// To publish: the node records the feed as a title.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub record: bool,
}

/// [`FeedClaims`] in their own types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedGrant {
    /// To watch, to relay or to publish.
    pub right: Right,
    /// The key that its groups are signed with.
    pub key: FeedKey,
    /// The publisher; all zero unless the right is to publish.
    pub publisher: PublisherId,
    /// The least number of a publisher's first group.
    pub first: u64,
    /// It replaces another publisher of the title.
    pub take_over: bool,
    /// The node records the feed as a title.
    pub record: bool,
}

impl FeedGrant {
    /// A grant to watch or to relay a feed.
    pub fn to_get(right: Right, key: FeedKey) -> Self {
        Self { right, key, publisher: PublisherId(0), first: 0, take_over: false, record: false }
    }

    /// Converts to claims.
    pub fn to_claims(&self) -> FeedClaims {
        let publisher = if self.right == Right::Publish { self.publisher.to_string() } else { String::new() };
        let Self { right, first, take_over, record, .. } = *self;
        FeedClaims { right, key: self.key.to_string(), publisher, first, take_over, record }
    }
}

impl TryFrom<FeedClaims> for FeedGrant {
    type Error = TicketError;

    fn try_from(claims: FeedClaims) -> Result<Self, TicketError> {
        let publisher = match claims.right {
            Right::Publish => claims.publisher.parse().map_err(|_| TicketError::Malformed)?,
            Right::Watch | Right::Relay => PublisherId(0),
        };
        let key = claims.key.parse().map_err(|_| TicketError::Malformed)?;
        let FeedClaims { right, first, take_over, record, .. } = claims;
        Ok(Self { right, key, publisher, first, take_over, record })
    }
}

/// Error of a ticket check.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TicketError {
    /// Not a token, too long, or with malformed claims.
    #[error("the ticket is malformed; ask the master for one with Tickets/Resolve")]
    Malformed,
    /// Signed with another key, or altered.
    #[error("the ticket's signature is wrong, or it is older than this start of the node; resolve again")]
    Signature,
    /// For another node.
    #[error("the ticket is for node `{0}`, not for this one")]
    Audience(String),
    /// Too late.
    #[error("the ticket expired {0} s ago; resolve again")]
    Expired(u64),
    /// Too early, by more than clocks should differ.
    #[error("the ticket is valid only in {0} s; check the clocks of master and node")]
    NotYet(u64),
}

impl From<&TicketError> for Fault {
    fn from(error: &TicketError) -> Self {
        let code = match error {
            TicketError::Malformed | TicketError::Signature => Code::TicketInvalid,
            TicketError::Audience(_) => Code::TicketMismatch,
            TicketError::Expired(_) | TicketError::NotYet(_) => Code::TicketExpired,
        };
        Self::new(code, error.to_string())
    }
}
