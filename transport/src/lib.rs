//! What lies between quinn's protocol and the kernel, for node and client alike: the threads on which connections live,
//! the UDP sockets, and the drivers that move connections. The protocol itself (loss recovery, congestion control, retry,
//! reset) is quinn-proto's; nothing here looks into a datagram.

pub mod congestion;
mod quic;
mod socket;
mod threads;

pub use crate::{
    congestion::Congestion,
    quic::{Connecting, Connection, Endpoint, Incoming, RecvStream, SendStream, ZeroRttAccepted},
    socket::{Offload, bind, widen},
    threads::{Place, Threads},
};

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use quinn::ServerConfig;
use tokio::runtime::Handle;
use tracing::debug;

/// The round trip that both sides take for granted before one is measured: what is lost of the first flight is sent again
/// after three of it. QUIC's own 333 ms (RFC 9002, section 6.2.2) would let a viewer wait for a second; a peer that is
/// farther away gets the hello twice.
pub const FIRST_GUESS: Duration = Duration::from_millis(100);

/// Makes an endpoint that receives on the runtime `home`. A server's connections live where they are accepted; a
/// client's at home, whoever dials.
///
/// # Errors
/// What the kernel has against the socket.
pub fn endpoint(
    home: &Handle,
    socket: UdpSocket,
    server: Option<ServerConfig>,
    offload: Offload,
) -> io::Result<Endpoint> {
    let socket = {
        let _at_home = home.enter();
        socket::Socket::new(socket, offload)?
    };
    Endpoint::over(home, socket, server)
}

/// Makes an endpoint that dials peers of the same address family as this one, and receives on the runtime `home`.
///
/// # Errors
/// What the kernel has against a socket.
pub fn endpoint_towards(peer: SocketAddr, home: &Handle) -> io::Result<Endpoint> {
    let any = match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    for (buffer, _, bytes) in widen(&socket) {
        debug!(buffer, bytes, "the kernel gives the UDP socket less than was asked for");
    }
    endpoint(home, socket, None, Offload::Auto)
}
