//! Waits between attempts: exponential with full jitter ("Exponential Backoff and Jitter", AWS Architecture Blog).
//! Refuses to know what is attempted.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// The ceiling of the first wait: about a round trip over a continent.
pub const BASE: Duration = Duration::from_millis(200);

/// The ceiling of every wait: someone watches, and a node is back within seconds.
pub const CAP: Duration = Duration::from_secs(5);

/// Counts attempts and says how long to wait before the next.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next wait: evenly from nothing to 200 ms, 400 ms, … 5 s.
    pub fn wait(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = BASE.saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX)).min(CAP);
        self.attempts = self.attempts.saturating_add(1).min(31);
        ceiling.mul_f64(rng.random_range(0.0..=1.0))
    }

    /// Begins again, because something worked.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_differ() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut longest = [Duration::ZERO; 8];
        for _ in 0..200 {
            let mut backoff = Backoff::default();
            longest.iter_mut().for_each(|slot| *slot = backoff.wait(&mut rng).max(*slot));
        }
        for (attempt, longest) in longest.iter().enumerate() {
            let ceiling = (BASE * 2_u32.pow(attempt as u32)).min(CAP);
            assert!(*longest <= ceiling && *longest > ceiling / 2, "attempt {attempt}: {longest:?} of {ceiling:?}");
        }
        let mut backoff = Backoff::default();
        assert!((0..1000).all(|_| backoff.wait(&mut rng) <= CAP));
        backoff.reset();
        assert!(backoff.wait(&mut rng) <= BASE);
    }
}
