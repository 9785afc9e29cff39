//! The clock of the shells: the runtime's own, so that what runs under a paused one sees no other.

use std::time::Instant;

/// Now.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
