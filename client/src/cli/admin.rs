//! The operator's certificate: for what changes the cluster, and for masters that show their roster to operators only.
//! Refuses to know what is asked.

use std::path::PathBuf;

use usher_certs::files::{self, PemSet};
use usher_proto::{Code, Fault};

use super::Failure;
use crate::master::Authority;

/// Who asks.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Admin {
    /// Your certificate from `usher certs issue admin NAME` (PEM)
    #[arg(long, env = "USHER_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, env = "USHER_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl Admin {
    /// The certificate and its key, read and checked; `None` when none is named.
    pub(super) fn identity(&self, authority: &Authority) -> Result<Option<PemSet>, Failure> {
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
