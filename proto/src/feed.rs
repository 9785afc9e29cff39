//! The groups of a feed and their signatures: a chain of BLAKE3 through the pieces of a group and from group to group, signed
//! piece by piece with the feed's key (Ed25519). A viewer with the key from the master needs to trust no node in between.
//! Owns the order of the hashed fields, which `usher/wire/v1/wire.proto` documents.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use bytes::Bytes;

use crate::{
    code::{Code, Fault},
    id::IdError,
    pb,
    title::Title,
};

/// Most media bytes of one piece.
pub const MAX_PIECE: usize = 65536;

/// Most bytes of a group's head.
pub const MAX_HEAD: usize = 65536;

/// Most media bytes of one group.
pub const MAX_GROUP: u64 = 64 << 20;

/// Bytes of a signature.
pub const SIGNATURE: usize = 64;

/// A value of the chain.
pub type Link = [u8; 32];

/// The public key of a feed's signatures.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FeedKey(pub [u8; 32]);

impl fmt::Display for FeedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for FeedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for FeedKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError::Hex { digits: 64 })?;
        Ok(Self(bytes))
    }
}

impl TryFrom<&[u8]> for FeedKey {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::Hex { digits: 64 })
    }
}

/// The private key of a feed, held by its publisher.
#[derive(Clone)]
pub struct FeedSigner(Arc<Ed25519KeyPair>);

impl FeedSigner {
    /// Creates the key from the seed that the master gives a publisher.
    ///
    /// # Panics
    /// Never: each 32 bytes are a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Arc::new(Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes are a seed")))
    }

    /// The public key that checks its signatures.
    pub fn key(&self) -> FeedKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        FeedKey(key)
    }
}

impl fmt::Debug for FeedSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FeedSigner({})", self.key())
    }
}

/// Position of a piece within its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// A player can play the media up to here.
    pub whole: bool,
    /// Last piece of the group.
    pub last: bool,
}

impl Flags {
    /// Encodes for the wire.
    pub fn to_byte(self) -> u8 {
        u8::from(self.whole) | u8::from(self.last) << 1
    }

    /// Decodes from the wire; `None` for unknown bits.
    pub fn from_byte(byte: u8) -> Option<Self> {
        (byte < 4).then_some(Self { whole: byte & 1 != 0, last: byte & 2 != 0 })
    }
}

/// A signed part of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Position within the group.
    pub flags: Flags,
    /// Signature of the chain up to the end of this piece.
    pub signature: [u8; SIGNATURE],
    /// At most [`MAX_PIECE`] bytes; empty only in the last one.
    pub media: Bytes,
}

/// The head of a group, before its media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHead {
    /// Number, larger than that of the group before.
    pub sequence: u64,
    /// Start, in milliseconds of the publisher's clock.
    pub at_ms: u64,
    /// The last link of the group before; all zero when there is none.
    pub previous: Link,
    /// Bytes that a decoder needs before the media, at most [`MAX_HEAD`].
    pub head: Bytes,
}

impl GroupHead {
    /// Converts to the message for a subscription.
    pub fn to_pb(&self, subscription: u64) -> pb::wire::FeedGroup {
        pb::wire::FeedGroup {
            subscription,
            sequence: self.sequence,
            at_ms: self.at_ms,
            previous: self.previous.to_vec(),
            head: self.head.to_vec(),
        }
    }
}

impl TryFrom<pb::wire::FeedGroup> for GroupHead {
    type Error = Fault;

    fn try_from(group: pb::wire::FeedGroup) -> Result<Self, Fault> {
        let bad = |what: &str| Fault::new(Code::BadRequest, format!("group {} of a feed: {what}", group.sequence));
        let previous = group.previous.as_slice().try_into().map_err(|_| bad("a link has 32 bytes"))?;
        if group.sequence == 0 {
            return Err(bad("numbers begin with 1"));
        }
        if group.head.len() > MAX_HEAD {
            return Err(bad("its head is longer than 65536 bytes"));
        }
        Ok(Self { sequence: group.sequence, at_ms: group.at_ms, previous, head: group.head.into() })
    }
}

/// The chain of one group, extended piece by piece.
#[derive(Clone, Debug)]
pub struct Chain {
    link: Link,
    bytes: u64,
    ended: bool,
}

