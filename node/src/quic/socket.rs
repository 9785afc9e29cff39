//! The UDP socket: bound with clear errors, and with room for bursts.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use anyhow::{Context as _, anyhow};
use rustix::net::sockopt;
use tracing::{debug, warn};

/// Asked of the kernel in both directions: 60 ms of 1 Gbit/s, so that a scheduling pause loses nothing.
const BUFFER: usize = 8 << 20;

/// Binds `address`.
///
/// # Errors
/// Names the address, and says when its port is in use.
pub(super) fn bind(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("udp {address} is in use; is another node running? choose another with --listen")
        }
        io::ErrorKind::AddrNotAvailable => anyhow!("udp {address} is no address of this host; correct --listen"),
        io::ErrorKind::PermissionDenied => anyhow!("udp {address} may not be bound; choose a port above 1023"),
        _ => anyhow::Error::new(error).context(format!("bind udp {address}")),
    })?;
    socket.set_nonblocking(true).with_context(|| format!("set up udp {address}"))?;
    judge(
        "receive",
        "rmem",
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER),
        sockopt::socket_recv_buffer_size(&socket),
    );
    judge(
        "send",
        "wmem",
        sockopt::set_socket_send_buffer_size(&socket, BUFFER),
        sockopt::socket_send_buffer_size(&socket),
    );
    Ok(socket)
}

/// Says what became of the wish for a larger buffer.
fn judge(name: &str, sysctl: &str, asked: rustix::io::Result<()>, size: rustix::io::Result<usize>) {
    match size {
        Ok(size) => {
            // Linux tells twice what it took, to count its own bookkeeping (socket(7)).
            let size = if cfg!(target_os = "linux") { size / 2 } else { size };
            if asked.is_err() || size < BUFFER {
                warn!(
                    "the kernel gives the UDP {name} buffer {size} of {BUFFER} bytes; fast sessions may lose packets: \
                     raise net.core.{sysctl}_max"
                );
            }
        }
        Err(error) => debug!(%error, "size of the UDP {name} buffer"),
    }
}
