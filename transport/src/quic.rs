//! QUIC connections: quinn-proto's state machines, moved by drivers of our own. Quinn's configuration, errors and socket
//! traits are kept, and its names where they mean the same, so that whoever knows quinn knows these.
//!
//! - An [`Endpoint`] owns a socket. Its driver receives, finds whose each datagram is, and puts it into that connection's
//!   mailbox.
//! - A connection's driver empties the mailbox, sends what there is to send, keeps the timers, and wakes who waits.
//!   What it sends is made in one buffer of the thread, as much at once as a call of the kernel takes.
//! - [`Connection`] and the streams are what everybody else holds; they touch the state machine under its lock, and ring
//!   for the driver.

mod bell;
mod connection;
mod driver;
mod endpoint;
mod streams;

pub use self::{
    connection::{Connecting, Connection, ZeroRttAccepted},
    endpoint::{Endpoint, Incoming},
    streams::{RecvStream, SendStream},
};

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

/// What a panic left behind is quinn-proto's own state, which checks itself; to go on is better than to panic everywhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// tokio's clock, which tests pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Looks again each time that it is told to, until there is an answer.
async fn until<T>(told: &Notify, look: impl Fn() -> Option<T>) -> T {
    loop {
        // From before the look, so that nothing is missed after it.
        let told = told.notified();
        if let Some(answer) = look() {
            return answer;
        }
        told.await;
    }
}

#[cfg(test)]
mod tests;
