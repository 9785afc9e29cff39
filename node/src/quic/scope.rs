//! Resources that a connection lends to its sessions, and the signals that end them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use usher_budget::Prefix;
use usher_session::GroupRouter;
use usher_transport::Connection;

use super::uses::Uses;
use crate::send_window::SendWindow;

/// A connection as its sessions see it.
#[derive(Clone)]
pub(super) struct ConnectionScope {
    /// Cancelled when the connection is lost, or `stop` is cancelled.
    pub(super) gone: CancellationToken,
    /// Cancelled when the node shuts down or drains this connection.
    pub(super) stop: CancellationToken,
    pub(super) connection: Connection,
    /// The network of the client.
    pub(super) prefix: Prefix,
    /// Routes groups to the sessions of publishers.
    pub(super) router: GroupRouter,
    pub(super) window: Arc<SendWindow>,
    /// Counts valid tickets; an unused connection is closed.
    pub(super) uses: Uses,
}
