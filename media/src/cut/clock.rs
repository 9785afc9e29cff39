//! Duration of media, from timestamps that wrap, jump and come out of order.

use std::time::Duration;

/// A step of more seconds is a jump.
const JUMP: u64 = 10;

/// The sum of all steps forward.
#[derive(Debug)]
pub(super) struct Clock {
    last: Option<u64>,
    elapsed: Duration,
}

impl Clock {
    pub(super) const fn new() -> Self {
        Self { last: None, elapsed: Duration::ZERO }
    }

    /// Takes a timestamp in ticks of 1/`scale` s that wraps at `mask`.
    pub(super) fn take(&mut self, ticks: u64, scale: u64, mask: u64) {
        let Some(last) = self.last else {
            self.last = Some(ticks);
            return;
        };
        let jump = scale.saturating_mul(JUMP);
        let (on, back) = (ticks.wrapping_sub(last) & mask, last.wrapping_sub(ticks) & mask);
        if scale > 0 && on <= jump {
            let nanos = (u128::from(on) * 1_000_000_000).div_ceil(u128::from(scale));
            self.elapsed += Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
            self.last = Some(ticks);
        } else if back > jump {
            self.last = Some(ticks);
        }
    }

    pub(super) fn length(&self) -> Duration {
        self.elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_steps_forward_count() {
        let mut clock = Clock::new();
        let mask = (1 << 33) - 1;
        for (ticks, millis) in [
            (mask - 89_999, 0),
            (mask, 999),
            (0, 1000),
            (90_000, 2000),
            (45_000, 2000),
            (180_000, 3000),
            (1 << 32, 3000),
            ((1 << 32) + 90_000, 4000),
            (5, 4000),
            (90_005, 5000),
        ] {
            clock.take(ticks, 90_000, mask);
            assert_eq!(clock.length().as_millis(), millis, "{ticks}");
        }
        clock.take(1, 0, u64::MAX);
    }
}
