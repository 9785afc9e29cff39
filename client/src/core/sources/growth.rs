//! How many sources are worth having: one more while that makes the whole faster, none for what is soon over.
//!
//! Time and bytes are arguments. Refuses to know how a source is got.

use std::time::{Duration, Instant};

/// How long the rate is watched before and after a change: several round trips over a continent, and a reader's patience.
const WATCH: Duration = Duration::from_secs(2);

/// How long a new source may take to reach its rate before it is judged.
const SETTLE: Duration = Duration::from_secs(1);

/// A transfer that is over sooner gains nothing from another source.
const LEFT: Duration = Duration::from_secs(5);

/// Most sources that are tried without being told: more would take room from others for little.
const MOST: usize = 3;

/// Sources that may be lost before no more are asked for.
const LOSSES: u32 = 3;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    Stay,
    /// Get another source; then tell whether it came.
    Add,
    /// The last one that came did not help.
    DropLast,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Since when, and the bytes there were then.
    Watch(Instant, u64),
    /// For another source.
    Asking,
    /// Since when another one is there.
    Begun(Instant),
    /// Since when its rate counts, and the bytes there were then.
    Trial(Instant, u64),
    Settled,
}

/// Decides on the number of sources of one transfer.
#[derive(Debug)]
pub struct Growth {
    /// So many are wanted, whatever they bring.
    told: Option<usize>,
    phase: Phase,
    /// Bytes that came in [`WATCH`] without the source that is on trial.
    before: u64,
    losses: u32,
}

impl Growth {
    /// For a transfer that goes on now, after `came` bytes: `told` sources, or as many as help.
    pub fn new(now: Instant, told: Option<usize>, came: u64) -> Self {
        Self { told, phase: Phase::Watch(now, came), before: 0, losses: 0 }
    }

    /// What to do now that `came` bytes came in all, `left` are missing, and there are so many `sources`.
    pub fn handle(&mut self, now: Instant, came: u64, left: u64, sources: usize) -> Wish {
        let past = |since: Instant| now.saturating_duration_since(since);
        match (self.phase, self.told) {
            (Phase::Asking | Phase::Settled, _) => Wish::Stay,
            (_, Some(told)) => {
                self.phase = if sources < told { Phase::Asking } else { Phase::Settled };
                if sources < told { Wish::Add } else { Wish::Stay }
            }
            (Phase::Watch(since, from), None) if past(since) >= WATCH => {
                // What one watch brought, if it was longer: as if it had been steady.
                self.before = scaled(came.saturating_sub(from), past(since));
                let enough = u128::from(left) * WATCH.as_millis() >= u128::from(self.before) * LEFT.as_millis();
                if !enough || self.before == 0 {
                    self.phase = Phase::Watch(now, came);
                    return Wish::Stay;
                }
                self.phase = if sources < MOST { Phase::Asking } else { Phase::Settled };
                if sources < MOST { Wish::Add } else { Wish::Stay }
            }
            (Phase::Begun(since), None) if past(since) >= SETTLE => {
                self.phase = Phase::Trial(now, came);
                Wish::Stay
            }
            (Phase::Trial(since, from), None) if past(since) >= WATCH => {
                let with = scaled(came.saturating_sub(from), past(since));
                // Less than a fifth more is not worth another's capacity.
                if u128::from(with) * 5 >= u128::from(self.before) * 6 {
                    self.phase = Phase::Watch(now, came);
                    Wish::Stay
                } else {
                    self.phase = Phase::Settled;
                    if sources > 1 { Wish::DropLast } else { Wish::Stay }
                }
            }
            (Phase::Watch(..) | Phase::Begun(_) | Phase::Trial(..), None) => Wish::Stay,
        }
    }

    /// When to ask again, if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Watch(since, _) | Phase::Trial(since, _) => Some(since + WATCH),
            Phase::Begun(since) => Some(since + SETTLE),
            Phase::Asking | Phase::Settled => None,
        }
    }

    /// The source that was wished for is there.
    pub fn added(&mut self, now: Instant, came: u64) {
        self.phase = if self.told.is_some() { Phase::Watch(now, came) } else { Phase::Begun(now) };
    }

    /// There is none.
    pub fn refused(&mut self) {
        self.phase = Phase::Settled;
    }

    /// A source was lost: what was measured says nothing any more, and where so many were told another may be had.
    pub fn lost(&mut self, now: Instant, came: u64) {
        self.losses += 1;
        self.phase = match self.phase {
            Phase::Asking => Phase::Asking,
            _ if self.losses > LOSSES => Phase::Settled,
            Phase::Settled if self.told.is_none() => Phase::Settled,
            _ => Phase::Watch(now, came),
        };
    }
}

/// Bytes in [`WATCH`] at the rate of `bytes` in `elapsed`.
fn scaled(bytes: u64, elapsed: Duration) -> u64 {
    let scaled = u128::from(bytes) * WATCH.as_micros() / elapsed.as_micros().max(1);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a transfer of `size` bytes whose rate with 1, 2, 3… sources is given in bytes per 100 ms; the largest number of
    /// sources, the last one, and the 100 ms it took.
    fn run(told: Option<usize>, size: u64, rates: &[u64]) -> (usize, usize, u64) {
        let start = Instant::now();
        let mut growth = Growth::new(start, told, 0);
        let (mut sources, mut most, mut came, mut step) = (1, 1, 0, 0);
        while came < size {
            step += 1;
            assert!(step < 100_000, "it ends");
            came += rates[sources - 1];
            let now = start + Duration::from_millis(100) * step;
            match growth.handle(now, came, size.saturating_sub(came), sources) {
                Wish::Stay => {}
                Wish::Add if sources < rates.len() => {
                    sources += 1;
                    growth.added(now, came);
                }
                Wish::Add => growth.refused(),
                Wish::DropLast => sources -= 1,
            }
            most = most.max(sources);
        }
        (most, sources, u64::from(step))
    }

    #[test]
    fn a_source_is_kept_where_it_helps() {
        assert_eq!(run(None, 10_000, &[10, 20, 30]), (3, 3, 364), "each node is the bottleneck");
        assert_eq!(run(None, 10_000, &[10, 11, 11]).1, 1, "the client's own link is");
        assert_eq!(run(None, 10_000, &[10, 5, 5]).1, 1, "they take from one another");
        assert_eq!(run(None, 10_000, &[10, 20, 21]).1, 2);
        assert_eq!(run(None, 600, &[10, 20]), (1, 1, 60), "what is soon over is left alone");
        assert_eq!(run(None, 10_000, &[10]).0, 1, "there is none");
        assert!(run(None, 100_000, &[10, 20, 30, 40, 50]).0 <= MOST);
    }

    #[test]
    fn who_is_told_does_not_watch() {
        assert_eq!(run(Some(4), 600, &[10, 10, 10, 10, 10]), (4, 4, 60));
        assert_eq!(run(Some(4), 600, &[10, 20]).0, 2, "as many as there are");
    }

    #[test]
    fn losses_are_made_good_a_few_times() {
        let now = Instant::now();
        let mut growth = Growth::new(now, Some(2), 0);
        for _ in 0..=LOSSES {
            assert_eq!(growth.handle(now, 0, 100, 1), Wish::Add);
            growth.added(now, 0);
            assert_eq!(growth.handle(now, 0, 100, 2), Wish::Stay);
            growth.lost(now, 0);
        }
        assert_eq!(growth.handle(now, 0, 100, 1), Wish::Stay);
        assert_eq!(growth.deadline(), None);
    }
}
