//! How many sources a transfer uses: one more while that makes it faster, no other when it is nearly done.
//!
//! Time and bytes are arguments. Leaves finding a source to the driver.

use std::time::{Duration, Instant};

/// Time for which the rate is measured before and after a change: several round trips over a continent.
const MEASURE: Duration = Duration::from_secs(2);

/// Time that a new source has to reach its rate before it is measured.
const SETTLE: Duration = Duration::from_secs(1);

/// Remaining time below which another source gains nothing.
const MIN_LEFT: Duration = Duration::from_secs(5);

/// Most sources by default: more would take capacity from other clients for little gain.
const MAX_SOURCES: usize = 3;

/// Lost sources after which no other is added.
const MAX_LOSSES: u32 = 3;

/// The next step of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowthStep {
    /// Nothing changes.
    Keep,
    /// Find another source, then call [`Growth::handle_added`] or [`Growth::handle_refused`].
    Add,
    /// Drop the source that was added last: it did not make the transfer faster.
    DropLast,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Measures without a new source: since when, and the bytes received until then.
    Baseline(Instant, u64),
    /// Waits for another source.
    Asking,
    /// Waits for a new source to reach its rate: since when.
    Settling(Instant),
    /// Measures with a new source: since when, and the bytes received until then.
    Trial(Instant, u64),
    Done,
}

/// Decides on the number of sources of one transfer.
#[derive(Debug)]
pub struct Growth {
    /// The configured number, if any.
    fixed: Option<usize>,
    phase: Phase,
    /// Bytes received in [`MEASURE`] without the source on trial.
    before: u64,
    losses: u32,
}

impl Growth {
    /// For a transfer that has received so many bytes: a `fixed` number of sources, or as many as make it faster.
    pub fn new(now: Instant, fixed: Option<usize>, received: u64) -> Self {
        Self { fixed, phase: Phase::Baseline(now, received), before: 0, losses: 0 }
    }

    /// The next step, given the bytes `received` in all, the bytes `left` and the number of sources.
    pub fn poll_step(&mut self, now: Instant, received: u64, left: u64, sources: usize) -> GrowthStep {
        let past = |since: Instant| now.saturating_duration_since(since);
        match (self.phase, self.fixed) {
            (Phase::Asking | Phase::Done, _) => GrowthStep::Keep,
            (_, Some(fixed)) => {
                self.phase = if sources < fixed { Phase::Asking } else { Phase::Done };
                if sources < fixed { GrowthStep::Add } else { GrowthStep::Keep }
            }
            (Phase::Baseline(since, from), None) if past(since) >= MEASURE => {
                self.before = scaled(received.saturating_sub(from), past(since));
                let enough = u128::from(left) * MEASURE.as_millis() >= u128::from(self.before) * MIN_LEFT.as_millis();
                if !enough || self.before == 0 {
                    self.phase = Phase::Baseline(now, received);
                    return GrowthStep::Keep;
                }
                self.phase = if sources < MAX_SOURCES { Phase::Asking } else { Phase::Done };
                if sources < MAX_SOURCES { GrowthStep::Add } else { GrowthStep::Keep }
            }
            (Phase::Settling(since), None) if past(since) >= SETTLE => {
                self.phase = Phase::Trial(now, received);
                GrowthStep::Keep
            }
            (Phase::Trial(since, from), None) if past(since) >= MEASURE => {
                let with = scaled(received.saturating_sub(from), past(since));
                // A gain of less than a fifth is not worth a node's capacity.
                if u128::from(with) * 5 >= u128::from(self.before) * 6 {
                    self.phase = Phase::Baseline(now, received);
                    GrowthStep::Keep
                } else {
                    self.phase = Phase::Done;
                    if sources > 1 { GrowthStep::DropLast } else { GrowthStep::Keep }
                }
            }
            (Phase::Baseline(..) | Phase::Settling(_) | Phase::Trial(..), None) => GrowthStep::Keep,
        }
    }

