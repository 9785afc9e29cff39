//! The driver of a connection: hands it received datagrams, sends its packets, and keeps its timer.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use quinn::UdpPoller;
use quinn_proto::{
    ConnectionError, ConnectionHandle, EndpointEvent, Event, StreamEvent, Transmit, TransportError, TransportErrorCode,
};
use tokio::time::{Sleep, sleep_until};
use tracing::debug;

use super::{
    connection_inner::{ConnectionInner, ConnectionState, Message},
    endpoint_inner::EndpointInner,
};
use crate::clock::now;

/// Bytes of one system call: the most that a UDP datagram holds over IPv4, since the kernel segments one large datagram.
const CALL_BYTES: usize = 65_507;

/// System calls of one poll; then other connections of the thread get their turn.
const CALLS_PER_POLL: usize = 3;

/// How much too early the timer may fire. Between packets, the deadline moves on by less, and resetting the timer each time
/// costs more than one early wake-up; between two reads of a player it moves by more.
const TIMER_SLACK: Duration = Duration::from_millis(200);

thread_local! {
    /// The datagrams of one system call, one after the other.
    static OUTGOING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A future that drives one connection until it has ended.
pub(super) struct ConnectionDriver {
    connection: Arc<ConnectionInner>,
    endpoint: Arc<EndpointInner>,
    handle: ConnectionHandle,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires, which may be too early by [`TIMER_SLACK`].
    timer_at: Option<Instant>,
    /// Datagrams that did not fit into the socket.
    blocked: Option<Blocked>,
    /// The endpoint has dropped the connection.
    is_drained: bool,
}

struct Blocked {
    transmit: Transmit,
    bytes: Vec<u8>,
    writable: Pin<Box<dyn UdpPoller>>,
}

impl ConnectionDriver {
    /// Creates the driver; must be called within a runtime.
    pub(super) fn new(
        connection: Arc<ConnectionInner>,
        endpoint: Arc<EndpointInner>,
        handle: ConnectionHandle,
    ) -> Self {
        let timer = Box::pin(sleep_until(tokio::time::Instant::now()));
        Self { connection, endpoint, handle, timer, timer_at: None, blocked: None, is_drained: false }
    }

    /// Hands the connection its messages; `false` when nothing more will arrive.
    fn receive(&self, state: &mut ConnectionState) -> bool {
        for message in self.connection.mailbox.take() {
            match message {
                Message::Event(event) => state.machine.handle_event(event),
                Message::Close(code, reason) => self.connection.close_locked(state, code, reason),
                Message::Lost => {
                    let error = TransportError {
                        code: TransportErrorCode::INTERNAL_ERROR,
                        frame: None,
                        reason: "the socket is lost".to_owned(),
                    };
                    self.connection.end(state, ConnectionError::TransportError(error));
                    return false;
                }
            }
        }
        true
    }

    /// Sends until nothing is left, the socket is full, or the limit of a poll is reached; `true` in the last case.
    fn send(&mut self, state: &mut ConnectionState, cx: &mut Context<'_>) -> bool {
        if !self.flush(cx) {
            return false;
        }
        let endpoint = self.endpoint.clone();
        let mtu = usize::from(state.machine.current_mtu());
        let segments = (CALL_BYTES / mtu).min(endpoint.socket.max_transmit_segments()).max(1);
        let now = now();
        OUTGOING.with_borrow_mut(|bytes| {
            for _ in 0..CALLS_PER_POLL {
                bytes.clear();
                let Some(transmit) = state.machine.poll_transmit(now, segments, bytes) else { return false };
                if !endpoint.try_send(&transmit, bytes) {
                    let writable = endpoint.socket.clone().create_io_poller();
                    self.blocked = Some(Blocked { transmit, bytes: std::mem::take(bytes), writable });
                    if !self.flush(cx) {
                        return false;
                    }
                }
            }
            true
        })
    }

    /// Retries to send datagrams that did not fit into the socket; `true` when none is left.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(blocked) = &mut self.blocked {
            match blocked.writable.as_mut().poll_writable(cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if !self.endpoint.try_send(&blocked.transmit, &blocked.bytes) => {}
                Poll::Ready(writable) => {
                    if let Err(error) = writable {
                        // Counts as a loss in the network.
                        debug!(%error, "wait for the socket failed");
                    }
                    self.blocked = None;
                }
            }
        }
        true
    }

    /// Sets the timer, or hands the connection its timeout; `true` in the latter case.
    fn drive_timer(&mut self, state: &mut ConnectionState, cx: &mut Context<'_>) -> bool {
        loop {
            let Some(due) = state.machine.poll_timeout() else { return false };
            let now = now();
            if due <= now {
                state.machine.handle_timeout(now);
                return true;
            }
            if self.timer_at.is_none_or(|at| at > due || at + TIMER_SLACK < due) {
                self.timer_at = Some(due);
                self.timer.as_mut().reset(due.into());
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.timer_at = None;
        }
    }

    /// Hands the connection's events to the endpoint.
    fn forward_endpoint_events(&mut self, state: &mut ConnectionState) {
        while let Some(event) = state.machine.poll_endpoint_events() {
            self.is_drained |= event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(self.handle, event) {
                state.machine.handle_event(answer);
            }
        }
    }

    /// Wakes the tasks that wait for the connection's events.
    fn forward_events(&self, state: &mut ConnectionState) {
        while let Some(event) = state.machine.poll() {
            match event {
                Event::Connected => {
                    let accepted = state.machine.accepted_0rtt();
                    if let Some(handshake) = state.handshake.take() {
                        // The receiver may be dropped.
                        handshake.send(accepted).unwrap_or_default();
                    }
                    if state.machine.side().is_client() && !accepted {
                        // Streams opened early do not exist for the peer.
                        state.wake_streams();
                    }
                }
                Event::ConnectionLost { reason } => self.connection.end(state, reason),
                Event::Stream(StreamEvent::Opened { dir }) => self.connection.opened[dir as usize].notify_waiters(),
                Event::Stream(StreamEvent::Available { dir }) => {
                    self.connection.available[dir as usize].notify_waiters()
                }
                Event::Stream(StreamEvent::Readable { id }) => wake(state.readers.remove(&id)),
                Event::Stream(StreamEvent::Writable { id }) => wake(state.writers.remove(&id)),
                Event::Stream(StreamEvent::Finished { id }) => state.notify_end(id),
                Event::Stream(StreamEvent::Stopped { id, .. }) => {
                    state.notify_end(id);
                    wake(state.writers.remove(&id));
                }
                // No task waits for these; datagrams (RFC 9221) are not offered.
                Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {}
            }
        }
    }
}

fn wake(waker: Option<std::task::Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Future for ConnectionDriver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let connection = this.connection.clone();
        connection.mailbox.waker.register(cx);
        let mut state = connection.lock();
        if !this.receive(&mut state) {
            return Poll::Ready(());
        }
        let mut more = this.send(&mut state, cx);
        // A timeout may allow more to be sent, and sending may set a timer.
        while !more && this.drive_timer(&mut state, cx) {
            more = this.send(&mut state, cx);
        }
        this.forward_endpoint_events(&mut state);
        this.forward_events(&mut state);
        drop(state);
        if this.is_drained {
            return Poll::Ready(());
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for ConnectionDriver {
    /// Ends the connection when its runtime ends before it: nothing drives it any more.
    fn drop(&mut self) {
        if !self.is_drained {
            self.connection.end(&mut self.connection.lock(), ConnectionError::LocallyClosed);
            self.endpoint.handle_event(self.handle, EndpointEvent::drained());
        }
    }
}
