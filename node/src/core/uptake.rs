//! The reserved rate of one session, adjusted to the bytes that its reader takes. A reserved rate that is not used is
//! denied to others: a stalled reader releases all of it, and a slow reader keeps the rate at which it takes bytes. The
//! session continues with spare capacity, and requests its rate again once its reader takes bytes. Capacity and other
//! sessions are left to the caller.
//!
//! Only time in which data waits for the reader counts against it, not time in which the session waits for its turn,
//! the disk or a source.

use std::time::{Duration, Instant};

use usher_proto::Bitrate;

/// Time without a byte after which a reader is stalled. Beyond it, the bytes that a reader took ahead of its rate extend
/// the time: a client of a slow title takes them in parts that last for seconds.
pub const STANDSTILL: Duration = Duration::from_secs(3);

/// Maximum of the bytes ahead that count, where [`STANDSTILL`] at the session's rate is less: four times the part in
/// which clients take the bytes of a slow title (an eighth of their window of 2 MiB).
const AHEAD: u64 = 1 << 20;

/// Time over which a slow reader is measured: longer than the quiet passages of most films.
const SPAN: Duration = Duration::from_secs(6);

/// A reader is slow when it takes less than this part of its rate although data waits for it three quarters of the time.
const DRIP: u64 = 4;

/// Minimum time over which a reader has to take bytes before its session asks for its rate again, and the time between
/// two such questions.
const EVIDENCE: Duration = Duration::from_secs(1);

/// Uptake of one session with a reserved rate.
#[derive(Debug)]
pub struct Uptake {
    /// Start of the current wait for the reader, as far as it is not counted yet.
    waits: Option<Instant>,
    /// Time until which the bytes last that the reader has taken, at the session's rate.
    covered: Instant,
    /// Time since its last byte and since `covered` that data has waited for the reader.
    standstill: Duration,
    span: Span,
}

/// Measurement since a point in time.
#[derive(Debug)]
struct Span {
    since: Instant,
    /// Bytes taken.
    bytes: u64,
    /// Bytes that the reader was ahead at the start.
    ahead: u64,
    /// Time that data waited for the reader.
    waited: Duration,
}

/// A change of a session's reserved rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjustment {
    /// The session keeps this rate, which is lower than the present one.
    Lower(Bitrate),
    /// The reader takes bytes again: the session should get its whole rate if there is room.
    Restore,
}

impl Uptake {
    /// The uptake of a session that starts.
    pub fn new(now: Instant) -> Self {
        let span = Span { since: now, bytes: 0, ahead: 0, waited: Duration::ZERO };
        Self { waits: None, covered: now, standstill: Duration::ZERO, span }
    }

    /// Data waits for the reader from now on.
    pub fn handle_waiting(&mut self, now: Instant) {
        self.waits.get_or_insert(now);
    }

    /// The session waits for something other than its reader from now on.
    pub fn handle_busy(&mut self, now: Instant) {
        self.settle(now);
        self.waits = None;
    }

    /// The reader has taken bytes of a session with this `rate`.
    pub fn handle_taken(&mut self, now: Instant, rate: Bitrate, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.settle(now);
        self.standstill = Duration::ZERO;
        let most = rate.time_for(AHEAD).unwrap_or_default().max(STANDSTILL);
        let lasts = rate.time_for(bytes).unwrap_or_default().min(most);
        self.covered = (self.covered.max(now) + lasts).min(now + most);
        if self.span.bytes == 0 {
            // A reader that starts again is measured from its first byte.
            self.restart(now, Bitrate(0));
        }
        self.span.bytes = self.span.bytes.saturating_add(bytes);
    }

    /// The due change of the reserved rate of a session whose whole rate is `rate`. To be called about twice a second;
    /// [`Adjustment::Restore`] repeats while there is no room for it.
    pub fn poll_adjustment(&mut self, now: Instant, rate: Bitrate, reserved: Bitrate) -> Option<Adjustment> {
        self.settle(now);
        if self.standstill >= STANDSTILL {
            if reserved.0 == 0 {
                return None;
            }
            self.restart(now, rate);
            return Some(Adjustment::Lower(Bitrate(0)));
        }
        let Span { since, bytes, ahead, waited } = self.span;
        let elapsed = now.saturating_duration_since(since);
        let (took, whole) = (Bitrate::over(bytes, elapsed), elapsed >= SPAN);
        let takes = took.0 >= rate.0 / 2 || waited < elapsed / 2 || whole && took.0 >= rate.0 / DRIP;
        let adjustment = if reserved < rate && elapsed >= EVIDENCE && takes {
            Some(Adjustment::Restore)
        } else {
            let drips = Bitrate::over(bytes.saturating_add(ahead), elapsed).0 < reserved.0 / DRIP;
            (whole && drips && waited >= elapsed / 4 * 3).then_some(Adjustment::Lower(took))
        };
        if whole || adjustment.is_some() {
            self.restart(now, rate);
        }
        adjustment
    }

    /// Counts the wait for the reader until now.
    fn settle(&mut self, now: Instant) {
        let Some(since) = self.waits else { return };
        self.span.waited += now.saturating_duration_since(since.max(self.span.since));
        self.standstill += now.saturating_duration_since(since.max(self.covered));
        self.waits = Some(now);
    }

    fn restart(&mut self, now: Instant, rate: Bitrate) {
        let ahead = rate.bytes_in(self.covered.saturating_duration_since(now));
        self.span = Span { since: now, bytes: 0, ahead, waited: Duration::ZERO };
    }
}

#[cfg(test)]
mod tests;
