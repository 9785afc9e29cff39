//! How long to wait before the next try: exponential with full jitter, so that a hundred nodes that lost their master
//! at once do not return at once. Source: Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.
//! Independent of the operation that is retried.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Waits between tries.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    /// The first wait is at most `first`; the bound doubles with each try up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, tries: 0 }
    }

    /// The next wait.
    pub fn wait(&mut self, rng: &mut impl Rng) -> Duration {
        let bound = self.first.saturating_mul(1_u32.checked_shl(self.tries).unwrap_or(u32::MAX)).min(self.most);
        self.tries = self.tries.saturating_add(1);
        bound.mul_f64(rng.random_range(0.0..=1.0))
    }

    /// Resets the bound to the first one, after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_scatter() {
        let millis = Duration::from_millis;
        let mut longest = [Duration::ZERO; 12];
        for seed in 0..200 {
            let mut backoff = Backoff::new(millis(200), millis(10_000));
            let mut rng = StdRng::seed_from_u64(seed);
            for longest in &mut longest {
                *longest = (*longest).max(backoff.wait(&mut rng));
            }
            (0..100).for_each(|_| assert!(backoff.wait(&mut rng) <= millis(10_000)));
            backoff.reset();
            assert!(backoff.wait(&mut rng) <= millis(200));
        }
        for (tries, longest) in longest.into_iter().enumerate() {
            let bound = millis((200 << tries).min(10_000));
            assert!(longest <= bound && longest > bound.mul_f64(0.9), "try {tries}: {longest:?} of {bound:?}");
        }
    }
}
