//! Settings of the QUIC server, and its limits for one connection.

use std::time::Duration;

use usher_transport::{Congestion, Offload};

/// Default for [`QuicSettings::unused`]: long enough for a client that goes from title to title, short enough that clients
/// that only ping take no place from others.
pub(crate) const UNUSED: Duration = Duration::from_secs(30);

/// Default for [`QuicSettings::never_used`]: clients open a session as soon as they are connected.
pub(crate) const NEVER_USED: Duration = Duration::from_secs(5);

/// Default for [`QuicSettings::handshake_timeout`]: a client whose packets are lost repeats them twice in this time.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(3);

/// Settings of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuicSettings {
    pub(crate) congestion: Congestion,
    pub(crate) offload: Offload,
    /// Number of threads that send.
    pub(crate) threads: usize,
    /// Time that a client has for its handshake.
    pub(crate) handshake_timeout: Duration,
    /// Time that a client has for its Open message.
    pub(crate) open_timeout: Duration,
    /// Time after which the session of a client that reads nothing is closed.
    pub(crate) stall_timeout: Duration,
    /// Time after which a connection that never had a session is closed.
    pub(crate) never_used: Duration,
    /// Time after which a connection without a session is closed.
    pub(crate) unused: Duration,
    /// Time that a session may run past the end of its ticket while no master can renew it.
    pub(crate) ticket_grace: Duration,
}
