//! Tickets: the signed right to one title on one node, a compact JWT (RFC 7519) under HS256.
//! Owns keys, claims, signing and offline checking. Knows no replay memory and no clock: the caller has both.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    code::{Code, Fault},
    feed::{FeedKey, FeedSigner},
    id::{BootId, ContentId, NodeName, PublisherId, SessionId},
    title::Title,
};

/// Longest token that is looked at, in bytes: a title of 1024 bytes, escaped, in base64, and the other claims.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// How far the clocks of master and node may differ, in seconds.
pub const LEEWAY_SECS: u64 = 10;

/// How long a ticket may be redeemed, in seconds. A session that has begun runs until its claim `until`.
pub const LIFETIME_SECS: u64 = 60;

/// How long after its `until` a ticket may still be renewed, in seconds: a client that could not reach a master for a
/// while finds one again.
pub const RENEWABLE_SECS: u64 = 3600;

/// The secret of the whole cluster; it never leaves the master's key store.
#[derive(Clone)]
pub struct ClusterSecret([u8; 32]);

impl ClusterSecret {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The ticket key of one start of one node. A node can forge only for itself, and a restart of it ends every
    /// ticket that its lost replay memory could no longer tell apart.
    pub fn node_key(&self, node: &NodeName, boot: BootId) -> Key {
        let mut hasher = blake3::Hasher::new_derive_key("usher 2026 ticket key of one node and boot");
        hasher.update(&self.0).update(&boot.0.to_be_bytes()).update(node.as_str().as_bytes());
        let secret = *hasher.finalize().as_bytes();
        Key::new(secret)
    }
}

impl ClusterSecret {
    /// The seed of the key that a feed's groups are signed with: the same whoever publishes the title, so that a
    /// publisher that was started again goes on with the same feed.
    pub fn feed_seed(&self, title: &Title) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("usher 2026 seed of a feed's key");
        hasher.update(&self.0).update(title.as_str().as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The key of a feed's groups. About 40 microseconds: to be kept.
    pub fn feed_key(&self, title: &Title) -> FeedKey {
        FeedSigner::from_seed(&self.feed_seed(title)).key()
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(hidden)")
    }
}

/// One node's key for tickets.
#[derive(Clone)]
pub struct Key {
    kid: String,
    secret: [u8; 32],
    sign: EncodingKey,
    check: DecodingKey,
}

impl Key {
    /// From 32 secret bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        let kid = blake3::derive_key("usher 2026 name of a ticket key", &secret);
        Self {
            kid: hex::encode(&kid[..8]),
            secret,
            sign: EncodingKey::from_secret(&secret),
            check: DecodingKey::from_secret(&secret),
        }
    }

    /// Names the key without telling it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The bytes, for the mutual-TLS channel to the node only.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Signs claims. About a microsecond.
    pub fn sign(&self, claims: &Claims) -> Result<String, TicketError> {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, &self.sign).map_err(|_| TicketError::Malformed)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.kid)
    }
}

/// What a title is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// The rate must be held.
    Play,
    /// Takes what viewers leave.
    Fetch,
}

/// What a ticket grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The node that may honour it.
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
    /// Given in the belief that what fills the node is a short burst of others' traffic: the node may promise a tenth
    /// more than its capacity for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub burst: bool,
    /// A session that was begun with it may run until then, Unix seconds; absent means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// What of a feed it grants; absent for what is not live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<FeedClaims>,
}

/// What may be done with a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Get its groups, to show them.
    Watch,
    /// Get its groups, to hand them on.
    Relay,
    /// Send it.
    Publish,
}

/// What of a feed a ticket grants.
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
    /// To publish: it ends another publisher of the title.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub take_over: bool,
    /// To publish: the node keeps it as a title.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub record: bool,
}

/// The same in its own types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedGrant {
    /// To watch, to relay or to publish.
    pub right: Right,
    /// The key that its groups are signed with.
    pub key: FeedKey,
    /// Who publishes; all zero but for a ticket to publish.
    pub publisher: PublisherId,
    /// The least number of a publisher's first group.
    pub first: u64,
    /// It ends another publisher of the title.
    pub take_over: bool,
    /// The node keeps it as a title.
    pub record: bool,
}

