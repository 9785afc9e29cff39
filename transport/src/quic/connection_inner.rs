//! The state of a connection that its driver shares with its handles and streams. Leaves to the driver what is sent and
//! when, and to the handles what their users see.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard},
    task::Waker,
};

use bytes::Bytes;
use quinn_proto::{ConnectionError, StreamId, VarInt};
use tokio::sync::{Notify, oneshot};

use super::{lock, waker::DriverWaker};
use crate::clock::now;

/// A reference that users of a connection hold, and its driver does not. Dropping the last one closes the connection with
/// code 0.
#[derive(Clone)]
pub(super) struct ConnectionRef(Arc<CloseOnDrop>);

struct CloseOnDrop(Arc<ConnectionInner>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if !self.0.lock().machine.is_closed() {
            self.0.close(VarInt::from_u32(0), Bytes::new());
        }
    }
}

impl Deref for ConnectionRef {
    type Target = ConnectionInner;

    fn deref(&self) -> &ConnectionInner {
        &self.0.0
    }
}

impl ConnectionRef {
    pub(super) fn new(inner: Arc<ConnectionInner>) -> Self {
        Self(Arc::new(CloseOnDrop(inner)))
    }
}

/// A connection, shared by its driver and its references.
pub(super) struct ConnectionInner {
    state: Mutex<ConnectionState>,
    pub(super) mailbox: Arc<Mailbox>,
    /// Notified when streams can be opened, by direction.
    pub(super) available: [Notify; 2],
    /// Notified when the peer has opened streams, by direction.
    pub(super) opened: [Notify; 2],
    pub(super) closed: Notify,
}

/// Messages from the endpoint to a connection. Posting one never waits for the connection's driver.
#[derive(Default)]
pub(super) struct Mailbox {
    messages: Mutex<Vec<Message>>,
    pub(super) waker: DriverWaker,
}

/// A message from the endpoint to a connection.
pub(super) enum Message {
    Event(quinn_proto::ConnectionEvent),
    /// The endpoint closes all of its connections.
    Close(VarInt, Bytes),
    /// The socket is lost: nothing more will arrive.
    Lost,
}

impl Mailbox {
    pub(super) fn post(&self, message: Message) {
        let mut messages = lock(&self.messages);
        let first = messages.is_empty();
        messages.push(message);
        drop(messages);
        // A driver that has not taken the first message yet will take this one with it.
        if first {
            self.waker.wake();
        }
    }

    /// Takes all messages and keeps no capacity: of many connections, few have messages at a time.
    pub(super) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *lock(&self.messages))
    }
}

/// A connection's state machine and its waiting tasks.
pub(super) struct ConnectionState {
    pub(super) machine: quinn_proto::Connection,
    /// Bytes of all streams that may await acknowledgement, where a limit was set.
    window: Option<u64>,
    /// The window was full: writers wait until half of it is acknowledged.
    is_full: bool,
    /// Why the connection ended, as its users see it.
    pub(super) error: Option<ConnectionError>,
    /// Reports the end of the handshake: whether early data was accepted.
    pub(super) handshake: Option<oneshot::Sender<bool>>,
    pub(super) writers: HashMap<StreamId, Waker>,
    pub(super) readers: HashMap<StreamId, Waker>,
    /// Notified when a stream is acknowledged or stopped.
    pub(super) stream_ends: HashMap<StreamId, Arc<Notify>>,
}

impl ConnectionState {
    pub(super) fn set_window(&mut self, bytes: u64) {
        self.window = Some(bytes);
        self.set_full(self.is_full);
    }

    /// Records that a write found the window full, or that a write is tried again.
    pub(super) fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
        if let Some(window) = self.window {
            self.machine.set_send_window(if is_full { window / 2 } else { window });
        }
    }

    /// Whether the peer rejected early data, so that a stream opened `early` does not exist for it.
    pub(super) fn rejects(&self, early: bool) -> bool {
        let machine = &self.machine;
        early && machine.side().is_client() && !machine.is_handshaking() && !machine.accepted_0rtt()
    }

    /// Wakes the tasks that wait for the end of a stream; a task that finds it still open waits again.
    pub(super) fn notify_end(&mut self, id: StreamId) {
        if let Some(end) = self.stream_ends.remove(&id) {
            end.notify_waiters();
        }
    }

    /// Wakes all tasks that wait for streams.
    pub(super) fn wake_streams(&mut self) {
        self.writers.drain().chain(self.readers.drain()).for_each(|(_, waker)| waker.wake());
        self.stream_ends.drain().for_each(|(_, end)| end.notify_waiters());
    }
}

impl ConnectionInner {
    /// Creates the shared state, and a receiver for the end of the handshake: whether early data was accepted.
    pub(super) fn new(machine: quinn_proto::Connection) -> (Arc<Self>, oneshot::Receiver<bool>) {
        let (handshake, handshaken) = oneshot::channel();
        let state = ConnectionState {
            machine,
            window: None,
            is_full: false,
            error: None,
            handshake: Some(handshake),
            writers: HashMap::new(),
            readers: HashMap::new(),
            stream_ends: HashMap::new(),
        };
        let inner = Arc::new(Self {
            state: Mutex::new(state),
            mailbox: Arc::default(),
            available: [Notify::new(), Notify::new()],
            opened: [Notify::new(), Notify::new()],
            closed: Notify::new(),
        });
        (inner, handshaken)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        lock(&self.state)
    }

    /// Wakes the driver, which has something to send.
    pub(super) fn wake(&self) {
        self.mailbox.waker.wake();
    }

    pub(super) fn close(&self, code: VarInt, reason: Bytes) {
        self.close_locked(&mut self.lock(), code, reason);
        self.wake();
    }

    /// Closes the connection from this side, under its lock.
    pub(super) fn close_locked(&self, state: &mut ConnectionState, code: VarInt, reason: Bytes) {
        state.machine.close(now(), code, reason);
        self.end(state, ConnectionError::LocallyClosed);
    }

    /// Ends the connection for its users. The first error stands.
    pub(super) fn end(&self, state: &mut ConnectionState, error: ConnectionError) {
        state.error.get_or_insert(error);
        state.handshake = None;
        state.wake_streams();
        for notify in self.available.iter().chain(&self.opened).chain([&self.closed]) {
            notify.notify_waiters();
        }
    }
}
