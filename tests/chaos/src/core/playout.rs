//! A simulated player with a buffer: it starts when `startup` of media is buffered, plays at the title's rate, stalls when
//! the buffer is empty, and resumes after `REBUFFER`. Independent of the bytes' source.

use std::time::{Duration, Instant};

use usher_proto::Bitrate;

/// Media that a player buffers before it resumes after a stall.
const REBUFFER: Duration = Duration::from_secs(1);

/// A simulated player of one title.
#[derive(Clone, Debug)]
pub struct Player {
    rate: Bitrate,
    /// Size of the title in bytes.
    total: u64,
    received: u64,
    state: State,
    stalls: u32,
    stalled_for: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Buffers at position `byte` until `until` bytes were received; since `empty`, if it had played before.
    Buffering { byte: u64, until: u64, empty: Option<Instant> },
    /// Played position `byte` at time `at`.
    Playing { at: Instant, byte: u64 },
}

impl Player {
    /// A player of a title of `total` bytes at `rate`, which starts once `startup` of media is buffered.
    pub fn new(rate: Bitrate, total: u64, startup: Duration) -> Self {
        let until = rate.bytes_in(startup);
        let state = State::Buffering { byte: 0, until, empty: None };
        Self { rate, total, received: 0, state, stalls: 0, stalled_for: Duration::ZERO }
    }

    /// Adds received bytes. Times never go back.
    pub fn receive(&mut self, now: Instant, bytes: u64) {
        self.update(now);
        self.received += bytes;
        if let State::Buffering { byte, until, empty } = self.state
            && (self.received >= until || self.received >= self.total)
        {
            self.stalled_for += empty.map_or(Duration::ZERO, |empty| now.saturating_duration_since(empty));
            self.state = State::Playing { at: now, byte };
        }
    }

    /// Counts a stall if the buffer was empty before `now`.
    fn update(&mut self, now: Instant) {
        let State::Playing { at, byte } = self.state else { return };
        let Some(lasts) = self.rate.time_for(self.received.saturating_sub(byte)) else { return };
        let empty = at + lasts;
        if empty < now && self.received < self.total {
            self.stalls += 1;
            let until = self.received + self.rate.bytes_in(REBUFFER);
            self.state = State::Buffering { byte: self.received, until, empty: Some(empty) };
        }
    }

    /// Number of stalls.
    pub fn stalls(&self) -> u32 {
        self.stalls
    }

    /// Total duration of the stalls; a stall that has not ended does not count yet.
    pub fn stalled_for(&self) -> Duration {
        self.stalled_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times in ms, and bytes.
    type Arrivals = &'static [(u64, u64)];

    /// Plays a title of 20 s at 1 kB/s with a startup of 4 s; returns the stalls and their duration in ms.
    fn play(arrivals: Arrivals) -> (u32, u64) {
        let start = Instant::now();
        let mut player = Player::new(Bitrate(8_000), 20_000, Duration::from_secs(4));
        for (at, bytes) in arrivals {
            player.receive(start + Duration::from_millis(*at), *bytes);
        }
        (player.stalls(), player.stalled_for().as_millis() as u64)
    }

    #[test]
    fn it_stalls_only_when_its_buffer_is_empty() {
        let table: [(&str, Arrivals, (u32, u64)); 9] = [
            ("all at once", &[(0, 20_000)], (0, 0)),
            ("waiting to begin is no stall", &[(0, 1000), (30_000, 19_000)], (0, 0)),
            ("just in time", &[(0, 4000), (4000, 16_000)], (0, 0)),
            ("a second late", &[(0, 4000), (5000, 16_000)], (1, 1000)),
            ("a pause shorter than the buffer", &[(0, 10_000), (9000, 10_000)], (0, 0)),
            (
                "it buffers a second before it resumes",
                &[(0, 4000), (5000, 500), (6000, 500), (6500, 15_000)],
                (1, 2000),
            ),
            ("twice", &[(0, 4000), (5000, 1000), (7000, 15_000)], (2, 2000)),
            ("the rest is less than a second", &[(0, 4000), (4000, 15_500), (21_000, 500)], (1, 1500)),
            ("no stall after the end", &[(0, 20_000), (90_000, 0)], (0, 0)),
        ];
        for (what, arrivals, expected) in table {
            assert_eq!(play(arrivals), expected, "{what}");
        }
    }
}
