//! Number of groups that a moving session still sends, so that its client has opened the new seat before the old one stops.
//! Rates are the input; sessions are left to the caller.

use std::time::Duration;

use usher_proto::{Bitrate, tree::GROUP};

/// Time that a viewer is given at its pace: enough to dial another node across a continent.
const PLAYING: Duration = Duration::from_secs(1);

/// Minimum for a viewer, in groups: the current one and the next.
const LEAST_PLAYING: u64 = 2;

/// Time that a fetch is given at its speed so far: a round trip or two, and the handshake.
const FETCHING: Duration = Duration::from_millis(300);

/// Bounds for a fetch, in groups: 256 KiB, which is one quantum, to 16 MiB, which the node can afford while it sheds
/// load.
const FETCHED: std::ops::RangeInclusive<u64> = 4..=256;

/// Number of groups that a session still sends: by its rate if it is `paced`, else by the bytes `sent` within
/// `elapsed`.
pub fn groups(paced: Option<Bitrate>, sent: u64, elapsed: Duration) -> u64 {
    match paced {
        Some(rate) => {
            let bytes = rate.bytes_in(PLAYING);
            bytes.saturating_add(bytes / 4).div_ceil(GROUP).max(LEAST_PLAYING)
        }
        None => {
            let bytes = Bitrate::over(sent, elapsed).bytes_in(FETCHING);
            bytes.div_ceil(GROUP).clamp(*FETCHED.start(), *FETCHED.end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_get_a_second_and_fetches_a_third_of_one() {
        let second = Duration::from_secs(1);
        for (rate, groups) in [(0, 2), (100_000, 2), (8_000_000, 20), (80_000_000, 191), (u64::MAX, 0)] {
            let least = super::groups(Some(Bitrate(rate)), u64::MAX, Duration::ZERO);
            assert!(least == groups || groups == 0 && least > 256, "{rate}: {least}");
        }
        let fetches = [
            (0, Duration::ZERO, 4),
            (0, second, 4),
            (GROUP * 100, second, 30),
            (GROUP * 100, second * 100, 4),
            (u64::MAX, second, 256),
        ];
        for (sent, elapsed, groups) in fetches {
            assert_eq!(super::groups(None, sent, elapsed), groups, "{sent} in {elapsed:?}");
        }
    }
}
