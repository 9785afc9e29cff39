//! quinn's runtime: tokio's, with batches.

use std::{
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::{AsyncTimer, AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, ServerConfig, TokioRuntime};
use tokio::runtime::Handle;

use crate::{
    driver::Driver,
    socket::{Offload, Socket},
};

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
    let _at_home = home.enter();
    let runtime = Batching { home: home.clone(), roams: server.is_some(), offload };
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(runtime))
}

#[derive(Debug)]
struct Batching {
    home: Handle,
    /// Drivers run where they are made.
    roams: bool,
    offload: Offload,
}

impl Runtime for Batching {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let driver = Driver::new(future);
        drop(if self.roams { tokio::spawn(driver) } else { self.home.spawn(driver) });
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Socket::new(socket, self.offload)?)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
