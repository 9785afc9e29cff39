//! The services of `usher.v1`: they validate requests, pass them to the shared state, and answer. They decide nothing.

mod access;
mod answers;
pub(crate) mod catalog;
pub(crate) mod cluster;
mod failed_seats;
mod peer;
mod publish;
pub(crate) mod queue;
pub(crate) mod registry;
mod renew;
mod request_id;
pub(crate) mod tickets;

/// Largest message of a client: `ResolveMany` with 256 of the longest titles and lists of excluded nodes.
pub(crate) const CLIENT_MESSAGE: usize = 2 << 20;

/// Largest message of a node: enough for a page of usual titles, not for 5000 of the longest.
pub(crate) const NODE_MESSAGE: usize = 4 << 20;
