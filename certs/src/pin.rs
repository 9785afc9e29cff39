//! Trust in a media certificate by its SHA-256, which the seat carries. The pin replaces authorities, names and chains.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, PeerIncompatible, SignatureScheme};

use crate::{certificate, suite};

/// Allowed lag of a viewer's clock behind the node's.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// SHA-256 of a certificate in DER: what a seat pins, and what a browser takes in `serverCertificateHashes`.
pub fn sha256(der: &[u8]) -> [u8; 32] {
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("the suite's name says TLS 1.3");
    let mut hash = [0; 32];
    hash.copy_from_slice(suite.common.hash_provider.hash(der).as_ref());
    hash
}

/// Error of a pinned certificate that rustls has no variant for. Dates are reported as
/// [`CertificateError::ExpiredContext`] and [`CertificateError::NotValidYetContext`].
///
/// Where only the TLS alert of an error is known, as in QUIC, a wrong hash is `certificate_unknown` (46) and a wrong date
/// `certificate_expired` (45).
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The node's certificate is not among the seat's pins.
    #[error("the node's certificate {} is none of the {expected} that the seat pins; ask the master again", hex::encode(.presented))]
    WrongHash {
        /// SHA-256 of what the node showed.
        presented: [u8; 32],
        /// How many pins there were.
        expected: usize,
    },
}

/// The text of `Display`, because rustls prints its inner error with `Debug`, and QUIC keeps only that text.
impl fmt::Debug for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Accepts certificates with the given SHA-256 hashes while they are valid.
#[derive(Debug)]
pub struct PinnedVerifier {
    hashes: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl PinnedVerifier {
    /// A verifier for the hashes of one seat (the node's present certificate and the next). With no hash it accepts
    /// nothing.
    pub fn new(hashes: Vec<[u8; 32]>) -> Arc<Self> {
        Arc::new(Self { hashes, provider: suite::provider() })
    }

    /// Checks the hash first, then the dates.
    fn check(&self, der: &[u8], now: UnixTime) -> Result<(), CertificateError> {
        let presented = sha256(der);
        if !self.hashes.contains(&presented) {
            let error = PinError::WrongHash { presented, expected: self.hashes.len() };
            return Err(CertificateError::Other(OtherError(Arc::new(error))));
        }
        let cert = certificate::parse(der).ok_or(CertificateError::BadEncoding)?;
        let (not_before, not_after) = certificate::validity(&cert);
        let (not_before, not_after) = (certificate::unix(not_before), certificate::unix(not_after));
        if now.as_secs().saturating_add(CLOCK_SKEW.as_secs()) < not_before.as_secs() {
            return Err(CertificateError::NotValidYetContext { time: now, not_before });
        }
        if now > not_after {
            return Err(CertificateError::ExpiredContext { time: now, not_after });
        }
        Ok(())
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // QUIC has no TLS 1.2 (RFC 9001, 4.2), and the configuration offers none.
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
