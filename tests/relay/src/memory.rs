//! A network in memory: sockets for quinn whose datagrams pass a lane each way, on tokio's clock. With the clock paused
//! minutes pass at once, and the same seeds give the same times.
//!
//! Independent of the datagrams' content. Sends one datagram a call, without ECN.

use std::{
    collections::HashMap,
    fmt, io,
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    core::lane::{Counts, Lane, Settings},
    sync::lock,
};

/// Hosts that reach one another.
#[derive(Clone, Default)]
pub struct Network {
    hosts: Arc<Mutex<HashMap<SocketAddr, Arc<Inbox>>>>,
}

/// A socket of a host. Datagrams to no host are lost.
pub struct Socket {
    address: SocketAddr,
    network: Network,
    inbox: Arc<Inbox>,
}

/// Datagrams on their way to a host.
struct Inbox {
    inflow: Mutex<Inflow>,
    /// Datagrams from the host itself are lost.
    mute: AtomicBool,
}

struct Inflow {
    lane: Lane<(SocketAddr, Vec<u8>)>,
    /// Expires when the next datagram arrives.
    timer: Pin<Box<Sleep>>,
    /// The task that waits for it.
    reader: Option<Waker>,
}

impl Network {
    /// Adds a host; datagrams to it pass a link of these settings. Must be called within a runtime.
    pub fn host(&self, link: Settings) -> Arc<Socket> {
        let mut hosts = lock(&self.hosts);
        // The network is in memory, so any address may be used.
        let number = u8::try_from(hosts.len() + 1).unwrap_or(u8::MAX);
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 77, 0, number)), 7441);
        let timer = Box::pin(sleep_until(Instant::now()));
        let inbox = Arc::new(Inbox {
            inflow: Mutex::new(Inflow { lane: Lane::new(link), timer, reader: None }),
            mute: AtomicBool::new(false),
        });
        hosts.insert(address, inbox.clone());
        Arc::new(Socket { address, network: self.clone(), inbox })
    }

    /// Begins or ends a black hole on the way to a host; the way from it stays.
    pub fn set_hole(&self, to: SocketAddr, hole: bool) {
        if let Some(inbox) = self.inbox(to) {
            lock(&inbox.inflow).lane.set_hole(hole);
        }
    }

    /// Freezes or unfreezes a host: a frozen host receives and sends nothing.
    pub fn set_frozen(&self, host: SocketAddr, frozen: bool) {
        if let Some(inbox) = self.inbox(host) {
            inbox.mute.store(frozen, Ordering::Relaxed);
            lock(&inbox.inflow).lane.set_hole(frozen);
        }
    }

    /// Counts of datagrams to a host.
    pub fn counts(&self, to: SocketAddr) -> Counts {
        self.inbox(to).map(|inbox| lock(&inbox.inflow).lane.counts()).unwrap_or_default()
    }

    fn inbox(&self, of: SocketAddr) -> Option<Arc<Inbox>> {
        lock(&self.hosts).get(&of).cloned()
    }
}

impl Socket {
    /// The host's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.address)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let to = self.network.inbox(transmit.destination).filter(|_| !self.inbox.mute.load(Ordering::Relaxed));
        let Some(inbox) = to else { return Ok(()) };
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let now = Instant::now().into_std();
        let mut inflow = lock(&inbox.inflow);
        for datagram in transmit.contents.chunks(segment) {
            inflow.lane.offer(now, datagram.len(), (self.address, datagram.to_vec()));
        }
        // The reader sets its timer for the next datagram.
        if let Some(reader) = inflow.reader.take() {
            reader.wake();
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inflow = lock(&self.inbox.inflow);
        loop {
            if let Some((from, data)) = inflow.lane.poll(Instant::now().into_std()) {
                let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else {
                    return Poll::Ready(Ok(0));
                };
                let len = data.len().min(buffer.len());
                buffer[..len].copy_from_slice(&data[..len]);
                *meta = RecvMeta { addr: from, len, stride: len, ecn: None, dst_ip: Some(self.address.ip()) };
                return Poll::Ready(Ok(1));
            }
            inflow.reader = Some(cx.waker().clone());
            let Some(at) = inflow.lane.deadline() else { return Poll::Pending };
            inflow.timer.as_mut().reset(at.into());
            if inflow.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// A socket that is always writable: a full lane drops datagrams.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
