//! Tickets: the signed right to one title on one node, a compact JWT (RFC 7519) under HS256. Owns checking and renewal;
//! [`Key`] signs, [`Claims`] are what is signed. The caller owns the clock and the memory of redeemed tickets.

mod claims;
mod key;

use jsonwebtoken::{Algorithm, Header, Validation};
use thiserror::Error;

pub use self::{
    claims::{Claims, FeedClaims, FeedGrant, LIFETIME_SECS, Purpose, Right, TicketError},
    key::{ClusterSecret, Key, SessionKey},
};
use crate::{
    id::{ContentId, NodeName, SessionId, TokenId, ViewerId},
    text::printable_within,
    title::Title,
};

/// Longest accepted token, in bytes: a title of 1024 bytes, escaped, in base64, and the other claims.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// Allowed difference between the clocks of master and node, in seconds.
pub const LEEWAY_SECS: u64 = 10;

/// Seconds after its `until` for which a ticket can still be renewed, for a client that could not reach a master for a
/// while.
pub const RENEWABLE_SECS: u64 = 3600;

/// A verified ticket: the claims in their own types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The session.
    pub session: SessionId,
    /// The title.
    pub title: Title,
    /// The content, once hashed.
    pub content: Option<ContentId>,
    /// First byte granted.
    pub start: u64,
    /// One past the last byte granted; `None` means the title's end.
    pub end: Option<u64>,
    /// Play or fetch.
    pub purpose: Purpose,
    /// Bit/s reserved.
    pub rate: u64,
    /// Unix seconds after which a replay memory can drop it.
    pub forget_at: u64,
    /// For logs.
    pub request_id: String,
    /// The node may promise a tenth more than its capacity for it.
    pub burst: bool,
    /// Unix seconds until which the session may run; `None` for ever.
    pub until: Option<u64>,
    /// Rights to a feed; `None` for a title that is not live.
    pub feed: Option<FeedGrant>,
    /// The viewer, where viewers have an identity.
    pub viewer: Option<ViewerId>,
    /// The viewer's token, if it has an id.
    pub token: Option<TokenId>,
}

/// Checks a token offline: signature by any of `keys` (picked by `kid`), audience and time. `now` in Unix seconds.
pub fn verify(keys: &[Key], node: &NodeName, now: u64, token: &str) -> Result<Ticket, TicketError> {
    let claims = read(keys, node, now, token)?;
    if now >= claims.exp.saturating_add(LEEWAY_SECS) {
        return Err(TicketError::Expired(now - claims.exp));
    }
    Ticket::try_from(claims)
}

/// Checks a token that renews a running session. Its time to open a session may be over; its `until` must not be.
pub fn verify_renewal(keys: &[Key], node: &NodeName, now: u64, token: &str) -> Result<Ticket, TicketError> {
    let claims = read(keys, node, now, token)?;
    if let Some(until) = claims.until.filter(|until| now >= until.saturating_add(LEEWAY_SECS)) {
        return Err(TicketError::Expired(now - until));
    }
    Ticket::try_from(claims)
}

/// Error of a renewal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RenewError {
    /// Signed for an earlier start of the node, whose sessions are gone, or for another node.
    #[error("the ticket is not of this start of the node; resolve again")]
    Restarted,
    /// An invalid ticket, or one that expired too long ago.
    #[error(transparent)]
    Ticket(#[from] TicketError),
}

/// Signs a ticket again with the key of the node's present start: with the same claims, valid until `until` (`None`: no
/// limit). `now` in Unix seconds.
pub fn renew(key: &Key, node: &NodeName, now: u64, until: Option<u64>, token: &str) -> Result<String, RenewError> {
    let header = header(token)?;
    if header.kid.as_deref() != Some(key.kid()) {
        return Err(RenewError::Restarted);
    }
    let claims = read(std::slice::from_ref(key), node, now, token)?;
    let late = claims.until.filter(|until| now >= until.saturating_add(RENEWABLE_SECS));
    if let Some(until) = late {
        return Err(TicketError::Expired(now - until).into());
    }
    Ok(key.sign(&Claims { until, ..claims })?)
}

/// Seconds after its issue for which a ticket without an `until` proves that its bearer was sent to the node.
const PROOF_SECS: u64 = 24 * 3600;

/// Checks that the bearer was sent to this node lately: the ticket can still open a session, or can be renewed. It proves
/// nothing about that session. `now` in Unix seconds.
pub fn verify_held(keys: &[Key], node: &NodeName, now: u64, token: &str) -> Result<Ticket, TicketError> {
    let claims = read(keys, node, now, token)?;
    let renewable = match claims.until {
        Some(until) => until.saturating_add(RENEWABLE_SECS),
        None => claims.nbf.saturating_add(PROOF_SECS),
    };
    let end = renewable.max(claims.exp.saturating_add(LEEWAY_SECS));
    if now >= end {
        return Err(TicketError::Expired(now - end));
    }
    Ticket::try_from(claims)
}

fn header(token: &str) -> Result<Header, TicketError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TicketError::Malformed);
    }
    jsonwebtoken::decode_header(token).map_err(|_| TicketError::Malformed)
}

/// The claims of a token that was signed for this node, and is valid by now.
fn read(keys: &[Key], node: &NodeName, now: u64, token: &str) -> Result<Claims, TicketError> {
    let header = header(token)?;
    let key = keys.iter().find(|key| Some(key.kid()) == header.kid.as_deref()).ok_or(TicketError::Signature)?;
    // Time and audience are checked here and by the callers, with the caller's clock and clearer errors.
    let mut rules = Validation::new(Algorithm::HS256);
    rules.set_required_spec_claims(&["exp"]);
    rules.validate_exp = false;
    rules.validate_aud = false;
    let claims = jsonwebtoken::decode::<Claims>(token, &key.check, &rules)
        .map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => TicketError::Signature,
            _ => TicketError::Malformed,
        })?
        .claims;
    if claims.aud != node.as_str() {
        return Err(TicketError::Audience(printable_within(&claims.aud, 64)));
    }
    if now.saturating_add(LEEWAY_SECS) < claims.nbf {
        return Err(TicketError::NotYet(claims.nbf - now));
    }
    Ok(claims)
}

impl TryFrom<Claims> for Ticket {
    type Error = TicketError;

    fn try_from(claims: Claims) -> Result<Self, TicketError> {
        let content = claims.cid.as_deref().map(str::parse).transpose().map_err(|_| TicketError::Malformed)?;
        Ok(Self {
            session: claims.jti.parse().map_err(|_| TicketError::Malformed)?,
            title: Title::parse(&claims.title).map_err(|_| TicketError::Malformed)?,
            content,
            start: claims.start,
            end: claims.end,
            purpose: claims.purpose,
            rate: claims.rate,
            forget_at: claims.exp.saturating_add(LEEWAY_SECS),
            request_id: claims.rid,
            burst: claims.burst,
            until: claims.until,
            feed: claims.feed.map(FeedGrant::try_from).transpose()?,
            viewer: claims.sub,
            token: claims.tid,
        })
    }
}

#[cfg(test)]
mod tests;
