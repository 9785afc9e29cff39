//! The small HTTP listener for those who watch over the master: `/metrics`, `/livez` and `/readyz`. It is meant for
//! loopback: whoever reaches it may read it. Changes nothing.

use std::{net::SocketAddr, sync::Arc};

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

use crate::{app::MetricsAt, metrics, state::SharedState};

/// Listens as told. `None` when it is off, or when it cannot listen on its usual address: a second master on one machine
/// is no mistake, and works without this.
pub(crate) async fn listen(at: MetricsAt) -> anyhow::Result<Option<TcpListener>> {
    let (address, must) = match at {
        MetricsAt::Off => return Ok(None),
        MetricsAt::Usual(address) => (address, false),
        MetricsAt::Given(address) => (address, true),
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if must => Err(error).with_context(|| {
            format!("listen on {address} for metrics: choose another address with --metrics, or say --metrics off")
        }),
        Err(error) => {
            warn!(
                %address, %error,
                "no metrics: their usual address cannot be listened on; choose one with --metrics IP:PORT, or say --metrics off"
            );
            Ok(None)
        }
    }
}

/// Serves until the master ends.
pub(crate) fn serve(listener: TcpListener, state: Arc<SharedState>, ending: CancellationToken) -> JoinHandle<()> {
    let address: Option<SocketAddr> = listener.local_addr().ok();
    info!(?address, "metrics at /metrics");
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(HttpState { state, ending: ending.clone() });
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(ending.cancelled_owned());
        if let Err(error) = served.await {
            warn!(%error, "the listener for metrics failed");
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

/// Ready while it takes requests. Nodes come later, so that their number says nothing of the master.
async fn ready(Shared(http): Shared<HttpState>) -> Response {
    if http.ending.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "the master ends\n").into_response()
    } else {
        "ok\n".into_response()
    }
}
