//! Detects unused connections: one without a session is closed, however often its client pings.

use std::time::Duration;

use tokio::{sync::watch, time};

/// Number of valid tickets of one connection that are being served.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses(watch::Sender<usize>);

/// One valid ticket, counted until it drops.
#[derive(Debug)]
pub(super) struct InUse(watch::Sender<usize>);

impl Uses {
    /// Counts a valid ticket.
    pub(super) fn enter(&self) -> InUse {
        self.0.send_modify(|count| *count += 1);
        InUse(self.0.clone())
    }

    /// Waits until the connection has been unused for `timeout`, or for `first` before its first use.
    pub(super) async fn unused(&self, first: Duration, timeout: Duration) {
        let mut uses = self.0.subscribe();
        if *uses.borrow_and_update() == 0 && time::timeout(first, uses.changed()).await.is_err() {
            return;
        }
        loop {
            // A change counts even when it restores the number.
            let used = *uses.borrow_and_update() > 0;
            let changed = uses.changed();
            if used {
                drop(changed.await);
            } else if time::timeout(timeout, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);
    const FIRST: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn each_use_restarts_the_timeout() {
        let uses = Uses::default();
        let mut unused = Box::pin(uses.unused(FIRST, TIMEOUT));
        let mut after = async |seconds: u64| {
            time::advance(Duration::from_secs(seconds)).await;
            unused.as_mut().now_or_never().is_some()
        };
        assert!(!after(0).await);
        assert!(!after(4).await);
        let (first, second) = (uses.enter(), uses.enter());
        assert!(!after(1000).await);
        drop(first);
        assert!(!after(1000).await);
        drop(second);
        assert!(!after(0).await);
        assert!(!after(29).await);
        // Started and ended between two polls.
        drop(uses.enter());
        assert!(!after(0).await);
        assert!(!after(29).await);
        assert!(after(2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_never_used_is_closed_soon() {
        let uses = Uses::default();
        let mut unused = Box::pin(uses.unused(FIRST, TIMEOUT));
        assert!(unused.as_mut().now_or_never().is_none());
        time::advance(FIRST).await;
        assert!(unused.now_or_never().is_some());
    }
}
