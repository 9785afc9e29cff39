//! A node's egress over the last five minutes: one sample per report, with means and percentiles.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Now;

/// Limit of samples: five minutes at one a second.
pub const SAMPLES: usize = 300;

/// Sample of one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Time of receipt.
    pub at: Now,
    /// Bit/s sent.
    pub egress: u64,
    /// Running sessions.
    pub sessions: u32,
}

/// Samples, oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
}

impl History {
    /// Adds a sample; drops the oldest beyond [`SAMPLES`].
    pub fn push(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// All samples, oldest first.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter()
    }

    /// Mean egress in bit/s of the samples taken in the `window` before `now`; 0 without any.
    pub fn mean(&self, now: Instant, window: Duration) -> u64 {
        let recent = self.samples.iter().rev();
        let recent = recent.take_while(|sample| now.saturating_duration_since(sample.at.instant) < window);
        // 300 rates of at most 10^15 bit/s each fit many times.
        let (sum, count) =
            recent.fold((0_u64, 0), |(sum, count), sample| (sum.saturating_add(sample.egress), count + 1));
        sum.checked_div(count).unwrap_or(0)
    }

    /// 95th percentile of egress in bit/s (nearest rank); 0 without samples.
    pub fn percentile_95(&self) -> u64 {
        let mut rates: Vec<u64> = self.samples.iter().map(|sample| sample.egress).collect();
        let rank = (rates.len() * 95).div_ceil(100);
        match rank.checked_sub(1) {
            Some(at) => *rates.select_nth_unstable(at).1,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_percentile() {
        let start = Now { instant: Instant::now(), unix_ms: 0 };
        let at = |second| start.after(Duration::from_secs(second));
        let mut history = History::default();
        assert_eq!((history.mean(start.instant, Duration::from_secs(10)), history.percentile_95()), (0, 0));
        // 400 samples: the rate is the second; the first hundred leave.
        for second in 0..400 {
            history.push(Sample { at: at(second), egress: second, sessions: 0 });
        }
        assert_eq!(history.samples().count(), SAMPLES);
        assert_eq!(history.samples().next().map(|sample| sample.egress), Some(100));
        let now = at(399).instant;
        for (window, mean) in [(10, 394), (60, 369), (300, 249), (1000, 249)] {
            assert_eq!(history.mean(now, Duration::from_secs(window)), mean, "{window} s");
        }
        assert_eq!(history.percentile_95(), 384);
        // After a minute of silence, the last ten seconds are empty.
        assert_eq!(history.mean(at(460).instant, Duration::from_secs(10)), 0);
    }
}
