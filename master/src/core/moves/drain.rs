//! Empties a draining node: at which pace, and which sessions go where. Finds the moves; the caller starts them.

use std::time::{Duration, Instant};

use rand::Rng;
use usher_proto::{SessionId, units};

use super::{Headroom, MoveSearch, NodeSessions, SessionMove};
use crate::core::{NodeId, catalog::ContentKey, roster::NodeState};

/// Deadline of a drain if the node names none.
const USUAL: Duration = Duration::from_secs(60);

/// Moves get this many parts of [`PARTS`] of a drain's time; the rest is for retries and for headroom that appears
/// late.
const PARTS_TO_MOVE: u32 = 2;

/// See [`PARTS_TO_MOVE`].
const PARTS: u32 = 3;

/// Slowest pace, in thousandths of a session per second, so that a small node does not take all of its time.
const LEAST: u64 = 2000;

/// Limit of moves per node and batch; with four batches a second, 200 a second. A node's channel holds 64 orders, and
/// other orders need space.
const MOST: usize = 48;

/// Limit of sessions moved to one node per batch.
const GIVEN: u32 = 12;

/// Limit of bit/s moved to one node per batch, as a share of its available rate: one in 80, or one session; that is a
/// twentieth a second. Each session starts with a five-second burst, so a quarter of the link is busy with them.
const SHARE: u64 = 80;

/// Sessions per batch for which the search for a target may fail.
const IN_VAIN: usize = 2048;

/// Deadline and progress of one node's drain.
#[derive(Clone, Debug)]
pub struct DrainPace {
    since: Instant,
    ends: Instant,
    /// Time at which `credit` was computed.
    counted: Instant,
    /// Thousandths of sessions that are due and not moved.
    credit: u64,
    /// Number of sessions without a target, as last reported.
    pub stuck: usize,
}

impl DrainPace {
    /// A drain of a node whose sessions may run for `left`; zero if the node names no deadline.
    pub fn new(now: Instant, left: Duration) -> Self {
        let left = if left.is_zero() { USUAL } else { left };
        Self { since: now, ends: now + left, counted: now, credit: 0, stuck: 0 }
    }

    /// Handles a repeated deadline. A difference beyond the message's travel time starts the drain over.
    pub fn again(&mut self, now: Instant, left: Duration) {
        let ends = now + left;
        let moved = ends.saturating_duration_since(self.ends).max(self.ends.saturating_duration_since(ends));
        if moved > Duration::from_secs(1) {
            *self = Self { since: now, ends, counted: now, ..*self };
        }
    }

    /// Time until the remaining sessions are ended.
    pub fn left(&self, now: Instant) -> Duration {
        self.ends.saturating_duration_since(now)
    }

    /// Number of the node's `sessions` to move now.
    pub fn due(&mut self, now: Instant, sessions: usize) -> usize {
        let goal = self.since + self.ends.saturating_duration_since(self.since) * PARTS_TO_MOVE / PARTS;
        let left = goal.saturating_duration_since(now).max(Duration::from_secs(1));
        let pace = (sessions as u64).saturating_mul(1_000_000) / millis(left);
        let pace = pace.max(LEAST);
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.counted, now));
        // At most one second's worth, so that a long search without targets does not flood the first one that appears.
        self.credit = self.credit.saturating_add(pace.saturating_mul(millis(passed)) / 1000).min(pace);
        usize::try_from(self.credit / 1000).unwrap_or(MOST).min(MOST).min(sessions)
    }

    /// Records that moves were started.
    pub fn made(&mut self, moves: usize) {
        self.credit = self.credit.saturating_sub(moves as u64 * 1000);
    }
}

/// At least 1.
fn millis(time: Duration) -> u64 {
    units::millis(time).max(1)
}

/// Moves up to `due` sessions off a node, largest first since those are the hardest to place, leaving out those for
/// which `rest` is true. Returns the number without a target although another node holds their title.
pub fn drain(
    search: &mut MoveSearch<'_>,
    from: NodeId,
    due: usize,
    rest: impl Fn(&SessionId) -> bool,
    rng: &mut impl Rng,
    steps: &mut Vec<SessionMove>,
) -> usize {
    let sessions = search.largest_first(from, None, |session, _| !rest(session), rng);
    let (before, mut in_vain, mut stuck) = (steps.len(), 0, 0);
    for (rate, session, content) in sessions {
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
    /// Whether a node may receive another session in this batch.
    fn may_take(&self, to: NodeId, rate: u64) -> bool {
        let Headroom { load, assigned, assigned_rate, .. } = self.headroom.of(to);
        assigned < GIVEN && (assigned_rate == 0 || assigned_rate.saturating_add(rate) <= load.available.rate / SHARE)
    }

    /// Serving nodes that hold a content, other than `from`, full or not.
    fn others(&self, from: NodeId, place: &NodeSessions<'_>) -> impl Iterator<Item = NodeId> {
        let there = |node: &NodeId| self.view.roster.node(*node).is_some_and(|node| node.state == NodeState::Serving);
        self.holders(from, place).filter(there)
    }

    /// Contents of a node's sessions that no other node could serve, with their session counts.
    pub fn only_at(&self, from: NodeId) -> Vec<(Option<ContentKey>, usize)> {
        let places =
            self.view.ledger.contents(from).iter().filter_map(|content| self.view.ledger.sessions_of(from, *content));
        let alone = places.filter(|place| self.others(from, place).next().is_none());
        let counted = alone.map(|place| (place.content, place.taken()));
        counted.filter(|(_, sessions)| *sessions > 0).collect()
    }
}
