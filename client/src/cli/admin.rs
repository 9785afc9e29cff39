//! The operator's certificate: for what changes the cluster, and for masters that show their roster to operators only.
//! Refuses to know what is asked.

use std::path::PathBuf;

use usher_certs::files::{self, PemSet};
use usher_proto::{Code, Fault};

use super::{DefaultMaster, Failure, Reach, waits};
use crate::{
    client::{Client, Options},
    core::url::Address,
    master::Authority,
};

/// Who asks, and whom.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Operator {
    #[command(flatten)]
    master: DefaultMaster,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    reach: Reach,
}

impl Operator {
    /// The master when no URL names one.
    pub(super) fn master(&self) -> Address {
        self.master.master.clone()
    }

    /// A client of the master at `address`, as one in this zone, which says on standard error that it waits for an absent
    /// master.
    pub(super) fn client(&self, address: Address, zone: &str) -> Result<Client, Failure> {
        let authority = Authority::load(self.reach.ca.clone())?;
        let identity = self.admin.identity(&authority)?;
        let options = Options { timeout: self.reach.timeout, zone: zone.to_owned(), identity, ..Options::default() };
        Ok(Client::new(address, authority, options)?.on_wait(waits))
    }

    /// The same of that master, of no zone.
    pub(super) fn of_default(&self) -> Result<Client, Failure> {
        self.client(self.master(), "")
    }
}

/// The operator's certificate.
#[derive(Clone, Debug, clap::Args)]
struct Admin {
    /// Your certificate from `usher certs issue admin NAME` (PEM)
    #[arg(long, env = "USHER_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, env = "USHER_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl Admin {
    /// The certificate and its key, read and checked; `None` when none is named.
    fn identity(&self, authority: &Authority) -> Result<Option<PemSet>, Failure> {
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else { return Ok(None) };
        let wrong = |error| Failure::new(Code::Usage, format!("{error:#}"));
        files::read_pem(cert, key, &authority.source).map(Some).map_err(wrong)
    }
}

/// A master's no, with what to do about one that wants a certificate.
pub(super) fn failure(fault: Fault) -> Failure {
    match fault.code {
        Code::Unauthenticated => {
            let text = format!("{}; show it with --cert FILE --key FILE", fault.message);
            Failure::new(fault.code, text)
        }
        _ => fault.into(),
    }
}
