//! Viewers' tokens: signed JSON Web Tokens (RFC 7519) that name a subject and say which titles it may play, fetch or
//! publish.
//!
//! ```text
//! PEM or JWKS ──► KeySet ─┐
//! bearer token ───────────┴─► Verifier ──► Rights
//! ```
//!
//! [`Verifier`] checks a token offline against the keys of an identity provider, or of `usher token keygen`. [`Refresh`]
//! says when keys from a URL are due. Both are pure; [`cli`] is `usher token`. Fetching keys, remembering revoked tokens
//! and enforcing rights are left to the master.

pub mod cli;
pub mod core;

pub use crate::core::{
    claims::{Action, TokenClaims, UsherClaims},
    error::{LONGEST_LIFE, TokenError},
    keys::{KeyError, KeySet, KeySource},
    refresh::{Refresh, max_age},
    rights::Rights,
    verifier::{MAX_TOKEN_BYTES, Verifier},
};