    /// When to call [`Growth::poll_step`] at the latest.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Baseline(since, _) | Phase::Trial(since, _) => Some(since + MEASURE),
            Phase::Settling(since) => Some(since + SETTLE),
            Phase::Asking | Phase::Done => None,
        }
    }

    /// The requested source was added.
    pub fn handle_added(&mut self, now: Instant, received: u64) {
        self.phase = if self.fixed.is_some() { Phase::Baseline(now, received) } else { Phase::Settling(now) };
    }

    /// There is no other source.
    pub fn handle_refused(&mut self) {
        self.phase = Phase::Done;
    }

    /// A source was lost: the measurement starts anew, and a configured number is restored.
    pub fn handle_lost(&mut self, now: Instant, received: u64) {
        self.losses += 1;
        self.phase = match self.phase {
            Phase::Asking => Phase::Asking,
            _ if self.losses > MAX_LOSSES => Phase::Done,
            Phase::Done if self.fixed.is_none() => Phase::Done,
            _ => Phase::Baseline(now, received),
        };
    }
}

/// Bytes in [`MEASURE`] at the rate of `bytes` in `elapsed`.
fn scaled(bytes: u64, elapsed: Duration) -> u64 {
    let scaled = u128::from(bytes) * MEASURE.as_micros() / elapsed.as_micros().max(1);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a transfer of `size` bytes whose rate with 1, 2, 3… sources is given in bytes per 100 ms; returns the largest
    /// number of sources, the last one, and the time in units of 100 ms.
    fn run(fixed: Option<usize>, size: u64, rates: &[u64]) -> (usize, usize, u64) {
        let start = Instant::now();
        let mut growth = Growth::new(start, fixed, 0);
        let (mut sources, mut most, mut received, mut step) = (1, 1, 0, 0);
        while received < size {
            step += 1;
            assert!(step < 100_000, "it ends");
            received += rates[sources - 1];
            let now = start + Duration::from_millis(100) * step;
            match growth.poll_step(now, received, size.saturating_sub(received), sources) {
                GrowthStep::Keep => {}
                GrowthStep::Add if sources < rates.len() => {
                    sources += 1;
                    growth.handle_added(now, received);
                }
                GrowthStep::Add => growth.handle_refused(),
                GrowthStep::DropLast => sources -= 1,
            }
            most = most.max(sources);
        }
        (most, sources, u64::from(step))
    }

    #[test]
    fn a_source_is_kept_where_it_helps() {
        assert_eq!(run(None, 10_000, &[10, 20, 30]), (3, 3, 364), "each node is the bottleneck");
        assert_eq!(run(None, 10_000, &[10, 11, 11]).1, 1, "the client's own link is the bottleneck");
        assert_eq!(run(None, 10_000, &[10, 5, 5]).1, 1, "they slow one another down");
        assert_eq!(run(None, 10_000, &[10, 20, 21]).1, 2);
        assert_eq!(run(None, 600, &[10, 20]), (1, 1, 60), "a short transfer keeps one source");
        assert_eq!(run(None, 10_000, &[10]).0, 1, "there is none");
        assert!(run(None, 100_000, &[10, 20, 30, 40, 50]).0 <= MAX_SOURCES);
    }

    #[test]
    fn a_configured_number_is_not_measured() {
        assert_eq!(run(Some(4), 600, &[10, 10, 10, 10, 10]), (4, 4, 60));
        assert_eq!(run(Some(4), 600, &[10, 20]).0, 2, "as many as there are");
    }

    #[test]
    fn a_few_lost_sources_are_replaced() {
        let now = Instant::now();
        let mut growth = Growth::new(now, Some(2), 0);
        for _ in 0..=MAX_LOSSES {
            assert_eq!(growth.poll_step(now, 0, 100, 1), GrowthStep::Add);
            growth.handle_added(now, 0);
            assert_eq!(growth.poll_step(now, 0, 100, 2), GrowthStep::Keep);
            growth.handle_lost(now, 0);
        }
        assert_eq!(growth.poll_step(now, 0, 100, 1), GrowthStep::Keep);
        assert_eq!(growth.next_timeout(), None);
    }
}
