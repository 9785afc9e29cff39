//! QUIC connections: quinn-proto's state machines, moved by drivers of this crate. quinn's configuration, errors and
//! socket traits are kept, and its names where they mean the same.
//!
//! ```text
//! Endpoint, Incoming ─┐                             ┌─ Connection, SendStream, RecvStream
//!                     ▼                             ▼
//!  socket ──► EndpointInner ── Mailbox ──► ConnectionInner      (quinn-proto under a lock each)
//!                     ▲                             ▲
//!         EndpointDriver: receives     ConnectionDriver: sends, keeps the timer, wakes tasks
//! ```
//!
//! - The driver of an [`Endpoint`] receives, finds the connection of each datagram, and posts it to that connection's
//!   mailbox.
//! - The driver of a connection empties the mailbox, sends, keeps the timer, and wakes waiting tasks. It assembles packets
//!   in one buffer of the thread, as many at once as one system call takes.
//! - [`Connection`] and the streams call the state machine under its lock and wake the driver.

mod connection;
mod connection_inner;
mod driver;
mod endpoint;
mod endpoint_inner;
mod recv_stream;
mod send_stream;
mod waker;

pub use self::{
    connection::{Connecting, Connection, ZeroRttAccepted},
    endpoint::{Endpoint, Incoming},
    recv_stream::RecvStream,
    send_stream::SendStream,
};

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Locks a mutex also after a panic: the state is quinn-proto's, which checks itself, and one panic must not end all tasks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls `poll` at once and after each notification, until it returns a value.
async fn wait_for<T>(notify: &Notify, poll: impl Fn() -> Option<T>) -> T {
    loop {
        // Registered before the poll, so that no later notification is missed.
        let notified = notify.notified();
        if let Some(answer) = poll() {
            return answer;
        }
        notified.await;
    }
}

#[cfg(test)]
mod tests;
