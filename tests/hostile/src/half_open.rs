//! QUIC handshakes that are begun and never finished: each proves its address when it is asked to (RFC 9000, section 8.1.2),
//! and leaves the node's flight unanswered.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::client::trust;
use anyhow::{Context as _, ensure};
use bytes::BytesMut;
use quinn_proto::{Connection, DatagramEvent, Endpoint, EndpointConfig, TransportConfig};

/// Time to wait for the answer to one Initial packet; the node drops some of them when it has no room.
const ANSWER: Duration = Duration::from_secs(1);

/// Buffer for the longest datagram.
const DATAGRAM: usize = 2000;

/// Handshakes in progress at one node.
pub struct HalfOpen {
    socket: UdpSocket,
    endpoint: Endpoint,
    node: SocketAddr,
    pins: Vec<[u8; 32]>,
    /// They answer nothing more.
    begun: Vec<Connection>,
}

/// The node's answer to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The node sent its part of the handshake.
    Begun,
    /// It refused the connection, or did not answer.
    Refused,
}

impl HalfOpen {
    /// No handshakes yet, from an address at a node whose certificate has one of these hashes.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn new(from: Ipv4Addr, node: SocketAddr, pins: Vec<[u8; 32]>) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((from, 0)).with_context(|| format!("open a UDP socket at {from}"))?;
        socket.set_read_timeout(Some(ANSWER)).context("set up a UDP socket")?;
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        Ok(Self { socket, endpoint, node, pins, begun: Vec::new() })
    }

    /// Begins one more handshake. Blocks for the answer.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn begin(&mut self) -> anyhow::Result<Answer> {
        let config = trust(self.pins.clone(), TransportConfig::default())?;
        let dialled = self.endpoint.connect(Instant::now(), config, self.node, "node.usher");
        let (handle, mut connection) = dialled.context("dial a node")?;
        // Its first answer is a Retry where the node wants the address to be proved.
        for _ in 0..2 {
            let mut packet = Vec::new();
            let transmit = connection.poll_transmit(Instant::now(), 1, &mut packet).context("an Initial packet")?;
            ensure!(transmit.size == packet.len(), "one datagram");
            self.socket.send_to(&packet, self.node).context("send a datagram")?;
            loop {
                let Some(datagram) = self.receive()? else { return Ok(Answer::Refused) };
                let retry = is_retry(&datagram);
                let event = self.endpoint.handle(Instant::now(), self.node, None, None, datagram, &mut Vec::new());
                match event {
                    Some(DatagramEvent::ConnectionEvent(to, event)) if to == handle => {
                        connection.handle_event(event);
                        if retry {
                            break;
                        }
                        if connection.is_closed() {
                            return Ok(Answer::Refused);
                        }
                        self.begun.push(connection);
                        return Ok(Answer::Begun);
                    }
                    // A repetition for one of the earlier handshakes.
                    _ => {}
                }
            }
        }
        Ok(Answer::Refused)
    }

    /// A datagram; `None` when none comes.
    fn receive(&self) -> anyhow::Result<Option<BytesMut>> {
        let mut datagram = [0; DATAGRAM];
        match self.socket.recv(&mut datagram) {
            Ok(len) => Ok(Some(BytesMut::from(&datagram[..len]))),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error).context("receive a datagram"),
        }
    }
}

/// Whether a datagram begins with a Retry packet (RFC 9000, sections 17.2 and 17.2.5).
fn is_retry(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0b1011_0000 == 0b1011_0000)
}
