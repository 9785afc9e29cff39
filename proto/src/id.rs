//! Identifiers: content, session, boot, node. Parsing, printing, nothing else.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

/// An identifier that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdError {
    /// Not the hex digits it should be.
    #[error("expected {digits} hex digits, as `b3sum` prints them for content")]
    Hex {
        /// How many digits there should be.
        digits: usize,
    },
    /// Not a node's name.
    #[error("a node's name is 1 to 63 of a-z, 0-9, `-` and `.`, beginning and ending with a letter or digit")]
    NodeName,
    /// Not a zone's name.
    #[error("a zone's name is at most 63 of a-z, A-Z, 0-9, `-`, `_` and `.`")]
    Zone,
}

/// BLAKE3 of a title's bytes: 32 bytes, printed as 64 hex digits, equal to what `b3sum` prints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub [u8; 32]);

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContentId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError::Hex { digits: 64 })?;
        Ok(Self(bytes))
    }
}

impl TryFrom<&[u8]> for ContentId {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::Hex { digits: 64 })
    }
}

/// A number, printed as the given count of hex digits.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident($number:ty), $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:0width$x}", self.0, width = $digits)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; $digits / 2];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError::Hex { digits: $digits })?;
                Ok(Self(<$number>::from_be_bytes(bytes)))
            }
        }
    };
}

hex_id! {
    /// One client playing one title; the `jti` of its tickets and the key of its reservation.
    SessionId(u128), 32
}
hex_id! {
    /// One start of a node's process.
    BootId(u128), 32
}
hex_id! {
    /// One run of a publisher.
    PublisherId(u128), 32
}

/// A keyed hash of a name. Only the cluster's masters can compute it from the name.
macro_rules! name_hash {
    ($(#[$doc:meta])* $name:ident) => {
        hex_id! { $(#[$doc])* $name(u64), 16 }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

name_hash! {
    /// A viewer: stands for the subject of its token in tickets, accounts and logs.
    ViewerId
}
name_hash! {
    /// One token of a viewer: stands for the token's own id.
    TokenId
}

/// A node's name: 1 to 63 of `a-z`, `0-9`, `-` and `.`, as in its certificate.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Box<str>);

impl NodeName {
    /// Checks the rule above.
    pub fn parse(name: &str) -> Result<Self, IdError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let ends = bytes.first().is_some_and(|b| inner(*b)) && bytes.last().is_some_and(|b| inner(*b));
        if ends && bytes.len() <= 63 && bytes.iter().all(|b| inner(*b) || matches!(b, b'-' | b'.')) {
            Ok(Self(name.into()))
        } else {
            Err(IdError::NodeName)
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = IdError;

    fn from_str(name: &str) -> Result<Self, IdError> {
        Self::parse(name)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks a zone's name; the empty one means "no zone".
pub fn zone(name: &str) -> Result<&str, IdError> {
    let ok = name.len() <= 63 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if ok { Ok(name) } else { Err(IdError::Zone) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_id_prints_like_b3sum() {
        let id = ContentId(*blake3::hash(b"").as_bytes());
        assert_eq!(id.to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "zz", "af13", &"a".repeat(63), &"a".repeat(65), &"é".repeat(32)] {
            assert!(wrong.parse::<ContentId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn session_ids_round_trip() {
        let id = SessionId(7);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("7".parse::<SessionId>().is_err());
    }

    #[test]
    fn hashes_of_names_round_trip() {
        let id = ViewerId(0xfe);
        assert_eq!((id.to_string().as_str(), id.to_string().parse()), ("00000000000000fe", Ok(id)));
        assert!("fe".parse::<TokenId>().is_err());
    }

    #[test]
    fn node_names() {
        for good in ["a", "node-1", "box.example.org", &"n".repeat(63)] {
            assert!(NodeName::parse(good).is_ok(), "{good}");
        }
        for wrong in ["", "-a", "a-", "A", "a b", "ä", "a/b", &"n".repeat(64)] {
            assert!(NodeName::parse(wrong).is_err(), "{wrong}");
        }
        assert!(zone("").is_ok() && zone("eu-1").is_ok() && zone("a b").is_err());
    }
}
