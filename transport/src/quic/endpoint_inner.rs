//! The state of an endpoint that its driver shares with its handles and connections: routes received datagrams to the
//! mailboxes of connections. Leaves to the handles how connections begin.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use quinn::{
    AsyncUdpSocket,
    udp::{self, RecvMeta},
};
use quinn_proto::{ConnectionHandle, DatagramEvent, EcnCodepoint, EndpointEvent, Transmit, VarInt};
use tokio::{runtime::Handle, sync::Notify};
use tracing::debug;

use super::{
    connection_inner::{Mailbox, Message},
    lock,
    waker::DriverWaker,
};
use crate::clock::now;

/// A socket and its connections, shared by the endpoint's driver, its handles and the connections' drivers.
pub(super) struct EndpointInner {
    pub(super) socket: Arc<dyn AsyncUdpSocket>,
    pub(super) is_v6: bool,
    /// The runtime that receives, and that drives the connections of a client.
    pub(super) runtime: Handle,
    /// A server drives each connection on the runtime that accepts it.
    pub(super) is_server: bool,
    pub(super) state: Mutex<EndpointState>,
    pub(super) waker: DriverWaker,
    /// The last handle was dropped.
    pub(super) is_unreferenced: AtomicBool,
    /// Notified when a peer dials, and when the endpoint closes.
    pub(super) incoming: Notify,
    /// Notified when the last connection has ended.
    pub(super) idle: Notify,
}

/// An endpoint's state machine and the mailboxes of its connections.
pub(super) struct EndpointState {
    pub(super) machine: quinn_proto::Endpoint,
    pub(super) mailboxes: HashMap<ConnectionHandle, Arc<Mailbox>>,
    /// Connection attempts that nobody has accepted or refused yet.
    pub(super) waiting: VecDeque<quinn_proto::Incoming>,
    /// Code and reason that every present and future connection is closed with.
    pub(super) closing: Option<(VarInt, Bytes)>,
    /// The driver has ended: nothing is received any more.
    pub(super) is_lost: bool,
}

impl EndpointInner {
    /// Takes an event of a connection and returns the endpoint's answer to it, if any.
    pub(super) fn handle_event(
        &self,
        handle: ConnectionHandle,
        event: EndpointEvent,
    ) -> Option<quinn_proto::ConnectionEvent> {
        let mut state = lock(&self.state);
        if event.is_drained() {
            state.mailboxes.remove(&handle);
            if state.mailboxes.is_empty() {
                self.idle.notify_waiters();
                self.waker.wake();
            }
        }
        state.machine.handle_event(handle, event)
    }

    /// Takes received datagrams, `meta.stride` bytes each.
    pub(super) fn handle_datagrams(&self, state: &mut EndpointState, meta: &RecvMeta, bytes: &[u8]) {
        let now = now();
        let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        let mut bytes = BytesMut::from(bytes);
        let mut answer = Vec::new();
        while !bytes.is_empty() {
            let datagram = bytes.split_to(meta.stride.clamp(1, bytes.len()));
            answer.clear();
            match state.machine.handle(now, meta.addr, meta.dst_ip, ecn, datagram, &mut answer) {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if let Some(mailbox) = state.mailboxes.get(&handle) {
                        mailbox.post(Message::Event(event));
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) if state.closing.is_none() => {
                    state.waiting.push_back(incoming);
                    self.incoming.notify_waiters();
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let transmit = state.machine.refuse(incoming, &mut answer);
                    self.respond(&transmit, &answer);
                }
                Some(DatagramEvent::Response(transmit)) => self.respond(&transmit, &answer),
                None => {}
            }
        }
    }

    /// Sends an answer that belongs to no connection. A full socket drops it, as the network might.
    pub(super) fn respond(&self, transmit: &Transmit, bytes: &[u8]) {
        self.try_send(transmit, bytes);
    }

    /// Sends datagrams that a state machine has made; `false` when the socket is full. Any other error counts as a loss in
    /// the network.
    pub(super) fn try_send(&self, transmit: &Transmit, bytes: &[u8]) -> bool {
        let sent = self.socket.try_send(&udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: &bytes[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        });
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                debug!(to = %transmit.destination, %error, "datagrams not sent");
                true
            }
            Ok(()) => true,
        }
    }

    /// Whether the driver is of no more use: no handle and no connection is left.
    pub(super) fn is_unused(&self) -> bool {
        self.is_unreferenced.load(Ordering::SeqCst) && lock(&self.state).mailboxes.is_empty()
    }
}
