//! Decides which session sends next. The capacity of the node is one token bucket for all of its sessions. Sessions
//! wait for a turn, and turns are given in this order:
//!
//! 1. owed bytes: sessions with a reserved rate that are less than [`LEAD`] ahead of it, earliest deadline first. The
//!    deadline of a byte of a viewer is when it is played;
//! 2. spare capacity, in equal parts to fetches and to viewers that are further ahead, by session. A client's sessions
//!    of higher priority take the turns of its other ones.
//!
//! A viewer gets at most its lead at once, and five quarters of its rate from then on. A session that requests nothing
//! saves up no credit beyond the lead. As long as the rates of all sessions are within the capacity, which admission
//! control ensures, viewers are never late.
//!
//! Knows rates, not media; gives turns, wakes nobody.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use usher_proto::{Bitrate, ticket::Purpose, tree::GROUP, wire::HEADER};

/// How far a viewer is brought ahead of playback as fast as possible: the usual buffer of players.
pub const LEAD: Duration = Duration::from_secs(5);

/// Minimum that a viewer gets without pacing, in bytes: the size of a film's index, without which nothing is played.
const LEAST_LEAD: u64 = 2 << 20;

/// Capacity of the bucket as time at full rate: no second is ever exceeded by more than 1 %.
const BURST: Duration = Duration::from_millis(10);

/// Minimum capacity of the bucket in bytes: a full packet and its frame.
const LEAST_BURST: u64 = 1500;

/// Maximum quantum in groups: 256 KiB, one large read, four large sends.
const MOST_GROUPS: u64 = 4;

/// Bytes of the frame of a whole group.
const FRAME: u64 = GROUP + HEADER as u64;

/// Maximum of [`Schedule::quantum`], in bytes.
pub const MAX_QUANTUM: usize = (MOST_GROUPS * FRAME) as usize;

/// Playing time of a viewer's quantum, where that is less.
const QUANTUM: Duration = Duration::from_millis(250);

/// How much later the bytes of a fetch are due than a viewer's, and how far it may fall behind its rate and still catch
/// up: nobody watches them.
const PATIENCE: i64 = SECOND;

const SECOND: i64 = 1_000_000_000;

/// Tokens of one byte: tokens are billionths of bits, so that the share of every nanosecond is whole.
const BYTE: i128 = 8 * SECOND as i128;

/// Identifies a session of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(u64);

/// Terms under which a session gets turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Viewers are paced, fetches are not.
    pub purpose: Purpose,
    /// Reserved rate; 0 for none.
    pub rate: Bitrate,
    /// Connection within which `priority` applies.
    pub connection: u64,
    /// Higher goes first.
    pub priority: i32,
    /// Sent as it is produced, so never ahead.
    pub live: bool,
}

impl Terms {
    /// Whether the session gets no more than its lead and its pace.
    pub fn paced(&self) -> bool {
        self.purpose == Purpose::Play && self.rate.0 > 0 && !self.live
    }
}

/// Result of a request for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnRequest {
    /// The session waits until [`Schedule::poll_turn`] returns it.
    Queued,
    /// The session is as far ahead as it may be, and may request again at this time.
    NotBefore(Instant),
}

/// Turns of the sessions of one node.
#[derive(Debug)]
pub struct Schedule {
    capacity: Bitrate,
    /// Origin of the times within, in nanoseconds.
    epoch: Instant,
    tokens: i128,
    /// Time up to which tokens were added.
    counted: i64,
    sessions: HashMap<SessionKey, ScheduledSession>,
    joined: u64,
    /// Waiting sessions with a rate, by deadline.
    owed: BTreeSet<(i64, SessionKey)>,
    /// All waiting sessions, by their share of spare capacity so far.
    left: BTreeSet<(u64, SessionKey)>,
    /// All waiting sessions, by connection and priority.
    mates: BTreeSet<(u64, Reverse<i32>, SessionKey)>,
    /// Share of the session that was last served from spare capacity.
    round: u64,
}

