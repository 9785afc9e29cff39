//! The UDP socket: bound with clear errors, and with room for bursts.

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
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use rustix::net::sockopt;
use tokio::io::Interest;
use tracing::{debug, warn};

/// Asked of the kernel in both directions: 60 ms of 1 Gbit/s, so that a scheduling pause loses nothing.
const BUFFER: usize = 8 << 20;

/// Whether datagrams leave many a call, for the kernel or the network card to cut apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// Where the kernel can.
    #[default]
    Auto,
    /// One datagram a call: for drivers that do it wrong.
    Off,
}

/// Binds `address`.
///
/// # Errors
/// Names the address, and says when its port is in use.
pub fn bind(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("udp {address} is in use; is another node running? choose another with --listen")
        }
        io::ErrorKind::AddrNotAvailable => anyhow!("udp {address} is no address of this host; correct --listen"),
        io::ErrorKind::PermissionDenied => anyhow!("udp {address} may not be bound; choose a port above 1023"),
        _ => anyhow::Error::new(error).context(format!("bind udp {address}")),
    })?;
    socket.set_nonblocking(true).with_context(|| format!("set up udp {address}"))?;
    let short = widen(&socket);
    for (name, sysctl, size) in short {
        warn!(
            "the kernel gives the UDP {name} buffer {size} of {BUFFER} bytes; fast sessions may lose packets: raise \
             net.core.{sysctl}_max"
        );
    }
    Ok(socket)
}

/// Asks the kernel for large buffers. Tells which are smaller: name, setting, bytes.
pub fn widen(socket: &UdpSocket) -> Vec<(&'static str, &'static str, usize)> {
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
        // Linux tells twice what it took, to count its own bookkeeping (socket(7)).
        let size = if cfg!(target_os = "linux") { size / 2 } else { size };
        (asked.is_err() || size < BUFFER).then_some((name, sysctl, size))
    });
    short.collect()
}

/// What quinn sends and receives by.
pub(crate) struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    offload: Offload,
}

impl Socket {
    /// Takes a socket over; it belongs to the runtime of the calling thread.
    pub(crate) fn new(socket: UdpSocket, offload: Offload) -> io::Result<Arc<Self>> {
        let state = UdpSocketState::new((&socket).into())?;
        let io = tokio::net::UdpSocket::from_std(socket)?;
        if offload == Offload::Auto && state.max_gso_segments() == 1 {
            warn!("this kernel takes one UDP datagram a call (no segmentation offload): sending costs twice the CPU");
        }
        Ok(Arc::new(Self { io, state, offload }))
    }

    /// Datagrams of one call, at most. It becomes 1 when the network card turns out not to cut them.
    fn most(&self) -> usize {
        match self.offload {
            Offload::Auto => self.state.max_gso_segments(),
            Offload::Off => 1,
        }
    }
}

struct Poller {
    socket: Arc<Socket>,
    /// Until the kernel has room again.
    waits: Option<Waits>,
}

type Waits = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, waits } = &mut *self;
        // Asked before every send, and nearly always there is room: no future for that.
        if waits.is_none() && socket.io.try_io(Interest::WRITABLE, || Ok(())).is_ok() {
            return Poll::Ready(Ok(()));
        }
        let wait = waits.get_or_insert_with(|| {
            let socket = socket.clone();
            Box::pin(async move { socket.io.writable().await })
        });
        let room = ready!(wait.as_mut().poll(cx));
        *waits = None;
        Poll::Ready(room)
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
        Box::pin(Poller { socket: self, waits: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, meta));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.most()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}
