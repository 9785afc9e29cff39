//! The UDP socket: binding with clear errors, large buffers, and readiness for quinn.

use std::{
    fmt,
    future::Future,
    io,
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use anyhow::{Context as _, anyhow};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState},
};
use rustix::net::sockopt;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::{debug, warn};

/// Bytes of each kernel buffer: 60 ms of 1 Gbit/s, so that a scheduling pause loses no packet.
const BUFFER: usize = 8 << 20;

/// Use of segmentation offload: many datagrams in one system call, which the kernel or the network card cuts apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// Used where the kernel supports it.
    #[default]
    Auto,
    /// One datagram per system call, for faulty network drivers.
    Off,
}

/// Binds `address` with large buffers, and warns when the kernel grants less.
///
/// # Errors
/// The address cannot be bound; the message names it and the remedy.
pub fn bind(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("udp {address} is in use; is another node running? choose another with --listen")
        }
        io::ErrorKind::AddrNotAvailable => anyhow!("udp {address} is not an address of this host; correct --listen"),
        io::ErrorKind::PermissionDenied => anyhow!("udp {address} may not be bound; choose a port above 1023"),
        _ => anyhow::Error::new(error).context(format!("bind udp {address}")),
    })?;
    socket.set_nonblocking(true).with_context(|| format!("set up udp {address}"))?;
    let short = enlarge_buffers(&socket);
    for (name, sysctl, size) in short {
        warn!(
            "the kernel grants the UDP {name} buffer {size} of {BUFFER} bytes; fast sessions may lose packets: raise \
             net.core.{sysctl}_max"
        );
    }
    Ok(socket)
}

/// Requests large kernel buffers. Returns those that are smaller: name, sysctl prefix, bytes.
pub fn enlarge_buffers(socket: &UdpSocket) -> Vec<(&'static str, &'static str, usize)> {
    let asked = [
        (
            ("receive", "rmem"),
            sockopt::set_socket_recv_buffer_size(socket, BUFFER),
            sockopt::socket_recv_buffer_size(socket),
        ),
        (
            ("send", "wmem"),
            sockopt::set_socket_send_buffer_size(socket, BUFFER),
            sockopt::socket_send_buffer_size(socket),
        ),
    ];
    let short = asked.into_iter().filter_map(|((name, sysctl), asked, size)| {
        let size = size.inspect_err(|error| debug!(%error, "size of the UDP {name} buffer")).ok()?;
        // Linux reports twice the size, to account for its own bookkeeping (socket(7)).
        let size = if cfg!(target_os = "linux") { size / 2 } else { size };
        (asked.is_err() || size < BUFFER).then_some((name, sysctl, size))
    });
    short.collect()
}

/// A UDP socket as quinn uses it.
///
/// It is registered for readability only. A sender that finds it full registers a second descriptor for writability: each
/// datagram that leaves makes the socket writable, and would otherwise wake the thread.
pub(crate) struct Socket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    offload: Offload,
}

impl Socket {
    /// Registers a socket with the runtime of the calling thread.
    pub(crate) fn new(socket: UdpSocket, offload: Offload) -> io::Result<Arc<Self>> {
        let state = UdpSocketState::new((&socket).into())?;
        let io = watch(socket, Interest::READABLE)?;
        if offload == Offload::Auto && state.max_gso_segments() == 1 {
            warn!(
                "this kernel takes one UDP datagram per call (no segmentation offload): sending costs twice the CPU time"
            );
        }
        Ok(Arc::new(Self { io, state, offload }))
    }

    /// Most datagrams of one system call. It becomes 1 when the network card turns out not to segment them.
    fn max_segments(&self) -> usize {
        match self.offload {
            Offload::Auto => self.state.max_gso_segments(),
            Offload::Off => 1,
        }
    }

    /// Waits until the socket is writable.
    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send + Sync + 'static {
        let watched = self.io.get_ref().try_clone();
        async move {
            // A second descriptor of the same socket: the first is registered for readability.
            let watched = watch(watched?, Interest::WRITABLE)?;
            watched.writable().await.map(|_ready| ())
        }
    }
}

/// Registers a socket for one kind of readiness; tokio's own `UdpSocket` is always registered for both.
#[expect(
    deprecated,
    reason = "the replacement is unsafe, for types that may change their descriptor; `UdpSocket` does not"
)]
fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

struct Poller {
    socket: Arc<Socket>,
    /// Resolves when the socket is writable again.
    wait: Option<Wait>,
}

type Wait = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, wait } = &mut *self;
        let writable = ready!(wait.get_or_insert_with(|| Box::pin(socket.writable())).as_mut().poll(cx));
        *wait = None;
        Poll::Ready(writable)
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("io", &self.io).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.state.send(self.io.get_ref().into(), transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            let Ok(received) = ready.try_io(|io| self.state.recv(io.get_ref().into(), bufs, meta)) else { continue };
            // The socket is empty: another call would only return `WouldBlock`.
            if received.as_ref().is_ok_and(|count| *count < bufs.len().min(BATCH_SIZE)) {
                ready.clear_ready();
            }
            return Poll::Ready(received);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.max_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::IoSliceMut, net::Ipv4Addr};

    use super::*;

    fn socket() -> Arc<Socket> {
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
        Socket::new(socket, Offload::Auto).expect("watched")
    }

    async fn receive(socket: &Socket, most: usize) -> Vec<Vec<u8>> {
        let mut buffers = vec![[0; 64]; most];
        let mut metas = vec![RecvMeta::default(); most];
        let mut parts: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let count = poll_fn(|cx| socket.poll_recv(cx, &mut parts, &mut metas)).await.expect("received");
        drop(parts);
        buffers.iter().zip(metas).take(count).map(|(buffer, meta)| buffer[..meta.len].to_vec()).collect()
    }

    #[tokio::test]
    async fn everything_that_arrives_is_seen_however_few_are_asked_for() {
        let (here, there) = (socket(), socket());
        let destination = there.local_addr().expect("an address");
        let mut poller = here.clone().create_io_poller();
        for round in 0..50_u8 {
            for number in 0..round % 5 + 1 {
                poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.expect("there is room");
                let contents = &[round, number][..];
                let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
                here.try_send(&transmit).expect("sent");
            }
            let mut seen = Vec::new();
            while seen.len() < usize::from(round % 5) + 1 {
                seen.extend(receive(&there, usize::from(round % 3) + 1).await);
            }
            let sent: Vec<_> = (0..round % 5 + 1).map(|number| vec![round, number]).collect();
            assert_eq!(seen, sent);
        }
    }
}
