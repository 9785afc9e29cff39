//! The bounded queue before the decisions: so many at once, so many more that wait, none for longer than the deadline.
//! A master that cannot keep up says so at once, with a time to come back, instead of answering everyone too late.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use usher_proto::{Fault, code::Code};

/// How long a request may wait for its turn.
const DEADLINE: Duration = Duration::from_secs(2);

/// When a client that was turned away should ask again.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Queue {
    running: Semaphore,
    waiting: Semaphore,
}

impl Queue {
    /// A queue of `waiting` places before `running` at once.
    pub(crate) fn new(running: usize, waiting: usize) -> Self {
        Self { running: Semaphore::new(running.max(1)), waiting: Semaphore::new(waiting) }
    }

    /// Waits for a turn, which lasts until the permit is dropped.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, Fault> {
        if let Ok(turn) = self.running.try_acquire() {
            return Ok(turn);
        }
        let full = |what| Fault::new(Code::NoCapacity, format!("{what}; try again shortly")).after(RETRY);
        let _place = self.waiting.try_acquire().map_err(|_| full("the master's request queue is full"))?;
        match tokio::time::timeout(DEADLINE, self.running.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            // The semaphore is never closed.
            Ok(Err(_)) => Err(full("the master is ending")),
            Err(_) => Err(full("the request waited too long in the master's queue")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_length_and_time() {
        let queue = Queue::new(1, 1);
        let first = queue.turn().await.expect("free");
        let (second, third) = tokio::join!(queue.turn(), queue.turn());
        let second = second.expect_err("waited too long");
        let third = third.expect_err("full");
        assert!(second.message.contains("too long") && third.message.contains("full"), "{second} {third}");
        assert!(third.code == Code::NoCapacity && third.retry_after.is_some());
        drop(first);
        assert!(queue.turn().await.is_ok());
    }
}
