//! quinn's runtime: tokio's, with batches. A driver runs where it is spawned, so a connection belongs to the thread that
//! accepts or dials it.

use std::{future::Future, io, net::UdpSocket, pin::Pin, sync::Arc, time::Instant};

use quinn::{AsyncTimer, AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, ServerConfig, TokioRuntime};

use crate::{
    driver::Driver,
    socket::{Offload, Socket},
};

/// Makes an endpoint. It belongs to the runtime of the calling thread, or of the handle that was entered: its socket is
/// watched and its packets are received there.
///
/// # Errors
/// What the kernel has against the socket.
pub fn endpoint(socket: UdpSocket, server: Option<ServerConfig>, offload: Offload) -> io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(Batching { offload }))
}

#[derive(Debug)]
struct Batching {
    offload: Offload,
}

impl Runtime for Batching {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(Driver::new(future));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Socket::new(socket, self.offload)?)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
