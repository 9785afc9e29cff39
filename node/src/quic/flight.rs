//! What of a connection is on its way: keeps quinn's send window as `core::window` says.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use quinn::Connection;

use crate::core::window::Window;

/// One connection, for all of its sessions.
pub(super) struct Flight {
    connection: Connection,
    window: Mutex<Window>,
}

impl Flight {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, window: Mutex::new(Window::new(Instant::now())) }
    }

    /// So many bytes were written to a stream.
    pub(super) fn wrote(&self, bytes: u64) {
        let now = Instant::now();
        // Each change is one call of a pure type.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.wrote(now, bytes)
            && let Some(bytes) = window.measure(now, self.connection.rtt())
        {
            self.connection.set_send_window(bytes);
        }
    }
}
