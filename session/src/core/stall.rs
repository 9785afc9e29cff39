//! Whether a node that owes bytes has fallen silent, or sends less than it promised.
//!
//! Two signs are watched. Nothing at all arrives on the connection, though each side asks for a sign of life at least
//! every [`KEEP_ALIVE`]: the node, or the path to it, is gone. Or the connection lives, and the stream brings nothing, or
//! too little, for longer than a paced node ever pauses. Time in which this side did not read, was not scheduled, or had
//! requested nothing does not count. Each false alarm delays the next one. The caller decides what follows an alarm.

use std::time::{Duration, Instant};

use usher_proto::{Bitrate, ticket::Purpose, tree::GROUP};

/// How often a silent connection is asked for a sign of life.
pub const KEEP_ALIVE: Duration = Duration::from_millis(300);

/// How often to call [`StallDetector::poll_health`] while nothing arrives.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The least time for a sign of life to come back: a busy node is scheduled late, but not this late.
const ANSWER: Duration = Duration::from_millis(350);

/// Round trips that a sign of life may take.
const ROUND_TRIPS: u32 = 4;

/// The least silence of a stream that counts: a disk may take a second.
const STREAM_MIN: Duration = Duration::from_millis(1500);

/// The longest that a stream may be silent, however slow it is.
const STREAM_MAX: Duration = Duration::from_secs(6);

/// Spacings of a paced stream that its silence may last.
const SPACINGS: u32 = 3;

/// Bytes that a node may send to a fetch in one turn.
const TURN: u64 = 512 * 1024;

/// Time of waiting after which the received bytes are compared with the promised rate.
const WINDOW: Duration = Duration::from_secs(4);

/// The least of that window in spacings.
const WINDOW_SPACINGS: u32 = 6;

/// Alarms in a row beyond which the timeouts do not grow.
const ALARMS_MAX: u32 = 4;

/// Time without an alarm after which earlier ones are forgotten.
const FORGET: Duration = Duration::from_secs(20);

/// Bytes and rate that a stream is expected to deliver.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    /// The longest pause of a stream of this rate between two pieces.
    spacing: Duration,
    /// How long the stream may bring nothing while its connection lives.
    silence: Duration,
    /// The least time for a sign of life of the connection to come back.
    answer: Duration,
    /// The rate that a viewer must get.
    promised: Option<Bitrate>,
}

impl Expectation {
    /// A session of a title with `rate` reserved.
    pub fn new(purpose: Purpose, rate: Bitrate) -> Self {
        let piece = if purpose == Purpose::Play { GROUP } else { TURN };
        let millis = (piece * 8 * 1000).checked_div(rate.0).unwrap_or(u64::MAX);
        let promised = (purpose == Purpose::Play && rate.0 > 0).then_some(rate);
        let spacing = Duration::from_millis(millis.min(60_000));
        let silence = (spacing * SPACINGS).clamp(STREAM_MIN, STREAM_MAX);
        Self { spacing, silence, answer: ANSWER, promised }
    }

    /// A session of a feed, whose stream is silent while its publisher is: only the connection's datagrams count.
    pub fn feed() -> Self {
        Self { spacing: Duration::ZERO, silence: Duration::MAX, answer: ANSWER, promised: None }
    }

    /// The same with an alarm after `silence` of the connection, or a little later where the round trip is long.
    pub fn feed_within(silence: Duration) -> Self {
        Self { answer: silence.saturating_sub(KEEP_ALIVE), ..Self::feed() }
    }
}

/// The state of a stream that has not failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Bytes arrive as expected.
    Good,
    /// Nothing arrives.
    Silent,
    /// Fewer bytes arrive than were promised.
    Slow,
}

/// Detects the stall of one stream.
#[derive(Debug)]
pub struct StallDetector {
    expected: Expectation,
    /// The stream's last byte, or when this side began to wait.
    since: Instant,
    /// The same, not moved by alarms.
    silent_since: Instant,
    /// Datagrams of the connection, and when that count last changed.
    datagrams: (u64, Instant),
    /// That count was not read since the stream's last byte.
    fresh: bool,
    checked: Instant,
    alarms: u32,
    alarmed: Option<Instant>,
    /// Time that this side has waited since the window began, and bytes that arrived in it.
    window: (Duration, u64),
}

