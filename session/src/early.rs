//! A session's Open, with or without a handshake before it. A node that was dialled before takes it as early data
//! (RFC 9001, section 4.6): only with a certificate that the fresh seat still pins, and only an Open, which the node
//! accepts once, however often it arrives.

use std::net::SocketAddr;

use bytes::Bytes;
use quinn::{ClientConfig, ConnectionError};
use usher_proto::{Code, Fault, model::SeatAddress, pb::wire, wire::Kind};
use usher_transport::{Connection, RecvStream, SendStream};

use crate::{
    dial::{Dialer, SERVER_NAME},
    fault::connection_lost,
};

/// A node that was dialled before.
#[derive(Clone)]
pub(crate) struct KnownNode {
    pub(crate) address: SocketAddr,
    /// SHA-256 of the certificate that it showed.
    pub(crate) certificate: [u8; 32],
    /// Remembers the TLS sessions with it.
    pub(crate) config: ClientConfig,
}

/// A session's stream, with the Open sent.
pub(crate) type Opened = (SendStream, RecvStream);

/// An encoded Open.
#[derive(Clone)]
pub(crate) struct Request {
    frame: Bytes,
    /// This side of the stream stays open: more may follow, or the session lasts as long as it.
    pub(crate) stays: bool,
}

impl Request {
    pub(crate) fn new(open: &wire::Open) -> Result<Self, Fault> {
        let stays = open.more || open.watch.is_some() || open.publish.is_some();
        match usher_proto::wire::message(Kind::Open, open) {
            Some(frame) => Ok(Self { frame, stays }),
            None => Err(Fault::new(Code::BadRequest, "the ticket is longer than usher/1 allows")),
        }
    }

    /// Opens a stream and sends the Open.
    pub(crate) async fn send(self, connection: &Connection, seat: &SeatAddress) -> Result<Opened, Fault> {
        let lost = |error: ConnectionError| connection_lost(&seat.node, &error);
        let (mut send, recv) = connection.open_bi().await.map_err(lost)?;
        let sent = async {
            send.write_chunk(self.frame).await.ok()?;
            if self.stays { Some(()) } else { send.finish().ok() }
        };
        // A node that refuses at once may stop our side of the stream; its answer gives the reason, and is read either way.
        if sent.await.is_none()
            && let Some(error) = connection.close_reason()
        {
            return Err(lost(error));
        }
        Ok((send, recv))
    }
}

/// Dials a node that was dialled before, with the request ahead of the handshake. Returns `None` when that fails and the
/// node is to be dialled like any other; a connection without a stream when the node did not accept the early data.
pub(crate) async fn redial(
    dialer: &Dialer,
    seat: &SeatAddress,
    known: &KnownNode,
    request: Option<Request>,
) -> Option<(Connection, Option<Opened>)> {
    if !seat.pins.contains(&known.certificate) || !seat.addresses.contains(&known.address) {
        return None;
    }
    let timeout = dialer.settings().dial_timeout;
    let endpoint = dialer.endpoint(known.address).ok()?;
    let connecting = endpoint.connect_with(known.config.clone(), known.address, SERVER_NAME).ok()?;
    let (connection, accepted) = match connecting.into_0rtt() {
        Ok(early) => early,
        // TLS remembers nothing, such as after a short session: like any other dial.
        Err(connecting) => {
            let connection = tokio::time::timeout(timeout, connecting).await.ok()?.ok()?;
            return Some((connection, None));
        }
    };
    let opened = match request {
        Some(request) => Some(request.send(&connection, seat).await.ok()?),
        None => None,
    };
    let accepted = tokio::time::timeout(timeout, accepted).await.unwrap_or(false);
    tracing::debug!(node = %seat.node, accepted, "node dialled with early data");
    (accepted || connection.close_reason().is_none()).then_some((connection, opened.filter(|_| accepted)))
}
