//! Whose bytes go next. The node's capacity is a bucket of tokens for all of its sessions; who wants to send waits for a
//! turn, and turns are given in this order:
//!
//! 1. what is owed: who has a reserved rate and is less than [`LEAD`] ahead of it, the one first whose next byte is due
//!    first, which for a viewer is when it is played;
//! 2. what is left, in equal parts to fetches and to viewers who are further ahead, by session. A client's sessions of
//!    higher priority take the turns of its other ones.
//!
//! A viewer never gets more than its lead at once and five quarters of its rate from then on. Whoever does not ask, asks
//! for nothing: no credit is saved up beyond the lead. As long as the rates of all sessions are within the capacity,
//! which the guard sees to, viewers are never late.
//!
//! Knows rates, not media; gives turns, wakes nobody.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use usher_proto::{Bitrate, ticket::Purpose, tree::GROUP, wire::HEADER};

/// How far a viewer is brought ahead of playing as fast as the node can: what players buffer before they are content.
pub const LEAD: Duration = Duration::from_secs(5);

/// The least that a viewer gets without waiting, in bytes: the index of a film has this size, and nothing is played
/// before it is there.
const LEAST_LEAD: u64 = 2 << 20;

/// The time at full capacity that the bucket holds: no second is ever exceeded by more than 1 %.
const BURST: Duration = Duration::from_millis(10);

/// The least that it holds, in bytes: a full packet and its frame.
const LEAST_BURST: u64 = 1500;

/// The most that a session asks for at once, in groups: 256 KiB, one large read, four large sends.
const MOST_GROUPS: u64 = 4;

/// A whole group's frame, in bytes.
const FRAME: u64 = GROUP + HEADER as u64;

/// The most that [`Schedule::quantum`] says, in bytes.
pub const MAX_QUANTUM: usize = (MOST_GROUPS * FRAME) as usize;

/// The playing time that a viewer asks for at once, where that is less.
const QUANTUM: Duration = Duration::from_millis(250);

/// How much later than a viewer's the bytes of a fetch are due, and how far it may fall behind its rate and still catch
/// up: nobody looks at them.
const PATIENCE: i64 = SECOND;

const SECOND: i64 = 1_000_000_000;

/// Tokens a byte costs: they are billionths of bits, so that every nanosecond's share is whole.
const BYTE: i128 = 8 * SECOND as i128;

/// A session within the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

/// What a session is given its turns by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Viewers are paced, fetches are not.
    pub purpose: Purpose,
    /// The reserved rate; 0 for none.
    pub rate: Bitrate,
    /// Whose sessions `priority` is among.
    pub connection: u64,
    /// Higher goes first.
    pub priority: i32,
    /// It is sent as it is made, and never gets ahead.
    pub live: bool,
}

impl Terms {
    /// Whether the session gets no more than its lead and its pace.
    pub fn paced(&self) -> bool {
        self.purpose == Purpose::Play && self.rate.0 > 0 && !self.live
    }
}

/// What comes of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It waits until [`Schedule::next`] names it.
    Waits,
    /// It is as far ahead as it may be: to be asked again then.
    NotBefore(Instant),
}

/// The turns of one node's sessions.
#[derive(Debug)]
pub struct Schedule {
    capacity: Bitrate,
    /// Instants within are nanoseconds since then.
    epoch: Instant,
    tokens: i128,
    /// When the tokens were counted.
    counted: i64,
    sessions: HashMap<Key, Session>,
    joined: u64,
    /// Who waits and has a rate, by when it will be late.
    owed: BTreeSet<(i64, Key)>,
    /// All who wait, by what they had of what was left.
    left: BTreeSet<(u64, Key)>,
    /// The same by connection and priority.
    mates: BTreeSet<(u64, Reverse<i32>, Key)>,
    /// What the session that was served last from what is left had had.
    round: u64,
}

#[derive(Debug)]
struct Session {
    terms: Terms,
    /// When its next byte is due.
    late: i64,
    /// A viewer's own bucket: since when it fills, at the pace.
    empty: i64,
    /// Bytes had of what was left, in turns.
    had: u64,
    /// Bytes that it waits for; 0 while it does not.
    wants: u64,
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// The time that bytes take at a rate, which is not 0.
fn time(rate: Bitrate, bytes: u64) -> i64 {
    rate.time_for(bytes).map_or(i64::MAX, nanos)
}

/// The rate at which viewers are paced.
fn pace(rate: Bitrate) -> Bitrate {
    Bitrate(rate.0.saturating_add(rate.0 / 4))
}

/// How long a viewer's own bucket fills.
fn fill(rate: Bitrate) -> i64 {
    time(pace(rate), rate.bytes_in(LEAD).max(LEAST_LEAD))
}

impl Schedule {
    /// A full bucket, and nobody.
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

    /// What the bucket holds, in bytes.
    fn burst(&self) -> u64 {
        self.capacity.bytes_in(BURST).max(LEAST_BURST)
    }

