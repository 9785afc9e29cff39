//! The secrets under which tickets and feeds are signed.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};

use super::claims::{Claims, TicketError};
use crate::{
    feed::{FeedKey, FeedSigner},
    id::{BootId, NodeName, SessionId, TokenId, ViewerId},
    title::Title,
};

/// The secret of the whole cluster, kept by the master.
#[derive(Clone)]
pub struct ClusterSecret([u8; 32]);

impl ClusterSecret {
    /// Creates the secret from 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Derives the ticket key of one start of one node. A node can forge tickets only for itself, and its restart, which
    /// loses the replay memory, voids all earlier tickets.
    pub fn node_key(&self, node: &NodeName, boot: BootId) -> Key {
        let mut hasher = blake3::Hasher::new_derive_key("usher 2026 ticket key of one node and boot");
        hasher.update(&self.0).update(&boot.0.to_be_bytes()).update(node.as_str().as_bytes());
        let secret = *hasher.finalize().as_bytes();
        Key::new(secret)
    }
}

impl ClusterSecret {
    /// Derives the seed of a feed's signing key. It depends on the title only, so that a restarted publisher continues the
    /// same feed.
    pub fn feed_seed(&self, title: &Title) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("usher 2026 seed of a feed's key");
        hasher.update(&self.0).update(title.as_str().as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The id of a viewer by the subject of its token.
    pub fn viewer_id(&self, subject: &str) -> ViewerId {
        ViewerId(self.name_hash("usher 2026 id of a viewer", subject))
    }

    /// The id of a token by its own name for itself.
    pub fn token_id(&self, name: &str) -> TokenId {
        TokenId(self.name_hash("usher 2026 id of a token", name))
    }

    fn name_hash(&self, context: &str, name: &str) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0).update(name.as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Derives the key of session ids.
    pub fn session_key(&self) -> SessionKey {
        SessionKey(blake3::derive_key("usher 2026 key of session ids", &self.0))
    }

    /// Derives the public key of a feed, in about 40 microseconds: callers keep it.
    pub fn feed_key(&self, title: &Title) -> FeedKey {
        FeedSigner::from_seed(&self.feed_seed(title)).key()
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(hidden)")
    }
}

/// Issues and recognizes session ids. The upper half of an id is random, the lower half its code under this key: a node
/// cannot invent a session, and every master of the cluster, also after a restart, recognizes the sessions of the others.
#[derive(Clone)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    /// The session id for 64 random bits.
    pub fn issue(&self, random: u64) -> SessionId {
        SessionId(u128::from(random) << 64 | u128::from(self.code(random)))
    }

    /// Whether this cluster issued the id.
    pub fn issued(&self, session: SessionId) -> bool {
        // The halves of a 128-bit number.
        let (random, code) = ((session.0 >> 64) as u64, session.0 as u64);
        self.code(random) == code
    }

    fn code(&self, random: u64) -> u64 {
        let hash = blake3::keyed_hash(&self.0, &random.to_be_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(hidden)")
    }
}

/// One node's key for tickets.
#[derive(Clone)]
pub struct Key {
    kid: String,
    secret: [u8; 32],
    pub(super) sign: EncodingKey,
    pub(super) check: DecodingKey,
}

impl Key {
    /// Creates the key from 32 secret bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        let kid = blake3::derive_key("usher 2026 name of a ticket key", &secret);
        Self {
            kid: hex::encode(&kid[..8]),
            secret,
            sign: EncodingKey::from_secret(&secret),
            check: DecodingKey::from_secret(&secret),
        }
    }

    /// Identifies the key without revealing it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The secret bytes, for the mutual-TLS channel to the node only.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Signs claims, in about a microsecond.
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
