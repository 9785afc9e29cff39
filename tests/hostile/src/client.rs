//! A hand-written client: it requests tickets from the master, opens sessions at nodes from one source address, and reads
//! them at a chosen rate. Verifies nothing.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use quinn::{
    ClientConfig, Connection, Endpoint, RecvStream, TransportConfig, VarInt, crypto::rustls::QuicClientConfig,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use usher_certs::{pin::PinnedVerifier, tls};
use usher_proto::{
    model::SeatAddress,
    pb::{
        v1::{Purpose, ResolveRequest, resolve_request::What, tickets_client::TicketsClient},
        wire::Open,
    },
    wire::{self, Decoder, Frame, Kind},
};

/// Bytes that a session may carry unread on its stream, for [`Client::new`]: a second at 8 Mbit/s.
pub const USUAL_WINDOW: u32 = 1 << 20;

/// Bytes of one read of [`Session::read`].
const READ: usize = 16 * 1024;

/// Interval of the keep-alive packets of connections.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A client with its own address, one connection to the master and one to each node that it dials.
pub struct Client {
    tickets: TicketsClient<Channel>,
    endpoint: Endpoint,
    window: u32,
    connections: Vec<([u8; 32], Connection)>,
}

/// How a session is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// At this many bit/s.
    Rate(u64),
    /// One byte a second.
    Drip,
}

/// An open session whose set-up information has arrived, or that never reads any.
pub struct Session {
    stream: RecvStream,
    decoder: Decoder,
    /// Keeps the connection.
    _connection: Connection,
}

/// A request to play a title at its own rate.
#[must_use]
pub fn play(title: &str) -> ResolveRequest {
    ResolveRequest { what: Some(What::Title(title.to_owned())), purpose: Purpose::Play.into(), ..Default::default() }
}

impl Client {
    /// A client at `from` of the master at `address` (HOST:PORT), whose authority's certificate is the file `ca`. It accepts
    /// `window` unread bytes of each session.
    ///
    /// # Errors
    /// When the address cannot be used, or the master does not answer.
    pub async fn new(from: Ipv4Addr, address: &str, ca: &Path, window: u32) -> anyhow::Result<Self> {
        let pem = std::fs::read(ca).with_context(|| format!("read {}", ca.display()))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        let master = Channel::from_shared(format!("https://{address}")).context("check the master's address")?;
        let master = master.tls_config(tls).context("prepare TLS")?.local_address(Some(IpAddr::V4(from)));
        let tickets = TicketsClient::new(master.connect().await.context("dial the master")?);
        let endpoint = Endpoint::client((from, 0).into()).with_context(|| format!("open a UDP socket at {from}"))?;
        Ok(Self { tickets, endpoint, window, connections: Vec::new() })
    }

    /// Asks the master for a ticket. Returns the first seat.
    ///
    /// # Errors
    /// The master's refusal.
    pub async fn resolve(&mut self, request: ResolveRequest) -> anyhow::Result<SeatAddress> {
        let answer = self.tickets.resolve(request).await.context("ask for a ticket")?.into_inner();
        let seat = answer.seats.into_iter().next().context("a seat")?;
        SeatAddress::try_from(seat).map_err(|error| anyhow::anyhow!("read a seat: {error}"))
    }

    /// Dials a seat's node, or returns the connection that there is.
    ///
    /// # Errors
    /// When the node does not accept the connection.
    pub async fn dial(&mut self, seat: &SeatAddress) -> anyhow::Result<Connection> {
        let pin = *seat.pins.first().context("a certificate to trust")?;
        self.connections.retain(|(_, connection)| connection.close_reason().is_none());
        if let Some((_, connection)) = self.connections.iter().find(|(other, _)| *other == pin) {
            return Ok(connection.clone());
        }
        let connection = self.dial_anew(seat).await?;
        self.connections.push((pin, connection.clone()));
        Ok(connection)
    }

    /// Dials a seat's node once more.
    ///
    /// # Errors
    /// When the node does not accept the connection.
    pub async fn dial_anew(&self, seat: &SeatAddress) -> anyhow::Result<Connection> {
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(self.window)).keep_alive_interval(Some(KEEP_ALIVE));
        let config = trust(seat.pins.clone(), transport)?;
        let connecting = self.endpoint.connect_with(config, address(seat)?, "node.usher").context("dial a node")?;
        connecting.await.context("dial a node")
    }

    /// Asks for a ticket and redeems it: sends the Open message, and reads nothing.
    ///
    /// # Errors
    /// When the master refuses, or the connection is lost.
    pub async fn open(&mut self, request: ResolveRequest) -> anyhow::Result<Session> {
        let seat = self.resolve(request).await?;
        let connection = self.dial(&seat).await?;
        let open = Open { ticket: seat.ticket, ..Open::default() };
        let (mut send, stream) = connection.open_bi().await.context("open a stream")?;
        send.write_chunk(wire::message(Kind::Open, &open).context("a short ticket")?).await.context("send a ticket")?;
        send.finish().context("send a ticket")?;
        Ok(Session { stream, decoder: Decoder::default(), _connection: connection })
    }

    /// The same, and waits for the set-up information.
    ///
    /// # Errors
    /// As [`Client::open`], and when the node refuses.
    pub async fn begin(&mut self, request: ResolveRequest) -> anyhow::Result<Session> {
        let mut session = self.open(request).await?;
        loop {
            match session.decoder.next_frame().context("read a frame")? {
                Some(Frame::Setup(_)) => return Ok(session),
                Some(Frame::Refused(refused)) => bail!("the node refused: {} {}", refused.reason, refused.message),
                Some(_) => bail!("a session does not begin with Setup"),
                None => {}
            }
            let chunk = session.stream.read_chunk(READ, true).await.context("read a session")?;
            session.decoder.push(&chunk.context("the session ended")?.bytes);
        }
    }
}

impl Session {
    /// Reads the session to its end.
    ///
    /// # Errors
    /// When it is lost.
    pub async fn read(&mut self, reading: Reading) -> anyhow::Result<()> {
        let (began, mut bytes) = (Instant::now(), 0_u64);
        let (size, rate) = match reading {
            Reading::Rate(rate) => (READ, rate),
            Reading::Drip => (1, 8),
        };
        while let Some(chunk) = self.stream.read_chunk(size, true).await.context("read a session")? {
            bytes += chunk.bytes.len() as u64;
            let due = Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
        Ok(())
    }
}

/// A loopback address of a seat.
///
/// # Errors
/// When it has none.
pub fn address(seat: &SeatAddress) -> anyhow::Result<SocketAddr> {
    seat.addresses.iter().copied().find(|address| address.ip().is_loopback()).context("a loopback address")
}

/// Trust in the certificates with these hashes.
pub(crate) fn trust(pins: Vec<[u8; 32]>, transport: TransportConfig) -> anyhow::Result<ClientConfig> {
    let tls = tls::media_client_config(PinnedVerifier::new(pins)).context("prepare TLS")?;
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).context("prepare TLS for QUIC")?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
