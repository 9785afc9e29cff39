//! Readers of every kind against the uptake, sampled twice a second as a node does.

use super::*;

const RATE: Bitrate = Bitrate(8_000_000);

/// Bytes of one second at the rate.
const SECOND: u64 = 1_000_000;

/// A session whose reader takes bytes when data waits for it.
struct Reader {
    start: Instant,
    rate: Bitrate,
    uptake: Uptake,
    reserved: Bitrate,
    /// Whether there is room for the whole rate.
    room: bool,
    /// Changes of the reserved rate: tenths of a second, and bit/s.
    changes: Vec<(u64, u64)>,
}

impl Reader {
    fn new(rate: Bitrate) -> Self {
        let start = Instant::now();
        let uptake = Uptake::new(start);
        Self { start, rate, uptake, reserved: rate, room: true, changes: Vec::new() }
    }

    fn at(&self, tenth: u64) -> Instant {
        self.start + Duration::from_millis(100 * tenth)
    }

    /// Lets this range of tenths of a second pass; `taken` says how many bytes the reader takes in each.
    fn run(&mut self, tenths: std::ops::Range<u64>, taken: impl Fn(u64) -> u64) {
        for tenth in tenths {
            let now = self.at(tenth);
            let bytes = taken(tenth);
            if bytes > 0 {
                self.uptake.handle_taken(now, self.rate, bytes);
                self.uptake.handle_busy(now);
            }
            self.uptake.handle_waiting(now);
            if tenth % 5 == 0 {
                self.poll(tenth);
            }
        }
    }

    fn poll(&mut self, tenth: u64) {
        let new = match self.uptake.poll_adjustment(self.at(tenth), self.rate, self.reserved) {
            Some(Adjustment::Lower(rate)) => {
                assert!(rate < self.reserved, "{rate} is not lower than {}", self.reserved);
                rate
            }
            Some(Adjustment::Restore) if self.room => self.rate,
            Some(Adjustment::Restore) | None => return,
        };
        self.reserved = new;
        self.changes.push((tenth, new.0));
    }
}

#[test]
fn a_reader_that_stands_still_gives_its_rate_back() {
    for (what, first, since) in [
        ("takes nothing at all", 0, 30),
        ("takes what its window holds", 64 << 10, 35),
        ("takes its lead", 5 * SECOND, 60),
        ("takes far more than counts", 100 * SECOND, 60),
    ] {
        let mut reader = Reader::new(RATE);
        reader.run(0..600, |tenth| if tenth == 0 { first } else { 0 });
        assert_eq!(reader.changes, [(since, 0)], "{what}");
    }
}

#[test]
fn a_reader_that_goes_on_has_its_rate_again_within_seconds() {
    let mut reader = Reader::new(RATE);
    // Plays, is paused from 10 s to 60 s, and plays on.
    let plays = |tenth: u64| if (100..600).contains(&tenth) { 0 } else { SECOND / 10 };
    reader.run(0..1200, plays);
    let [(lowered, 0), (restored, rate)] = reader.changes[..] else { panic!("{:?}", reader.changes) };
    assert!((130..=135).contains(&lowered) && (610..=620).contains(&restored), "{:?}", reader.changes);
    assert_eq!(rate, RATE.0);
    // The same while there is no room: it asks again and again, and has it as soon as there is.
    let mut reader = Reader::new(RATE);
    reader.run(0..600, plays);
    reader.room = false;
    reader.run(600..1000, plays);
    assert_eq!(reader.reserved, Bitrate(0));
    reader.room = true;
    reader.run(1000..1030, plays);
    assert_eq!(reader.reserved, RATE);
}

#[test]
fn a_dripping_reader_keeps_what_it_takes() {
    // A byte in each tenth of a second, one in each second, a tenth of the rate, and almost a quarter.
    for (what, bytes, every, most) in [
        ("10 bytes a second", 1, 1, 90),
        ("a byte a second", 1, 10, 90),
        ("a byte in three seconds", 1, 29, 90),
        ("a tenth", SECOND / 100, 1, RATE.0 / 9),
        ("almost a quarter", SECOND / 41, 1, RATE.0 / 4),
    ] {
        let mut reader = Reader::new(RATE);
        // First it takes its lead, like a player.
        reader.run(0..600, |tenth| match tenth {
            0 => 5 * SECOND,
            _ if tenth % every == 0 => bytes,
            _ => 0,
        });
        assert!(reader.reserved.0 <= most, "{what}: {:?}", reader.changes);
        let (first, _) = reader.changes[0];
        assert!(first <= 150, "{what}: {:?}", reader.changes);
        // It changes its mind, and plays.
        reader.run(600..700, |_| SECOND / 10);
        assert_eq!(reader.reserved, RATE, "{what}");
    }
}

#[test]
fn steady_readers_keep_their_rates() {
    for (what, rate, bytes, every) in [
        ("as played", 8_000_000, SECOND / 10, 1),
        ("in parts of two seconds", 8_000_000, 2 * SECOND, 20),
        ("a part of the window of a slow title", 500_000, 256 << 10, 42),
        ("the same of a very slow title", 64_000, 256 << 10, 327),
        ("a quiet passage at a third of the rate", 8_000_000, SECOND / 30, 1),
    ] {
        let mut reader = Reader::new(Bitrate(rate));
        reader.run(0..2000, |tenth| if tenth % every == 0 { bytes } else { 0 });
        assert_eq!(reader.changes, [], "{what}");
    }
}

#[test]
fn only_the_reader_is_to_blame() {
    let mut reader = Reader::new(RATE);
    // The node gives the session a turn of 64 KiB each five seconds, which its reader takes in a tenth of a second.
    for tenth in 0..600 {
        let now = reader.at(tenth);
        match tenth % 50 {
            0 => reader.uptake.handle_waiting(now),
            1 => {
                reader.uptake.handle_taken(now, RATE, 64 << 10);
                reader.uptake.handle_busy(now);
            }
            _ => reader.poll(tenth),
        }
        assert_eq!(reader.changes, []);
    }
    // A session without its rate that waits for the node asks for it, whatever little it gets.
    reader.run(600..640, |_| 0);
    assert_eq!(reader.reserved, Bitrate(0));
    let now = reader.at(640);
    reader.uptake.handle_taken(now, RATE, 1000);
    reader.uptake.handle_busy(now);
    reader.poll(645);
    assert_eq!(reader.reserved, Bitrate(0), "too early");
    reader.poll(650);
    assert_eq!(reader.reserved, RATE);
}
