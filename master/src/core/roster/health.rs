//! Reliability of a node: pending probes and recent failures. An unanswered probe makes the node suspect; reports of
//! clients only cause probes. Knows one node.

use std::time::{Duration, Instant};

/// Hold after a node's second failure within [`MEMORY`]; doubles with each further one.
const HOLD: Duration = Duration::from_secs(15);

/// Longest hold.
const LONGEST: Duration = Duration::from_secs(300);

/// Time that failures are remembered.
const MEMORY: Duration = Duration::from_secs(600);

/// Time that a node has to answer a probe.
pub const PROBE: Duration = Duration::from_millis(1000);

/// The most recent of several times.
#[derive(Clone, Copy, Debug, Default)]
struct Recent([Option<Instant>; 8]);

impl Recent {
    /// Adds a time and returns the number within `memory`, this one included.
    fn add(&mut self, now: Instant, memory: Duration) -> u32 {
        self.0.rotate_right(1);
        self.0[0] = Some(now);
        let within = self.0.iter().flatten().filter(|at| now.saturating_duration_since(**at) < memory);
        u32::try_from(within.count()).unwrap_or(u32::MAX)
    }
}

/// Failures and probes of one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthTracker {
    failures: Recent,
    held_until: Option<Instant>,
    /// Time of the pending probe.
    probed: Option<Instant>,
}

impl HealthTracker {
    /// Handles a failure: the channel broke while serving, or the lease expired.
    pub(crate) fn handle_failure(&mut self, now: Instant) {
        let failures = self.failures.add(now, MEMORY);
        if failures >= 2 {
            let hold = HOLD.saturating_mul(1 << (failures - 2).min(8)).min(LONGEST);
            self.held_until = Some(now + hold);
        }
    }

    /// Records a probe.
    pub(crate) fn handle_probe(&mut self, now: Instant) {
        self.probed.get_or_insert(now);
    }

    /// Handles any message of the node.
    pub(crate) fn handle_sign_of_life(&mut self) {
        self.probed = None;
    }

    /// Whether a probe is pending.
    pub(crate) fn is_probing(&self, now: Instant) -> bool {
        self.probed.is_some_and(|at| now.saturating_duration_since(at) < PROBE)
    }

    /// Whether a probe went unanswered.
    pub(crate) fn is_suspect(&self, now: Instant) -> bool {
        self.probed.is_some() && !self.is_probing(now)
    }

    pub(crate) fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_unanswered_probe_makes_a_node_suspect() {
        let now = Instant::now();
        let mut health = HealthTracker::default();
        health.handle_probe(now);
        assert!(health.is_probing(now) && !health.is_suspect(now));
        health.handle_probe(now + PROBE / 2);
        assert!(health.is_suspect(now + PROBE), "the first question counts");
        health.handle_sign_of_life();
        assert!(!health.is_suspect(now + PROBE));
    }

    #[test]
    fn repeated_failures_hold_a_node_with_backoff() {
        let start = Instant::now();
        let mut health = HealthTracker::default();
        health.handle_failure(start);
        assert!(!health.is_held(start), "one failure is tolerated");
        for (second, hold) in [(30, 15), (60, 30), (90, 60), (120, 120), (150, 240), (180, 300), (210, 300)] {
            let now = start + seconds(second);
            health.handle_failure(now);
            assert!(health.is_held(now + seconds(hold - 1)), "{second}");
            assert!(!health.is_held(now + seconds(hold)), "{second}");
        }
        let later = start + seconds(900);
        health.handle_failure(later);
        assert!(!health.is_held(later), "old failures are forgotten");
    }
}
