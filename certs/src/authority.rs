//! The cluster's authority: creates itself and signs the identities of masters, nodes, operators and publishers.
//! [`crate::files`] owns its files.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, DnsName};

use crate::certificate::{self, BACKDATE, DAY};
use crate::identity::{Identity, Role};

/// Validity of the authority: ten years, since a new one means to issue every certificate again.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * DAY);

/// Default validity of an identity: a year.
pub const IDENTITY_LIFETIME: Duration = Duration::from_secs(365 * DAY);

/// Most characters of an organization's name (X.520).
const MAX_CLUSTER_NAME: usize = 64;

/// Error of creating an authority or signing with it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The cluster's name is not allowed in a certificate.
    #[error("cluster name {0:?} is not 1 to 64 printable characters")]
    ClusterName(String),
    /// The text is not a certificate in PEM.
    #[error("the authority's certificate is not PEM")]
    NotPem,
    /// The certificate is not one that may sign others.
    #[error("the certificate is not an authority's")]
    NotAnAuthority,
    /// The key is not the certificate's.
    #[error("the authority's key does not match its certificate; put back the pair that belongs together")]
    KeyMismatch,
    /// The authority's validity is over.
    #[error(
        "the authority has expired; make a new one with `usher certs init --force` and issue every certificate again"
    )]
    Expired,
    /// The lifetime is shorter than a second.
    #[error("a certificate must be valid for at least a second")]
    NoLifetime,
    /// The X.509 library refused; its message never holds key bytes.
    #[error("sign a certificate: {0}")]
    X509(#[from] rcgen::Error),
}

/// A name that a server's certificate is valid for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum San {
    /// A DNS name, e.g. `master.example`.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl San {
    /// The names of the local host.
    pub fn loopback() -> [Self; 3] {
        [Self::Dns("localhost".into()), Self::Ip(Ipv4Addr::LOCALHOST.into()), Self::Ip(Ipv6Addr::LOCALHOST.into())]
    }
}

impl FromStr for San {
    type Err = SanError;

    fn from_str(text: &str) -> Result<Self, SanError> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        match DnsName::try_from(text) {
            Ok(name) => Ok(Self::Dns(name.as_ref().to_ascii_lowercase())),
            Err(_) => Err(SanError(text.to_owned())),
        }
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// The text is neither a DNS name nor an IP address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a DNS name nor an IP address; write it without scheme, port or brackets")]
pub struct SanError(String);

/// A certificate and its private key, both PEM.
pub struct Issued {
    /// The certificate, public.
    pub cert_pem: String,
    /// The private key in PKCS #8: a secret.
    pub key_pem: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// The cluster's authority with its key.
pub struct Authority {
    cluster: String,
    pem: String,
    not_before: SystemTime,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Authority {
    /// Creates an authority, valid for [`AUTHORITY_LIFETIME`].
    ///
    /// # Errors
    /// [`AuthorityError::ClusterName`] when the name is empty, over 64 characters or unprintable.
    pub fn create(cluster_name: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let length = cluster_name.chars().count();
        if length == 0 || length > MAX_CLUSTER_NAME || cluster_name.chars().any(char::is_control) {
            return Err(AuthorityError::ClusterName(cluster_name.to_owned()));
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, cluster_name);
        params.distinguished_name.push(DnType::CommonName, "usher authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        certificate::set_validity(
            &mut params,
            certificate::earlier(now, BACKDATE),
            certificate::later(now, AUTHORITY_LIFETIME),
        );
        let cert = params.self_signed(&key)?;
        Self::from_parts(cert.der(), cert.pem(), key)
    }

    /// The authority of a certificate and key in PEM.
    ///
    /// # Errors
    /// [`AuthorityError::NotPem`], [`AuthorityError::NotAnAuthority`] or [`AuthorityError::KeyMismatch`]; a key that does
    /// not parse is [`AuthorityError::X509`].
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let der = certificate::from_pem(cert_pem.as_bytes()).ok_or(AuthorityError::NotPem)?;
        Self::from_parts(&der, cert_pem.to_owned(), KeyPair::from_pem(key_pem)?)
    }

    fn from_parts(der: &CertificateDer<'_>, pem: String, key: KeyPair) -> Result<Self, AuthorityError> {
        let cert = certificate::parse(der).ok_or(AuthorityError::NotAnAuthority)?;
        if !cert.is_ca() {
            return Err(AuthorityError::NotAnAuthority);
        }
        if cert.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::KeyMismatch);
        }
        let (not_before, not_after) = certificate::validity(&cert);
        Ok(Self {
            cluster: certificate::organization(&cert).unwrap_or_default(),
            pem,
            not_before,
            not_after,
            issuer: Issuer::from_ca_cert_der(der, key)?,
        })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The authority's certificate in PEM, which every peer of the cluster needs; not secret.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// The authority's key in PEM, for its file alone.
    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs a new key for `identity`, valid for [`IDENTITY_LIFETIME`]. `sans` are the names of a server; an admin needs
    /// none.
    ///
    /// # Errors
    /// [`AuthorityError::Expired`] when the authority itself is not valid any more.
    pub fn issue(&self, identity: &Identity, sans: &[San], now: SystemTime) -> Result<Issued, AuthorityError> {
        self.issue_for(identity, sans, IDENTITY_LIFETIME, now)
    }

    /// [`Self::issue`] with another lifetime, which is cut to the authority's own.
    ///
    /// # Errors
    /// [`AuthorityError::NoLifetime`] for less than a second, otherwise as [`Self::issue`].
    pub fn issue_for(
        &self,
        identity: &Identity,
        sans: &[San],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        if lifetime < Duration::from_secs(1) {
            return Err(AuthorityError::NoLifetime);
        }
        if now > self.not_after {
            return Err(AuthorityError::Expired);
        }
        // The serial number is the hash of the new key (rcgen's default), hence as unique as the key.
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationalUnitName, identity.role.as_str());
        params.distinguished_name.push(DnType::CommonName, identity.name.as_str());
        params.subject_alt_names = alternative_names(identity, sans)?;
        // Spelled out rather than left out, so that the subject key identifier is written too.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match identity.role {
            Role::Master | Role::Node => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Role::Admin | Role::Publisher => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        certificate::set_validity(
            &mut params,
            certificate::earlier(now, BACKDATE).max(self.not_before),
            certificate::later(now, lifetime).min(self.not_after),
        );
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

/// The identity's URI, then each name once.
fn alternative_names(identity: &Identity, sans: &[San]) -> Result<Vec<SanType>, AuthorityError> {
    let mut names = vec![SanType::URI(identity.uri().try_into()?)];
    for san in sans {
        let name = match san {
            San::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            San::Ip(ip) => SanType::IpAddress(*ip),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
