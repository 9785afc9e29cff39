//! Statistics of many durations. Their meaning is left to the caller.

use std::time::Duration;

use serde::Serialize;
use usher_proto::units;

/// Times, in whole milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Number of values.
    pub n: usize,
    /// Half of them are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl Spread {
    /// The statistics of these times; all zero when there is none.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let millis = |time: &Duration| units::millis(*time);
        // Nearest rank: the least value that this share of all does not exceed.
        let rank = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1));
        Self {
            n: times.len(),
            p50: rank(50).map_or(0, millis),
            p99: rank(99).map_or(0, millis),
            max: times.last().map_or(0, millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let of = |range: std::ops::RangeInclusive<u64>| {
            let Spread { n, p50, p99, max } = Spread::of(range.rev().map(Duration::from_millis).collect());
            (n, p50, p99, max)
        };
        assert_eq!(Spread::of(Vec::new()), Spread::default());
        for (range, expected) in [(7..=7, (1, 7, 7, 7)), (1..=2, (2, 1, 2, 2)), (1..=200, (200, 100, 198, 200))] {
            assert_eq!(of(range), expected);
        }
    }
}
