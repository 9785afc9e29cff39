//! The options that commands share, in groups, and what follows from them: a client, a URL, an interruption.

use std::{path::PathBuf, time::Duration};

use tokio::sync::mpsc;
use usher_certs::files::{self, PemSet};
use usher_proto::{Code, Fault, id, model::What};
use usher_transport::Congestion;

use super::{failure::Failure, output::note};
use crate::{
    client::{Client, Options},
    core::{
        table::clean,
        url::{Address, Url, UrlError},
    },
    master::Authority,
    token::Token,
};

/// Longest time that may be given: a day.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// How to reach and trust the master.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Reach {
    /// Certificate of the cluster's authority (PEM) [default: ca.pem in $USHER_CERTS or ~/.config/usher/certs]
    #[arg(long, env = "USHER_CA", value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// File with your token, where the master serves viewers with one [default: the token in $USHER_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub(super) token: Option<PathBuf>,
    /// Give up after this time without progress, for example 30s or 5m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    pub(super) timeout: Duration,
}

impl Reach {
    /// A client of the master at `address`; the timeout of `options` is replaced.
    pub(super) fn client(&self, address: Address, options: Options) -> Result<Client, Failure> {
        let authority = Authority::load(self.ca.clone())?;
        let token = self.token()?;
        Ok(Client::new(address, authority, Options { timeout: self.timeout, token, ..options })?)
    }

    /// The token of the file or the environment. A variable of its own, since a command line is visible to others.
    fn token(&self) -> Result<Option<Token>, Failure> {
        let token = match &self.token {
            Some(file) => Some(Token::load(file)?),
            None => match std::env::var("USHER_TOKEN") {
                Ok(text) if !text.trim().is_empty() => Some(Token::parse(&text)?),
                _ => None,
            },
        };
        Ok(token)
    }

    /// A client for queries, which reports on standard error that it waits for an absent master.
    pub(super) fn querying(&self, address: Address) -> Result<Client, Failure> {
        Ok(self.client(address, Options::default())?.on_wait(note_wait))
    }
}

fn note_wait(fault: &Fault) {
    note(&format!("{fault}; trying again"));
}

/// The master of commands that need no URL.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DefaultMaster {
    /// Master to ask when no URL names one
    #[arg(long, env = "USHER_MASTER", value_name = "HOST[:PORT]", default_value = "localhost")]
    pub(super) master: Address,
}

/// The certificate that identifies the user.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Certificate {
    /// Your certificate (PEM), from `usher certs issue`
    #[arg(long, env = "USHER_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, env = "USHER_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl Certificate {
    /// The named files, or else those that `find` returns, read and checked; `None` when there are none.
    pub(super) fn load(
        &self,
        authority: &Authority,
        find: impl FnOnce() -> Option<(PathBuf, PathBuf)>,
    ) -> Result<Option<PemSet>, Failure> {
        let paths = self.cert.clone().zip(self.key.clone()).or_else(find);
        let Some((cert, key)) = paths else { return Ok(None) };
        let wrong = |error| Failure::usage(format!("{error:#}"));
        files::read_pem(&cert, &key, &authority.source).map(Some).map_err(wrong)
    }
}

/// Options of the commands that query or change the cluster.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Operator {
    #[command(flatten)]
    master: DefaultMaster,
    #[command(flatten)]
    certificate: Certificate,
    #[command(flatten)]
    reach: Reach,
}

impl Operator {
    /// The master when no URL names one.
    pub(super) fn master(&self) -> &Address {
        &self.master.master
    }

    /// A client of the master at `address`, in `zone`, which reports on standard error that it waits for an absent master.
    pub(super) fn client(&self, address: Address, zone: &str) -> Result<Client, Failure> {
        let authority = Authority::load(self.reach.ca.clone())?;
        let identity = self.certificate.load(&authority, || None)?;
        let options = Options { zone: zone.to_owned(), identity, ..Options::default() };
        Ok(self.reach.client(address, options)?.on_wait(note_wait))
    }

    /// A client of the default master, in no zone.
    pub(super) fn of_default(&self) -> Result<Client, Failure> {
        self.client(self.master().clone(), "")
    }
}

/// Options of the commands that transfer media.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TransferOptions {
    /// Congestion controller of the connections to nodes
    #[arg(long, env = "USHER_CONGESTION", value_enum, default_value_t)]
    pub(super) congestion: Congestion,
    /// Print the request id, for `usher explain --request` and for searches in logs
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Zone of this client: a network, site or region [default: none]
    #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true, value_parser = zone)]
    pub(super) zone: String,
    #[command(flatten)]
    pub(super) reach: Reach,
}

impl TransferOptions {
    /// A client of the master at `address`; these options replace those of `options`.
    pub(super) fn client(&self, address: Address, options: Options) -> Result<Client, Failure> {
        let options = Options { zone: self.zone.clone(), congestion: self.congestion, ..options };
        let client = self.reach.client(address, options)?;
        if self.verbose {
            note(&format!("request {} at {}", client.request_id(), client.address()));
        }
        Ok(client)
    }
}

/// Reads a length of time of at most a day.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 30s or 5m"))?;
    if time > MAX_TIME { Err("at most 24h".to_owned()) } else { Ok(time) }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time.is_zero() { Err("a timeout is longer than 0s".to_owned()) } else { Ok(time) }
}

/// Reads the name of a zone.
pub(super) fn zone(text: &str) -> Result<String, String> {
    id::zone(text).map(str::to_owned).map_err(|error| error.to_string())
}

/// Reads a URL, or a title at the master `default`.
pub(super) fn url_or_title(text: &str, default: &Address) -> Result<Url, Failure> {
    // `http://…` is no title either; the error names the form of a URL.
    if text.contains("://") {
        text.parse().map_err(|error| wrong_url(text, &error))
    } else {
        Ok(Url { master: default.clone(), path: text.to_owned() })
    }
}

/// The title, or with `from_id` the content, that `url` names; `text` is what the user wrote.
pub(super) fn what(url: &Url, from_id: bool, text: &str) -> Result<What, Failure> {
    let what = if from_id { url.content().map(What::Content) } else { url.title().map(What::Title) };
    what.map_err(|error| wrong_url(text, &error))
}

fn wrong_url(text: &str, error: &UrlError) -> Failure {
    Failure::usage(format!("`{}`: {error}", clean(text)))
}

/// Waits for a request to stop; for ever when no further one can come.
pub(super) async fn interrupted(stop: &mut mpsc::Receiver<()>) {
    if stop.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// The failure of a command that was interrupted; `what` names its object.
pub(super) fn interruption(what: impl std::fmt::Display) -> Fault {
    Fault::new(Code::Interrupted, format!("{what}: interrupted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        assert_eq!(timeout("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["0s", "25h", "soon", "-1s", "9999999999999y"] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }
}
