//! The clock of the shells: tokio's, so that tests can pause it.

use std::time::Instant;

/// The present moment.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
