//! Time by tokio's clock, which tests can pause.

use std::time::Instant;

use tokio::time;

/// The present time.
pub fn now() -> Instant {
    time::Instant::now().into_std()
}

/// Waits until `deadline`; without one, for ever.
pub async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
