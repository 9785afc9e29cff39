//! Tables of times and datagrams, and what holds for any of them.

use proptest::prelude::*;

use super::*;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// 1 byte a microsecond.
const MEGABYTE: Bitrate = Bitrate(8_000_000);

#[test]
fn a_line_sends_one_after_the_other_and_its_queue_drops_the_last() {
    let start = Instant::now();
    let settings = Settings { delay: ms(10), rate: Some(MEGABYTE), queue: 2500, ..Settings::default() };
    let mut lane = Lane::new(settings);
    // Of 1000 bytes each, with headers: 1 ms on the line.
    for n in 0..4 {
        lane.offer(start, 972, n);
    }
    assert_eq!(
        lane.counts(),
        Counts { datagrams: 4, bytes: 4 * 972, dropped: 2, first: Some(start), ..Counts::default() }
    );
    // One has left the queue: there is room again, behind the other.
    lane.offer(start + ms(1), 972, 4);
    for (due, n) in [(11, 0), (12, 1), (13, 4)] {
        let due = start + ms(due);
        assert_eq!((lane.deadline(), lane.poll(due - Duration::from_nanos(1))), (Some(due), None));
        assert_eq!(lane.poll(due), Some(n));
    }
    assert_eq!((lane.deadline(), lane.poll(start + ms(999))), (None, None));
    // After a pause the line owes nothing for the time in which it was idle: no burst.
    lane.offer(start + ms(50), 972, 5);
    lane.offer(start + ms(50), 972, 6);
    assert_eq!(lane.deadline(), Some(start + ms(61)));
    assert_eq!((lane.poll(start + ms(61)), lane.deadline()), (Some(5), Some(start + ms(62))));
}

#[test]
fn an_empty_queue_takes_a_datagram_of_any_length() {
    let now = Instant::now();
    let mut lane = Lane::new(Settings { rate: Some(MEGABYTE), queue: 100, ..Settings::default() });
    lane.offer(now, 60_000, 0);
    lane.offer(now, 1, 1);
    assert_eq!((lane.counts().dropped, lane.poll(now + ms(61))), (1, Some(0)));
}

#[test]
fn a_hole_takes_what_comes_in_and_nothing_else() {
    let now = Instant::now();
    let mut lane = Lane::new(Settings { delay: ms(5), ..Settings::default() });
    lane.offer(now, 9, 0);
    lane.set_hole(true);
    lane.offer(now, 9, 1);
    lane.set_hole(false);
    lane.offer(now, 9, 2);
    let passed: Vec<_> = std::iter::from_fn(|| lane.poll(now + ms(5))).collect();
    assert_eq!((passed, lane.counts().swallowed), (vec![0, 2], 1));
}

#[test]
fn chance_is_as_it_is_said() {
    for (loss_ppm, least, most) in [(0, 0, 0), (1_000, 70, 130), (50_000, 4_800, 5_200), (1_000_000, 100_000, 100_000)]
    {
        let settings = Settings { loss_ppm, seed: 7, ..Settings::default() };
        let lost = (0..100_000).filter(|n| settings.loses(*n)).count();
        assert!((least..=most).contains(&lost), "{lost} of 100000 at {loss_ppm} ppm");
    }
}

/// A datagram: microseconds since the one before, its length, and whether a hole is there.
fn arrivals() -> impl Strategy<Value = Vec<(u64, usize, bool)>> {
    proptest::collection::vec((0..3000_u64, 0..3000_usize, proptest::bool::weighted(0.1)), 0..200)
}

fn settings() -> impl Strategy<Value = Settings> {
    let rate = proptest::option::of(100_000..1_000_000_000_u64);
    (0..200_u64, rate, 0..20_000_u64, 0..=1_000_000_u32, any::<u64>()).prop_map(
        |(delay, rate, queue, loss_ppm, seed)| Settings {
            delay: ms(delay),
            rate: rate.map(Bitrate),
            queue,
            loss_ppm,
            seed,
        },
    )
}

proptest! {
    #[test]
    fn nothing_is_early_out_of_turn_or_unaccounted(settings in settings(), arrivals in arrivals()) {
        let start = Instant::now();
        let (mut now, mut lane, mut passed) = (start, Lane::new(settings), Vec::new());
        let mut came = Vec::new();
        for (gap, len, hole) in arrivals {
            now += Duration::from_micros(gap);
            lane.set_hole(hole);
            while let Some((n, at)) = lane.deadline().filter(|at| *at <= now).and_then(|at| Some((lane.poll(at)?, at))) {
                passed.push((n, at));
            }
            lane.offer(now, len, came.len());
            came.push((now, len, hole));
            if let Some(rate) = settings.rate {
                // Waiting datagrams were sent within the queue's length, but for one that found it empty.
                let longest = settings.queue.max(3000 + HEADERS) * 8 / (rate.0 / 1000).max(1) + 2;
                prop_assert!(lane.deadline().is_none_or(|at| at <= now + settings.delay + ms(longest)));
            }
        }
        while let Some(at) = lane.deadline() {
            passed.push((lane.poll(at).expect("due"), at));
        }
        let counts = lane.counts();
        prop_assert_eq!(counts.datagrams, came.len() as u64);
        prop_assert_eq!(counts.datagrams, passed.len() as u64 + counts.lost + counts.dropped + counts.swallowed);
        for (n, at) in &passed {
            let (came, _, hole) = came[*n];
            prop_assert!(!hole && !settings.loses(*n as u64) && *at >= came + settings.delay);
        }
        for pair in passed.windows(2) {
            let ((a, left_a), (b, left_b)) = (pair[0], pair[1]);
            prop_assert!(a < b && left_a <= left_b, "in order");
            if let Some(rate) = settings.rate {
                let nanos = (came[b].1 as u64 + HEADERS) * 8_000_000_000 / rate.0;
                prop_assert!(left_b - left_a >= Duration::from_nanos(nanos), "never faster than the line");
            }
        }
    }

    #[test]
    fn the_same_datagrams_are_lost_whenever_they_come(seed in any::<u64>(), gaps in proptest::collection::vec(0..9999_u64, 1..300)) {
        let lost = |scale: u64| {
            let mut now = Instant::now();
            let mut lane = Lane::new(Settings { loss_ppm: 300_000, seed, ..Settings::default() });
            for (n, gap) in gaps.iter().enumerate() {
                now += Duration::from_micros(gap * scale);
                lane.offer(now, 100, n);
            }
            std::iter::from_fn(|| lane.poll(now)).collect::<Vec<_>>()
        };
        prop_assert_eq!(lost(0), lost(3));
    }
}
