//! Moves one connection: brings it what has arrived, sends what it has to send, and keeps its timers.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use quinn::{
    UdpPoller,
    udp::{self, EcnCodepoint},
};
use quinn_proto::{
    ConnectionError, ConnectionHandle, EndpointEvent, Event, StreamEvent, Transmit, TransportError, TransportErrorCode,
};
use tokio::time::{Sleep, sleep_until};
use tracing::debug;

use super::{
    connection::{Link, Mail, State},
    endpoint::Hub,
    now,
};

/// Bytes of one call: what a UDP datagram may hold over IPv4, since the buffer is one until the kernel cuts it.
const CALL: usize = 65_507;

/// Calls of one turn: then others on the thread have theirs.
const CALLS: usize = 3;

/// How much too early a timer may ring. Between packets it moves on and on by less; between two mouthfuls of a player by
/// more, and then setting it costs less than waking up for nothing.
const EARLY: Duration = Duration::from_millis(200);

thread_local! {
    /// Where the datagrams of a call are made, one after the other.
    static OUTGOING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Driver {
    link: Arc<Link>,
    hub: Arc<Hub>,
    handle: ConnectionHandle,
    timer: Pin<Box<Sleep>>,
    /// When the timer rings. That may be too early by [`EARLY`]: it is not set anew when it is needed only a little later.
    rings: Option<Instant>,
    /// What the kernel had no room for.
    blocked: Option<Blocked>,
    /// The endpoint forgot it.
    over: bool,
}

struct Blocked {
    transmit: Transmit,
    bytes: Vec<u8>,
    room: Pin<Box<dyn UdpPoller>>,
}

impl Driver {
    /// Must be made within a runtime.
    pub(super) fn new(link: Arc<Link>, hub: Arc<Hub>, handle: ConnectionHandle) -> Self {
        let timer = Box::pin(sleep_until(tokio::time::Instant::now()));
        Self { link, hub, handle, timer, rings: None, blocked: None, over: false }
    }

    /// Brings the connection what has arrived. Whether more may come.
    fn receive(&self, state: &mut State) -> bool {
        for mail in self.link.mailbox.take() {
            match mail {
                Mail::Event(event) => state.machine.handle_event(event),
                Mail::Close(code, reason) => self.link.end(state, code, reason),
                Mail::Lost => {
                    let error = TransportError {
                        code: TransportErrorCode::INTERNAL_ERROR,
                        frame: None,
                        reason: "the socket is gone".to_owned(),
                    };
                    self.link.over(state, ConnectionError::TransportError(error));
                    return false;
                }
            }
        }
        true
    }

    /// Sends until there is nothing to send, or no room, or the turn is over. Whether it would go on.
    fn send(&mut self, state: &mut State, cx: &mut Context<'_>) -> bool {
        if !self.unblock(cx) {
            return false;
        }
        let hub = self.hub.clone();
        let mtu = usize::from(state.machine.current_mtu());
        let most = (CALL / mtu).min(hub.socket().max_transmit_segments()).max(1);
        let now = now();
        OUTGOING.with_borrow_mut(|bytes| {
            for _ in 0..CALLS {
                bytes.clear();
                let Some(transmit) = state.machine.poll_transmit(now, most, bytes) else { return false };
                if !try_send(&hub, &transmit, bytes) {
                    let room = hub.socket().clone().create_io_poller();
                    self.blocked = Some(Blocked { transmit, bytes: std::mem::take(bytes), room });
                    if !self.unblock(cx) {
                        return false;
                    }
                }
            }
            true
        })
    }

    /// Tries again to send what the kernel had no room for. Whether nothing of it is left.
    fn unblock(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(blocked) = &mut self.blocked {
            match blocked.room.as_mut().poll_writable(cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if !try_send(&self.hub, &blocked.transmit, &blocked.bytes) => {}
                Poll::Ready(room) => {
                    if let Err(error) = room {
                        // As good as a loss on the way.
                        debug!(%error, "wait for room in the socket");
                    }
                    self.blocked = None;
                }
            }
        }
        true
    }

    /// Sets the timer, or tells the connection that its time has come. Whether it did.
    fn keep_time(&mut self, state: &mut State, cx: &mut Context<'_>) -> bool {
        loop {
            let Some(due) = state.machine.poll_timeout() else { return false };
            let now = now();
            if due <= now {
                state.machine.handle_timeout(now);
                return true;
            }
            if self.rings.is_none_or(|rings| rings > due || rings + EARLY < due) {
                self.rings = Some(due);
                self.timer.as_mut().reset(due.into());
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.rings = None;
        }
    }

    /// Tells the endpoint what it has to know.
    fn report(&mut self, state: &mut State) {
        while let Some(event) = state.machine.poll_endpoint_events() {
            self.over |= event.is_drained();
            if let Some(answer) = self.hub.told(self.handle, event) {
                state.machine.handle_event(answer);
            }
        }
    }

    /// Wakes those who wait for what has happened.
    fn tell(&self, state: &mut State) {
        while let Some(event) = state.machine.poll() {
            match event {
                Event::Connected => {
                    let accepted = state.machine.accepted_0rtt();
                    if let Some(shaking) = state.shaking.take() {
                        // Perhaps nobody waits for it.
                        shaking.send(accepted).unwrap_or_default();
                    }
                    if state.machine.side().is_client() && !accepted {
                        // What was opened early is none of the peer's.
                        state.wake_streams();
                    }
                }
                Event::ConnectionLost { reason } => self.link.over(state, reason),
                Event::Stream(StreamEvent::Opened { dir }) => self.link.comes[dir as usize].notify_waiters(),
                Event::Stream(StreamEvent::Available { dir }) => self.link.opens[dir as usize].notify_waiters(),
                Event::Stream(StreamEvent::Readable { id }) => wake(state.readers.remove(&id)),
                Event::Stream(StreamEvent::Writable { id }) => wake(state.writers.remove(&id)),
                Event::Stream(StreamEvent::Finished { id }) => state.end(id),
                Event::Stream(StreamEvent::Stopped { id, .. }) => {
                    state.end(id);
                    wake(state.writers.remove(&id));
                }
                // Nobody here waits for these; datagrams are not offered.
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

/// Sends what a state machine has made, if there is room: whether there was. Any other error is as good as a loss on the
/// way.
pub(super) fn try_send(hub: &Hub, transmit: &Transmit, bytes: &[u8]) -> bool {
    let sent = hub.socket().try_send(&udp::Transmit {
        destination: transmit.destination,
        ecn: transmit.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8)),
        contents: &bytes[..transmit.size],
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    });
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => {
            debug!(to = %transmit.destination, %error, "send datagrams");
            true
        }
        Ok(()) => true,
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let link = this.link.clone();
        link.mailbox.bell.answer(cx);
        let mut state = link.lock();
        if !this.receive(&mut state) {
            return Poll::Ready(());
        }
        let mut more = this.send(&mut state, cx);
        // A timer that has come may let it send more, and what is sent may set a timer.
        while !more && this.keep_time(&mut state, cx) {
            more = this.send(&mut state, cx);
        }
        this.report(&mut state);
        this.tell(&mut state);
        drop(state);
        if this.over {
            return Poll::Ready(());
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Driver {
    /// Also when the runtime ends under it: nothing moves this connection any more.
    fn drop(&mut self) {
        if !self.over {
            self.link.over(&mut self.link.lock(), ConnectionError::LocallyClosed);
            self.hub.told(self.handle, EndpointEvent::drained());
        }
    }
}
