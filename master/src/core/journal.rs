//! A ring of recent decisions with the holders that each examined, and their explanations as text. Knows node numbers;
//! the caller supplies names.

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

/// Limit of decisions: the last seconds of a busy master, hours of a quiet one; 3 MB.
pub const KEPT: usize = 4096;

/// Holders kept per decision; nearly every title has fewer.
pub const MAX_RECORDED: usize = 8;

/// Outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A holder was chosen.
    Chosen(Selection),
    /// No holder was chosen.
    Refused(NoChoice),
}

/// The rule that found the seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The best usable holder.
    Best,
    /// The only holder.
    Only,
    /// All holders are suspect or held; one of them beats a refusal.
    Panic,
    /// Every holder was full; this many reservations were released that other clients had not redeemed.
    Released(usize),
    /// This many sessions are moved to free capacity.
    Moved(usize),
    /// Every holder was full; this one uses its warm-up, copy or variance reserve.
    Cold,
    /// Only a short burst of background traffic fills it.
    Burst,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionRecord {
    /// Hash of the request id; 0 for none.
    pub tag: u64,
    /// Time of the decision.
    pub at: Now,
    /// The session; `None` for a hypothetical decision.
    pub session: Option<SessionId>,
    /// Requested title or content.
    pub what: What,
    /// Play or fetch.
    pub purpose: Purpose,
    /// Bit/s.
    pub rate: Bitrate,
    /// Its outcome.
    pub outcome: Outcome,
    /// Examined holders, the chosen one first.
    pub holders: [Option<Candidate>; MAX_RECORDED],
    /// Number of further holders.
    pub omitted: u32,
}

/// Recent decisions.
#[derive(Debug, Default)]
pub struct Journal {
    records: VecDeque<DecisionRecord>,
}

impl Journal {
    /// Adds a decision; drops the oldest beyond [`KEPT`].
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

    /// Number of decisions.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Holders to keep of a decision, the chosen one first, and the number of others.
pub fn holders(ranked: &[Candidate], chosen: Option<usize>) -> ([Option<Candidate>; MAX_RECORDED], u32) {
    let first = chosen.and_then(|at| ranked.get(at)).copied();
    let rest = ranked.iter().enumerate().filter(|(at, _)| Some(*at) != chosen).map(|(_, candidate)| *candidate);
    let mut all = first.into_iter().chain(rest);
    let holders = std::array::from_fn(|_| all.next());
    (holders, u32::try_from(ranked.len().saturating_sub(MAX_RECORDED)).unwrap_or(u32::MAX))
}
