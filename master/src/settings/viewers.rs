//! The settings of viewers' identity: who may ask for titles, and which tokens are accepted. Checks what needs more than
//! one value; reads no key.

use std::{ops::RangeInclusive, time::Duration};

use anyhow::{bail, ensure};
use serde::Deserialize;
use usher_token::Verifier;

use super::Config;

/// Most clock difference that is allowed for.
const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// Range of the interval between fetches of keys.
const REFRESH: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Clients that get titles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ViewerAccess {
    /// Every client that reaches the master
    Open,
    /// Clients with a token
    Token,
}

impl Config {
    /// Clients that get titles: as set, or those with a token once keys for tokens are set.
    pub fn viewer_access(&self) -> ViewerAccess {
        let keys = self.token_keys.is_some() || self.token_jwks.is_some();
        self.viewers.unwrap_or(if keys { ViewerAccess::Token } else { ViewerAccess::Open })
    }

    /// The rules for tokens.
    pub(crate) fn verifier(&self) -> Verifier {
        Verifier::new(self.token_audience.clone(), self.token_issuer.clone(), self.token_leeway)
    }

    /// Checks the settings of viewers' identity.
    pub(super) fn check_viewers(&self) -> anyhow::Result<()> {
        let keys = self.token_keys.is_some() || self.token_jwks.is_some();
        if self.viewers == Some(ViewerAccess::Token) && !keys {
            bail!(
                "--viewers token needs the keys of the tokens: --token-keys FILE (`usher token keygen` makes a key) or \
                 --token-jwks URL of an identity provider"
            );
        }
        ensure!(
            !self.token_audience.is_empty(),
            "--token-audience: name the audience of the tokens, for example usher"
        );
        if let Some(url) = &self.token_jwks {
            ensure!(
                self.token_issuer.is_some(),
                "--token-jwks {url} needs --token-issuer: a provider may serve keys of several issuers"
            );
        }
        ensure!(
            self.token_jwks.is_some() || self.token_jwks_ca.is_none(),
            "--token-jwks-ca is for --token-jwks, which is not set"
        );
        ensure!(self.token_leeway <= MAX_LEEWAY, "--token-leeway: at most 5m; set the clocks with NTP");
        ensure!(REFRESH.contains(&self.token_jwks_refresh), "--token-jwks-refresh: write a time from 1s to 24h");
        Ok(())
    }
}
