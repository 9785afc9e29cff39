//! Sets quinn's send window of a connection as `core::send_window` decides.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use usher_transport::Connection;

use crate::{
    core::send_window::{self, Senders, WindowSize},
    sync::lock,
};

/// The send window of one connection, shared by all of its sessions.
pub(crate) struct SendWindow {
    connection: Connection,
    state: Mutex<WindowState>,
    /// Number of viewers of titles on the whole node.
    viewers: Arc<AtomicUsize>,
}

struct WindowState {
    window: WindowSize,
    /// Sessions that send; `greedy` and `feeds` are among them.
    sessions: usize,
    greedy: usize,
    feeds: usize,
}

/// How a session sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as it can.
    Greedy,
    /// A title, at its rate.
    Viewer,
    /// A feed, as it is produced. Waiting bytes are in memory for all of its viewers anyway.
    Feed,
}

/// A session that sends, until it drops.
pub(crate) struct WindowShare<'a> {
    window: &'a SendWindow,
    pace: Pace,
}

impl SendWindow {
    /// Counts its viewers in `viewers`, with those of the whole node.
    pub(crate) fn new(connection: Connection, viewers: Arc<AtomicUsize>) -> Self {
        connection.set_send_window(send_window::LEAST);
        let state = WindowState { window: WindowSize::new(Instant::now()), sessions: 0, greedy: 0, feeds: 0 };
        Self { connection, state: Mutex::new(state), viewers }
    }

    /// Each change is one of numbers or of a pure type, so a panicking holder leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, WindowState> {
        lock(&self.state)
    }

    fn senders(&self, state: &WindowState) -> Senders {
        match state {
            WindowState { greedy: 1.., .. } => Senders::Greedy,
            WindowState { feeds: 1.., .. } => Senders::Paced { on_node: 0 },
            WindowState { .. } => Senders::Paced { on_node: self.viewers.load(Ordering::Relaxed) },
        }
    }

    /// A session starts to send.
    pub(crate) fn join(&self, pace: Pace) -> WindowShare<'_> {
        let mut state = self.lock();
        let alone = state.sessions == 0;
        state.sessions += 1;
        match pace {
            Pace::Greedy => state.greedy += 1,
            Pace::Viewer => drop(self.viewers.fetch_add(1, Ordering::Relaxed)),
            Pace::Feed => state.feeds += 1,
        }
        let senders = self.senders(&state);
        // A viewer beside others changes nothing.
        if (alone || pace == Pace::Greedy)
            && let Some(bytes) = state.window.handle_start(self.connection.rtt(), senders)
        {
            self.connection.set_send_window(bytes);
        }
        WindowShare { window: self, pace }
    }
}

impl WindowShare<'_> {
    /// Bytes that may have been written to the connection and not have arrived.
    pub(crate) fn in_flight(&self) -> u64 {
        self.window.lock().window.bytes()
    }

    /// Counts bytes written to a stream.
    pub(crate) fn wrote(&self, bytes: u64) {
        let now = Instant::now();
        let connection = &self.window.connection;
        let mut state = self.window.lock();
        let senders = self.window.senders(&state);
        if state.window.handle_written(now, bytes, senders)
            && let Some(bytes) = state.window.handle_round_trip(now, connection.rtt(), senders)
        {
            connection.set_send_window(bytes);
        }
    }
}

impl Drop for WindowShare<'_> {
    fn drop(&mut self) {
        let mut state = self.window.lock();
        state.sessions -= 1;
        match self.pace {
            Pace::Greedy => state.greedy -= 1,
            Pace::Viewer => drop(self.window.viewers.fetch_sub(1, Ordering::Relaxed)),
            Pace::Feed => state.feeds -= 1,
        }
    }
}
