//! Dialling: sockets, TLS by pins, and the addresses of a seat. Does not know what runs on a connection.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use quinn::{
    ClientConfig, ConnectionError, IdleTimeout, TransportConfig, TransportErrorCode, VarInt,
    crypto::rustls::QuicClientConfig,
};
use tokio::runtime::Handle;
use usher_certs::{pin::PinnedVerifier, tls};
use usher_proto::{Code, Fault, model::SeatAddress, text::printable};
use usher_transport::{Congestion, Connection, Endpoint, INITIAL_RTT, Threads};

use crate::{core::stall::KEEP_ALIVE, sync::lock};

/// Delay between the starts of dials to a node's addresses (RFC 8305, section 5: "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);

/// TLS asks for a name even where pins decide; nodes ignore it.
pub(crate) const SERVER_NAME: &str = "node.usher";

/// The TLS alert for a certificate that this side does not accept (RFC 8446, section 6.2: `certificate_unknown`).
const UNPINNED: u8 = 46;

/// How connections to nodes behave. The default is a viewer's.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionSettings {
    /// How long a node may take to answer a dial.
    pub dial_timeout: Duration,
    /// How often a silent connection is asked for a sign of life.
    pub keep_alive: Duration,
    /// Silence after which a connection is lost.
    pub idle_timeout: Duration,
    /// Bytes that one stream may have in flight or unread.
    pub stream_window: u32,
    /// Bytes of all streams that may be sent or waiting, and not acknowledged.
    pub send_window: u64,
    /// Streams of a feed's groups that the node may open at once; a feed's session raises the number where it is 0.
    pub group_streams: u32,
    /// The congestion control of this side's bytes.
    pub congestion: Congestion,
    /// The code of the fault when the node shows a certificate that its seat does not pin.
    pub unpinned: Code,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            // Lost first packets are sent again after 0.3 s, 0.9 s and 2.1 s.
            dial_timeout: Duration::from_secs(5),
            keep_alive: KEEP_ALIVE,
            // By then every session of the connection may have moved elsewhere.
            idle_timeout: Duration::from_secs(8),
            // 1.3 Gbit/s at 12 ms, and what a stalled stream costs in memory.
            stream_window: 2 << 20,
            // 80 Mbit/s at 100 ms. Further bytes wait where the newest group still overtakes them.
            send_window: 1 << 20,
            group_streams: 0,
            congestion: Congestion::default(),
            // The seat may be of an earlier start of the node: a new ticket comes with its new pins.
            unpinned: Code::TicketInvalid,
        }
    }
}

/// Dials nodes from one socket per address family.
pub(crate) struct Dialer {
    settings: ConnectionSettings,
    endpoints: Mutex<Endpoints>,
}

#[derive(Default)]
struct Endpoints {
    runtime: Runtime,
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
}

/// Where connections live: sockets are read, packets decrypted and streams gathered there, so that no packet is handed
/// from core to core before its bytes are together.
enum Runtime {
    /// A media thread, which starts with the first connection.
    Own(Option<Threads>),
    Given(Handle),
}

impl Default for Runtime {
    fn default() -> Self {
        Self::Own(None)
    }
}

impl Endpoints {
    fn of(&mut self, address: SocketAddr) -> &mut Option<Endpoint> {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    fn handle(&mut self) -> std::io::Result<&Handle> {
        match &mut self.runtime {
            Runtime::Given(handle) => Ok(handle),
            Runtime::Own(threads) => {
                let started = match threads.take() {
                    Some(started) => started,
                    None => Threads::start(1)?,
                };
                Ok(threads.insert(started).handle(0))
            }
        }
    }
}

impl Dialer {
    /// Dials from a media thread of its own.
    pub(crate) fn new(settings: ConnectionSettings) -> Self {
        Self { settings, endpoints: Mutex::default() }
    }

    /// Dials from the runtime `handle`; from the socket `v4` where one is given.
    pub(crate) fn in_runtime(settings: ConnectionSettings, handle: Handle, v4: Option<Endpoint>) -> Self {
        let endpoints = Endpoints { runtime: Runtime::Given(handle), v4, v6: None };
        Self { settings, endpoints: Mutex::new(endpoints) }
    }

    pub(crate) fn settings(&self) -> &ConnectionSettings {
        &self.settings
    }

    /// The runtime where connections live.
    pub(crate) fn handle(&self) -> Result<Handle, Fault> {
        let failed = |error: std::io::Error| Fault::new(Code::Internal, format!("start a media thread: {error}"));
        lock(&self.endpoints).handle().cloned().map_err(failed)
    }