#[derive(Debug)]
struct ScheduledSession {
    terms: Terms,
    /// The part of its rate that is owed to it now.
    reserved: Bitrate,
    /// Deadline of its next byte.
    late: i64,
    /// Time since when a viewer's own bucket fills, at its pace.
    empty: i64,
    /// Share of spare capacity so far, in bytes.
    had: u64,
    /// Bytes that it waits for; 0 while it does not wait.
    wants: u64,
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// Time that bytes take at a rate, which is not 0.
fn time(rate: Bitrate, bytes: u64) -> i64 {
    rate.time_for(bytes).map_or(i64::MAX, nanos)
}

/// Pace of a viewer.
fn pace(rate: Bitrate) -> Bitrate {
    Bitrate(rate.0.saturating_add(rate.0 / 4))
}

/// Time in which a viewer's own bucket fills.
fn fill(rate: Bitrate) -> i64 {
    time(pace(rate), rate.bytes_in(LEAD).max(LEAST_LEAD))
}

impl Schedule {
    /// A schedule with a full bucket and no sessions.
    pub fn new(now: Instant, capacity: Bitrate) -> Self {
        let mut schedule = Self {
            capacity,
            epoch: now,
            tokens: 0,
            counted: 0,
            sessions: HashMap::new(),
            joined: 0,
            owed: BTreeSet::new(),
            left: BTreeSet::new(),
            mates: BTreeSet::new(),
            round: 0,
        };
        schedule.tokens = i128::from(schedule.burst()) * BYTE;
        schedule
    }

    /// Capacity of the bucket in bytes.
    fn burst(&self) -> u64 {
        self.capacity.bytes_in(BURST).max(LEAST_BURST)
    }

    fn since(&self, now: Instant) -> i64 {
        nanos(now.saturating_duration_since(self.epoch))
    }

    fn instant(&self, at: i64) -> Instant {
        self.epoch + Duration::from_nanos(u64::try_from(at).unwrap_or_default())
    }

    /// Bytes that a session should request at a time: whole groups with their headers where possible.
    pub fn quantum(&self, terms: &Terms) -> u64 {
        let most = if terms.paced() { terms.rate.bytes_in(QUANTUM) } else { u64::MAX };
        let groups = (most / FRAME).clamp(1, MOST_GROUPS) * FRAME;
        let half = self.burst() / 2;
        if groups <= half {
            groups
        } else if half >= FRAME {
            half / FRAME * FRAME
        } else {
            half
        }
    }

    /// A session starts.
    pub fn handle_join(&mut self, now: Instant, terms: Terms) -> SessionKey {
        let now = self.since(now);
        let key = SessionKey(self.joined);
        self.joined += 1;
        let empty = if terms.paced() { now.saturating_sub(fill(terms.rate)) } else { now };
        let late = if terms.purpose == Purpose::Play { now } else { now.saturating_add(PATIENCE) };
        let reserved = terms.rate;
        self.sessions.insert(key, ScheduledSession { terms, reserved, late, empty, had: self.round, wants: 0 });
        key
    }

    /// Sets the rate that is owed to a session; beyond it, the session gets spare capacity. Its pace stays.
    pub fn handle_reserved(&mut self, now: Instant, key: SessionKey, reserved: Bitrate) {
        let now = self.since(now);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        self.owed.remove(&(session.late, key));
        session.reserved = reserved;
        // A low rate in between may have put it far ahead.
        session.late = session.late.clamp(now, now.saturating_add(nanos(LEAD)));
        if session.wants > 0 && reserved.0 > 0 {
            self.owed.insert((session.late, key));
        }
    }

    /// A session requests a turn for up to [`Schedule::quantum`] bytes. A waiting session continues to wait.
    pub fn handle_request(&mut self, now: Instant, key: SessionKey, bytes: u64) -> TurnRequest {
        let (now, burst) = (self.since(now), self.burst());
        let Some(session) = self.sessions.get_mut(&key) else { return TurnRequest::Queued };
        if session.wants > 0 {
            return TurnRequest::Queued;
        }
        let (bytes, terms) = (bytes.clamp(1, burst), session.terms);
        session.late = session.late.max(now);
        if terms.paced() {
            session.empty = session.empty.max(now.saturating_sub(fill(terms.rate)));
            let ready = session.empty.saturating_add(time(pace(terms.rate), bytes));
            if ready > now {
                return TurnRequest::NotBefore(self.instant(ready));
            }
        }
        session.wants = bytes;
        session.had = session.had.max(self.round);
        if session.reserved.0 > 0 {
            self.owed.insert((session.late, key));
        }
        self.left.insert((session.had, key));
        self.mates.insert((terms.connection, Reverse(terms.priority), key));
        TurnRequest::Queued
    }

