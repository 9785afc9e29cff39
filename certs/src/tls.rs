//! The rustls configurations for media and of the master's listener, with an explicit provider so that no process-wide default
//! is needed. Shells wrap those for media for QUIC; gRPC clients build their own from the PEM files.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{ClientConfig, KeyLogFile, RootCertStore, ServerConfig};
use usher_proto::ALPN;

use crate::files::PemSet;
use crate::media::MediaCertResolver;
use crate::pin::PinnedVerifier;
pub use crate::suite::provider;

/// TLS sessions that a node remembers, so that their clients reconnect without a round trip.
const SESSIONS: usize = 4096;

/// The server side of the master's API: TLS 1.2 or 1.3, ALPN `h2`. A client certificate is optional, and must be one of the
/// authority's: viewers have none.
///
/// # Errors
/// When a PEM text cannot be parsed, or key and certificate do not match.
pub fn master_server_config(pem: &PemSet) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(pem.ca.as_bytes()) {
        roots.add(authority.context("parse the authority's certificate")?).context("trust the authority")?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let clients = clients.allow_unauthenticated().build().context("verify client certificates")?;
    let chain = CertificateDer::pem_slice_iter(pem.cert.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).context("parse the master's key")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.context("parse the master's certificate")?, key)
        .context("use the master's certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The server side of media: TLS 1.3, ALPN `usher/1`, no client certificate (the ticket is the viewer's right).
///
/// A returning client may send its first Open along with its hello (early data). A replay of that gains nothing: rustls
/// removes each session from its memory when it is resumed, and the node redeems each ticket once.
///
/// # Errors
/// A rustls error when the provider cannot do TLS 1.3, which aws-lc-rs can.
pub fn media_server_config(resolver: Arc<MediaCertResolver>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // 0xffff_ffff enables early data for QUIC (RFC 9001, section 4.6.1).
    config.max_early_data_size = u32::MAX;
    config.send_tls13_tickets = 1;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(config)
}

/// The client side of media: TLS 1.3, ALPN `usher/1`, trust by pin alone. Used again, it resumes its own sessions, with
/// early data. Those show no certificate, hence nothing to hold against the pins: it is to be used again only while the
/// certificate that was shown is among the pins of a fresh seat. `SSLKEYLOGFILE` is honoured, so that a packet
/// capture of one's own session can be read.
///
/// # Errors
/// A rustls error when the provider cannot do TLS 1.3, which aws-lc-rs can.
pub fn media_client_config(verifier: Arc<PinnedVerifier>) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.key_log = Arc::new(KeyLogFile::new());
    // For the one node that this is made for.
    config.resumption = Resumption::in_memory_sessions(1);
    config.enable_early_data = true;
    Ok(config)
}

/// The TLS error in a chain of causes. tokio-rustls hides it inside an I/O error.
pub fn error_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(inner) = inner {
            let inner: &'a (dyn std::error::Error + 'static) = inner;
            if let Some(tls) = error_in(inner) {
                return Some(tls);
            }
        }
        next = error.source();
    }
    None
}
