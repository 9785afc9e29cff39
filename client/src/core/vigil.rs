//! Whether a node that owes bytes has fallen silent, or sends less than it promised.
//!
//! Two signs are watched. Nothing at all comes on the connection, though each side is asked for a sign of life at least
//! every [`KEEP_ALIVE`]: the node, or the way to it, is gone. Or the connection lives, and the stream
//! brings nothing, or too little, for longer than a paced node ever pauses. Time in which this side did not read, was not
//! scheduled, or had asked for nothing does not count. A false alarm makes the next one come later.
//! Refuses to know what an alarm leads to.

use std::time::{Duration, Instant};

use usher_proto::{Bitrate, ticket::Purpose, tree::GROUP};

/// How often a connection on which nothing comes is asked for a sign of life.
pub const KEEP_ALIVE: Duration = Duration::from_millis(300);

/// How often to look while nothing comes.
pub const LOOK: Duration = Duration::from_millis(100);

/// The least time for a sign of life to come back: a busy node is scheduled late, not this late.
const ANSWER: Duration = Duration::from_millis(350);

/// Round trips that a sign of life may take.
const ROUND_TRIPS: u32 = 4;

/// The least silence of a stream that is one: a disk may take a second.
const STREAM: Duration = Duration::from_millis(1500);

/// The longest that a stream may be silent, however slow it is.
const LONGEST: Duration = Duration::from_secs(6);

/// Spacings of a paced stream that its silence may last.
const SPACINGS: u32 = 3;

/// What a node may send to a fetch in one turn, bytes.
const TURN: u64 = 512 * 1024;

/// Time of waiting after which what came is held against what was promised.
const WINDOW: Duration = Duration::from_secs(4);

/// The least of that in spacings.
const WINDOW_SPACINGS: u32 = 6;

/// Alarms in a row beyond which the patience does not grow.
const ALARMS: u32 = 4;

/// After so long without an alarm, those before are forgotten.
const FORGET: Duration = Duration::from_secs(20);

/// What a stream may be expected to bring.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The longest that a stream of this rate pauses between two pieces.
    spacing: Duration,
    /// How long it may bring nothing while its connection lives.
    silence: Duration,
    /// What a viewer must get.
    promised: Option<Bitrate>,
}

impl Terms {
    /// Of a session with this rate reserved.
    pub fn new(purpose: Purpose, rate: Bitrate) -> Self {
        let piece = if purpose == Purpose::Play { GROUP } else { TURN };
        let millis = (piece * 8 * 1000).checked_div(rate.0).unwrap_or(u64::MAX);
        let promised = (purpose == Purpose::Play && rate.0 > 0).then_some(rate);
        let spacing = Duration::from_millis(millis.min(60_000));
        Self { spacing, silence: (spacing * SPACINGS).clamp(STREAM, LONGEST), promised }
    }

    /// Of a feed, which brings what its publisher sends, and nothing while that does not: its node is told dead from that
    /// by its signs of life alone.
    pub fn of_feed() -> Self {
        Self { spacing: Duration::ZERO, silence: Duration::MAX, promised: None }
    }
}

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Well,
    /// Nothing comes.
    Silent,
    /// Less comes than was promised.
    Slow,
}

/// See the module.
#[derive(Debug)]
pub struct Vigil {
    terms: Terms,
    /// The stream's last byte, or when this side began to wait.
    since: Instant,
    /// The same, whatever alarms there were.
    silent_since: Instant,
    /// Datagrams of the connection, and when that number was new.
    heard: (u64, Instant),
    /// That number was not looked at since the stream's last byte.
    fresh: bool,
    looked: Instant,
    alarms: u32,
    alarmed: Option<Instant>,
    /// Time that this side has waited since the window began, and bytes that came in it.
    window: (Duration, u64),
}

impl Vigil {
    /// Something is owed from now on.
    pub fn new(now: Instant, terms: Terms) -> Self {
        Self {
            terms,
            since: now,
            silent_since: now,
            heard: (0, now),
            fresh: true,
            looked: now,
            alarms: 0,
            alarmed: None,
            window: (Duration::ZERO, 0),
        }
    }

    /// This side begins to wait, after it did something else or was owed nothing. A connection that has received nothing
    /// all the while, no more than so many `datagrams`, was silent all the while.
    pub fn resume(&mut self, now: Instant, datagrams: u64) {
        (self.since, self.silent_since, self.looked) = (now, now, now);
        if std::mem::take(&mut self.fresh) || datagrams != self.heard.0 {
            self.heard = (datagrams, now);
        }
    }

    /// So many bytes came.
    pub fn bytes(&mut self, now: Instant, bytes: u64) {
        let waited = now.saturating_duration_since(self.since);
        self.window = (self.window.0 + waited, self.window.1.saturating_add(bytes));
        (self.since, self.silent_since, self.looked) = (now, now, now);
        (self.heard.1, self.fresh) = (now, true);
    }

    /// How long nothing has come, while something was owed.
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.silent_since)
    }

    /// To be asked every [`LOOK`] while nothing comes: the connection has received so many `datagrams`, and a round trip
    /// takes `round_trip`. After an alarm all begins anew.
    pub fn look(&mut self, now: Instant, datagrams: u64, round_trip: Duration) -> Look {
        // Who looks late did not run, and what came meanwhile waits to be read.
        let late = now.saturating_duration_since(self.looked).saturating_sub(LOOK * 2);
        if !late.is_zero() {
            self.since += late;
            self.silent_since += late;
            self.heard.1 += late;
        }
        self.looked = now;
        if std::mem::take(&mut self.fresh) {
            self.heard.0 = datagrams;
        } else if datagrams != self.heard.0 {
            self.heard = (datagrams, now);
        }
        if self.alarmed.is_some_and(|at| now.saturating_duration_since(at) >= FORGET * (1 << self.alarms)) {
            (self.alarms, self.alarmed) = (0, None);
        }
        let answer = ANSWER.max(round_trip * ROUND_TRIPS);
        let since = |at: Instant| now.saturating_duration_since(at);
        // What came while this side did not run is taken in within a moment.
        let gone = since(self.heard.1) >= self.grown(KEEP_ALIVE + answer) && since(self.since) >= LOOK;
        let quiet = self.terms.silence.saturating_add(round_trip);
        let look = if gone || since(self.since) >= self.grown(quiet) {
            Look::Silent
        } else if self.is_slow(now) {
            Look::Slow
        } else {
            return Look::Well;
        };
        self.alarms = (self.alarms + 1).min(ALARMS);
        self.alarmed = Some(now);
        self.window = (Duration::ZERO, 0);
        (self.since, self.heard.1) = (now, now);
        look
    }

    /// Patience after false alarms.
    fn grown(&self, patience: Duration) -> Duration {
        patience.saturating_mul(1 << self.alarms)
    }

    /// Whether a window is full in which less than half of what was promised came.
    fn is_slow(&mut self, now: Instant) -> bool {
        let Some(promised) = self.terms.promised else { return false };
        let (waited, bytes) = self.window;
        let waited = waited + now.saturating_duration_since(self.since);
        if waited < self.grown(WINDOW.max(self.terms.spacing * WINDOW_SPACINGS)) {
            return false;
        }
        let due = u128::from(promised.0) * waited.as_millis() / 8000;
        self.window = (Duration::ZERO, 0);
        u128::from(bytes) * 2 < due
    }
}

#[cfg(test)]
mod tests;
