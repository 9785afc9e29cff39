//! Runs `core::schedule` with a clock, and wakes the session whose turn it is. Owns the lock, which is short and never
//! held across an await.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Instant,
};

use futures::task::AtomicWaker;
use tokio::{sync::Notify, time};
use usher_proto::{Bitrate, SessionId};

use crate::{
    core::schedule::{Schedule, SessionKey, Terms, TurnRequest},
    sync::lock,
};

/// The scheduler of a node.
pub(crate) struct Scheduler {
    inner: Mutex<SchedulerState>,
    /// The next turn is earlier than the timeout of [`Scheduler::run`].
    earlier: Notify,
}

struct SchedulerState {
    schedule: Schedule,
    waiting: HashMap<SessionKey, Arc<Gate>>,
    keys: HashMap<SessionId, SessionKey>,
    /// Timeout of [`Scheduler::run`].
    timeout: Option<Instant>,
}

/// Where one session waits.
#[derive(Default)]
struct Gate {
    /// Bytes of the turn; 0 until it comes.
    given: AtomicU64,
    task: AtomicWaker,
}

/// The place of one session in the schedule, until it drops.
pub(crate) struct Slot {
    scheduler: Arc<Scheduler>,
    session: SessionId,
    key: SessionKey,
    gate: Arc<Gate>,
    quantum: u64,
    paced: bool,
}

impl Scheduler {
    pub(crate) fn new(capacity: Bitrate) -> Arc<Self> {
        let schedule = Schedule::new(Instant::now(), capacity);
        let inner = SchedulerState { schedule, waiting: HashMap::new(), keys: HashMap::new(), timeout: None };
        Arc::new(Self { inner: Mutex::new(inner), earlier: Notify::new() })
    }

    /// Every change is one call of a pure type, so a panicking holder leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, SchedulerState> {
        lock(&self.inner)
    }

    /// Adds a session that is not in the schedule.
    pub(crate) fn join(self: &Arc<Self>, session: SessionId, terms: Terms) -> Slot {
        let mut inner = self.lock();
        let key = inner.schedule.handle_join(Instant::now(), terms);
        inner.keys.insert(session, key);
        let quantum = inner.schedule.quantum(&terms);
        Slot { scheduler: self.clone(), session, key, gate: Arc::default(), quantum, paced: terms.paced() }
    }

    /// Sets the rate that is owed to a session.
    pub(crate) fn reserve(&self, session: SessionId, rate: Bitrate) {
        let now = Instant::now();
        let mut inner = self.lock();
        if let Some(key) = inner.keys.get(&session).copied() {
            inner.schedule.handle_reserved(now, key, rate);
            self.give(inner, now);
        }
    }

    /// Gives turns as time passes, for as long as the node runs. For one caller.
    pub(crate) async fn run(&self) {
        loop {
            let deadline = {
                let mut inner = self.lock();
                inner.give(Instant::now());
                inner.timeout = inner.schedule.next_timeout();
                inner.timeout
            };
            let earlier = self.earlier.notified();
            match deadline {
                Some(deadline) => drop(time::timeout_at(deadline.into(), earlier).await),
                None => earlier.await,
            }
        }
    }

    /// Gives the turns that are due, and wakes [`Scheduler::run`] when the next one is earlier than its timeout.
    fn give(&self, mut inner: MutexGuard<'_, SchedulerState>, now: Instant) {
        inner.give(now);
        let deadline = inner.schedule.next_timeout();
        if deadline.is_some_and(|deadline| inner.timeout.is_none_or(|timeout| deadline < timeout)) {
            inner.timeout = deadline;
            drop(inner);
            self.earlier.notify_one();
        }
    }
}

impl SchedulerState {
    fn give(&mut self, now: Instant) {
        while let Some((key, bytes)) = self.schedule.poll_turn(now) {
            if let Some(gate) = self.waiting.remove(&key) {
                gate.given.store(bytes, Ordering::Release);
                gate.task.wake();
            }
        }
    }
}

impl Slot {
    /// Bytes to request at a time.
    pub(crate) fn quantum(&self) -> u64 {
        self.quantum
    }

    /// Whether the session is paced by its rate.
    pub(crate) fn paced(&self) -> bool {
        self.paced
    }

    /// Waits until `bytes` may be sent, at most [`Slot::quantum`].
    pub(crate) async fn turn(&self, bytes: u64) {
        // A turn that came after its request was dropped is still valid.
        if self.gate.given.swap(0, Ordering::Acquire) > 0 {
            return;
        }
        while let TurnRequest::NotBefore(then) = self.ask(bytes) {
            time::sleep_until(then.into()).await;
        }
        self.given().await;
    }

    fn ask(&self, bytes: u64) -> TurnRequest {
        let now = Instant::now();
        let mut inner = self.scheduler.lock();
        let answer = inner.schedule.handle_request(now, self.key, bytes);
        if answer == TurnRequest::Queued {
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
            // The turn may have come while the waker was being registered.
            if gate.given.swap(0, Ordering::Acquire) > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.scheduler.lock();
        inner.waiting.remove(&self.key);
        if inner.keys.get(&self.session) == Some(&self.key) {
            inner.keys.remove(&self.session);
        }
        inner.schedule.handle_leave(self.key);
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
    async fn turns_come_as_time_passes_and_when_another_session_leaves() {
        let scheduler = Scheduler::new(Bitrate(8_000_000));
        let driver = tokio::spawn({
            let scheduler = scheduler.clone();
            async move { scheduler.run().await }
        });
        // The bucket, and then four times as much.
        let (first, second) = (scheduler.join(SessionId(1), fetch()), scheduler.join(SessionId(2), fetch()));
        // A bucketful, and then four times as much.
        for _ in 0..5 {
            first.turn(5000).await;
            second.turn(5000).await;
        }
        // A session that stops waiting leaves nothing behind.
        assert!(time::timeout(time::Duration::ZERO, first.turn(10_000)).await.is_err());
        drop(first);
        second.turn(10_000).await;
        drop(second);
        assert!(scheduler.lock().waiting.is_empty() && scheduler.lock().keys.is_empty());
        driver.abort();
    }
}
