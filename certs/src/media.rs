//! Media certificates: self-signed, short-lived, trusted by their hash alone.
//!
//! [`Rotation`] (when a certificate is announced, served and dropped; pure), [`MediaCertResolver`] (the certificate of a
//! handshake), [`Keeper`] (both together). The caller announces the hashes.

mod keeper;
mod resolver;
mod rotation;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

pub use self::keeper::Keeper;
pub use self::resolver::MediaCertResolver;
pub use self::rotation::{Action, Rotation};
use crate::certificate::{self, BACKDATE, DAY};
use crate::identity::{Identity, IdentityError, Role};
use crate::pin;

/// The longest validity of a media certificate, from its first moment to its last: browsers refuse a pinned certificate
/// that is valid for more than 14 days (WebTransport, `serverCertificateHashes`), and a day is left for their clocks.
pub const MAX_MEDIA_LIFETIME: Duration = Duration::from_secs(13 * DAY);

/// Error of generating a media certificate.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The lifetime is zero, or longer than browsers accept.
    #[error("a media certificate lives for 1 second to 13 days, not {} s", .0.as_secs())]
    Lifetime(Duration),
    /// The node's name is invalid.
    #[error("name a media certificate's node: {0}")]
    Name(#[from] IdentityError),
    /// The X.509 library refused; its message never holds key bytes.
    #[error("sign a media certificate: {0}")]
    X509(#[from] rcgen::Error),
    /// The TLS library does not take the new key.
    #[error("load a media certificate's key: {0}")]
    Key(#[from] rustls::Error),
}

/// A self-signed certificate and its key, which never leaves the process.
#[derive(Clone)]
pub struct MediaCertificate {
    /// The certificate.
    pub der: Vec<u8>,
    /// SHA-256 of [`Self::der`]: what a seat pins.
    pub sha256: [u8; 32],
    /// First moment of its validity.
    pub not_before: SystemTime,
    /// Last moment of its validity.
    pub not_after: SystemTime,
    key: Arc<CertifiedKey>,
}

impl fmt::Debug for MediaCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MediaCertificate")
            .field("sha256", &hex::encode(self.sha256))
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl MediaCertificate {
    /// Generates a certificate for `node` that is valid for `lifetime` from `now`. It is backdated by an hour against clock
    /// skew, and that hour counts: with the longest lifetime it ends an hour earlier.
    ///
    /// # Errors
    /// [`MediaError::Lifetime`] when `lifetime` is under a second or over [`MAX_MEDIA_LIFETIME`], [`MediaError::Name`] when
    /// `node` is not a node's name.
    pub fn generate(node: &str, lifetime: Duration, now: SystemTime) -> Result<Self, MediaError> {
        if lifetime < Duration::from_secs(1) || lifetime > MAX_MEDIA_LIFETIME {
            return Err(MediaError::Lifetime(lifetime));
        }
        let identity = Identity::new(Role::Node, node)?;
        let not_before = certificate::earlier(now, BACKDATE);
        let not_after = certificate::later(now, lifetime).min(certificate::later(not_before, MAX_MEDIA_LIFETIME));

        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identity.name.as_str());
        // The DNS name is for people who look at a capture. The identity's URI is left out on purpose: this certificate
        // must not be taken for one that the authority signed.
        params.subject_alt_names = vec![SanType::DnsName(identity.name.try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        certificate::set_validity(&mut params, not_before, not_after);
        let cert = params.self_signed(&key)?;

        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::new(vec![cert.der().clone()], any_ecdsa_type(&pkcs8)?);
        Ok(Self {
            sha256: pin::sha256(cert.der()),
            der: cert.der().to_vec(),
            not_before,
            not_after,
            key: Arc::new(certified),
        })
    }

    /// The certificate with its key, as [`MediaCertResolver`] takes it.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

#[cfg(test)]
mod tests;
