//! Tables of what came when, and what it means.

use super::*;

const PLAY: Bitrate = Bitrate(2_000_000);

const RTT: Duration = Duration::from_millis(2);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A detector and its clock, and a connection whose signs of life are scripted.
struct Bench {
    detector: StallDetector,
    start: Instant,
    at: u64,
    datagrams: u64,
}

impl Bench {
    fn new(purpose: Purpose, rate: Bitrate) -> Self {
        let start = Instant::now();
        Self { detector: StallDetector::new(start, Expectation::new(purpose, rate)), start, at: 0, datagrams: 0 }
    }

    fn now(&self) -> Instant {
        self.start + ms(self.at)
    }

    fn bytes(&mut self, bytes: u64) {
        self.datagrams += 1;
        self.detector.handle_bytes(self.now(), bytes);
    }

    /// Checks every [`CHECK_INTERVAL`] until something is the matter, for so long; `alive` if the connection gives signs of life.
    fn until(&mut self, most: u64, alive: bool, rtt: Duration) -> Option<(u64, Health)> {
        let start = self.at;
        while self.at < start + most {
            self.at += 100;
            self.datagrams += u64::from(alive);
            let health = self.detector.poll_health(self.now(), self.datagrams, rtt);
            if health != Health::Good {
                return Some((self.at - start, health));
            }
        }
        None
    }
}

#[test]
fn a_dead_connection_is_noticed_in_well_under_a_second() {
    for purpose in [Purpose::Play, Purpose::Fetch] {
        let mut bench = Bench::new(purpose, PLAY);
        bench.bytes(1);
        assert_eq!(bench.until(10_000, false, RTT), Some((700, Health::Silent)), "{purpose:?}");
    }
}

#[test]
fn a_far_node_has_time_to_answer() {
    let mut bench = Bench::new(Purpose::Play, PLAY);
    bench.bytes(1);
    assert_eq!(bench.until(10_000, false, ms(300)), Some((1500, Health::Silent)));
}

#[test]
fn a_silent_stream_on_a_living_connection_is_noticed_by_its_rate() {
    for (purpose, rate, expected) in [
        (Purpose::Play, 2_000_000, 1600),
        (Purpose::Play, 20_000_000, 1600),
        // Its groups come 2 s apart.
        (Purpose::Play, 260_000, 6100),
        (Purpose::Fetch, 4_000_000, 3200),
        (Purpose::Fetch, 0, 6100),
    ] {
        let mut bench = Bench::new(purpose, Bitrate(rate));
        bench.bytes(1);
        assert_eq!(bench.until(20_000, true, RTT).map(|(at, _)| at), Some(expected), "{purpose:?} {rate}");
    }
}

#[test]
fn a_paced_stream_is_well() {
    let mut bench = Bench::new(Purpose::Play, PLAY);
    // A group each 210 ms.
    for _ in 0..200 {
        assert_eq!(bench.until(200, false, RTT), None);
        bench.at += 10;
        bench.bytes(GROUP);
    }
}

#[test]
fn a_trickle_is_slow_for_a_viewer_only() {
    for (purpose, expected) in [(Purpose::Play, true), (Purpose::Fetch, false)] {
        let mut bench = Bench::new(purpose, PLAY);
        let mut alarms = Vec::new();
        // A third of the rate.
        for _ in 0..30 {
            alarms.extend(bench.until(500, true, RTT));
            bench.bytes(41_000);
        }
        assert_eq!(alarms.iter().any(|(_, health)| *health == Health::Slow), expected, "{purpose:?}: {alarms:?}");
    }
}

#[test]
fn false_alarms_come_later_each_time_and_are_forgotten() {
    let mut bench = Bench::new(Purpose::Play, PLAY);
    let mut alarms = Vec::new();
    for _ in 0..4 {
        let (at, health) = bench.until(60_000, false, RTT).expect("an alarm");
        assert_eq!(health, Health::Silent);
        alarms.push(at);
        bench.bytes(1);
    }
    assert!(alarms.is_sorted_by(|a, b| a < b), "{alarms:?}");
    assert!(alarms[3] <= 8 * alarms[0], "{alarms:?}");
    for _ in 0..3000 {
        assert_eq!(bench.until(200, false, RTT), None);
        bench.bytes(GROUP);
    }
    assert_eq!(bench.until(60_000, false, RTT).map(|(at, _)| at), Some(alarms[0]));
}

#[test]
fn time_that_this_side_slept_through_does_not_count() {
    let mut bench = Bench::new(Purpose::Play, PLAY);
    bench.bytes(1);
    assert_eq!(bench.until(300, false, RTT), None);
    bench.at += 30_000;
    // Bytes that arrived meanwhile are read next.
    assert_eq!(bench.detector.poll_health(bench.now(), bench.datagrams, RTT), Health::Good);
    assert!(bench.until(10_000, false, RTT).is_some());
    // Nor does time in which it did not read, if signs of life came.
    bench.at += 30_000;
    bench.datagrams += 1;
    bench.detector.handle_resume(bench.now(), bench.datagrams);
    assert_eq!(bench.until(600, false, RTT), None);
}

#[test]
fn a_connection_that_died_while_nobody_read_is_noticed_at_once() {
    let mut bench = Bench::new(Purpose::Fetch, PLAY);
    bench.bytes(1);
    assert_eq!(bench.until(200, false, RTT), None);
    // The reader is slow.
    bench.at += 5_000;
    bench.detector.handle_resume(bench.now(), bench.datagrams);
    assert_eq!(bench.until(10_000, false, RTT), Some((100, Health::Silent)));
}

#[test]
fn silence_is_reported_after_earlier_alarms() {
    let mut bench = Bench::new(Purpose::Play, PLAY);
    bench.bytes(1);
    for _ in 0..3 {
        bench.until(60_000, false, RTT).expect("an alarm");
    }
    assert!(bench.detector.silence(bench.now()) >= ms(bench.at - 100));
}