impl StallDetector {
    /// Starts with bytes owed from `now` on.
    pub fn new(now: Instant, expected: Expectation) -> Self {
        Self {
            expected,
            since: now,
            silent_since: now,
            datagrams: (0, now),
            fresh: true,
            checked: now,
            alarms: 0,
            alarmed: None,
            window: (Duration::ZERO, 0),
        }
    }

    /// This side begins to wait, after other work or after it was owed nothing. A connection whose count of `datagrams`
    /// has not changed meanwhile was silent all the while.
    pub fn handle_resume(&mut self, now: Instant, datagrams: u64) {
        (self.since, self.silent_since, self.checked) = (now, now, now);
        if std::mem::take(&mut self.fresh) || datagrams != self.datagrams.0 {
            self.datagrams = (datagrams, now);
        }
    }

    /// The stream brought `bytes`.
    pub fn handle_bytes(&mut self, now: Instant, bytes: u64) {
        let waited = now.saturating_duration_since(self.since);
        self.window = (self.window.0 + waited, self.window.1.saturating_add(bytes));
        (self.since, self.silent_since, self.checked) = (now, now, now);
        (self.datagrams.1, self.fresh) = (now, true);
    }

    /// How long no bytes have arrived while some were due.
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.silent_since)
    }

    /// Checks the stream; to be called every [`CHECK_INTERVAL`] while nothing arrives. The connection has received
    /// `datagrams`, and its round trip takes `round_trip`. After an alarm the measurement starts anew.
    pub fn poll_health(&mut self, now: Instant, datagrams: u64, round_trip: Duration) -> Health {
        // A late call means that this side did not run, and that received bytes wait to be read.
        let late = now.saturating_duration_since(self.checked).saturating_sub(CHECK_INTERVAL * 2);
        if !late.is_zero() {
            self.since += late;
            self.silent_since += late;
            self.datagrams.1 += late;
        }
        self.checked = now;
        if std::mem::take(&mut self.fresh) {
            self.datagrams.0 = datagrams;
        } else if datagrams != self.datagrams.0 {
            self.datagrams = (datagrams, now);
        }
        if self.alarmed.is_some_and(|at| now.saturating_duration_since(at) >= FORGET * (1 << self.alarms)) {
            (self.alarms, self.alarmed) = (0, None);
        }
        let answer = self.expected.answer.max(round_trip * ROUND_TRIPS);
        let since = |at: Instant| now.saturating_duration_since(at);
        // Datagrams that arrived while this side did not run are read within one interval.
        let gone = since(self.datagrams.1) >= self.grown(KEEP_ALIVE + answer) && since(self.since) >= CHECK_INTERVAL;
        let quiet = self.expected.silence.saturating_add(round_trip);
        let health = if gone || since(self.since) >= self.grown(quiet) {
            Health::Silent
        } else if self.is_slow(now) {
            Health::Slow
        } else {
            return Health::Good;
        };
        self.alarms = (self.alarms + 1).min(ALARMS_MAX);
        self.alarmed = Some(now);
        self.window = (Duration::ZERO, 0);
        (self.since, self.datagrams.1) = (now, now);
        health
    }

    /// The timeout after the alarms so far.
    fn grown(&self, timeout: Duration) -> Duration {
        timeout.saturating_mul(1 << self.alarms)
    }

    /// Whether a window is full in which less than half of the promised bytes arrived.
    fn is_slow(&mut self, now: Instant) -> bool {
        let Some(promised) = self.expected.promised else { return false };
        let (waited, bytes) = self.window;
        let waited = waited + now.saturating_duration_since(self.since);
        if waited < self.grown(WINDOW.max(self.expected.spacing * WINDOW_SPACINGS)) {
            return false;
        }
        let due = u128::from(promised.0) * waited.as_millis() / 8000;
        self.window = (Duration::ZERO, 0);
        u128::from(bytes) * 2 < due
    }
}

#[cfg(test)]
mod tests;
