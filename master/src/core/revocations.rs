//! Revoked viewers and tokens. A revocation lasts as long as a token of its time can be valid.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use usher_proto::{TokenId, ViewerId};
use usher_token::LONGEST_LIFE;

/// Most revocations of each kind: 2 MB of file.
const MOST: usize = 50_000;

/// The list of revocations is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{MOST} revocations are kept already; change the key that signs tokens, which revokes all of them")]
pub struct RevocationsFull;

/// Revoked viewers and tokens, each with the Unix second of its revocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    viewers: BTreeMap<ViewerId, u64>,
    tokens: BTreeMap<TokenId, u64>,
}

impl Revocations {
    /// Revokes all tokens of a viewer that were issued until `now`, in Unix seconds.
    ///
    /// # Errors
    /// Too many revocations.
    pub fn revoke_viewer(&mut self, now: u64, viewer: ViewerId) -> Result<(), RevocationsFull> {
        insert(&mut self.viewers, viewer, now)
    }

    /// Revokes one token.
    ///
    /// # Errors
    /// Too many revocations.
    pub fn revoke_token(&mut self, now: u64, token: TokenId) -> Result<(), RevocationsFull> {
        insert(&mut self.tokens, token, now)
    }

    /// Whether a viewer's token is revoked. `issued` is the Unix second that it states; a token that states none may be
    /// older than the revocation.
    pub fn is_revoked(&self, viewer: ViewerId, token: Option<TokenId>, issued: Option<u64>) -> bool {
        let before = |at: &u64| issued.is_none_or(|issued| issued <= *at);
        self.viewers.get(&viewer).is_some_and(before) || token.is_some_and(|token| self.tokens.contains_key(&token))
    }

    /// Number of revocations.
    pub fn len(&self) -> usize {
        self.viewers.len() + self.tokens.len()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Inserts a revocation; a full table first drops those that outlived every token of their time.
fn insert<K: Ord>(table: &mut BTreeMap<K, u64>, key: K, now: u64) -> Result<(), RevocationsFull> {
    if table.len() >= MOST && !table.contains_key(&key) {
        table.retain(|_, at| at.saturating_add(LONGEST_LIFE.as_secs()) >= now);
        if table.len() >= MOST {
            return Err(RevocationsFull);
        }
    }
    table.insert(key, now);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEWER: ViewerId = ViewerId(1);
    const TOKEN: TokenId = TokenId(1);

    #[test]
    fn a_viewer_is_revoked_until_it_gets_a_newer_token() {
        let mut revoked = Revocations::default();
        assert!(!revoked.is_revoked(VIEWER, Some(TOKEN), None));
        revoked.revoke_viewer(1000, VIEWER).expect("room");
        for (issued, is) in [(None, true), (Some(999), true), (Some(1000), true), (Some(1001), false)] {
            assert_eq!(revoked.is_revoked(VIEWER, Some(TOKEN), issued), is, "{issued:?}");
        }
        assert!(!revoked.is_revoked(ViewerId(2), None, None));
        revoked.revoke_token(1000, TOKEN).expect("room");
        assert!(revoked.is_revoked(ViewerId(2), Some(TOKEN), Some(2000)));
        assert!(!revoked.is_revoked(ViewerId(2), Some(TokenId(2)), None));
    }

    #[test]
    fn revocations_last_as_long_as_tokens_and_are_bounded() {
        let mut revoked = Revocations::default();
        (1..=MOST as u64).for_each(|token| revoked.revoke_token(token.min(2), TokenId(token)).expect("room"));
        let life = LONGEST_LIFE.as_secs();
        assert_eq!(revoked.revoke_token(life + 1, TokenId(0)), Err(RevocationsFull));
        assert_eq!(revoked.revoke_token(life + 1, TokenId(2)), Ok(()), "again");
        assert_eq!(revoked.revoke_viewer(life + 1, VIEWER), Ok(()), "a table of its own");
        assert_eq!(revoked.revoke_token(life + 2, TokenId(0)), Ok(()));
        assert!(!revoked.is_revoked(VIEWER, Some(TokenId(1)), Some(u64::MAX)), "no token of then is valid");
        assert!(revoked.is_revoked(ViewerId(2), Some(TokenId(3)), None));
        assert_eq!(revoked.len(), MOST + 1);
    }

    #[test]
    fn revocations_survive_a_file() {
        let mut revoked = Revocations::default();
        revoked.revoke_viewer(7, VIEWER).expect("room");
        let text = serde_json::to_string(&revoked).expect("JSON");
        assert_eq!(text, r#"{"viewers":{"0000000000000001":7},"tokens":{}}"#);
        assert_eq!(serde_json::from_str::<Revocations>(&text).expect("JSON"), revoked);
    }
}
