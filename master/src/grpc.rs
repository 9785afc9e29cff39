//! The services of `usher.v1`: what arrives is validated, given to the state, and answered. Refuses to decide.

mod answers;
pub(crate) mod catalog;
pub(crate) mod cluster;
mod peer;
mod publish;
pub(crate) mod queue;
pub(crate) mod registry;
mod request_id;
pub(crate) mod tickets;

/// Largest message that a client may send: `ResolveMany` with 256 of the longest titles and lists of excluded nodes.
pub(crate) const CLIENT_MESSAGE: usize = 2 << 20;

/// Largest message that a node may send: a page of 5000 long titles does not fit, one of usual titles does.
pub(crate) const NODE_MESSAGE: usize = 4 << 20;
