//! Verification of a token: bounds, algorithm, signature, issuer, audience and times, in this order. Offline; the caller
//! owns keys and clock.

use std::time::Duration;

use jsonwebtoken::{Validation, errors::ErrorKind};
use usher_proto::text::printable;

use super::{
    claims::{TokenClaims, UsherClaims},
    error::{LONGEST_LIFE, TokenError},
    keys::KeySet,
    rights::Rights,
};

/// Longest accepted token, in bytes: half of what the master accepts as headers of a call.
pub const MAX_TOKEN_BYTES: usize = 8192;

/// Longest name of a subject and of a token, in bytes; OpenID Connect allows 255.
const MAX_NAME: usize = 255;

/// Keys tried for a token without a key id: each costs up to 0.1 ms.
const MAX_TRIES: usize = 8;

/// The rules for tokens of one master.
#[derive(Clone, Debug)]
pub struct Verifier {
    audience: String,
    issuer: Option<String>,
    leeway: u64,
}

impl Verifier {
    /// Accepts tokens for `audience`, of `issuer` if given, with clocks that differ by up to `leeway`.
    pub fn new(audience: impl Into<String>, issuer: Option<String>, leeway: Duration) -> Self {
        Self { audience: audience.into(), issuer, leeway: leeway.as_secs() }
    }

    /// Checks a token. `now` in Unix seconds.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn verify(&self, keys: &KeySet, now: u64, token: &str) -> Result<Rights, TokenError> {
        let claims = signed(keys, token)?;
        if self.issuer.is_some() && claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        if !claims.aud.as_ref().is_some_and(|audience| audience.names(&self.audience)) {
            return Err(TokenError::Audience(self.audience.clone()));
        }
        if now >= claims.exp.saturating_add(self.leeway) {
            return Err(TokenError::Expired(now.saturating_sub(claims.exp)));
        }
        if claims.exp > now.saturating_add(LONGEST_LIFE.as_secs()) {
            return Err(TokenError::Life);
        }
        if let Some(begin) = claims.nbf.filter(|begin| now.saturating_add(self.leeway) < *begin) {
            return Err(TokenError::NotYet(begin.saturating_sub(now)));
        }
        let name = |name: &str| (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
        if !name(&claims.sub) {
            return Err(TokenError::Malformed("`sub` is missing or longer than 255 bytes"));
        }
        if claims.jti.as_deref().is_some_and(|id| !name(id)) {
            return Err(TokenError::Malformed("`jti` is empty or longer than 255 bytes"));
        }
        let own = claims.usher.ok_or_else(|| TokenError::Rights("it is missing".to_owned()))?;
        let own: UsherClaims =
            serde_json::from_value(own).map_err(|error| TokenError::Rights(printable(&error.to_string())))?;
        let mut rights = Rights::new(claims.sub, claims.exp, own)?;
        (rights.token_id, rights.issued) = (claims.jti, claims.iat);
        Ok(rights)
    }
}

/// The claims of a token with a good signature; nothing else is checked.
///
/// # Errors
/// The token is malformed, or none of the keys has signed it.
pub fn signed(keys: &KeySet, token: &str) -> Result<TokenClaims, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Malformed("it is longer than 8192 bytes"));
    }
    let not_jwt = |_| TokenError::Malformed("it is no signed JSON Web Token");
    let header = jsonwebtoken::decode_header(token).map_err(not_jwt)?;
    // RFC 7515, section 4.1.11: extensions that must be understood, and none is.
    if header.crit.is_some() {
        return Err(TokenError::Malformed("it has critical extensions"));
    }
    let mut rules = Validation::new(header.alg);
    // Times, issuer and audience are checked by the caller, with its clock.
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    rules.validate_aud = false;
    let mut error = TokenError::UnknownKey;
    for key in keys.candidates(header.alg, header.kid.as_deref()).take(MAX_TRIES) {
        match jsonwebtoken::decode::<TokenClaims>(token, key, &rules) {
            Ok(data) => return Ok(data.claims),
            Err(wrong) if *wrong.kind() == ErrorKind::InvalidSignature => error = TokenError::Signature,
            Err(_) => return Err(TokenError::Malformed("its claims are not those of RFC 7519, or `exp` is missing")),
        }
    }
    Err(error)
}
