//! Repeats calls to a master that is absent, until the client's timeout.

use tokio::time;
use usher_proto::{Code, Fault, backoff::Backoff};

use super::Client;
use crate::core::failover::{FIRST_WAIT, LONGEST_WAIT};

impl Client {
    /// Retries until the timeout while the master cannot be reached, or cannot serve yet.
    pub(super) async fn retry_unavailable<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        call: impl FnMut() -> F,
    ) -> Result<T, Fault> {
        self.retry(call, |code| {
            matches!(code, Code::Network | Code::Timeout | Code::Unavailable | Code::BudgetExceeded)
        })
        .await
    }

    /// Retries until the timeout while the master cannot be reached.
    pub(super) async fn retry_unreachable<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        call: impl FnMut() -> F,
    ) -> Result<T, Fault> {
        self.retry(call, |code| code == Code::Network).await
    }

    async fn retry<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        mut call: impl FnMut() -> F,
        again: impl Fn(Code) -> bool,
    ) -> Result<T, Fault> {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut on_wait = self.on_wait;
        let deadline = time::Instant::now() + self.options.timeout;
        loop {
            let fault = match call().await {
                Err(fault) if again(fault.code) => fault,
                other => return other,
            };
            let wait = backoff.wait(&mut rand::rng()).max(fault.retry_after.unwrap_or_default());
            if time::Instant::now() + wait >= deadline {
                return Err(fault);
            }
            if let Some(report) = on_wait.take() {
                report(&fault);
            }
            tracing::debug!(error = %fault, ?wait, "call to the master failed; retrying");
            time::sleep(wait).await;
        }
    }
}
