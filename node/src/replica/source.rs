//! The node that a copy comes from: dialled at its seat, trusted by its pins, read no faster than the order allows.
//! Refuses to know what the frames mean.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::{ClientConfig, ConnectionError, ReadError, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use tokio::{runtime::Handle, time};
use usher_certs::{pin::PinnedVerifier, tls};
use usher_proto::{
    Bitrate, Code, Fault,
    model::SeatAddress,
    pb::{v1::ByteRange, wire::Open},
    tree::GROUP,
    wire::{self, Decoder, Frame, Kind},
};
use usher_transport::{Connection, RecvStream, endpoint_towards};

use super::PullOrder;
use crate::core::throttle::Throttle;

/// How long one address may take to answer: lost first packets are sent again after 1 s.
const DIAL: Duration = Duration::from_secs(3);

/// Keeps NATs open, and finds dead nodes.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Most bytes in flight or unread: 1.3 Gbit/s at 12 ms.
const WINDOW: u64 = 2 * 1024 * 1024;

/// The time at its rate that a copy may have in flight or unread: what a slow one gets at once is little, and the rate is
/// still reached from the other side of the earth.
const AHEAD: Duration = Duration::from_millis(300);

/// Packets taken from the stream at once: about 20 kB, small enough for a smooth rate.
const READ: usize = 16;

/// TLS asks for a name even where pins decide; nodes ignore it.
const SERVER_NAME: &str = "node.usher";

/// An open session at the source.
pub(super) struct Source {
    connection: Connection,
    receive: RecvStream,
    decoder: Decoder,
    throttle: Throttle,
    stall: Duration,
    bytes: u64,
}

fn network(what: String) -> Fault {
    Fault::new(Code::Network, what)
}

impl Source {
    /// Dials the seat and opens the session.
    ///
    /// # Errors
    /// `NETWORK` when no address answers as the node that the seat names, `BAD_REQUEST` for a ticket that is too long.
    pub(super) async fn open(order: &PullOrder, range: Option<ByteRange>, stall: Duration) -> Result<Self, Fault> {
        let open =
            Open { ticket: order.seat.ticket.clone(), range, request_id: order.request_id.clone(), ..Open::default() };
        let open = wire::message(Kind::Open, &open)
            .ok_or_else(|| Fault::new(Code::BadRequest, "the ticket is longer than usher/1 allows"))?;
        let mut config = client_config(&order.seat)?;
        config.transport_config(Arc::new(transport(order.rate)));
        let connection = dial(&order.seat, &config).await?;
        let (mut send, receive) = connection.open_bi().await.map_err(|error| lost(&error))?;
        // A node that refuses at once may stop our side of the stream; its answer says why, and is read either way.
        if send.write_chunk(open).await.is_ok() {
            drop(send.finish());
        }
        let (decoder, throttle) = (Decoder::default(), Throttle::new(order.rate));
        Ok(Self { connection, receive, decoder, throttle, stall, bytes: 0 })
    }

    /// Bytes that came.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// `TIMEOUT` when nothing came for too long; the time that the rate takes does not count. `VERIFICATION_FAILED`
    /// for bytes that are no frames. Else what the node, or the network, says.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Fault> {
        let garbled = |error| Fault::new(Code::VerificationFailed, format!("{error}"));
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(garbled)? {
                return Ok(Some(frame));
            }
            let mut chunks: [Bytes; READ] = Default::default();
            let read = time::timeout(self.stall, self.receive.read_chunks(&mut chunks)).await;
            let silent = |_| Fault::new(Code::Timeout, format!("nothing came for {} s", self.stall.as_secs_f32()));
            match read.map_err(silent)? {
                Ok(Some(count)) => {
                    let mut came = 0;
                    for chunk in chunks.iter().take(count) {
                        self.decoder.push(chunk);
                        came += chunk.len() as u64;
                    }
                    self.bytes += came;
                    // Meanwhile the window fills and the node stops.
                    time::sleep(self.throttle.take(Instant::now(), came)).await;
                }
                Ok(None) => {
                    self.decoder.finish().map_err(garbled)?;
                    return Ok(None);
                }
                Err(ReadError::Reset(code)) => {
                    let code = Code::from_quic(code.into_inner());
                    return Err(Fault::new(code, format!("broke off: {}", code.reason())));
                }
                Err(ReadError::ConnectionLost(error)) => return Err(lost(&error)),
                Err(error) => return Err(Fault::new(Code::Internal, error.to_string())),
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(Code::Cancelled.quic()), b"done");
    }
}

/// Dials the addresses of a seat in turn.
///
/// # Errors
/// `NETWORK` when no address answers as the node that the seat names.
pub(crate) async fn dial(seat: &SeatAddress, config: &ClientConfig) -> Result<Connection, Fault> {
    let mut last = network("it has no address".to_owned());
    for address in &seat.addresses {
        let fault = |error: &dyn std::fmt::Display| network(format!("dial {address}: {error}"));
        // An endpoint a connection: there are few, and it ends with it.
        let dialled =
            endpoint_towards(*address, &Handle::current()).map_err(|error| fault(&error)).and_then(|endpoint| {
                endpoint.connect_with(config.clone(), *address, SERVER_NAME).map_err(|error| fault(&error))
            });
        last = match dialled {
            Ok(connecting) => match time::timeout(DIAL, connecting).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => fault(&error),
                Err(_) => fault(&"no answer"),
            },
            Err(fault) => fault,
        };
    }
    Err(last)
}

/// Bytes of a copy that may be in flight or unread.
fn window(rate: Bitrate) -> VarInt {
    let ahead = if rate.0 == 0 { WINDOW } else { rate.bytes_in(AHEAD).clamp(2 * GROUP, WINDOW) };
    VarInt::from_u64(ahead).unwrap_or(VarInt::MAX)
}

fn transport(rate: Bitrate) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(window(rate))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0));
    transport
}

/// Trusts what the seat names, and nothing else.
///
/// # Errors
/// `INTERNAL` when TLS cannot be set up.
pub(crate) fn client_config(seat: &SeatAddress) -> Result<ClientConfig, Fault> {
    let fault = |error: &dyn std::fmt::Display| Fault::new(Code::Internal, format!("prepare TLS: {error}"));
    let tls = tls::media_client_config(PinnedVerifier::new(seat.pins.clone())).map_err(|error| fault(&error))?;
    Ok(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(|error| fault(&error))?)))
}

/// What a lost connection means.
pub(crate) fn lost(error: &ConnectionError) -> Fault {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = Code::from_quic(close.error_code.into_inner());
            Fault::new(code, format!("closed the connection: {}", code.reason()))
        }
        _ => network(format!("the connection was lost: {error}")),
    }
}
