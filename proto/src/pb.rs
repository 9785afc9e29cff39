//! Generated code (`cargo xtask proto`): the messages and services of `usher.v1` and the control messages of `usher/1`.
//! Knows no rule about them; validated forms are in `model`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::large_futures,
    clippy::large_enum_variant,
    clippy::or_fun_call,
    reason = "generated code"
)]

use std::fmt;

/// The gRPC API.
pub mod v1 {
    include!("../generated/usher.v1.rs");
}

/// Control messages on a session's QUIC stream.
pub mod wire {
    /// Generated code finds its neighbours by package, so the module tree follows the packages.
    pub mod v1 {
        include!("../generated/usher.wire.v1.rs");
    }
    pub use v1::{FeedGroup, FeedOffer, FeedStart, Finish, Moved, Open, Refused, Renew, Renewed, Skipped};
}

/// All descriptors with their comments, encoded, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("../generated/usher.bin");

// Messages that carry a secret print everything but the secret.

impl fmt::Debug for v1::TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("node", &self.node).field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::SeatFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeatFailure").field("node", &self.node).field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Prepare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepare").field("id", &self.id).field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::RenewRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewRequest").field("node", &self.node).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::RenewResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewResponse").field("lifetime_s", &self.lifetime_s).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::PublishResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishResponse").field("session_id", &self.session_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for wire::v1::Renew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renew").finish_non_exhaustive()
    }
}

impl fmt::Debug for wire::v1::Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open")
            .field("range", &self.range)
            .field("priority", &self.priority)
            .field("request_id", &self.request_id)
            .field("more", &self.more)
            .field("watch", &self.watch)
            .field("publish", &self.publish)
            .finish_non_exhaustive()
    }
}
