//! Coming back to a node without waiting for the handshake: the Open travels along with the hello (early data, RFC 9001,
//! section 4.6). Only with what a certificate vouched for that a fresh seat still names, and only with an Open, which the
//! node takes once, however often it is said.

use std::net::SocketAddr;

use bytes::Bytes;
use quinn::{ClientConfig, ConnectionError};
use usher_proto::{Fault, model::SeatAddress, pb::wire::Open};
use usher_transport::{Connection, RecvStream, SendStream};

use super::{DIAL, Pool, SERVER_NAME, connection_fault};

/// A node as it was left.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) address: SocketAddr,
    /// What it showed.
    pub(super) certificate: [u8; 32],
    /// What remembers the TLS sessions with it.
    pub(super) config: ClientConfig,
}

/// A stream of a session, with the Open sent.
pub(super) type Begun = (SendStream, RecvStream);

/// Whether our side of the stream stays open after the Open: more may follow, or the session lasts as long as it.
pub(super) fn stays(open: &Open) -> bool {
    open.more || open.watch.is_some() || open.publish.is_some()
}

/// Opens a stream and says what is wanted. Where `more` may follow, our side of it stays open.
pub(super) async fn begin(
    connection: &Connection,
    seat: &SeatAddress,
    request: Bytes,
    more: bool,
) -> Result<Begun, Fault> {
    let lost = |error: ConnectionError| connection_fault(&seat.node, &error);
    let (mut send, recv) = connection.open_bi().await.map_err(lost)?;
    let sent = async {
        send.write_chunk(request).await.ok()?;
        if more { Some(()) } else { send.finish().ok() }
    };
    // A node that refuses at once may stop our side of the stream; its answer says why, so that is read either way.
    if sent.await.is_none()
        && let Some(error) = connection.close_reason()
    {
        return Err(lost(error));
    }
    Ok((send, recv))
}

impl Pool {
    /// Dials a node as it was left, with the Open ahead of the handshake. `None` when nothing came of it, and it is to be
    /// dialled like any other; a connection without a stream when the node did not take what came early.
    pub(super) async fn come_back(
        &self,
        seat: &SeatAddress,
        known: &Known,
        open: Option<(Bytes, bool)>,
    ) -> Option<(Connection, Option<Begun>)> {
        if !seat.pins.contains(&known.certificate) || !seat.addresses.contains(&known.address) {
            return None;
        }
        let endpoint = self.endpoint(known.address).ok()?;
        let connecting = endpoint.connect_with(known.config.clone(), known.address, SERVER_NAME).ok()?;
        let (connection, accepted) = match connecting.into_0rtt() {
            Ok(early) => early,
            // Nothing is remembered, such as after a short visit: like any other dial.
            Err(connecting) => {
                let connection = tokio::time::timeout(DIAL, connecting).await.ok()?.ok()?;
                return Some((connection, None));
            }
        };
        let begun = match open {
            Some((request, more)) => Some(begin(&connection, seat, request, more).await.ok()?),
            None => None,
        };
        let accepted = tokio::time::timeout(DIAL, accepted).await.unwrap_or(false);
        tracing::debug!(node = %seat.node, accepted, "came back");
        (accepted || connection.close_reason().is_none()).then_some((connection, begun.filter(|_| accepted)))
    }
}
