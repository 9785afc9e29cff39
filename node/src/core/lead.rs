//! How much a session that goes on elsewhere still sends here, so that its client has the new seat before the old one is
//! empty. Knows rates, not sessions.

use std::time::Duration;

use usher_proto::{Bitrate, tree::GROUP};

/// What a viewer is given: time enough to dial another node across a continent, at the pace at which it is served.
const PLAYING: Duration = Duration::from_secs(1);

/// The least that a viewer is given, in groups: the one in hand, and another.
const LEAST_PLAYING: u64 = 2;

/// What a fetch is given: a round trip or two, and the handshake's.
const FETCHING: Duration = Duration::from_millis(300);

/// Bounds of what a fetch is given, in groups: 256 KiB, a turn of it, to 16 MiB, which a node that is to be rid of it can
/// bear.
const FETCHED: std::ops::RangeInclusive<u64> = 4..=256;

/// Groups that a session still sends: by the rate at which it is paced, if it is, else by what it had so far, in `sent`
/// bytes within `elapsed`.
pub fn lead(paced: Option<Bitrate>, sent: u64, elapsed: Duration) -> u64 {
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
    fn viewers_have_a_second_and_fetches_what_they_had_in_less() {
        let second = Duration::from_secs(1);
        for (rate, groups) in [(0, 2), (100_000, 2), (8_000_000, 20), (80_000_000, 191), (u64::MAX, 0)] {
            let least = lead(Some(Bitrate(rate)), u64::MAX, Duration::ZERO);
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
            assert_eq!(lead(None, sent, elapsed), groups, "{sent} in {elapsed:?}");
        }
    }
}
