//! Reading keys and certificates, with errors that name the file, the problem and the remedy. No content of a file panics.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{CA_CERT, CA_KEY};
use crate::authority::Authority;
use crate::identity::{Identity, IdentityError};
use crate::{certificate as x509, suite};

/// A certificate, its private key and the authority's certificate, as PEM texts that match and are valid.
#[derive(Clone)]
pub struct PemSet {
    /// The certificate.
    pub cert: String,
    /// Its private key: a secret.
    pub key: String,
    /// The authority's certificate, or several of them.
    pub ca: String,
}

impl PemSet {
    /// The identity in the certificate.
    ///
    /// # Errors
    /// As [`Identity::from_der`].
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        let der = x509::from_pem(self.cert.as_bytes()).ok_or(IdentityError::NotACertificate)?;
        Identity::from_der(&der)
    }
}

impl fmt::Debug for PemSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemSet").field("cert", &self.cert).field("ca", &self.ca).finish_non_exhaustive()
    }
}

/// Reads a certificate, its key and the authority's certificate, and checks that they are PEM, that key and certificate
/// match, that the authority signed the certificate, and that both are valid now.
///
/// # Errors
/// A file is missing or wrong; the message names it and the remedy.
pub fn read_pem(cert: &Path, key: &Path, ca: &Path) -> anyhow::Result<PemSet> {
    read_pem_at(cert, key, ca, SystemTime::now())
}

pub(super) fn read_pem_at(cert: &Path, key: &Path, ca: &Path, now: SystemTime) -> anyhow::Result<PemSet> {
    let (cert_text, cert_der) = pem_and_der(cert)?;
    let ca_text = text(ca, "`usher certs init` makes one, and `issue --out` copies it")?;
    let authorities: Vec<_> =
        CertificateDer::pem_slice_iter(ca_text.as_bytes()).collect::<Result<_, _>>().unwrap_or_default();
    if authorities.is_empty() {
        bail!("{} is not a certificate in PEM", ca.display());
    }
    if !authorities.iter().any(|authority| x509::issued_by(&cert_der, authority)) {
        bail!(
            "{} was not issued by the authority in {}; issue it again with `usher certs issue {} --force`",
            cert.display(),
            ca.display(),
            role_of(cert)
        );
    }
    in_date(&cert_der, cert, now)?;

    let key_text = key_text(key)?;
    let Ok(key_der) = PrivateKeyDer::from_pem_slice(key_text.as_bytes()) else {
        bail!("{} is not a private key in PEM", key.display());
    };
    match CertifiedKey::from_der(vec![cert_der], key_der, &suite::provider()) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            bail!("the key {} does not match the certificate {}; issue both again", key.display(), cert.display())
        }
        Err(_) => bail!("{} is not a private key that TLS can use", key.display()),
    }
    Ok(PemSet { cert: cert_text, key: key_text, ca: ca_text })
}

/// Reads `ca.pem` and `ca.key` of a directory.
///
/// # Errors
/// A file is missing (the message names `usher certs init`) or not PEM, or the two do not belong together.
pub fn authority(dir: &Path) -> anyhow::Result<Authority> {
    let (cert, key) = (dir.join(CA_CERT), dir.join(CA_KEY));
    for file in [&cert, &key] {
        if matches!(file.try_exists(), Ok(false)) {
            bail!("no authority in {}: {} is missing; make one with `usher certs init`", dir.display(), file.display());
        }
    }
    let (cert_text, key_text) = (text(&cert, "")?, key_text(&key)?);
    Authority::from_pem(&cert_text, &key_text).with_context(|| format!("load the authority in {}", dir.display()))
}

/// The first certificate in a file, in DER.
pub(crate) fn certificate(path: &Path) -> anyhow::Result<CertificateDer<'static>> {
    Ok(pem_and_der(path)?.1)
}

fn pem_and_der(path: &Path) -> anyhow::Result<(String, CertificateDer<'static>)> {
    let pem = text(path, &format!("make it with `usher certs issue {}`", role_of(path)))?;
    let der =
        x509::from_pem(pem.as_bytes()).with_context(|| format!("{} is not a certificate in PEM", path.display()))?;
    if x509::parse(&der).is_none() {
        bail!("{} holds no whole X.509 certificate", path.display());
    }
    Ok((pem, der))
}

/// The role and name of the certificate that belongs into this file, as `usher certs issue` takes them.
fn role_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match stem.split_once('-') {
        Some((role @ ("node" | "admin" | "publisher"), name)) => format!("{role} {name}"),
        _ if stem == "master" => "master".to_owned(),
        _ => "ROLE NAME".to_owned(),
    }
}

fn in_date(der: &[u8], path: &Path, now: SystemTime) -> anyhow::Result<()> {
    let cert = x509::parse(der).context("parse a certificate that was parsed before")?;
    let (not_before, not_after) = x509::validity(&cert);
    let date = humantime::format_rfc3339_seconds;
    if now > not_after {
        bail!(
            "{} expired on {}; issue it again with `usher certs issue {} --force`",
            path.display(),
            date(not_after),
            role_of(path)
        );
    }
    if now < not_before {
        bail!("{} is not valid before {}; check this host's clock", path.display(), date(not_before));
    }
    Ok(())
}

fn key_text(path: &Path) -> anyhow::Result<String> {
    let key = text(path, "it is made together with its certificate by `usher certs`")?;
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        let mode = format!("{:04o}", mode & 0o7777);
        tracing::warn!(path = %path.display(), %mode, "others can read this private key; run chmod 600 on it");
    }
    Ok(key)
}

fn text(path: &Path, advice: &str) -> anyhow::Result<String> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).ok().with_context(|| format!("{} is not PEM", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound && !advice.is_empty() => {
            bail!("{} is missing; {advice}", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
