//! The rustls configurations for media, with an explicit provider so that no process-wide default is needed. Shells wrap them
//! for QUIC; tonic builds its own from the PEM files.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, KeyLogFile, ServerConfig};
use usher_proto::ALPN;

use crate::media::MediaCertResolver;
use crate::pin::PinnedVerifier;
pub use crate::suite::provider;

/// TLS sessions that a node remembers, so that their clients reconnect without a round trip.
const SESSIONS: usize = 4096;

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