impl FeedGrant {
    /// To watch or to relay a feed.
    pub fn to_get(right: Right, key: FeedKey) -> Self {
        Self { right, key, publisher: PublisherId(0), first: 0, take_over: false, record: false }
    }

    /// As claims.
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

/// A ticket that was checked: the claims in their own types.
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
    /// Unix seconds from which on it may be forgotten by a replay memory.
    pub forget_at: u64,
    /// For logs.
    pub request_id: String,
    /// The node may promise a tenth more than its capacity for it.
    pub burst: bool,
    /// Unix seconds until which the session may run; `None` for ever.
    pub until: Option<u64>,
    /// What of a feed it grants; `None` for what is not live.
    pub feed: Option<FeedGrant>,
}

/// Why a ticket is not honoured.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TicketError {
    /// Not a token, too long, or claims of the wrong shape.
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

/// Checks a token offline: signature by any of `keys` (picked by `kid`), audience and time. `now` in Unix seconds.
pub fn verify(keys: &[Key], node: &NodeName, now: u64, token: &str) -> Result<Ticket, TicketError> {
    let claims = read(keys, node, now, token)?;
    if now >= claims.exp.saturating_add(LEEWAY_SECS) {
        return Err(TicketError::Expired(now - claims.exp));
    }
    Ticket::try_from(claims)
}

/// Checks a token that is to let a running session run on. The time to open a session with it may be over; the time that
/// it gives must not be.
pub fn verify_renewal(keys: &[Key], node: &NodeName, now: u64, token: &str) -> Result<Ticket, TicketError> {
    let claims = read(keys, node, now, token)?;
    if let Some(until) = claims.until.filter(|until| now >= until.saturating_add(LEEWAY_SECS)) {
        return Err(TicketError::Expired(now - until));
    }
    Ticket::try_from(claims)
}

/// Why a ticket is not renewed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RenewError {
    /// It was signed for another start of the node, whose sessions are gone; or for another node.
    #[error("the ticket is not of this start of the node; resolve again")]
    Restarted,
    /// It is no good ticket, or ran out too long ago.
    #[error(transparent)]
    Ticket(#[from] TicketError),
}

