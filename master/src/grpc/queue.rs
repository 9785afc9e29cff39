//! Bounded admission of requests: a limit on running requests, a limit on waiting ones, and a deadline for waiting. An
//! overloaded master refuses at once with a retry delay instead of answering every request too late. Clients take turns,
//! and a client with many waiting requests never keeps out one with few.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use usher_proto::{Fault, code::Code};

use crate::{
    core::fair_queue::{Arrival, FairQueue},
    metrics::{Level, Metrics, QueueLabel, RefusedLabel},
    peer::BudgetHolder,
};

/// Longest wait for a permit.
const WAIT_LIMIT: Duration = Duration::from_secs(2);

/// Retry delay of a refused client.
const RETRY: Duration = Duration::from_secs(1);

/// A queue for one class of requests.
pub(crate) struct AdmissionQueue(Arc<QueueShared>);

struct QueueShared {
    name: &'static str,
    inner: Mutex<QueueInner>,
    metrics: Arc<Metrics>,
}

struct QueueInner {
    queue: FairQueue<BudgetHolder>,
    /// Waiting requests by their number. Dropping one refuses it for another client.
    waiters: HashMap<u64, oneshot::Sender<QueuePermit>>,
}

/// Permission of one request to run; released on drop.
pub(crate) struct QueuePermit {
    shared: Arc<QueueShared>,
    _running: GaugeGuard,
}

/// A request that waits; leaves the queue on drop.
struct WaitingRequest<'a> {
    shared: &'a QueueShared,
    holder: &'a BudgetHolder,
    id: u64,
    _queued: GaugeGuard,
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
        let queue = FairQueue::new(running.max(1), waiting);
        let inner = Mutex::new(QueueInner { queue, waiters: HashMap::new() });
        Self(Arc::new(QueueShared { name, inner, metrics }))
    }

    /// Waits for a permit in the turn of this client.
    pub(crate) async fn acquire(&self, holder: &BudgetHolder) -> Result<QueuePermit, Fault> {
        let shared = &self.0;
        let label = QueueLabel { queue: shared.name };
        let wait = shared.metrics.wait.get_or_create_owned(&label);
        let Some((waiting, permit)) = shared.arrive(holder)? else {
            wait.observe(0.0);
            return Ok(shared.permit());
        };
        let since = Instant::now();
        let permit = tokio::time::timeout(WAIT_LIMIT, permit).await;
        drop(waiting);
        wait.observe(since.elapsed().as_secs_f64());
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_displaced)) => Err(shared.over_budget(holder)),
            Err(_) => Err(shared.full("late", "the request waited too long in the master's queue")),
        }
    }
}

