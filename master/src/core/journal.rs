//! What was decided and why, kept for a while: a ring of the last decisions with the holders that each looked at, and
//! the words that explain one. Knows node numbers; names are asked of the caller.

#[cfg(test)]
mod tests;
mod text;

use std::collections::VecDeque;

use usher_proto::{Bitrate, SessionId, model::What, ticket::Purpose};

pub use self::text::Explanation;
use super::{
    Now,
    balancer::{Candidate, NoChoice},
};

/// Decisions that are kept: those of the last seconds of a busy master, of hours of a quiet one; 3 MB.
pub const KEPT: usize = 4096;

/// Holders that are kept of one decision: nearly every title has fewer.
pub const LOOKED: usize = 8;

/// How a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The first of the holders, in the usual way.
    Chosen(Selection),
    /// No node.
    Refused(NoChoice),
}

/// Which rule found the seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The best of those with room.
    Best,
    /// The only holder.
    Only,
    /// All holders are suspect or held, and one of them is better than none.
    Panic,
    /// Room was made by moving so many sessions.
    Moved(usize),
    /// Every holder was full, and it gave of its reserve: what youth, copies and caution keep free.
    Cold,
    /// A short burst of others' traffic alone spoke against it.
    Burst,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionRecord {
    /// Names the request: a hash of its id; 0 for none.
    pub tag: u64,
    /// When.
    pub at: Now,
    /// The session; `None` for what would be decided.
    pub session: Option<SessionId>,
    /// What was asked for.
    pub what: What,
    /// Play or fetch.
    pub purpose: Purpose,
    /// Bit/s.
    pub rate: Bitrate,
    /// How it ended.
    pub outcome: Outcome,
    /// The holders, the chosen one first.
    pub looked: [Option<Candidate>; LOOKED],
    /// Holders beyond these.
    pub omitted: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Journal {
    records: VecDeque<DecisionRecord>,
}

impl Journal {
    /// Keeps a decision; the oldest leaves when there are [`KEPT`].
    pub fn keep(&mut self, record: DecisionRecord) {
        if self.records.len() == KEPT {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// The last decision with this tag.
    pub fn find(&self, tag: u64) -> Option<&DecisionRecord> {
        self.records.iter().rev().find(|record| record.tag == tag && tag != 0)
    }

    /// Decisions kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// The holders to keep of a decision, the chosen one first, and how many more there were.
pub fn looked(ranked: &[Candidate], chosen: Option<usize>) -> ([Option<Candidate>; LOOKED], u32) {
    let first = chosen.and_then(|at| ranked.get(at)).copied();
    let rest = ranked.iter().enumerate().filter(|(at, _)| Some(*at) != chosen).map(|(_, candidate)| *candidate);
    let mut all = first.into_iter().chain(rest);
    let looked = std::array::from_fn(|_| all.next());
    (looked, u32::try_from(ranked.len().saturating_sub(LOOKED)).unwrap_or(u32::MAX))
}
