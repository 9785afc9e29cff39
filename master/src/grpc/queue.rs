//! Bounded admission of requests: a limit on running requests, a limit on waiting ones, and a deadline for waiting. An
//! overloaded master refuses at once with a retry delay instead of answering every request too late.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use usher_proto::{Fault, code::Code};

use crate::metrics::{Level, Metrics, QueueLabel, RefusedLabel};

/// Longest wait for a permit.
const WAIT_LIMIT: Duration = Duration::from_secs(2);

/// Retry delay of a refused client.
const RETRY: Duration = Duration::from_secs(1);

/// A queue for one class of requests.
pub(crate) struct AdmissionQueue {
    name: &'static str,
    running: Semaphore,
    waiting: Semaphore,
    metrics: Arc<Metrics>,
}

/// Permission of one request to run; released on drop.
pub(crate) struct QueuePermit<'a> {
    _permit: SemaphorePermit<'a>,
    _running: GaugeGuard,
}

/// Increments a gauge for its lifetime.
struct GaugeGuard(Level);

impl GaugeGuard {
    fn new(level: &Level) -> Self {
        level.inc();
        Self(level.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl AdmissionQueue {
    /// A queue with these limits; `name` is its metrics label.
    pub(crate) fn new(name: &'static str, running: usize, waiting: usize, metrics: Arc<Metrics>) -> Self {
        Self { name, running: Semaphore::new(running.max(1)), waiting: Semaphore::new(waiting), metrics }
    }

    /// Waits for a permit.
    pub(crate) async fn acquire(&self) -> Result<QueuePermit<'_>, Fault> {
        let label = QueueLabel { queue: self.name };
        let running = self.metrics.running.get_or_create_owned(&label);
        let begun = |permit| QueuePermit { _permit: permit, _running: GaugeGuard::new(&running) };
        let wait = self.metrics.wait.get_or_create_owned(&label);
        if let Ok(permit) = self.running.try_acquire() {
            wait.observe(0.0);
            return Ok(begun(permit));
        }
        let full = |reason, what| {
            self.metrics.refused.get_or_create(&RefusedLabel { queue: self.name, reason }).inc();
            Fault::new(Code::NoCapacity, format!("{what}; try again shortly")).after(RETRY)
        };
        let _place = self.waiting.try_acquire().map_err(|_| full("full", "the master's request queue is full"))?;
        let _waits = GaugeGuard::new(&self.metrics.queued.get_or_create_owned(&label));
        let since = Instant::now();
        let permit = tokio::time::timeout(WAIT_LIMIT, self.running.acquire()).await;
        wait.observe(since.elapsed().as_secs_f64());
        match permit {
            Ok(Ok(permit)) => Ok(begun(permit)),
            // The semaphore is never closed.
            Ok(Err(_)) => Err(full("ending", "the master is shutting down")),
            Err(_) => Err(full("late", "the request waited too long in the master's queue")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_length_and_time() {
        let metrics = Arc::new(Metrics::new());
        let queue = AdmissionQueue::new("test", 1, 1, Arc::clone(&metrics));
        let first = queue.acquire().await.expect("free");
        let (second, third) = tokio::join!(queue.acquire(), queue.acquire());
        let second = second.err().expect("waited too long");
        let third = third.err().expect("full");
        assert!(second.message.contains("too long") && third.message.contains("full"), "{second} {third}");
        assert!(third.code == Code::NoCapacity && third.retry_after.is_some());
        drop(first);
        assert!(queue.acquire().await.is_ok());
        let text = metrics.text().expect("text");
        for line in [
            "usher_master_requests_refused_total{queue=\"test\",reason=\"full\"} 1",
            "usher_master_requests_refused_total{queue=\"test\",reason=\"late\"} 1",
            "usher_master_requests_queued{queue=\"test\"} 0",
            "usher_master_requests_running{queue=\"test\"} 0",
            "usher_master_queue_wait_seconds_count{queue=\"test\"} 3",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
        }
    }
}
