//! Emptying a node: at which pace, and which of its sessions go where. Finds the moves; the caller makes them. Refuses to
//! know who wants the node empty.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt as _};
use usher_proto::{SessionId, units};

use super::{Headroom, MoveSearch, NodeSessions, SessionMove};
use crate::core::{NodeId, catalog::ContentKey, ledger::ContentRef, roster::NodeState};

/// The time of a node that does not say how long its sessions may run.
const USUAL: Duration = Duration::from_secs(60);

/// Of the time that a drain has, so many parts of [`PARTS`] are for the moves. The rest is for those that had to be
/// tried again, and for room that comes late.
const PARTS_TO_MOVE: u32 = 2;

/// See [`PARTS_TO_MOVE`].
const PARTS: u32 = 3;

/// The slowest pace, in thousandths of a session a second: a small node should not take its whole time.
const LEAST: u64 = 2000;

/// Moves from one node at a time; four times a second, that is 200 a second. A node's channel holds 64 orders, and other
/// orders must find room.
const MOST: usize = 48;

/// Sessions that one node is given at a time.
const GIVEN: u32 = 12;

/// One node is given, at a time, this part of the rate that it can give, or one session: a twentieth a second. Each
/// begins with five seconds of its film as fast as they go, so that a quarter of the link is busy with beginnings.
const SHARE: u64 = 80;

/// Sessions for which a seat is sought in vain at a time.
const IN_VAIN: usize = 2048;

/// The drain of one node: until when, and how far it should have come.
#[derive(Clone, Debug)]
pub struct DrainPace {
    since: Instant,
    ends: Instant,
    /// When `credit` was true.
    counted: Instant,
    /// Thousandths of sessions that are due and were not moved.
    credit: u64,
    /// Sessions without a seat elsewhere, as people were told last.
    pub stuck: usize,
}

impl DrainPace {
    /// Of a node that lets its sessions run for so long yet; zero when it does not say.
    pub fn new(now: Instant, left: Duration) -> Self {
        let left = if left.is_zero() { USUAL } else { left };
        Self { since: now, ends: now + left, counted: now, credit: 0, stuck: 0 }
    }

    /// The node says again how long is left. It is another drain if that differs by more than its message may have taken.
    pub fn again(&mut self, now: Instant, left: Duration) {
        let ends = now + left;
        let moved = ends.saturating_duration_since(self.ends).max(self.ends.saturating_duration_since(ends));
        if moved > Duration::from_secs(1) {
            *self = Self { since: now, ends, counted: now, ..*self };
        }
    }

    /// Until the sessions that still run are ended.
    pub fn left(&self, now: Instant) -> Duration {
        self.ends.saturating_duration_since(now)
    }

    /// How many of so many sessions are to be moved now.
    pub fn due(&mut self, now: Instant, sessions: usize) -> usize {
        let goal = self.since + self.ends.saturating_duration_since(self.since) * PARTS_TO_MOVE / PARTS;
        let left = goal.saturating_duration_since(now).max(Duration::from_secs(1));
        let pace = (sessions as u64).saturating_mul(1_000_000) / millis(left);
        let pace = pace.max(LEAST);
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.counted, now));
        // Not more than of a second: who found no seats for long does not then flood those that come.
        self.credit = self.credit.saturating_add(pace.saturating_mul(millis(passed)) / 1000).min(pace);
        usize::try_from(self.credit / 1000).unwrap_or(MOST).min(MOST).min(sessions)
    }

    /// So many moves were made.
    pub fn made(&mut self, moves: usize) {
        self.credit = self.credit.saturating_sub(moves as u64 * 1000);
    }
}

/// At least 1.
fn millis(time: Duration) -> u64 {
    units::millis(time).max(1)
}

/// At most `due` moves away from a node, those that take the most first: they are the hardest to seat. Sessions that
/// `rest` are left alone. Tells how many found no seat though another node holds their title.
pub fn drain(
    search: &mut MoveSearch<'_>,
    from: NodeId,
    due: usize,
    rest: impl Fn(&SessionId) -> bool,
    rng: &mut impl Rng,
    steps: &mut Vec<SessionMove>,
) -> usize {
    let mut sessions: Vec<(Reverse<u64>, u32, SessionId, ContentRef)> = Vec::new();
    for content in search.view.ledger.contents(from) {
        let Some(place) = search.view.ledger.sessions_of(from, *content) else { continue };
        let running = place.running().filter(|(session, _)| !rest(session));
        sessions.extend(running.map(|(session, rate)| (Reverse(rate), rng.random(), session, *content)));
    }
    sessions.sort_unstable_by_key(|(rate, lot, ..)| (*rate, *lot));
    let (before, mut in_vain, mut stuck) = (steps.len(), 0, 0);
    for (Reverse(rate), _, session, content) in sessions {
        if steps.len() - before >= due || in_vain >= IN_VAIN {
            break;
        }
        let Some(place) = search.view.ledger.sessions_of(from, content) else { continue };
        let (mut best, mut full) = (None, true);
        for (to, after) in search.seats(from, &place, rate) {
            full = false;
            if search.may_take(to, rate) && best.is_none_or(|(most, _)| after > most) {
                best = Some((after, to));
            }
        }
        match best {
            Some((_, to)) => {
                let step = SessionMove { session, from, to, rate };
                search.headroom.take(&step);
                steps.push(step);
            }
            None => {
                in_vain += 1;
                stuck += usize::from(full && search.others(from, &place).next().is_some());
            }
        }
    }
    stuck
}

impl MoveSearch<'_> {
    /// Whether a node was not given so much in this search that another session would be a flood.
    fn may_take(&self, to: NodeId, rate: u64) -> bool {
        let Headroom { load, given, given_rate, .. } = self.headroom.of(to);
        given < GIVEN && (given_rate == 0 || given_rate.saturating_add(rate) <= load.available.rate / SHARE)
    }

    /// The nodes that could serve a work if there were no `from`, full or not.
    fn others(&self, from: NodeId, place: &NodeSessions<'_>) -> impl Iterator<Item = NodeId> {
        let there = |node: &NodeId| self.view.roster.node(*node).is_some_and(|node| node.state == NodeState::Serving);
        self.holders(from, place).filter(there)
    }

    /// The works of a node's sessions that no other node could serve, with their sessions.
    pub fn only_at(&self, from: NodeId) -> Vec<(Option<ContentKey>, usize)> {
        let places =
            self.view.ledger.contents(from).iter().filter_map(|content| self.view.ledger.sessions_of(from, *content));
        let alone = places.filter(|place| self.others(from, place).next().is_none());
        let counted = alone.map(|place| (place.content, place.taken()));
        counted.filter(|(_, sessions)| *sessions > 0).collect()
    }
}
