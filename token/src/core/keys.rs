//! Keys that verify tokens, from PEM or from a JSON Web Key Set (RFC 7517). Each key has one algorithm, which follows from
//! the key and never from a token: a public key cannot be used as the secret of an HMAC.

use std::fmt;

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde_json::Value;
use thiserror::Error;

/// Most keys of a set; providers publish two or three.
const MAX_KEYS: usize = 64;

/// Longest text of a key set, in bytes.
pub const MAX_SET_BYTES: usize = 256 << 10;

/// Fewest bytes of a secret for HS256 (RFC 7518, section 3.2).
const SECRET_BYTES: usize = 32;

/// Length of an uncompressed point of P-256.
const P256_POINT: usize = 65;

/// Why a text has no usable key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Neither PEM nor JSON, or damaged.
    #[error("it is neither a public key in PEM nor a JSON Web Key Set: {0}")]
    Format(String),
    /// A private key, which a verifier must not have.
    #[error("it holds a private key; name the file of the public key, for example token.pem of `usher token keygen`")]
    Private,
    /// Keys, but none for a supported algorithm.
    #[error("it has no key for RS256, ES256, EdDSA or HS256{0}")]
    None(String),
}

/// Where keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file of the operator.
    File,
    /// A URL, which others can read as well: secrets are not accepted.
    Url,
}

/// A key with its algorithm.
struct VerifyingKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Keys of one issuer.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<VerifyingKey>,
    skipped: Vec<String>,
}

impl KeySet {
    /// Reads public keys in PEM, or a JSON Web Key Set. Keys that cannot be used are skipped.
    ///
    /// # Errors
    /// The text has no usable key.
    pub fn parse(text: &str, source: KeySource) -> Result<Self, KeyError> {
        if text.len() > MAX_SET_BYTES {
            return Err(KeyError::Format(format!("more than {MAX_SET_BYTES} bytes")));
        }
        let set =
            if text.trim_start().starts_with('{') { Self::from_json(text, source) } else { Self::from_pem(text) }?;
        if set.keys.is_empty() {
            let why = if set.skipped.is_empty() { String::new() } else { format!(" ({})", set.skipped.join("; ")) };
            return Err(KeyError::None(why));
        }
        Ok(set)
    }

    fn from_json(text: &str, source: KeySource) -> Result<Self, KeyError> {
        let value: Value = serde_json::from_str(text).map_err(|error| KeyError::Format(error.to_string()))?;
        let keys = match value.get("keys") {
            Some(Value::Array(keys)) => keys.clone(),
            Some(_) => return Err(KeyError::Format("`keys` is no list".to_owned())),
            None => vec![value],
        };
        let mut set = Self::default();
        for (at, key) in keys.into_iter().take(MAX_KEYS).enumerate() {
            match VerifyingKey::from_json(key, source) {
                Ok(key) => set.keys.push(key),
                Err(why) => set.skipped.push(format!("key {}: {why}", at + 1)),
            }
        }
        Ok(set)
    }

    fn from_pem(text: &str) -> Result<Self, KeyError> {
        let mut set = Self::default();
        for (at, rest) in text.split("-----BEGIN ").skip(1).take(MAX_KEYS).enumerate() {
            let tag = rest.split("-----").next().unwrap_or_default();
            if tag.contains("PRIVATE KEY") {
                return Err(KeyError::Private);
            }
            if !matches!(tag, "PUBLIC KEY" | "RSA PUBLIC KEY") {
                set.skipped.push(format!("block {}: not a PUBLIC KEY", at + 1));
                continue;
            }
            match VerifyingKey::from_pem(&format!("-----BEGIN {rest}")) {
                Some(key) => set.keys.push(key),
                None => set.skipped.push(format!("block {}: not a key of RSA, P-256 or Ed25519", at + 1)),
            }
        }
        if set.keys.is_empty() && set.skipped.is_empty() {
            return Err(KeyError::Format("it has no PEM block".to_owned()));
        }
        Ok(set)
    }

    /// Number of usable keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Why keys were left out, for logs.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// The keys for tokens with this header. A token without a key id, and a key without one, match all others.
    pub(super) fn candidates<'a>(
        &'a self,
        algorithm: Algorithm,
        kid: Option<&'a str>,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        let named = move |key: &&VerifyingKey| kid.is_none_or(|kid| key.kid.as_deref().is_none_or(|own| own == kid));
        self.keys.iter().filter(move |key| key.algorithm == algorithm).filter(named).map(|key| &key.key)
    }
}

impl VerifyingKey {
    fn from_json(key: Value, source: KeySource) -> Result<Self, &'static str> {
        if key.get("d").is_some() {
            return Err("a private key");
        }
        let key: Jwk = serde_json::from_value(key).map_err(|_| "not a JSON Web Key")?;
        if key.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            return Err("not for signatures");
        }
        let (algorithm, name) = match &key.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            AlgorithmParameters::OctetKey(_) if source == KeySource::Url => {
                return Err("a secret on a URL is none");
            }
            AlgorithmParameters::OctetKey(_) => (Algorithm::HS256, KeyAlgorithm::HS256),
            _ => return Err("not a key of RSA, P-256, Ed25519 or HMAC"),
        };
        if key.common.key_algorithm.is_some_and(|stated| stated != name) {
            return Err("for another algorithm");
        }
        let decoding = DecodingKey::from_jwk(&key).map_err(|_| "damaged")?;
        let bytes = decoding.try_get_as_bytes().map_or(0, <[u8]>::len);
        match algorithm {
            Algorithm::HS256 if bytes < SECRET_BYTES => return Err("a secret of less than 32 bytes"),
            Algorithm::ES256 if bytes != P256_POINT => return Err("damaged"),
            Algorithm::EdDSA if bytes != 32 => return Err("damaged"),
            _ => {}
        }
        Ok(Self { kid: key.common.key_id, algorithm, key: decoding })
    }

    fn from_pem(block: &str) -> Option<Self> {
        let block = block.as_bytes();
        let made = |algorithm, key| Self { kid: None, algorithm, key };
        if let Ok(key) = DecodingKey::from_ed_pem(block) {
            return Some(made(Algorithm::EdDSA, key));
        }
        if let Ok(key) = DecodingKey::from_ec_pem(block) {
            let fits = key.try_get_as_bytes().is_ok_and(|point| point.len() == P256_POINT);
            return fits.then(|| made(Algorithm::ES256, key));
        }
        DecodingKey::from_rsa_pem(block).ok().map(|key| made(Algorithm::RS256, key))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.keys.iter().map(|key| (key.kid.as_deref().unwrap_or("-"), key.algorithm));
        f.debug_list().entries(names).finish()
    }
}