impl QueueShared {
    /// Takes a request: it waits for the permit that is returned, or runs now.
    fn arrive<'a>(
        &'a self,
        holder: &'a BudgetHolder,
    ) -> Result<Option<(WaitingRequest<'a>, oneshot::Receiver<QueuePermit>)>, Fault> {
        let mut inner = self.lock();
        match inner.queue.handle_arrival(holder.clone()) {
            Arrival::Runs => Ok(None),
            Arrival::Waits { id, displaced } => {
                let (sender, receiver) = oneshot::channel();
                inner.waiters.insert(id, sender);
                if let Some(displaced) = displaced {
                    inner.waiters.remove(&displaced);
                }
                let queued = self.metrics.queued.get_or_create_owned(&QueueLabel { queue: self.name });
                Ok(Some((WaitingRequest { shared: self, holder, id, _queued: GaugeGuard::new(&queued) }, receiver)))
            }
            Arrival::Refused { shared: true } => Err(self.over_budget(holder)),
            Arrival::Refused { shared: false } => Err(self.full("full", "the master's request queue is full")),
        }
    }

    fn permit(self: &Arc<Self>) -> QueuePermit {
        let running = self.metrics.running.get_or_create_owned(&QueueLabel { queue: self.name });
        QueuePermit { shared: Arc::clone(self), _running: GaugeGuard::new(&running) }
    }

    fn full(&self, reason: &'static str, what: &str) -> Fault {
        self.metrics.refused.get_or_create(&RefusedLabel { queue: self.name, reason }).inc();
        Fault::new(Code::NoCapacity, format!("{what}; try again shortly")).after(RETRY)
    }

    fn over_budget(&self, holder: &BudgetHolder) -> Fault {
        self.metrics.refused.get_or_create(&RefusedLabel { queue: self.name, reason: "budget" }).inc();
        self.metrics.refusals.fault("request_queue", holder)
    }

    /// Nothing under this lock panics half-way, so its tables stay right.
    fn lock(&self) -> MutexGuard<'_, QueueInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for QueuePermit {
    fn drop(&mut self) {
        let next = {
            let mut inner = self.shared.lock();
            inner.queue.handle_end().and_then(|id| inner.waiters.remove(&id))
        };
        // A request that has just left drops the permit, which goes to the next one.
        drop(next.map(|next| next.send(self.shared.permit())));
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.queue.handle_leave(self.holder, self.id);
        inner.waiters.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use usher_budget::PrefixLengths;

    use super::*;

    fn network(last: u8) -> BudgetHolder {
        BudgetHolder::Network(PrefixLengths::default().prefix(IpAddr::from([192, 0, 2, last])))
    }

    fn lines_are_in(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.text().expect("text");
        for line in lines {
            assert!(text.lines().any(|one| one == *line), "{line} is not in {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_length_and_time() {
        let metrics = Arc::new(Metrics::new());
        let queue = AdmissionQueue::new("test", 1, 1, Arc::clone(&metrics));
        let one = network(1);
        let first = queue.acquire(&one).await.expect("free");
        let (second, third) = tokio::join!(queue.acquire(&one), queue.acquire(&one));
        let second = second.err().expect("waited too long");
        let third = third.err().expect("full");
        assert!(second.message.contains("too long") && third.message.contains("full"), "{second} {third}");
        assert!(third.code == Code::NoCapacity && third.retry_after.is_some());
        drop(first);
        assert!(queue.acquire(&one).await.is_ok());
        lines_are_in(
            &metrics,
            &[
                "usher_master_requests_refused_total{queue=\"test\",reason=\"full\"} 1",
                "usher_master_requests_refused_total{queue=\"test\",reason=\"late\"} 1",
                "usher_master_requests_queued{queue=\"test\"} 0",
                "usher_master_requests_running{queue=\"test\"} 0",
                "usher_master_queue_wait_seconds_count{queue=\"test\"} 3",
            ],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_light_client_is_served_beside_a_heavy_one() {
        let metrics = Arc::new(Metrics::new());
        let queue = AdmissionQueue::new("test", 1, 4, Arc::clone(&metrics));
        let (heavy, light) = (network(1), network(2));
        let running = queue.acquire(&heavy).await.expect("free");
        let flood = async { futures::future::join_all((0..4).map(|_| queue.acquire(&heavy))).await };
        let light_one = async {
            let permit = queue.acquire(&light).await;
            permit.map(drop)
        };
        let free = async {
            // Both have arrived by now.
            tokio::task::yield_now().await;
            drop(running);
        };
        let flood =
            async { flood.await.into_iter().map(|permit| permit.map(drop).map_err(|fault| fault.code)).collect() };
        let (heavy, light, ()): (Vec<Result<(), Code>>, _, ()) = tokio::join!(flood, light_one, free);
        assert_eq!(light.map_err(|fault| fault.code), Ok(()));
        assert_eq!(heavy.iter().filter(|one| **one == Err(Code::BudgetExceeded)).count(), 1, "{heavy:?}");
        lines_are_in(
            &metrics,
            &[
                "usher_master_requests_refused_total{queue=\"test\",reason=\"budget\"} 1",
                "usher_master_refused_by_budget_total{resource=\"request_queue\"} 1",
                "usher_master_requests_running{queue=\"test\"} 0",
                "usher_master_requests_queued{queue=\"test\"} 0",
            ],
        );
    }
}
