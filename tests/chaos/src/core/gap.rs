//! The interruption of a delivery around a fault, from the times at which bytes arrived. Independent of the kind of fault.

use std::time::{Duration, Instant};

use usher_proto::{Bitrate, tree::GROUP};

/// The time between two groups of a viewer with a full buffer: it receives five quarters of the title's rate, in groups.
pub fn paced_spacing(title: Bitrate) -> Duration {
    Bitrate(title.0.saturating_mul(5) / 4).time_for(GROUP).unwrap_or_default()
}

/// A delivery this late before the fault was interrupted by something else.
const LATE: Duration = Duration::from_secs(1);

/// The longest time without an arrival that overlaps `from..to`, minus the usual spacing. A time that began in the window
/// counts to its end, even after the window. `None` when there was no delivery to interrupt: no byte arrived shortly before
/// the window, or none arrived after `from`.
pub fn longest(arrivals: &[Instant], from: Instant, to: Instant, spacing: Duration) -> Option<Duration> {
    let first = arrivals.partition_point(|at| *at <= from).checked_sub(1)?;
    if from > *arrivals.get(first)? + spacing + LATE {
        return None;
    }
    let pairs = arrivals.get(first..)?.windows(2).take_while(|pair| pair[0] < to);
    pairs.map(|pair| (pair[1] - pair[0]).saturating_sub(spacing)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_that_overlaps_the_window() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let arrivals: Vec<Instant> = [100, 200, 300, 900, 1000, 3000, 3100].into_iter().map(at).collect();
        // Window, then the result with a spacing of 100 ms, in ms.
        for (from, to, gap) in [
            (50, 400, None),
            (100, 150, Some(0)),
            (250, 350, Some(500)),
            (200, 299, Some(0)),
            (400, 500, Some(500)),
            (950, 1100, Some(1900)),
            (2090, 2200, Some(1900)),
            (2110, 2200, None),
            (400, 5000, Some(1900)),
            (3050, 9000, Some(0)),
            (3100, 9000, None),
        ] {
            let found = longest(&arrivals, at(from), at(to), Duration::from_millis(100));
            assert_eq!(found, gap.map(Duration::from_millis), "{from}..{to}");
        }
        assert_eq!(longest(&[], at(0), at(1), Duration::ZERO), None);
    }

    #[test]
    fn a_slow_title_has_a_wide_spacing() {
        for (mbit, micros) in [(1, 419_430), (4, 104_857)] {
            assert_eq!(paced_spacing(Bitrate(mbit * 1_000_000)).as_micros(), micros);
        }
    }
}
