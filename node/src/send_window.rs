//! What of a connection is on its way: keeps quinn's send window as `core::send_window` says.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use usher_transport::Connection;

use crate::core::send_window::{self, Senders, Window};

/// One connection, for all of its sessions.
pub(crate) struct SendWindow {
    connection: Connection,
    state: Mutex<State>,
    /// Viewers of titles on the whole node.
    viewers: Arc<AtomicUsize>,
}

struct State {
    window: Window,
    /// Sessions that send; those of them that take all they can get, and those of feeds.
    sessions: usize,
    greedy: usize,
    feeds: usize,
}

/// How a session sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// All that it can get.
    Greedy,
    /// A title, at its rate.
    Viewer,
    /// A feed, as it is made. What waits is in memory for all of its viewers anyway.
    Feed,
}

/// A session that sends, until it drops.
pub(crate) struct WindowShare<'a> {
    window: &'a SendWindow,
    pace: Pace,
}

impl SendWindow {
    /// Counts its viewers among those of the node.
    pub(crate) fn new(connection: Connection, viewers: Arc<AtomicUsize>) -> Self {
        connection.set_send_window(send_window::LEAST);
        let state = State { window: Window::new(Instant::now()), sessions: 0, greedy: 0, feeds: 0 };
        Self { connection, state: Mutex::new(state), viewers }
    }

    /// Each change is one of numbers or of a pure type, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn senders(&self, state: &State) -> Senders {
        match state {
            State { greedy: 1.., .. } => Senders::Greedy,
            State { feeds: 1.., .. } => Senders::Paced { on_node: 0 },
            State { .. } => Senders::Paced { on_node: self.viewers.load(Ordering::Relaxed) },
        }
    }

    /// A session begins to send.
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
            && let Some(bytes) = state.window.begin(self.connection.rtt(), senders)
        {
            self.connection.set_send_window(bytes);
        }
        WindowShare { window: self, pace }
    }
}

impl WindowShare<'_> {
    /// So many bytes were written to a stream.
    pub(crate) fn wrote(&self, bytes: u64) {
        let now = Instant::now();
        let connection = &self.window.connection;
        let mut state = self.window.lock();
        let senders = self.window.senders(&state);
        if state.window.wrote(now, bytes, senders)
            && let Some(bytes) = state.window.measure(now, connection.rtt(), senders)
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
