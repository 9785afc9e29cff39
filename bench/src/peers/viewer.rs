//! A viewer of usher/1 inside this process, for cases with thousands of viewers: it asks the master, dials nodes, reads and
//! counts. It does not verify; the cases that fetch do.

use std::{
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicClientConfig,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint as Master};
use usher_certs::{pin::PinnedVerifier, tls};
use usher_proto::{
    model::SeatAddress,
    pb::{
        v1::{Purpose, ResolveRequest, resolve_request::What, tickets_client::TicketsClient},
        wire::Open,
    },
    wire::{self, Decoder, Frame, Kind},
};

/// Bytes asked of the kernel for a socket, as all contenders of this bench ask.
const SOCKET_BUFFER: usize = 8 * 1024 * 1024;

/// Receive window of a viewer: a second at 2 Mbit/s.
const WINDOW: u32 = 256 * 1024;

/// Size of a player's reads, in bytes.
const SIP: usize = 32 * 1024;

/// A UDP socket on loopback with large buffers. The kernel limits all contenders alike.
pub(crate) fn socket() -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("open a UDP socket")?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER).context("size a receive buffer")?;
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER).context("size a send buffer")?;
    Ok(socket)
}

/// An endpoint that only dials.
pub(crate) fn endpoint() -> anyhow::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), None, socket()?, Arc::new(TokioRuntime)).context("start QUIC")
}

/// Trust in one certificate, and quinn's own settings but for these.
pub(crate) fn trust(pins: Vec<[u8; 32]>, transport: TransportConfig) -> anyhow::Result<ClientConfig> {
    let tls = tls::media_client_config(PinnedVerifier::new(pins)).context("prepare TLS")?;
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).context("prepare TLS for QUIC")?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// A runtime for a viewer: one thread, like the stock contender's.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// A connection to the master.
pub(crate) async fn tickets(address: &str, ca: &Path) -> anyhow::Result<TicketsClient<Channel>> {
    let pem = std::fs::read_to_string(ca).with_context(|| format!("read {}", ca.display()))?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    let master = Master::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    Ok(TicketsClient::new(master.connect().await.context("dial the master")?))
}

/// A request to play a title at its own rate.
pub(crate) fn play(title: &str) -> ResolveRequest {
    ResolveRequest { what: Some(What::Title(title.to_owned())), purpose: Purpose::Play.into(), ..Default::default() }
}

/// Asks for a ticket to play a title; the seat that is reserved.
pub(crate) async fn seat(tickets: &mut TicketsClient<Channel>, title: &str) -> anyhow::Result<SeatAddress> {
    seat_for(tickets, play(title)).await
}

/// Asks for a ticket; the seat that is reserved.
pub(crate) async fn seat_for(
    tickets: &mut TicketsClient<Channel>,
    request: ResolveRequest,
) -> anyhow::Result<SeatAddress> {
    let answer = tickets.resolve(request).await.context("ask for a ticket")?.into_inner();
    let seat = answer.seats.into_iter().next().context("a seat")?;
    SeatAddress::try_from(seat).map_err(|error| anyhow::anyhow!("{error}")).context("read a seat")
}

/// Dials a seat.
pub(crate) async fn dial(endpoint: &Endpoint, seat: &SeatAddress) -> anyhow::Result<Connection> {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(WINDOW));
    let address = *seat.addresses.iter().find(|address| address.ip().is_loopback()).context("a loopback address")?;
    let connecting = endpoint.connect_with(trust(seat.pins.clone(), transport)?, address, "node.usher")?;
    connecting.await.context("dial a node")
}

/// Opens a session.
pub(crate) async fn open(connection: &Connection, ticket: &str) -> anyhow::Result<RecvStream> {
    let open = Open { ticket: ticket.to_owned(), ..Open::default() };
    let (mut send, receive) = connection.open_bi().await.context("open a stream")?;
    send.write_chunk(wire::message(Kind::Open, &open).context("a short ticket")?).await.context("send a ticket")?;
    send.finish().context("send a ticket")?;
    Ok(receive)
}

/// Reads a session to its end: bytes of media, and when the first of them came.
pub(crate) async fn read(stream: &mut RecvStream) -> anyhow::Result<(u64, Instant)> {
    let mut decoder = Decoder::default();
    let (mut bytes, mut first, mut ended) = (0, None, false);
    while let Some(chunk) = stream.read_chunk(64 * 1024, true).await.context("read a session")? {
        decoder.push(&chunk.bytes);
        while let Some(frame) = decoder.next_frame().context("read a frame")? {
            match frame {
                Frame::Group(group) => {
                    first.get_or_insert_with(Instant::now);
                    bytes += group.len() as u64;
                }
                Frame::Refused(refused) => bail!("the node refused: {} {}", refused.reason, refused.message),
                Frame::Finish(_) => ended = true,
                _ => {}
            }
        }
    }
    anyhow::ensure!(ended, "a session broke off after {bytes} bytes");
    Ok((bytes, first.context("no media came")?))
}

/// Takes no more than `rate` bits per second from a session, some at a time as players do, until it ends.
pub(crate) async fn sip(stream: &mut RecvStream, rate: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    let (mut bytes, mut taken) = (0, 0);
    while let Some(chunk) = stream.read_chunk(SIP, true).await.context("read a session")? {
        bytes += chunk.bytes.len();
        if bytes - taken < SIP {
            continue;
        }
        taken = bytes;
        let due = Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    Ok(())
}
