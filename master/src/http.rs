//! The HTTP listener for monitoring: `/metrics`, `/livez` and `/readyz`. It is unauthenticated and meant for loopback.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    extract::{Request, State as Shared},
    http::{
        StatusCode,
        header::{CONTENT_TYPE, HOST},
        uri::Authority,
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{listen::accept, metrics, settings::MetricsAt, state::SharedState};

/// Connections at a time.
const CONNECTIONS: usize = 64;

/// Time and bytes that the head of a request may take.
const HEADER_TIME: Duration = Duration::from_secs(3);

/// See [`HEADER_TIME`].
const HEADER_BYTES: usize = 16 << 10;

/// Time of a connection, which serves one request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// Opens the listener. `None` if it is off or its default address is in use, which is normal for a second master on one
/// machine.
pub(crate) async fn listen(at: MetricsAt) -> anyhow::Result<Option<TcpListener>> {
    let (address, must) = match at {
        MetricsAt::Off => return Ok(None),
        MetricsAt::Usual(address) => (address, false),
        MetricsAt::Given(address) => (address, true),
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if must => Err(error).with_context(|| {
            format!("listen on {address} for metrics: choose another address with --metrics, or disable it with --metrics off")
        }),
        Err(error) => {
            warn!(
                %address, %error,
                "metrics disabled: cannot listen on the default address; set --metrics IP:PORT or --metrics off"
            );
            Ok(None)
        }
    }
}

/// Serves until the master ends. `names` may be requested beside IP addresses and localhost.
pub(crate) fn serve(
    listener: TcpListener,
    names: Vec<String>,
    state: Arc<SharedState>,
    ending: CancellationToken,
) -> JoinHandle<()> {
    match listener.local_addr() {
        Ok(address) => info!(%address, "metrics listener started"),
        Err(error) => warn!(%error, "metrics listener started at an unknown address"),
    }
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(HttpState { state, ending: ending.clone() })
        .layer(from_fn_with_state(Arc::<[String]>::from(names), check_host));
    tokio::spawn(async move {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let stream = tokio::select! {
                biased;
                () = ending.cancelled() => break,
                (stream, _peer) = accept(&listener) => stream,
            };
            // A connection over the limit is closed at once.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            connections.spawn(serve_connection(stream, router.clone(), place));
        }
        connections.close();
        connections.wait().await;
    })
}

/// Serves one request.
async fn serve_connection(stream: TcpStream, router: Router, _place: OwnedSemaphorePermit) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).keep_alive(false).max_buf_size(HEADER_BYTES);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(REQUEST_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "metrics request failed"),
        Err(_) => debug!("metrics request took too long"),
    }
}

/// Refuses requests for other hosts: a web page that names this address in its own domain must not read the answer.
async fn check_host(Shared(names): Shared<Arc<[String]>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| is_allowed(host, &names)) {
        return next.run(request).await;
    }
    let text = "the Host of the request is no IP address; names are allowed with --metrics-host\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// Whether a `Host`, with or without a port, is an IP address, localhost or one of `names`.
fn is_allowed(host: &str, names: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let same = |name: &str| name.eq_ignore_ascii_case(host);
    address.parse::<IpAddr>().is_ok() || same("localhost") || names.iter().any(|name| same(name))
}

#[derive(Clone)]
struct HttpState {
    state: Arc<SharedState>,
    ending: CancellationToken,
}

async fn scrape(Shared(http): Shared<HttpState>) -> Response {
    http.state.measure();
    match http.state.metrics().text() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Ready while the master accepts requests, with or without nodes.
async fn ready(Shared(http): Shared<HttpState>) -> Response {
    if http.ending.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response()
    } else {
        "ok\n".into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let names = ["metrics.example.org".to_owned()];
        for host in ["127.0.0.1", "127.0.0.1:7441", "[::1]", "[::1]:7441", "LocalHost:7441", "metrics.example.ORG:1"] {
            assert!(is_allowed(host, &names), "{host}");
        }
        for host in ["", "evil.example.org", "localhost.evil.org", "example.org", "127.0.0.1.evil.org:7441", "[", "a b"]
        {
            assert!(!is_allowed(host, &names), "{host}");
        }
    }
}