impl Chain {
    /// Starts the chain of a group.
    pub fn begin(title: &Title, group: &GroupHead) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("usher 2026 first link of a feed's group");
        let name = title.as_str().as_bytes();
        hasher.update(&(name.len() as u64).to_be_bytes()).update(name);
        hasher.update(&group.sequence.to_be_bytes()).update(&group.at_ms.to_be_bytes());
        hasher.update(&group.previous).update(&group.head);
        Self { link: *hasher.finalize().as_bytes(), bytes: 0, ended: false }
    }

    /// Extends the chain with a piece.
    ///
    /// # Errors
    /// `BAD_REQUEST` for a piece that breaks the limits of a group.
    pub fn take(&mut self, flags: Flags, media: &[u8]) -> Result<(), Fault> {
        let bad = |what: &str| Err(Fault::new(Code::BadRequest, format!("a piece of a feed {what}")));
        if self.ended {
            return bad("comes after the last one of its group");
        }
        if media.is_empty() && !flags.last {
            return bad("is empty");
        }
        if media.len() > MAX_PIECE {
            return bad("is longer than 65536 bytes");
        }
        if self.bytes + media.len() as u64 > MAX_GROUP {
            return bad("makes its group longer than 64 MiB; let the encoder make keyframes more often");
        }
        let mut hasher = blake3::Hasher::new_derive_key("usher 2026 link of a feed's piece");
        hasher.update(&self.link).update(&[flags.to_byte()]).update(media);
        self.link = *hasher.finalize().as_bytes();
        self.bytes += media.len() as u64;
        self.ended = flags.last;
        Ok(())
    }

    /// The link after the pieces so far.
    pub fn link(&self) -> Link {
        self.link
    }

    /// Whether the last piece was taken.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Media bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Signs the group so far.
    pub fn sign(&self, signer: &FeedSigner) -> [u8; SIGNATURE] {
        let mut signature = [0; SIGNATURE];
        signature.copy_from_slice(signer.0.sign(&self.link).as_ref());
        signature
    }

    /// Whether `signature` of the holder of `key` covers the group so far. One check covers all pieces up to here.
    pub fn is_signed(&self, key: &FeedKey, signature: &[u8; SIGNATURE]) -> bool {
        UnparsedPublicKey::new(&ED25519, key.0).verify(&self.link, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Flags = Flags { whole: true, last: false };
    const LAST: Flags = Flags { whole: true, last: true };

    fn title(name: &str) -> Title {
        Title::parse(name).expect("a title")
    }

    fn head() -> GroupHead {
        GroupHead { sequence: 7, at_ms: 9, previous: [3; 32], head: Bytes::from_static(b"head") }
    }

    /// The chain of these pieces.
    fn chain(name: &str, head: &GroupHead, pieces: &[(Flags, &[u8])]) -> Chain {
        let mut chain = Chain::begin(&title(name), head);
        for (flags, media) in pieces {
            chain.take(*flags, media).expect("a good piece");
        }
        chain
    }

    #[test]
    fn a_signature_covers_all_of_its_group_and_the_one_before() {
        let signer = FeedSigner::from_seed(&[1; 32]);
        let pieces: [(Flags, &[u8]); 2] = [(WHOLE, b"one"), (LAST, b"two")];
        let good = chain("live/a", &head(), &pieces);
        let signature = good.sign(&signer);
        assert!(good.is_signed(&signer.key(), &signature));
        assert!(!good.is_signed(&FeedSigner::from_seed(&[2; 32]).key(), &signature), "another feed's key");
        let other = |name: &str, head: &GroupHead, pieces: &[(Flags, &[u8])], what: &str| {
            assert!(!chain(name, head, pieces).is_signed(&signer.key(), &signature), "{what}");
        };
        other("live/b", &head(), &pieces, "title");
        other("live/a", &GroupHead { sequence: 8, ..head() }, &pieces, "number");
        other("live/a", &GroupHead { at_ms: 8, ..head() }, &pieces, "time");
        other("live/a", &GroupHead { previous: [4; 32], ..head() }, &pieces, "the group before");
        other("live/a", &GroupHead { head: Bytes::from_static(b"hea"), ..head() }, &pieces, "head");
        other("live/a", &head(), &[(WHOLE, b"onE"), (LAST, b"two")], "an earlier piece");
        other("live/a", &head(), &[(WHOLE, b"onet"), (LAST, b"wo")], "the cut");
        other("live/a", &head(), &[(WHOLE, b"one"), (WHOLE, b"two")], "the end");
        other("live/a", &head(), &[(WHOLE, b"one")], "a piece less");
    }

    #[test]
    fn pieces_that_no_group_may_have() {
        let mut chain = Chain::begin(&title("live/a"), &head());
        assert!(chain.take(WHOLE, b"").is_err(), "empty");
        assert!(chain.take(WHOLE, &vec![0; MAX_PIECE + 1]).is_err(), "long");
        let link = chain.link();
        assert!(chain.take(LAST, b"").is_ok() && chain.is_ended() && chain.link() != link);
        assert!(chain.take(WHOLE, b"x").is_err(), "after the last");
        let mut long = Chain::begin(&title("live/a"), &head());
        let piece = vec![0; MAX_PIECE];
        for _ in 0..MAX_GROUP / MAX_PIECE as u64 {
            long.take(WHOLE, &piece).expect("fits");
        }
        assert!(long.take(WHOLE, b"x").is_err() && long.bytes() == MAX_GROUP);
    }

    #[test]
    fn heads_and_keys_are_checked() {
        let group = head();
        assert_eq!(GroupHead::try_from(group.to_pb(5)), Ok(group.clone()));
        for wrong in [
            pb::wire::FeedGroup { previous: vec![0; 31], ..group.to_pb(1) },
            pb::wire::FeedGroup { sequence: 0, ..group.to_pb(1) },
            pb::wire::FeedGroup { head: vec![0; MAX_HEAD + 1], ..group.to_pb(1) },
        ] {
            assert!(GroupHead::try_from(wrong).is_err());
        }
        let key = FeedSigner::from_seed(&[1; 32]).key();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!("00".parse::<FeedKey>().is_err() && FeedKey::try_from(&[0; 31][..]).is_err());
        assert_eq!((0..=4).map(Flags::from_byte).filter(Option::is_some).count(), 4);
        assert_eq!(Flags::from_byte(LAST.to_byte()), Some(LAST));
    }
}