    /// The socket that reaches `address`.
    pub(crate) fn endpoint(&self, address: SocketAddr) -> std::io::Result<Endpoint> {
        let mut endpoints = lock(&self.endpoints);
        if let Some(endpoint) = endpoints.of(address) {
            return Ok(endpoint.clone());
        }
        let endpoint = usher_transport::endpoint_towards(address, endpoints.handle()?)?;
        Ok(endpoints.of(address).insert(endpoint).clone())
    }

    /// A configuration that trusts the pins of `seat` and nothing else.
    pub(crate) fn config(&self, seat: &SeatAddress) -> Result<ClientConfig, Fault> {
        let fault = |error: &dyn std::fmt::Display| Fault::new(Code::Internal, format!("prepare TLS: {error}"));
        let tls = tls::media_client_config(PinnedVerifier::new(seat.pins.clone())).map_err(|e| fault(&e))?;
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(|e| fault(&e))?));
        config.transport_config(Arc::new(transport(&self.settings)));
        Ok(config)
    }

    /// Dials the addresses of `seat` in turn, without waiting for one to fail before the next is tried.
    pub(crate) async fn dial(&self, seat: &SeatAddress, config: &ClientConfig) -> Result<Connection, Fault> {
        let dialled = tokio::time::timeout(self.settings.dial_timeout, self.dial_all(seat, config)).await;
        dialled.unwrap_or_else(|_| {
            let addresses = seat.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(Fault::new(Code::Network, format!("node {} does not answer at {addresses}", seat.node)))
        })
    }

    async fn dial_all(&self, seat: &SeatAddress, config: &ClientConfig) -> Result<Connection, Fault> {
        let mut addresses = seat.addresses.iter().peekable();
        let mut tries = FuturesUnordered::new();
        let mut last = Fault::new(Code::Network, format!("node {} has no address", seat.node));
        loop {
            match addresses.next() {
                Some(address) => tries.push(self.dial_one(seat, *address, config.clone())),
                None if tries.is_empty() => return Err(last),
                None => {}
            }
            let more = addresses.peek().is_some();
            tokio::select! {
                Some(result) = tries.next() => match result {
                    Ok(connection) => return Ok(connection),
                    Err(fault) => last = fault,
                },
                () = tokio::time::sleep(STAGGER), if more => {}
            }
        }
    }

    async fn dial_one(
        &self,
        seat: &SeatAddress,
        address: SocketAddr,
        config: ClientConfig,
    ) -> Result<Connection, Fault> {
        let fault = |error: &dyn std::fmt::Display| {
            let error = printable(&error.to_string());
            Fault::new(Code::Network, format!("dial node {} at {address}: {error}", seat.node))
        };
        let endpoint = self.endpoint(address).map_err(|error| fault(&error))?;
        let connecting = endpoint.connect_with(config, address, SERVER_NAME).map_err(|error| fault(&error))?;
        connecting.await.map_err(|error| match &error {
            // The seat is of an earlier start of the node, or another process answers there.
            ConnectionError::TransportError(refused) if refused.code == TransportErrorCode::crypto(UNPINNED) => {
                Fault { code: self.settings.unpinned, ..fault(&error) }
            }
            _ => fault(&error),
        })
    }

    /// Closes every connection, and gives the nodes a moment to acknowledge that.
    pub(crate) async fn close(&self) {
        // The media thread ends with this function, after the last close.
        let endpoints = std::mem::take(&mut *lock(&self.endpoints));
        for endpoint in [&endpoints.v4, &endpoints.v6].into_iter().flatten() {
            endpoint.close(VarInt::from_u32(Code::Cancelled.quic()), b"done");
            // Without the wait, nodes would notice by their idle timeout.
            if tokio::time::timeout(Duration::from_millis(300), endpoint.wait_idle()).await.is_err() {
                tracing::debug!("a node did not acknowledge the end of its connection");
            }
        }
    }
}

fn transport(settings: &ConnectionSettings) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(settings.keep_alive))
        .max_idle_timeout(IdleTimeout::try_from(settings.idle_timeout).ok())
        .initial_rtt(INITIAL_RTT)
        .stream_receive_window(VarInt::from_u32(settings.stream_window))
        // Each stream has its own bound; a shared one would let stalled streams hold up the others.
        .receive_window(VarInt::MAX)
        .send_window(settings.send_window)
        .congestion_controller_factory(settings.congestion.factory())
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(settings.group_streams));
    transport
}
