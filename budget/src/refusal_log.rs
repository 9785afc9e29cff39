//! The rate of log lines about refusals: a flood of refused requests must not become a flood of lines.

use std::{
    collections::{HashSet, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// Time between two lines about one holder.
const PERIOD: Duration = Duration::from_secs(60);

/// Holders that are remembered, hence lines per period.
const MOST: usize = 256;

/// Says whether a refusal is to be logged: once per holder and minute, and at most 256 lines per minute. The key may name the
/// resource beside the holder.
#[derive(Clone, Debug)]
pub struct RefusalLog<K> {
    /// Holders by the time of their line, oldest first.
    lines: VecDeque<(Instant, K)>,
    logged: HashSet<K>,
}

impl<K> Default for RefusalLog<K> {
    fn default() -> Self {
        Self { lines: VecDeque::new(), logged: HashSet::new() }
    }
}

impl<K: Hash + Eq + Clone> RefusalLog<K> {
    /// Whether the refusal of this holder is to be logged now.
    pub fn handle_refusal(&mut self, now: Instant, key: &K) -> bool {
        while self.lines.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= PERIOD) {
            if let Some((_, old)) = self.lines.pop_front() {
                self.logged.remove(&old);
            }
        }
        if self.lines.len() >= MOST || self.logged.contains(key) {
            return false;
        }
        self.lines.push_back((now, key.clone()));
        self.logged.insert(key.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_holder_and_minute() {
        let start = Instant::now();
        let mut log = RefusalLog::default();
        let mut at = |seconds, key: &str| log.handle_refusal(start + Duration::from_secs(seconds), &key.to_owned());
        for (seconds, key, logged) in
            [(0, "a", true), (0, "a", false), (30, "b", true), (59, "a", false), (60, "a", true), (89, "b", false)]
        {
            assert_eq!(at(seconds, key), logged, "{key} at {seconds} s");
        }
        assert!(at(120, "b") && at(120, "a"));
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut log = RefusalLog::default();
        let logged = (0..10_000).filter(|key| log.handle_refusal(start, key)).count();
        assert_eq!((logged, log.lines.len(), log.logged.len()), (MOST, MOST, MOST));
        assert!(log.handle_refusal(start + PERIOD, &20_000));
        assert_eq!((log.lines.len(), log.logged.len()), (1, 1));
    }
}
