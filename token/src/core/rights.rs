//! The rights of a verified token.

use std::fmt;

use usher_proto::{Bitrate, id, title::MAX_BYTES, units::MAX_RATE};

use super::{
    claims::{Action, UsherClaims},
    error::TokenError,
};

/// Most prefixes of a token.
const MAX_PREFIXES: usize = 64;

/// The rights of a subject, and when they end. `Debug` hides the subject.
#[derive(Clone, PartialEq, Eq)]
pub struct Rights {
    /// The viewer's or the account's name at the issuer; never in logs.
    pub subject: String,
    /// The token's id, if it has one.
    pub token_id: Option<String>,
    /// Unix seconds at which it was issued, if it says so.
    pub issued: Option<u64>,
    /// Unix seconds from which it is not valid.
    pub expires: u64,
    /// Most bit/s of all sessions of the subject together.
    pub max_rate: Option<Bitrate>,
    /// Most sessions of the subject at once.
    pub max_sessions: Option<u32>,
    /// The viewer's zone, if the token says it.
    pub zone: Option<String>,
    /// Sorted; none begins with another.
    prefixes: Vec<String>,
    actions: Vec<Action>,
}

impl Rights {
    /// The rights of a subject from the object `usher` of its token, without token id, times and issuer.
    ///
    /// # Errors
    /// The claim that is wrong.
    pub(super) fn new(subject: String, expires: u64, claims: UsherClaims) -> Result<Self, TokenError> {
        let UsherClaims { mut prefixes, actions, max_rate_bps, max_sessions, zone } = claims;
        let wrong = |text: String| Err(TokenError::Rights(text));
        if prefixes.is_empty() || prefixes.len() > MAX_PREFIXES {
            return wrong(format!("`prefixes` has 1 to {MAX_PREFIXES} entries; \"\" is every title"));
        }
        if prefixes.iter().any(|prefix| prefix.len() > MAX_BYTES || prefix.chars().any(char::is_control)) {
            return wrong(format!("a prefix has at most {MAX_BYTES} bytes and no control characters"));
        }
        if max_rate_bps.is_some_and(|rate| !(1..=MAX_RATE).contains(&rate)) {
            return wrong(format!("`max_rate_bps` is 1 to {MAX_RATE}"));
        }
        if max_sessions == Some(0) {
            return wrong("`max_sessions` is at least 1".to_owned());
        }
        if zone.as_deref().is_some_and(|zone| id::zone(zone).is_err()) {
            return wrong("`zone` is at most 63 of a-z, A-Z, 0-9, `-`, `_` and `.`".to_owned());
        }
        prefixes.sort_unstable();
        // In byte order, every text that begins with a prefix follows it directly.
        prefixes.dedup_by(|next, kept| next.starts_with(kept.as_str()));
        Ok(Self {
            subject,
            token_id: None,
            issued: None,
            expires,
            max_rate: max_rate_bps.map(Bitrate),
            max_sessions,
            zone: zone.filter(|zone| !zone.is_empty()),
            prefixes,
            actions,
        })
    }

    /// Whether a title is among those of this token.
    pub fn covers(&self, title: &str) -> bool {
        self.prefixes.iter().any(|prefix| title.starts_with(prefix.as_str()))
    }

    /// Whether an action is permitted, on titles that are covered.
    pub fn may(&self, action: Action) -> bool {
        self.actions.contains(&action)
    }

    /// The titles that start with `prefix` and are covered: prefixes in byte order, none of which begins with another.
    pub fn within(&self, prefix: &str) -> Vec<String> {
        if self.covers(prefix) {
            return vec![prefix.to_owned()];
        }
        self.prefixes.iter().filter(|own| own.starts_with(prefix)).cloned().collect()
    }

    /// The permitted actions.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// The prefixes, sorted; none begins with another.
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rights")
            .field("prefixes", &self.prefixes)
            .field("actions", &self.actions)
            .finish_non_exhaustive()
    }
}
