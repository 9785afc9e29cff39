//! The HTTP listener for monitoring: `/metrics`, `/livez` and `/readyz`. It is unauthenticated and meant for loopback.

use std::sync::Arc;

use anyhow::Context as _;
use axum::{
    Router,
    extract::State as Shared,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{metrics, settings::MetricsAt, state::SharedState};

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

/// Serves until the master ends.
pub(crate) fn serve(listener: TcpListener, state: Arc<SharedState>, ending: CancellationToken) -> JoinHandle<()> {
    match listener.local_addr() {
        Ok(address) => info!(%address, "metrics listener started"),
        Err(error) => warn!(%error, "metrics listener started at an unknown address"),
    }
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(HttpState { state, ending: ending.clone() });
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(ending.cancelled_owned());
        if let Err(error) = served.await {
            warn!(%error, "metrics listener failed");
        }
    })
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