    fn since(&self, now: Instant) -> i64 {
        nanos(now.saturating_duration_since(self.epoch))
    }

    fn instant(&self, at: i64) -> Instant {
        self.epoch + Duration::from_nanos(u64::try_from(at).unwrap_or_default())
    }

    /// Bytes that a session of these terms should ask for at once: whole groups with their headers where it can be.
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

    /// A session begins.
    pub fn join(&mut self, now: Instant, terms: Terms) -> Key {
        let now = self.since(now);
        let key = Key(self.joined);
        self.joined += 1;
        let empty = if terms.paced() { now.saturating_sub(fill(terms.rate)) } else { now };
        let late = if terms.purpose == Purpose::Play { now } else { now.saturating_add(PATIENCE) };
        self.sessions.insert(key, Session { terms, late, empty, had: self.round, wants: 0 });
        key
    }

    /// A session wants to send so many bytes, at most [`Schedule::quantum`]. A session that waits goes on waiting.
    pub fn ask(&mut self, now: Instant, key: Key, bytes: u64) -> Answer {
        let (now, burst) = (self.since(now), self.burst());
        let Some(session) = self.sessions.get_mut(&key) else { return Answer::Waits };
        if session.wants > 0 {
            return Answer::Waits;
        }
        let (bytes, terms) = (bytes.clamp(1, burst), session.terms);
        session.late = session.late.max(now);
        if terms.paced() {
            session.empty = session.empty.max(now.saturating_sub(fill(terms.rate)));
            let ready = session.empty.saturating_add(time(pace(terms.rate), bytes));
            if ready > now {
                return Answer::NotBefore(self.instant(ready));
            }
        }
        session.wants = bytes;
        session.had = session.had.max(self.round);
        if terms.rate.0 > 0 {
            self.owed.insert((session.late, key));
        }
        self.left.insert((session.had, key));
        self.mates.insert((terms.connection, Reverse(terms.priority), key));
        Answer::Waits
    }

    /// Whose turn it is, and for how many bytes: they are taken. To be called until it says `None`.
    pub fn next(&mut self, now: Instant) -> Option<(Key, u64)> {
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
        let rate = session.terms.rate;
        if session.terms.paced() {
            session.late = session.late.saturating_add(time(rate, bytes));
            session.empty = session.empty.saturating_add(time(pace(rate), bytes));
        } else if rate.0 > 0 {
            // What a fetch got beyond its rate is not held against it when others need it back.
            let late = session.late.min(now.saturating_add(nanos(LEAD)));
            session.late = late.saturating_add(time(rate, bytes));
        }
        if let Some(owner) = owner {
            self.charge(owner, bytes);
        }
        Some((key, bytes))
    }

    /// When [`Schedule::next`] will have someone, unless another asks before; `None` while nobody waits.
    pub fn deadline(&self) -> Option<Instant> {
        let (key, _) = self.first(self.counted)?;
        let lack = i128::from(self.sessions.get(&key)?.wants) * BYTE - self.tokens;
        let wait = (lack.max(0) + i128::from(self.capacity.0.max(1)) - 1) / i128::from(self.capacity.0.max(1));
        Some(self.instant(self.counted.saturating_add(i64::try_from(wait).unwrap_or(SECOND).min(SECOND))))
    }

    /// A session is over.
    pub fn leave(&mut self, key: Key) {
        self.stop_waiting(key);
        self.sessions.remove(&key);
    }

    fn count(&mut self, now: i64) {
        let elapsed = i128::from(now.saturating_sub(self.counted).max(0));
        let most = i128::from(self.burst()) * BYTE;
        self.tokens = (self.tokens + elapsed * i128::from(self.capacity.0)).min(most);
        self.counted = self.counted.max(now);
    }

    /// Who is next, and whose share of what is left it takes, if any's.
    fn first(&self, now: i64) -> Option<(Key, Option<Key>)> {
        let (late, key) = self.owed.first().copied().unwrap_or((i64::MAX, Key(0)));
        if late <= now.saturating_add(nanos(LEAD)) && !self.owed.is_empty() {
            return Some((key, None));
        }
        let (_, owner) = self.left.first().copied()?;
        let Terms { connection, priority, .. } = self.sessions.get(&owner)?.terms;
        let mates = self.mates.range((connection, Reverse(i32::MAX), Key(0))..);
        let ahead = mates.take(1).find(|(mate, above, _)| *mate == connection && above.0 > priority);
        Some((ahead.map_or(owner, |(_, _, key)| *key), Some(owner)))
    }

    fn stop_waiting(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(&key).filter(|session| session.wants > 0) else { return };
        session.wants = 0;
        self.owed.remove(&(session.late, key));
        self.left.remove(&(session.had, key));
        self.mates.remove(&(session.terms.connection, Reverse(session.terms.priority), key));
    }

    /// Counts bytes against the one whose turn it was, whether it took them or another of its client's sessions.
    fn charge(&mut self, owner: Key, bytes: u64) {
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
