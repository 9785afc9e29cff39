//! Reading X.509 certificates (names, dates, issuer) and writing the validity of new ones. Leaves files, roles and trust to
//! its callers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::CertificateParams;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use usher_proto::units::LAST_UNIX_SECOND;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::suite;

/// Backdating of everything that is issued, so that a peer whose clock is behind accepts it at once.
pub(crate) const BACKDATE: Duration = Duration::from_secs(60 * 60);

/// Seconds of one day.
pub(crate) const DAY: u64 = 24 * 60 * 60;

/// Parses a certificate; `None` when the bytes are not exactly one.
pub(crate) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], cert)) => Some(cert),
        _ => None,
    }
}

/// First and last moment of a certificate's validity, as wall time.
pub(crate) fn validity(cert: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = cert.validity();
    (wall(validity.not_before.timestamp()), wall(validity.not_after.timestamp()))
}

/// Times before 1970 count as 1970, which keeps every date printable.
fn wall(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0).min(LAST_UNIX_SECOND))
}

/// Seconds since 1970, within the range of X.509.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().min(LAST_UNIX_SECOND))
}

/// `at` plus `by`, at most the last second of X.509: an absurd clock gives an absurd date, not a panic.
pub(crate) fn later(at: SystemTime, by: Duration) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(at).saturating_add(by.as_secs()).min(LAST_UNIX_SECOND))
}

/// `at` minus `by`, at least 1970.
pub(crate) fn earlier(at: SystemTime, by: Duration) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(at).saturating_sub(by.as_secs()))
}

/// `at` in the type of rustls.
pub(crate) fn unix(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds(at)))
}

/// Sets the validity of a new certificate.
pub(crate) fn set_validity(params: &mut CertificateParams, not_before: SystemTime, not_after: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(seconds(not_before));
    params.not_after = epoch + Duration::from_secs(seconds(not_after));
}

/// DNS names and IP addresses of a certificate, as text.
pub(crate) fn sans(cert: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = cert.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(dns) => Some((*dns).to_owned()),
            GeneralName::IPAddress(octets) => address(octets).map(|ip| ip.to_string()),
            _ => None,
        })
        .collect()
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// The cluster's name in an authority's certificate: its organization.
pub(crate) fn organization(cert: &X509Certificate<'_>) -> Option<String> {
    cert.subject().iter_organization().next()?.as_str().ok().map(str::to_owned)
}

/// Whether `ca` signed `leaf`, whatever the present date.
pub(crate) fn issued_by(leaf: &[u8], ca: &[u8]) -> bool {
    let (Some(parsed), Some(parsed_ca)) = (parse(leaf), parse(ca)) else { return false };
    // Checked at a time when both were valid.
    let at = validity(&parsed).0.max(validity(&parsed_ca).0);
    let mut roots = RootCertStore::empty();
    if roots.add(CertificateDer::from(ca.to_vec())).is_err() {
        return false;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), suite::provider()).build();
    let leaf = CertificateDer::from(leaf);
    verifier.is_ok_and(|verifier| verifier.verify_client_cert(&leaf, &[], unix(at)).is_ok())
}

/// The first certificate of a PEM text.
pub(crate) fn from_pem(pem: &[u8]) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem).ok()
}

/// The bytes of a certificate that a test has just made.
#[cfg(test)]
pub(crate) fn der_of(pem: &str) -> Vec<u8> {
    from_pem(pem.as_bytes()).expect("a PEM certificate").to_vec()
}
