//! The queue of titles to hash: urgent ones first, then small ones, so that most titles have a content id soon; then
//! titles to verify again.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use super::copy::CopyKey;
use crate::sync::lock;

/// Most titles queued for verification; clients report further damage again.
const VERIFY_MAX: usize = 64;

/// A task of the hasher.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HashTask {
    /// Hash it first: a session waits for its content id.
    Urgent(CopyKey),
    /// Hash it.
    Hash(CopyKey),
    /// Hash it again: a client received other bytes.
    Verify(CopyKey),
}

#[derive(Default)]
struct QueueState {
    urgent: VecDeque<CopyKey>,
    waiting: BinaryHeap<Reverse<(u64, CopyKey)>>,
    to_verify: VecDeque<CopyKey>,
    stopped: bool,
}

/// Titles to hash. The hasher skips those that changed or were removed meanwhile.
#[derive(Default)]
pub(crate) struct HashQueue {
    state: Mutex<QueueState>,
    wake: Condvar,
}

impl HashQueue {
    /// Adds a title of `size` bytes.
    pub(crate) fn push(&self, key: CopyKey, size: u64) {
        lock(&self.state).waiting.push(Reverse((size, key)));
        self.wake.notify_one();
    }

    /// Moves a title to the front.
    pub(crate) fn push_urgent(&self, key: CopyKey) {
        let mut state = lock(&self.state);
        if !state.urgent.contains(&key) {
            state.urgent.push_back(key);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Adds a hashed title behind all others, to be verified. Returns `false` when too many are queued.
    pub(crate) fn push_verify(&self, key: CopyKey) -> bool {
        let mut state = lock(&self.state);
        let waits = state.to_verify.contains(&key);
        let accepted = waits || state.to_verify.len() < VERIFY_MAX;
        if accepted && !waits {
            state.to_verify.push_back(key);
        }
        drop(state);
        self.wake.notify_one();
        accepted
    }

    /// Ends [`Self::next`].
    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.wake.notify_all();
    }

    /// Waits for the next task; `None` after [`Self::stop`].
    pub(crate) fn next(&self) -> Option<HashTask> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if let Some(key) = state.urgent.pop_front() {
                return Some(HashTask::Urgent(key));
            }
            if let Some(Reverse((_, key))) = state.waiting.pop() {
                return Some(HashTask::Hash(key));
            }
            if let Some(key) = state.to_verify.pop_front() {
                return Some(HashTask::Verify(key));
            }
            // Return the memory of a long queue.
            state.waiting.shrink_to_fit();
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn next_urgent(&self) -> Option<CopyKey> {
        lock(&self.state).urgent.pop_front()
    }

    /// The next title that is not hashed yet, urgent ones first.
    pub(crate) fn next_unhashed(&self) -> Option<CopyKey> {
        let mut state = lock(&self.state);
        let urgent = state.urgent.pop_front();
        urgent.or_else(|| state.waiting.pop().map(|Reverse((_, key))| key))
    }

    /// Waits until a title is to be hashed, the library is closed, or the time is over.
    pub(crate) fn wait(&self, time: Duration) {
        let state = lock(&self.state);
        let idle = |state: &mut QueueState| !state.stopped && state.urgent.is_empty() && state.waiting.is_empty();
        drop(self.wake.wait_timeout_while(state, time, idle));
    }
}

#[cfg(test)]
mod tests {
    use usher_proto::Title;

    use super::*;

    #[test]
    fn urgent_titles_come_first_then_small_ones() {
        let key = |name: &str| (Title::parse(name).expect("a title"), 0);
        let queue = HashQueue::default();
        for (name, size) in [("film", 9), ("clip", 1), ("show", 5)] {
            queue.push(key(name), size);
        }
        assert!(queue.push_verify(key("verify")) && queue.push_verify(key("verify")), "once is enough");
        queue.push_urgent(key("film"));
        queue.push_urgent(key("film"));
        let order: Vec<_> = (0..5).filter_map(|_| queue.next()).collect();
        let hash = |name| HashTask::Hash(key(name));
        assert_eq!(
            order,
            [HashTask::Urgent(key("film")), hash("clip"), hash("show"), hash("film"), HashTask::Verify(key("verify"))]
        );
        let taken = (0..1000).filter(|i| queue.push_verify(key(&i.to_string()))).count();
        assert_eq!(taken, VERIFY_MAX);
        queue.stop();
        assert_eq!(queue.next(), None);
    }
}
