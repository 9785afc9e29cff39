//! The files of the authority and of identities: paths and creation.
//!
//! `ca.pem`, `ca.key`, `master.pem`, `master.key`, `node-NAME.pem`, `node-NAME.key`, `admin-NAME.pem`, `admin-NAME.key`.
//! `write` is atomic, with keys private from the first byte; `read` returns errors with the remedy. Printing is left to the CLI.

mod read;
mod write;

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

pub(crate) use self::read::certificate as read_certificate;
pub use self::read::{PemSet, authority as read_authority, read_pem};
pub use self::write::Exists;
use self::write::{File, PUBLIC, SECRET};
use crate::authority::{Authority, IDENTITY_LIFETIME, San};
use crate::identity::{Identity, Role};

/// File name of the authority's certificate.
pub const CA_CERT: &str = "ca.pem";

/// File name of the authority's private key.
pub const CA_KEY: &str = "ca.key";

/// A certificate, its private key and the authority's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificate of the authority that signed it.
    pub ca: PathBuf,
}

impl Paths {
    /// The paths of `identity` in `dir`. A master has the same two files whatever its name, so that a config does not
    /// need it.
    pub fn of(dir: &Path, identity: &Identity) -> Self {
        let stem = match identity.role {
            Role::Master => Role::Master.to_string(),
            role => format!("{role}-{}", identity.name),
        };
        // Formatted rather than `set_extension`, which would eat the last label of a name with a dot.
        Self { cert: dir.join(format!("{stem}.pem")), key: dir.join(format!("{stem}.key")), ca: dir.join(CA_CERT) }
    }
}

/// Advice for a role that has a certificate of another role, when the environment named that certificate: an operator's shell
/// exports one for its commands. Empty otherwise.
pub fn advice_about_environment(cert: &Path) -> &'static str {
    let named = env::var_os("USHER_CERT").is_some_and(|named| Path::new(&named) == cert);
    if named { "; USHER_CERT in the environment names it: unset USHER_CERT and USHER_KEY" } else { "" }
}

/// The default directory: `USHER_CERTS`, else `usher/certs` in the user's configuration directory.
///
/// # Errors
/// When neither `USHER_CERTS`, `XDG_CONFIG_HOME` nor `HOME` is set.
pub fn default_dir() -> anyhow::Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG specification says to ignore a relative one.
    let config = || set("XDG_CONFIG_HOME").filter(|dir| dir.is_absolute());
    set("USHER_CERTS")
        .or_else(|| config().map(|dir| dir.join("usher/certs")))
        .or_else(|| set("HOME").map(|home| home.join(".config/usher/certs")))
        .context("find the certificates' directory: HOME is not set; name it with --dir or USHER_CERTS")
}

/// Creates an authority in `dir`, and `dir` itself (0700) when it does not exist. `force` replaces an existing authority,
/// which voids every certificate that it signed.
///
/// # Errors
/// [`Exists`] when there is an authority and `force` is not given; an invalid cluster name; errors of the disk.
pub fn init(dir: &Path, cluster: &str, force: bool) -> anyhow::Result<Paths> {
    let paths = Paths { cert: dir.join(CA_CERT), key: dir.join(CA_KEY), ca: dir.join(CA_CERT) };
    write::refuse_existing([&paths.key, &paths.cert], force)?;
    let authority = Authority::create(cluster, SystemTime::now()).context("create an authority")?;
    write::directory(dir)?;
    let key = File { path: &paths.key, text: &authority.key_pem(), mode: SECRET };
    let cert = File { path: &paths.cert, text: authority.ca_pem(), mode: PUBLIC };
    write::files(&[key, cert], force)?;
    Ok(paths)
}

/// Signs a new certificate for `identity` with the authority in `dir` and puts it, its key and a copy of `ca.pem` into
/// `out`. It is valid for a year; see [`issue_for`].
///
/// # Errors
/// As [`issue_for`].
pub fn issue(dir: &Path, identity: &Identity, sans: &[San], out: &Path, force: bool) -> anyhow::Result<Paths> {
    issue_for(dir, identity, sans, IDENTITY_LIFETIME, out, force)
}

/// [`issue`] with another lifetime. A master is always valid for `localhost`, `127.0.0.1`, `::1` and this
/// host's name as well as for `sans`.
///
/// # Errors
/// When there is no authority in `dir` or it has expired; [`Exists`] when a file is there and `force` is not given;
/// errors of the disk.
pub fn issue_for(
    dir: &Path,
    identity: &Identity,
    sans: &[San],
    lifetime: Duration,
    out: &Path,
    force: bool,
) -> anyhow::Result<Paths> {
    let authority = read_authority(dir)?;
    let paths = Paths::of(out, identity);
    let mut fresh = vec![&paths.key, &paths.cert];
    let has_ca = std::fs::read_to_string(&paths.ca).is_ok_and(|there| there == authority.ca_pem());
    if !has_ca {
        fresh.push(&paths.ca);
    }
    write::refuse_existing(fresh, force)?;

    let mut names = BTreeSet::from_iter(sans.iter().cloned());
    if identity.role == Role::Master {
        names.extend(San::loopback());
        names.extend(host_name());
    }
    let issued = authority
        .issue_for(identity, &Vec::from_iter(names), lifetime, SystemTime::now())
        .with_context(|| format!("issue a certificate for {identity}"))?;

    write::directory(out)?;
    let mut files = vec![
        File { path: &paths.key, text: &issued.key_pem, mode: SECRET },
        File { path: &paths.cert, text: &issued.cert_pem, mode: PUBLIC },
    ];
    if !has_ca {
        files.push(File { path: &paths.ca, text: authority.ca_pem(), mode: PUBLIC });
    }
    write::files(&files, force)?;
    Ok(paths)
}

/// This host's name, if it is a DNS name.
fn host_name() -> Option<San> {
    rustix::system::uname().nodename().to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
