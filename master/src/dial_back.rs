//! Dials the addresses that nodes advertise, as a client would: a QUIC handshake with the certificate that the node
//! announced. Opens no session.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use quinn::{ClientConfig, VarInt, crypto::rustls::QuicClientConfig};
use tokio::{runtime::Handle, sync::mpsc, task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use usher_certs::{pin::PinnedVerifier, tls};
use usher_proto::{Code, model::Presence};
use usher_transport::Connection;

use crate::state::{DialOrder, SharedState};

/// Time that an address has to answer: lost first packets are sent again after 0.3 s and 0.9 s.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// Time to send the end of the connection.
const CLOSE: Duration = Duration::from_millis(300);

/// Nodes dialled at a time in answer to orders; attaching nodes are dialled besides.
const CONCURRENT: usize = 32;

/// Dials that wait.
const WAITING: usize = 1024;

/// A queue of orders for [`work`].
pub(crate) fn queue() -> (mpsc::Sender<DialOrder>, mpsc::Receiver<DialOrder>) {
    mpsc::channel(WAITING)
}

/// Executes orders until the master ends.
pub(crate) async fn work(state: Arc<SharedState>, mut orders: mpsc::Receiver<DialOrder>, ending: CancellationToken) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            () = ending.cancelled() => return,
            Some(_) = running.join_next(), if !running.is_empty() => {}
            Some(order) = orders.recv(), if running.len() < CONCURRENT => {
                let state = Arc::clone(&state);
                running.spawn(async move {
                    let answered = dial(&order.presence).await;
                    state.dialled(order.attachment, answered);
                });
            }
        }
    }
}

/// The addresses that answer with one of the announced certificates, best first.
pub(crate) async fn dial(presence: &Presence) -> Vec<SocketAddr> {
    let config = match config(presence) {
        Ok(config) => config,
        Err(error) => {
            warn!(%error, "cannot dial a node back: TLS is not available");
            return Vec::new();
        }
    };
    let one = |address: SocketAddr| {
        let config = config.clone();
        async move {
            match time::timeout(TIMEOUT, connect(address, config)).await {
                Ok(Ok(())) => return Some(address),
                Ok(Err(error)) => debug!(%address, error, "node does not answer the dial"),
                Err(_) => debug!(%address, "node does not answer the dial"),
            }
            None
        }
    };
    let addresses = presence.addresses.clone();
    let count = addresses.len().max(1);
    stream::iter(addresses).map(one).buffered(count).filter_map(std::future::ready).collect().await
}

fn config(presence: &Presence) -> Result<ClientConfig, String> {
    let tls = tls::media_client_config(PinnedVerifier::new(presence.certificates.clone()));
    let crypto = tls.map_err(|error| error.to_string())?;
    Ok(ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).map_err(|error| error.to_string())?)))
}

async fn connect(address: SocketAddr, config: ClientConfig) -> Result<(), String> {
    let endpoint = usher_transport::endpoint_towards(address, &Handle::current()).map_err(|error| error.to_string())?;
    // TLS asks for a name even where pins decide.
    let connecting = endpoint.connect_with(config, address, "node.usher").map_err(|error| error.to_string())?;
    let connection: Connection = connecting.await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        connection.close(VarInt::from_u32(Code::Cancelled.quic()), b"dialled back");
        // Without the close, the node would notice by its idle timeout.
        let _late = time::timeout(CLOSE, endpoint.wait_idle()).await;
    });
    Ok(())
}