/// Signs a ticket of a node again, by the key of the start of it that is known now: with the same claims, until `until`
/// (`None` for ever). `now` in Unix seconds.
pub fn renew(key: &Key, node: &NodeName, now: u64, until: Option<u64>, token: &str) -> Result<String, RenewError> {
    let header = header(token)?;
    if header.kid.as_ref() != Some(&key.kid) {
        return Err(RenewError::Restarted);
    }
    let claims = read(std::slice::from_ref(key), node, now, token)?;
    let late = claims.until.filter(|until| now >= until.saturating_add(RENEWABLE_SECS));
    if let Some(until) = late {
        return Err(TicketError::Expired(now - until).into());
    }
    Ok(key.sign(&Claims { until, ..claims })?)
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
    let key = keys.iter().find(|key| Some(&key.kid) == header.kid.as_ref()).ok_or(TicketError::Signature)?;
    // Time and audience are checked here and by the callers, with the caller's clock and better words.
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
        return Err(TicketError::Audience(claims.aud.chars().filter(|c| !c.is_control()).take(64).collect()));
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
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).expect("a valid name")
    }

    fn claims() -> Claims {
        Claims {
            aud: "node-1".into(),
            jti: SessionId(5).to_string(),
            title: "films/b.mp4".into(),
            cid: Some(ContentId([7; 32]).to_string()),
            start: 0,
            end: None,
            purpose: Purpose::Play,
            rate: 8_000_000,
            nbf: 1000,
            exp: 1060,
            rid: "r".into(),
            burst: false,
            until: None,
            feed: None,
        }
    }

    #[test]
    fn a_ticket_is_good_for_its_node_in_its_time() {
        let secret = ClusterSecret::new([1; 32]);
        let key = secret.node_key(&node("node-1"), BootId(1));
        let token = key.sign(&claims()).expect("signs");
        let keys = [key];
        let check = |now| verify(&keys, &node("node-1"), now, &token);
        assert_eq!(check(1030).map(|t| (t.session, t.rate)), Ok((SessionId(5), 8_000_000)));
        assert!(check(990).is_ok() && check(1069).is_ok());
        assert_eq!(check(989), Err(TicketError::NotYet(11)));
        assert_eq!(check(1070), Err(TicketError::Expired(10)));
        assert_eq!(verify(&keys, &node("node-2"), 1030, &token), Err(TicketError::Audience("node-1".into())));

        for other in [secret.node_key(&node("node-2"), BootId(1)), secret.node_key(&node("node-1"), BootId(2))] {
            assert_eq!(verify(&[other], &node("node-1"), 1030, &token), Err(TicketError::Signature));
        }
        assert_eq!(verify(&[], &node("node-1"), 1030, &token), Err(TicketError::Signature));
    }

    #[test]
    fn a_ticket_is_renewed_with_its_claims_for_an_hour_after_its_end() {
        let key = Key::new([1; 32]);
        let keys = [key.clone()];
        let (one, two) = (node("node-1"), node("node-2"));
        let token = |until| key.sign(&Claims { until, ..claims() }).expect("signs");
        let old = token(Some(2000));
        // Opening is over, running is not.
        assert_eq!(verify(&keys, &one, 2005, &old), Err(TicketError::Expired(945)));
        assert_eq!(verify_renewal(&keys, &one, 2009, &old).map(|ticket| ticket.until), Ok(Some(2000)));
        assert_eq!(verify_renewal(&keys, &one, 2010, &old), Err(TicketError::Expired(10)));
        assert_eq!(verify_renewal(&keys, &one, u64::MAX, &token(None)).map(|ticket| ticket.until), Ok(None));
        assert_eq!(verify_renewal(&keys, &one, 989, &old), Err(TicketError::NotYet(11)));
        assert_eq!(verify_renewal(&keys, &two, 1030, &old), Err(TicketError::Audience("node-1".into())));

        let renewed = renew(&key, &one, 5599, Some(6199), &old).expect("renewed");
        let (before, after) = (read(&keys, &one, 5599, &old), read(&keys, &one, 5599, &renewed));
        assert_eq!(after, before.map(|claims| Claims { until: Some(6199), ..claims }));
        assert!(verify(&keys, &one, 5599, &renewed).is_err(), "it opens nothing");
        assert_eq!(renew(&key, &one, 5600, None, &old), Err(TicketError::Expired(3600).into()));
        assert!(renew(&key, &one, 9999, None, &token(None)).is_ok(), "for ever is for ever");
        assert_eq!(renew(&Key::new([2; 32]), &one, 1030, None, &old), Err(RenewError::Restarted));
        assert_eq!(renew(&key, &two, 1030, None, &old), Err(TicketError::Audience("node-1".into()).into()));
        let forged = old.replace(&old[old.len() - 6..], "AAAAAA");
        assert_eq!(renew(&key, &one, 1030, None, &forged), Err(TicketError::Signature.into()));
        assert_eq!(renew(&key, &one, 1030, None, "x"), Err(TicketError::Malformed.into()));
    }

    #[test]
    fn nothing_but_hs256_is_taken() {
        let key = Key::new([1; 32]);
        let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", "e30");
        let (node, token) = (node("node-1"), key.sign(&claims()).expect("signs"));
        let hs384 = jsonwebtoken::encode(
            &Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::HS384) },
            &claims(),
            &key.sign,
        )
        .expect("signs");
        for wrong in ["", ".", "..", "a.b.c", &unsigned, &hs384, &"x".repeat(5000), &token[..token.len() - 1]] {
            assert!(verify(std::slice::from_ref(&key), &node, 1030, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = ClusterSecret::new([0xab; 32]);
        let key = secret.node_key(&node("n"), BootId(1));
        let text = format!("{secret:?} {key:?}");
        assert!(!text.contains("171, 171") && !text.contains(&hex::encode(key.secret())), "{text}");
    }

    proptest! {
        #[test]
        fn an_altered_ticket_is_refused(at in 0_usize..400, flip in 1_u8..128) {
            let key = Key::new([9; 32]);
            let token = key.sign(&claims()).expect("signs");
            let mut bytes = token.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(altered) = String::from_utf8(bytes) {
                let result = verify(std::slice::from_ref(&key), &node("node-1"), 1030, &altered);
                prop_assert!(result.is_err(), "{altered}");
                prop_assert!(renew(&key, &node("node-1"), 1030, None, &altered).is_err(), "{altered}");
            }
        }
    }
}
