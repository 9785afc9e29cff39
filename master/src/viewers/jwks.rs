//! Keys of tokens from a URL: fetched over HTTPS at intervals, never because of a token. The last good set stays in force
//! when a fetch fails.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    header::{ACCEPT, CACHE_CONTROL, HOST},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use usher_token::{KeySet, KeySource, Refresh, core::keys::MAX_SET_BYTES, max_age};

use super::Viewers;
use crate::settings::Config;

/// Limit of one fetch, from the name lookup to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Retry delay of a client that comes before the first keys.
pub(super) const NOT_YET: Duration = Duration::from_secs(2);

/// A key set on the web.
pub(crate) struct JwksUrl {
    uri: Uri,
    host: String,
    port: u16,
    tls: TlsConnector,
    usual: Duration,
}

impl JwksUrl {
    /// The URL of the settings, if there is one. Reads the authorities that its server may have.
    ///
    /// # Errors
    /// The wrong setting, with its remedy.
    pub(crate) fn of(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(url) = &config.token_jwks else { return Ok(None) };
        let wrong = || format!("--token-jwks {url}: write https://HOST[:PORT]/PATH");
        let uri: Uri = url.parse().with_context(wrong)?;
        ensure!(uri.scheme_str() == Some("https"), "{}", wrong());
        let host = uri.host().with_context(wrong)?.trim_matches(['[', ']']).to_owned();
        ServerName::try_from(host.as_str()).with_context(wrong)?;
        let port = uri.port_u16().unwrap_or(443);
        let roots = roots(config.token_jwks_ca.as_deref())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("set up TLS for --token-jwks")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(Self { uri, host, port, tls: TlsConnector::from(Arc::new(tls)), usual: config.token_jwks_refresh }))
    }

    /// Fetches keys until the master ends.
    pub(crate) async fn keep_fresh(self, viewers: Arc<Viewers>, ending: CancellationToken) {
        let mut refresh = Refresh::new(self.usual);
        let (mut known, mut failing) = (String::new(), false);
        loop {
            let fetched = tokio::select! {
                () = ending.cancelled() => return,
                fetched = tokio::time::timeout(TIMEOUT, self.fetch()) => fetched,
            };
            let fetched = fetched.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", TIMEOUT.as_secs())));
            let parsed = fetched.and_then(|(text, age)| Ok((KeySet::parse(&text, KeySource::Url)?, text, age)));
            let wait = match parsed {
                Ok((keys, text, age)) => {
                    if failing || text != known {
                        info!(url = %self.uri, keys = ?keys, "keys of tokens fetched");
                        keys.skipped().iter().for_each(|why| debug!(reason = why, "key of tokens skipped"));
                    }
                    (known, failing) = (text, false);
                    viewers.replace_keys(keys);
                    refresh.handle_success(age)
                }
                Err(error) => {
                    // Logged once; the metrics and the next success show the rest.
                    if !failing {
                        let kept = !known.is_empty();
                        warn!(url = %self.uri, error = format!("{error:#}"), kept, "keys of tokens not fetched; retrying");
                    }
                    failing = true;
                    refresh.handle_failure()
                }
            };
            tokio::select! {
                () = ending.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// The text at the URL, and for how long it may be kept.
    async fn fetch(&self) -> anyhow::Result<(String, Option<Duration>)> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.context("connect")?;
        let name = ServerName::try_from(self.host.clone()).context("name the server")?;
        let stream =
            self.tls.connect(name, stream).await.context("set up TLS; --token-jwks-ca names another authority")?;
        let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let fetched = self.exchange(&mut requests).await;
        connection.abort();
        fetched
    }

    async fn exchange(
        &self,
        requests: &mut hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
    ) -> anyhow::Result<(String, Option<Duration>)> {
        let authority = self.uri.authority().map_or(self.host.as_str(), |authority| authority.as_str());
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path).header(HOST, authority).header(ACCEPT, "application/json");
        let response = requests.send_request(request.body(Empty::new())?).await.context("send the request")?;
        let status = response.status();
        ensure!(!status.is_redirection(), "the server redirects ({status}); name the final URL");
        ensure!(status == StatusCode::OK, "the server answers {status}");
        let age = response.headers().get(CACHE_CONTROL).and_then(|header| header.to_str().ok()).and_then(max_age);
        let body = Limited::new(response.into_body(), MAX_SET_BYTES).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("read the answer, at most {MAX_SET_BYTES} bytes: {error}"))?;
        Ok((String::from_utf8(body.to_bytes().to_vec()).context("read the answer as text")?, age))
    }
}

/// The certificates of a file, or those that the system trusts.
fn roots(file: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else {
        let (good, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        ensure!(good > 0, "this system has no certificates of authorities; name one with --token-jwks-ca FILE");
        return Ok(roots);
    };
    let context = || format!("read --token-jwks-ca {}", path.display());
    for certificate in CertificateDer::pem_file_iter(path).with_context(context)? {
        roots.add(certificate.with_context(context)?).with_context(context)?;
    }
    ensure!(!roots.is_empty(), "--token-jwks-ca {} holds no certificate in PEM", path.display());
    Ok(roots)
}
