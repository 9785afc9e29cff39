//! The choice: of a title's holders, the node with the greatest headroom that may be chosen. A pure function of what
//! roster and ledger say now; it changes neither.
//!
//! Headroom is capacity less the greater of what the node measures and what it has been promised. The measure alone
//! would be late by a second, the promises alone would not see what the master did not place.

#[cfg(test)]
mod tests;

use std::{cmp::Reverse, fmt, time::Duration};

use rand::{Rng, RngExt as _};
use thiserror::Error;
use usher_proto::{
    Bitrate,
    code::{Code, Fault},
};

use super::{
    NodeId, Now,
    ledger::Ledger,
    roster::{Node, Roster, State},
};

/// Rate that is reserved for a title whose bitrate nobody knows: full-HD video as it is commonly encoded.
pub const DEFAULT_RATE: Bitrate = Bitrate(8_000_000);

/// Seats beside the first.
pub const ALTERNATES: usize = 2;

/// When a refused client should ask again: by then two reports have come in and sessions may have ended.
pub const RETRY: Duration = Duration::from_secs(2);

/// A node in the client's zone is taken when it has at most this less of the best headroom, in per cent: nearness
/// decides between equals and costs no balance.
const NEAR_BAND: u64 = 5;

/// A node that serves more of the titles asked for together is taken when it has at most this less of the best
/// headroom, in per cent: with that much room left on both, no viewer can tell them apart, and one connection serves
/// them all.
const TOGETHER_BAND: u64 = 25;

/// How many of the titles asked for together each node could serve, by number.
#[derive(Clone, Debug, Default)]
pub struct Coverage(Vec<u16>);

impl Coverage {
    /// Counts one more title on a node.
    pub fn add(&mut self, node: NodeId) {
        if self.0.len() <= node.index() {
            self.0.resize(node.index() + 1, 0);
        }
        let count = &mut self.0[node.index()];
        *count = count.saturating_add(1);
    }

    fn of(&self, node: NodeId) -> u16 {
        self.0.get(node.index()).copied().unwrap_or(0)
    }
}

/// What is wanted of a node.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// Bit/s.
    pub rate: Bitrate,
    /// Nodes that must not be chosen.
    pub exclude: &'a [NodeId],
    /// The client's zone, empty if unknown.
    pub zone: &'a str,
    /// Set when several titles are asked for together.
    pub coverage: Option<&'a Coverage>,
}

/// One holder that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Bit/s free before this request.
    pub headroom: u64,
    tickets: u32,
    coverage: u16,
    near: bool,
    /// Decides between equals.
    lot: u32,
}

/// How many holders stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub holders: u32,
    /// Excluded by the request.
    pub excluded: u32,
    /// Stale, gone, or with an unknown load.
    pub down: u32,
    /// Draining.
    pub draining: u32,
    /// Well, but without room now.
    pub full: u32,
    /// Well, but smaller than the rate.
    pub small: u32,
}

/// Why nothing was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoChoice {
    /// Nobody holds it.
    #[error("no node holds it; `usher ls` lists what there is")]
    NotFound,
    /// The request excludes every holder.
    #[error("all {0} nodes that hold it are excluded by the request; exclude fewer")]
    Excluded(u32),
    /// The holders that are left are down or draining.
    #[error("none of its holders can serve now: {0}; try again shortly")]
    Down(Count),
    /// The holders that are left have no room.
    #[error("its holders have no room for {rate} more: {count}; try again shortly")]
    Full {
        /// What was asked for.
        rate: Bitrate,
        /// Where the holders stand.
        count: Count,
    },
    /// No holder could ever serve that rate.
    #[error("{rate} is more than any of its holders may send ({largest}); ask for a lower rate")]
    TooFast {
        /// What was asked for.
        rate: Bitrate,
        /// The largest holder's capacity.
        largest: Bitrate,
    },
}

impl From<&NoChoice> for Fault {
    fn from(error: &NoChoice) -> Self {
        let text = error.to_string();
        match error {
            NoChoice::NotFound => Self::new(Code::NotFound, text),
            NoChoice::Excluded(_) | NoChoice::Down(_) => Self::new(Code::Unavailable, text).after(RETRY),
            NoChoice::Full { .. } => Self::new(Code::NoCapacity, text).after(RETRY),
            NoChoice::TooFast { .. } => Self::new(Code::NoCapacity, text),
        }
    }
}