    /// The next turn: the session and the number of bytes, whose tokens are taken. To be called until it returns
    /// `None`.
    pub fn poll_turn(&mut self, now: Instant) -> Option<(SessionKey, u64)> {
        let now = self.since(now);
        self.count(now);
        let (key, owner) = self.first(now)?;
        let bytes = self.sessions.get(&key)?.wants;
        let cost = i128::from(bytes) * BYTE;
        if cost > self.tokens {
            return None;
        }
        self.tokens -= cost;
        self.stop_waiting(key);
        let session = self.sessions.get_mut(&key)?;
        let (rate, paced) = (session.reserved, session.terms.paced());
        if paced {
            session.empty = session.empty.saturating_add(time(pace(session.terms.rate), bytes));
        }
        if rate.0 > 0 {
            // Bytes that a fetch got beyond its rate do not count against it when others need the capacity back.
            let late = if paced { session.late } else { session.late.min(now.saturating_add(nanos(LEAD))) };
            session.late = late.saturating_add(time(rate, bytes));
        }
        if let Some(owner) = owner {
            self.charge(owner, bytes);
        }
        Some((key, bytes))
    }

    /// Time of the next turn, unless another request comes first; `None` while no session waits.
    pub fn next_timeout(&self) -> Option<Instant> {
        let (key, _) = self.first(self.counted)?;
        let lack = i128::from(self.sessions.get(&key)?.wants) * BYTE - self.tokens;
        let wait = (lack.max(0) + i128::from(self.capacity.0.max(1)) - 1) / i128::from(self.capacity.0.max(1));
        Some(self.instant(self.counted.saturating_add(i64::try_from(wait).unwrap_or(SECOND).min(SECOND))))
    }

    /// A session ends.
    pub fn handle_leave(&mut self, key: SessionKey) {
        self.stop_waiting(key);
        self.sessions.remove(&key);
    }

    fn count(&mut self, now: i64) {
        let elapsed = i128::from(now.saturating_sub(self.counted).max(0));
        let most = i128::from(self.burst()) * BYTE;
        self.tokens = (self.tokens + elapsed * i128::from(self.capacity.0)).min(most);
        self.counted = self.counted.max(now);
    }

    /// The next session, and the session whose share of spare capacity it takes, if any.
    fn first(&self, now: i64) -> Option<(SessionKey, Option<SessionKey>)> {
        let (late, key) = self.owed.first().copied().unwrap_or((i64::MAX, SessionKey(0)));
        if late <= now.saturating_add(nanos(LEAD)) && !self.owed.is_empty() {
            return Some((key, None));
        }
        let (_, owner) = self.left.first().copied()?;
        let Terms { connection, priority, .. } = self.sessions.get(&owner)?.terms;
        let mates = self.mates.range((connection, Reverse(i32::MAX), SessionKey(0))..);
        let ahead = mates.take(1).find(|(mate, above, _)| *mate == connection && above.0 > priority);
        Some((ahead.map_or(owner, |(_, _, key)| *key), Some(owner)))
    }

    fn stop_waiting(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key).filter(|session| session.wants > 0) else { return };
        session.wants = 0;
        self.owed.remove(&(session.late, key));
        self.left.remove(&(session.had, key));
        self.mates.remove(&(session.terms.connection, Reverse(session.terms.priority), key));
    }

    /// Counts bytes against the session whose turn it was, also when another session of its client took it.
    fn charge(&mut self, owner: SessionKey, bytes: u64) {
        let Some(session) = self.sessions.get_mut(&owner) else { return };
        let waits = self.left.remove(&(session.had, owner));
        self.round = self.round.max(session.had);
        session.had = session.had.saturating_add(bytes);
        if waits {
            self.left.insert((session.had, owner));
        }
    }
}

#[cfg(test)]
mod tests;
