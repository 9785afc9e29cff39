//! Viewers' identity: the keys in force, the check of tokens, and what was revoked. The services ask it; [`jwks`] keeps the
//! keys of a URL fresh.

pub(crate) mod jwks;
mod revoked;

use std::{fs, path::Path, sync::Arc};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use tracing::{info, warn};
use usher_proto::{Fault, TokenId, ViewerId, code::Code, ticket::ClusterSecret};
use usher_token::{KeySet, KeySource, Rights, TokenError, Verifier};

use self::revoked::RevokedFile;
use crate::{
    core::viewers::TokenViewer,
    settings::{Config, ViewerAccess},
};

/// The viewers of one master.
pub(crate) struct Viewers {
    access: ViewerAccess,
    secret: ClusterSecret,
    verifier: Verifier,
    /// Keys of the file; `None` without one.
    file: Option<KeySet>,
    /// Keys of the URL; empty until they were fetched.
    fetched: ArcSwapOption<KeySet>,
    has_url: bool,
    revoked: RevokedFile,
}

impl Viewers {
    /// Reads the keys of the file and what was revoked.
    ///
    /// # Errors
    /// The file that cannot be read, with its remedy.
    pub(crate) fn new(config: &Config, secret: ClusterSecret, state: &Path) -> anyhow::Result<Self> {
        let file = config.token_keys.as_deref().map(key_file).transpose()?;
        let access = config.viewer_access();
        match access {
            ViewerAccess::Token => info!(viewers = "token", audience = config.token_audience, "viewers need a token"),
            ViewerAccess::Open => info!(
                viewers = "open",
                "every client that reaches this master may list and play all titles; --viewers token admits viewers with \
                 a token only"
            ),
        }
        Ok(Self {
            access,
            secret,
            verifier: config.verifier(),
            file,
            fetched: ArcSwapOption::empty(),
            has_url: config.token_jwks.is_some(),
            revoked: RevokedFile::open(state)?,
        })
    }

    /// Whether viewers need a token.
    pub(crate) fn need_token(&self) -> bool {
        self.access == ViewerAccess::Token
    }

    /// Whether tokens are accepted for anything.
    pub(crate) fn accept_tokens(&self) -> bool {
        self.file.is_some() || self.has_url
    }

    /// Replaces the keys of the URL.
    fn replace_keys(&self, keys: KeySet) {
        self.fetched.store(Some(Arc::new(keys)));
    }

    /// Checks a token. `now` in Unix seconds.
    pub(crate) fn check(&self, now: u64, token: &str) -> Result<TokenViewer, Fault> {
        let fetched = self.fetched.load();
        let sets = self.file.iter().chain(fetched.as_deref());
        let mut refused = TokenError::UnknownKey;
        let mut any = false;
        for set in sets {
            any = true;
            match self.verifier.verify(set, now, token) {
                Ok(rights) => return self.not_revoked(rights),
                Err(error @ (TokenError::UnknownKey | TokenError::Signature)) => refused = error,
                Err(error) => return Err(Fault::from(&error)),
            }
        }
        if !any && self.has_url {
            let text = "the master has not fetched the keys of tokens yet; try again shortly";
            return Err(Fault::new(Code::Unavailable, text).after(jwks::NOT_YET));
        }
        Err(Fault::from(&refused))
    }

    /// Revokes what `name` names: the tokens of a subject until now, a token by its id, a viewer by its hash. Returns the
    /// viewers and tokens. Blocks for a write.
    ///
    /// # Errors
    /// The disk failed, or too much is revoked.
    pub(crate) fn revoke(&self, now: u64, name: &str) -> anyhow::Result<(Vec<ViewerId>, Vec<TokenId>)> {
        let hash = name.parse::<ViewerId>().ok();
        let viewers: Vec<ViewerId> = std::iter::once(self.secret.viewer_id(name)).chain(hash).collect();
        let tokens = vec![self.secret.token_id(name)];
        self.revoked.change(|revoked| {
            viewers.iter().try_for_each(|viewer| revoked.revoke_viewer(now, *viewer))?;
            Ok(tokens.iter().try_for_each(|token| revoked.revoke_token(now, *token))?)
        })?;
        info!(?viewers, ?tokens, "viewer or token revoked");
        Ok((viewers, tokens))
    }

    fn not_revoked(&self, rights: Rights) -> Result<TokenViewer, Fault> {
        let id = self.secret.viewer_id(&rights.subject);
        let token = rights.token_id.as_deref().map(|name| self.secret.token_id(name));
        if self.revoked.is_revoked(id, token, rights.issued) {
            return Err(Fault::new(Code::Unauthenticated, "the token was revoked; get a new one"));
        }
        Ok(TokenViewer { id, token, rights })
    }
}

/// Checks the files that the settings of viewers' identity name, without starting anything.
///
/// # Errors
/// The wrong file, with its remedy.
pub(crate) fn check_files(config: &Config) -> anyhow::Result<()> {
    config.token_keys.as_deref().map(key_file).transpose()?;
    jwks::JwksUrl::of(config).map(drop)
}

fn key_file(path: &Path) -> anyhow::Result<KeySet> {
    let context = || format!("read --token-keys {}", path.display());
    let text = fs::read_to_string(path).with_context(context)?;
    let keys = KeySet::parse(&text, KeySource::File).with_context(context)?;
    for skipped in keys.skipped() {
        warn!(path = %path.display(), reason = skipped, "key of tokens skipped");
    }
    Ok(keys)
}