impl Count {
    /// The holders that could not be chosen, and why: "1 draining, 2 full"; empty when there are none.
    pub fn unfit(&self) -> String {
        let parts = [
            (self.down, "down"),
            (self.draining, "draining"),
            (self.full, "full"),
            (self.small, "too small"),
            (self.excluded, "excluded"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        parts.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.unfit(), self.holders)
    }
}

/// Bit/s that a node has left: its capacity less the greater of measured and booked, at least 0.
pub fn headroom(node: &Node, booked: u64) -> u64 {
    node.hello.capacity.0.saturating_sub(node.measured().max(booked))
}

/// Bit/s promised by a node: to its running sessions, and for tickets that it has not reported yet.
pub fn booked(id: NodeId, node: &Node, ledger: &Ledger) -> u64 {
    node.report.committed.0.saturating_add(ledger.promised(id).rate)
}

/// Where one holder stands.
enum Standing {
    Down,
    Draining,
    Small,
    Full,
    Fit(Candidate),
}

/// Orders the holders that may be chosen into `ranked`, the one to choose first, then the alternates; what was in it
/// before is gone. A holder named twice counts once if its two places are neighbours.
pub fn choose(
    now: Now,
    need: &Need<'_>,
    holders: impl Iterator<Item = NodeId>,
    (roster, ledger): (&Roster, &Ledger),
    rng: &mut impl Rng,
    ranked: &mut Vec<Candidate>,
) -> Result<Count, NoChoice> {
    ranked.clear();
    let mut count = Count::default();
    let mut largest = 0;
    for id in holders {
        count.holders += 1;
        if need.exclude.contains(&id) {
            count.excluded += 1;
            continue;
        }
        let Some(node) = roster.node(id) else {
            count.down += 1;
            continue;
        };
        largest = largest.max(node.hello.capacity.0);
        match stand(now, need, id, node, ledger) {
            Standing::Down => count.down += 1,
            Standing::Draining => count.draining += 1,
            Standing::Small => count.small += 1,
            Standing::Full => count.full += 1,
            Standing::Fit(candidate) => ranked.push(Candidate { lot: rng.random(), ..candidate }),
        }
    }
    let Some(best) = ranked.iter().map(|candidate| candidate.headroom).max() else {
        return Err(refuse(need.rate, largest, count));
    };
    let floor = |band: u64| best - best / 100 * band;
    let (near, together) = (floor(NEAR_BAND), floor(TOGETHER_BAND));
    ranked.sort_unstable_by_key(|candidate| {
        let coverage = if candidate.headroom >= together { candidate.coverage } else { 0 };
        let near = candidate.near && candidate.headroom >= near;
        (Reverse(coverage), Reverse(near), Reverse(candidate.headroom), candidate.tickets, candidate.lot)
    });
    Ok(count)
}

/// Whether a node may be given this rate now; as [`choose`] sees it.
pub fn could_serve(now: Now, need: &Need<'_>, id: NodeId, (roster, ledger): (&Roster, &Ledger)) -> bool {
    !need.exclude.contains(&id)
        && roster.node(id).is_some_and(|node| matches!(stand(now, need, id, node, ledger), Standing::Fit(_)))
}

fn stand(now: Now, need: &Need<'_>, id: NodeId, node: &Node, ledger: &Ledger) -> Standing {
    let rate = need.rate.0;
    if node.state == State::Draining {
        return Standing::Draining;
    }
    if !node.can_serve(now.instant) || node.hello.presence.addresses.is_empty() {
        return Standing::Down;
    }
    if node.hello.capacity.0 < rate {
        return Standing::Small;
    }
    let promised = ledger.promised(id);
    let headroom = headroom(node, booked(id, node, ledger));
    if headroom < rate {
        return Standing::Full;
    }
    Standing::Fit(Candidate {
        node: id,
        headroom,
        tickets: promised.tickets,
        coverage: need.coverage.map_or(0, |coverage| coverage.of(id)),
        near: !need.zone.is_empty() && node.hello.zone == need.zone,
        lot: 0,
    })
}

fn refuse(rate: Bitrate, largest: u64, count: Count) -> NoChoice {
    let left = count.holders - count.excluded;
    if count.holders == 0 {
        NoChoice::NotFound
    } else if left == 0 {
        NoChoice::Excluded(count.holders)
    } else if count.full > 0 {
        NoChoice::Full { rate, count }
    } else if largest > 0 && largest < rate.0 {
        NoChoice::TooFast { rate, largest: Bitrate(largest) }
    } else {
        NoChoice::Down(count)
    }
}
