//! The reasons why a token is not accepted, as its holder gets them.

use std::time::Duration;

use thiserror::Error;
use usher_proto::code::{Code, Fault};

/// Longest accepted life of a token from now on. A revocation is kept this long, after which no revoked token is valid.
pub const LONGEST_LIFE: Duration = Duration::from_secs(400 * 24 * 3600);

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not a signed JWT with the claims that it must have.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// No key fits.
    #[error("no key of this master is for the token's algorithm and key id; get a token from the right issuer")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the token's signature is wrong; get a token from the right issuer")]
    Signature,
    /// Of another issuer.
    #[error("the token is of another issuer than this master accepts (--token-issuer)")]
    Issuer,
    /// For another service.
    #[error("the token is for another audience than `{0}` (--token-audience)")]
    Audience(String),
    /// Too late.
    #[error("the token expired {0} s ago; get a new one")]
    Expired(u64),
    /// Too early.
    #[error("the token is valid only in {0} s; check the clocks of master and issuer")]
    NotYet(u64),
    /// Valid for longer than revocations are kept.
    #[error("the token is valid for more than {} days; issue one with a shorter life", LONGEST_LIFE.as_secs() / 86_400)]
    Life,
    /// The object `usher` is missing or wrong.
    #[error("the token's claim `usher` gives no rights: {0}")]
    Rights(String),
}

impl From<&TokenError> for Fault {
    fn from(error: &TokenError) -> Self {
        Self::new(Code::Unauthenticated, error.to_string())
    }
}
