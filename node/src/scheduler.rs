//! Waits for scheduler: the schedule of `core::schedule` with a clock, and wakes those whose turn it is. Owns its lock, which
//! is short and never held across an await.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Instant,
};

use futures::task::AtomicWaker;
use tokio::{sync::Notify, time};
use usher_proto::Bitrate;

use crate::core::schedule::{Answer, Key, Schedule, Terms};

/// The scheduler of a node.
pub(crate) struct Scheduler {
    inner: Mutex<Inner>,
    /// The next turn comes sooner than [`Scheduler::keep`] thinks.
    sooner: Notify,
}

struct Inner {
    schedule: Schedule,
    waiting: HashMap<Key, Arc<Gate>>,
    /// When [`Scheduler::keep`] looks again.
    looks: Option<Instant>,
}

/// Where one session waits.
#[derive(Default)]
struct Gate {
    /// Bytes that it may send; 0 until its turn comes.
    given: AtomicU64,
    task: AtomicWaker,
}

/// One session's part, until it drops.
pub(crate) struct Slot {
    scheduler: Arc<Scheduler>,
    key: Key,
    gate: Arc<Gate>,
    quantum: u64,
    paced: bool,
}

impl Scheduler {
    pub(crate) fn new(capacity: Bitrate) -> Arc<Self> {
        let schedule = Schedule::new(Instant::now(), capacity);
        let inner = Inner { schedule, waiting: HashMap::new(), looks: None };
        Arc::new(Self { inner: Mutex::new(inner), sooner: Notify::new() })
    }

    /// Every change is one call of a pure type, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins.
    pub(crate) fn join(self: &Arc<Self>, terms: Terms) -> Slot {
        let mut inner = self.lock();
        let key = inner.schedule.join(Instant::now(), terms);
        let quantum = inner.schedule.quantum(&terms);
        Slot { scheduler: self.clone(), key, gate: Arc::default(), quantum, paced: terms.paced() }
    }

    /// Gives scheduler as time passes, for as long as the node runs. For one caller.
    pub(crate) async fn keep(&self) {
        loop {
            let deadline = {
                let mut inner = self.lock();
                inner.give(Instant::now());
                inner.looks = inner.schedule.deadline();
                inner.looks
            };
            let sooner = self.sooner.notified();
            match deadline {
                Some(deadline) => drop(time::timeout_at(deadline.into(), sooner).await),
                None => sooner.await,
            }
        }
    }

    /// Gives the scheduler that are due, and sees to it that the next one is not missed.
    fn give(&self, mut inner: MutexGuard<'_, Inner>, now: Instant) {
        inner.give(now);
        let deadline = inner.schedule.deadline();
        if deadline.is_some_and(|deadline| inner.looks.is_none_or(|looks| deadline < looks)) {
            inner.looks = deadline;
            drop(inner);
            self.sooner.notify_one();
        }
    }
}

impl Inner {
    fn give(&mut self, now: Instant) {
        while let Some((key, bytes)) = self.schedule.next(now) {
            if let Some(gate) = self.waiting.remove(&key) {
                gate.given.store(bytes, Ordering::Release);
                gate.task.wake();
            }
        }
    }
}

impl Slot {
    /// Bytes to ask for at a time.
    pub(crate) fn quantum(&self) -> u64 {
        self.quantum
    }

    /// Whether it is paced by its rate.
    pub(crate) fn paced(&self) -> bool {
        self.paced
    }

    /// Waits until so many bytes may be sent, at most [`Slot::quantum`].
    pub(crate) async fn turn(&self, bytes: u64) {
        // One that came when nobody waited for it any more is as good.
        if self.gate.given.swap(0, Ordering::Acquire) > 0 {
            return;
        }
        while let Answer::NotBefore(then) = self.ask(bytes) {
            time::sleep_until(then.into()).await;
        }
        self.given().await;
    }

    fn ask(&self, bytes: u64) -> Answer {
        let now = Instant::now();
        let mut inner = self.scheduler.lock();
        let answer = inner.schedule.ask(now, self.key, bytes);
        if answer == Answer::Waits {
            inner.waiting.insert(self.key, self.gate.clone());
            self.scheduler.give(inner, now);
        }
        answer
    }

    async fn given(&self) {
        let gate = &self.gate;
        poll_fn(|cx| {
            if gate.given.swap(0, Ordering::Acquire) > 0 {
                return Poll::Ready(());
            }
            gate.task.register(cx.waker());
            // It may have come while the waker was on its way in.
            if gate.given.swap(0, Ordering::Acquire) > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.scheduler.lock();
        inner.waiting.remove(&self.key);
        inner.schedule.leave(self.key);
        self.scheduler.give(inner, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use usher_proto::ticket::Purpose;

    use super::*;

    fn fetch() -> Terms {
        Terms { purpose: Purpose::Fetch, rate: Bitrate(0), connection: 0, priority: 0, live: false }
    }

    #[tokio::test]
    async fn turns_come_as_time_passes_and_when_another_leaves() {
        let scheduler = Scheduler::new(Bitrate(8_000_000));
        let keeper = tokio::spawn({
            let scheduler = scheduler.clone();
            async move { scheduler.keep().await }
        });
        // The bucket, and then four times as much.
        let (first, second) = (scheduler.join(fetch()), scheduler.join(fetch()));
        for _ in 0..5 {
            first.turn(5000).await;
            second.turn(5000).await;
        }
        // One who gives up waiting leaves nothing behind.
        assert!(time::timeout(time::Duration::ZERO, first.turn(10_000)).await.is_err());
        drop(first);
        second.turn(10_000).await;
        drop(second);
        assert!(scheduler.lock().waiting.is_empty());
        keeper.abort();
    }
}
