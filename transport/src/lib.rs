//! The layer between quinn's protocol and the kernel, for node and client alike: threads, UDP sockets, and drivers that
//! move connections.
//!
//! ```text
//! endpoint() ──► Endpoint ──► Connection ──► SendStream, RecvStream
//!                   │              │
//!               UDP socket     Threads (a connection stays on one)
//! ```
//!
//! Start at [`endpoint`] (servers, and clients with a socket of their own) or [`endpoint_towards`] (clients). The protocol
//! itself (loss recovery, congestion control, retry, reset) is quinn-proto's; this crate does not look into datagrams.

pub mod clock;
pub mod congestion;
mod quic;
mod socket;
mod threads;

pub use crate::{
    congestion::Congestion,
    quic::{Connecting, Connection, Endpoint, Incoming, RecvStream, SendStream, ZeroRttAccepted},
    socket::{Offload, bind, enlarge_buffers},
    threads::{ThreadSlot, Threads},
};

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use quinn::ServerConfig;
use tokio::runtime::Handle;
use tracing::debug;

/// The round-trip time assumed before one is measured: packets lost from the first flight are sent again after three times
/// that. With QUIC's own 333 ms (RFC 9002, section 6.2.2) a viewer would wait for a second; a peer that is farther away
/// than this receives the hello twice.
pub const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Creates an endpoint that receives on `runtime`. Connections of a server are driven on the runtime that accepts them,
/// those of a client on `runtime`.
///
/// # Errors
/// The socket cannot be set up.
pub fn endpoint(
    runtime: &Handle,
    socket: UdpSocket,
    server: Option<ServerConfig>,
    offload: Offload,
) -> io::Result<Endpoint> {
    let socket = {
        let _entered = runtime.enter();
        socket::Socket::new(socket, offload)?
    };
    Endpoint::new(runtime, socket, server)
}

/// Creates a client endpoint for peers of the address family of `peer`. It receives and drives its connections on
/// `runtime`.
///
/// # Errors
/// No socket can be opened.
pub fn endpoint_towards(peer: SocketAddr, runtime: &Handle) -> io::Result<Endpoint> {
    let any = match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    for (buffer, _, bytes) in enlarge_buffers(&socket) {
        debug!(buffer, bytes, "UDP buffer smaller than requested");
    }
    endpoint(runtime, socket, None, Offload::Auto)
}
