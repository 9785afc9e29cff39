//! A player with a buffer: it begins once enough is in hand, plays at the title's rate, stands still when it runs dry and
//! goes on once it has a little again. Independent of the bytes' source.

use std::time::{Duration, Instant};

use usher_proto::Bitrate;

/// Media that a player buffers before it goes on after a stall.
const AGAIN: Duration = Duration::from_secs(1);

/// One who plays one title.
#[derive(Clone, Debug)]
pub struct Player {
    rate: Bitrate,
    /// Bytes of the whole title.
    total: u64,
    received: u64,
    state: State,
    stalls: u32,
    still: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// At this byte, until so many were received; since when, if it had played before.
    Waits { byte: u64, until: u64, dry: Option<Instant> },
    /// At that time it played that byte.
    Plays { at: Instant, byte: u64 },
}

impl Player {
    /// A player that begins with so much of the title in hand, a title of `total` bytes at `rate`.
    pub fn new(rate: Bitrate, total: u64, startup: Duration) -> Self {
        let until = rate.bytes_in(startup);
        let state = State::Waits { byte: 0, until, dry: None };
        Self { rate, total, received: 0, state, stalls: 0, still: Duration::ZERO }
    }

    /// Bytes came. Times never go back.
    pub fn take(&mut self, now: Instant, bytes: u64) {
        self.look(now);
        self.received += bytes;
        if let State::Waits { byte, until, dry } = self.state
            && (self.received >= until || self.received >= self.total)
        {
            self.still += dry.map_or(Duration::ZERO, |dry| now.saturating_duration_since(dry));
            self.state = State::Plays { at: now, byte };
        }
    }

    /// Whether it ran dry by now.
    pub fn look(&mut self, now: Instant) {
        let State::Plays { at, byte } = self.state else { return };
        let Some(lasts) = self.rate.time_for(self.received.saturating_sub(byte)) else { return };
        let dry = at + lasts;
        if dry < now && self.received < self.total {
            self.stalls += 1;
            let until = self.received + self.rate.bytes_in(AGAIN);
            self.state = State::Waits { byte: self.received, until, dry: Some(dry) };
        }
    }

    /// How often it stood still.
    pub fn stalls(&self) -> u32 {
        self.stalls
    }

    /// How long it stood still in all; a stall that has not ended does not count yet.
    pub fn still(&self) -> Duration {
        self.still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When, in ms, and how many bytes.
    type Arrivals = &'static [(u64, u64)];

    /// 1 kB a second, a title of 20 s, 4 s to begin with: stalls, and ms that they lasted.
    fn play(arrivals: Arrivals) -> (u32, u64) {
        let start = Instant::now();
        let mut player = Player::new(Bitrate(8_000), 20_000, Duration::from_secs(4));
        for (at, bytes) in arrivals {
            player.take(start + Duration::from_millis(*at), *bytes);
        }
        (player.stalls(), player.still().as_millis() as u64)
    }

    #[test]
    fn it_stands_still_only_when_it_runs_dry() {
        let table: [(&str, Arrivals, (u32, u64)); 9] = [
            ("all at once", &[(0, 20_000)], (0, 0)),
            ("waiting to begin is no stall", &[(0, 1000), (30_000, 19_000)], (0, 0)),
            ("just in time", &[(0, 4000), (4000, 16_000)], (0, 0)),
            ("a second late", &[(0, 4000), (5000, 16_000)], (1, 1000)),
            ("a pause that the buffer bears", &[(0, 10_000), (9000, 10_000)], (0, 0)),
            (
                "it gathers a second before it goes on",
                &[(0, 4000), (5000, 500), (6000, 500), (6500, 15_000)],
                (1, 2000),
            ),
            ("twice", &[(0, 4000), (5000, 1000), (7000, 15_000)], (2, 2000)),
            ("the rest is less than a second", &[(0, 4000), (4000, 15_500), (21_000, 500)], (1, 1500)),
            ("after the end nothing is missed", &[(0, 20_000), (90_000, 0)], (0, 0)),
        ];
        for (what, arrivals, expected) in table {
            assert_eq!(play(arrivals), expected, "{what}");
        }
    }
}
