//! Ranks the nodes that hold a title: which of them may be chosen, and which is farthest from full, in standard
//! deviations of its own load. A pure function of roster, ledger and load estimates.

mod refusal;
#[cfg(test)]
mod tests;
mod zones;

use std::time::Instant;

use rand::{Rng, RngExt as _};
use usher_proto::{Bitrate, model::Requirements};

pub use self::{
    refusal::{HolderCounts, NoChoice, RETRY},
    zones::{ZoneLink, Zones},
};
use super::{
    NodeId,
    ledger::Ledger,
    load_estimate::{Available, ClusterStats},
    roster::{Node, NodeHealth, Roster},
};

/// Rate reserved for a title of unknown bitrate: typical full-HD video.
pub const DEFAULT_RATE: Bitrate = Bitrate(8_000_000);

/// Number of seats beside the first.
pub const ALTERNATES: usize = 2;

/// Holders examined per decision. More candidates cost time and do not improve the choice.
pub const MAX_HOLDERS: usize = 64;

/// Cost of one more node, and so one more connection, for a client that requests several titles together: the same as
/// leaving its zone.
const EXTRA_NODE: i64 = zones::DEFAULT_PRICE;

/// How candidates are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RankRule {
    /// Largest margin: the most standard deviations of its own load from full
    #[default]
    Margin,
    /// Most bandwidth free, the rule of the system of 2000
    Headroom,
}

/// Number of the titles requested together that each node could serve, by node number.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    titles: Vec<u16>,
    /// Largest number on one node.
    best: u16,
}

impl Coverage {
    /// Counts one more title on a node.
    pub fn add(&mut self, node: NodeId) {
        if self.titles.len() <= node.index() {
            self.titles.resize(node.index() + 1, 0);
        }
        let count = &mut self.titles[node.index()];
        *count = count.saturating_add(1);
        self.best = self.best.max(*count);
    }

    /// Cost of a node that serves fewer of the titles than the best node, in units of [`zones::UNIT`].
    fn price(&self, node: NodeId) -> i64 {
        let own = self.titles.get(node.index()).copied().unwrap_or(0);
        if self.best == 0 { 0 } else { EXTRA_NODE * i64::from(self.best - own) / i64::from(self.best) }
    }
}

/// Requirements of one request for a node.
#[derive(Clone, Copy, Debug)]
pub struct SeatCriteria<'a> {
    /// Bit/s.
    pub rate: u64,
    /// Nodes excluded by the request.
    pub exclude: &'a [NodeId],
    /// Nodes that just refused this client for lack of capacity. They are chosen only after a move frees capacity.
    pub full: &'a [NodeId],
    /// The client's zone; empty if unknown.
    pub zone: &'a str,
    /// Features that the node must have.
    pub needs: &'a Requirements,
    /// Set when several titles are requested together.
    pub coverage: Option<&'a Coverage>,
}

/// Read-only view of the cluster for one decision.
#[derive(Clone, Copy)]
pub struct ClusterView<'a> {
    /// Monotonic time of the decision.
    pub now: Instant,
    /// The nodes.
    pub roster: &'a Roster,
    /// Reservations on the nodes.
    pub ledger: &'a Ledger,
    /// Parameters shared by all nodes.
    pub common: ClusterStats,
    /// How candidates are compared.
    pub rule: RankRule,
    /// Prices of leaving a zone.
    pub zones: &'a Zones,
    /// Bit/s reserved for copies in progress, by source node.
    pub copying: &'a [u64],
}

/// Whether a holder may be chosen, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be chosen.
    Fit,
    /// It may be chosen after it answers a probe: its last message is old.
    Unsure,
    /// It has no headroom.
    Full,
    /// It has headroom only in its warm-up or variance reserve.
    Cold,
    /// It is silent, or clients report that it does not answer.
    Suspect,
    /// It failed repeatedly and is held back for a while.
    Held,
    /// Its channel is closed, its lease expired, or its load is unknown.
    Down,
    /// It takes no new sessions.
    Draining,
    /// The request excludes it.
    Excluded,
    /// Its largest session is below the requested rate.
    Small,
    /// It lacks a required feature.
    Unequipped,
    /// Its copy is incomplete, and arrives too slowly or does not cover the start of the range.
    Growing,
}

/// A holder as assessed for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Whether it may be chosen.
    pub verdict: Verdict,
    /// Bit/s available.
    pub available: Available,
    /// Bit/s in use.
    pub level: u64,
    /// Distance from full after this request, in thousandths of a standard deviation.
    pub margin: i64,
    /// Lower is better; see [`RankRule`].
    cost: i64,
    /// Random tie-breaker.
    lot: u32,
}

impl Candidate {
    /// Whether `rate` more bit/s would use the node's variance reserve.
    pub fn is_tight(&self, rate: u64) -> bool {
        let calm = self.available.rate.saturating_add(self.available.warm_up);
        self.available.variance > 0 && self.level.saturating_add(rate) > calm
    }

    /// Free bit/s before this request, reserves included.
    pub fn headroom(&self) -> u64 {
        self.available.upper_limit().saturating_sub(self.level)
    }
}

/// Assesses every holder. Fills `ranked` with all of them, usable ones first and the best one at its head; returns the
/// number of holders by verdict.
pub fn rank(
    view: &ClusterView<'_>,
    criteria: &SeatCriteria<'_>,
    holders: impl Iterator<Item = (NodeId, bool)>,
    rng: &mut impl Rng,
    ranked: &mut Vec<Candidate>,
) -> HolderCounts {
    ranked.clear();
    let mut count = HolderCounts::default();
    for (node, served) in holders {
        count.holders += 1;
        let mut candidate = assess(view, criteria, node);
        if !served && matches!(candidate.verdict, Verdict::Fit | Verdict::Unsure) {
            candidate.verdict = Verdict::Growing;
        }
        candidate.lot = rng.random();
        if let Some(known) = view.roster.node(node) {
            count.largest = count.largest.max(known.largest_session());
        }
        count.add(candidate.verdict);
        ranked.push(candidate);
    }
    ranked.sort_unstable_by_key(|candidate| (candidate.verdict.order(), candidate.cost, candidate.lot));
    count
}

/// Whether a node could serve this rate now.
pub fn could_serve(view: &ClusterView<'_>, criteria: &SeatCriteria<'_>, node: NodeId) -> bool {
    assess(view, criteria, node).verdict == Verdict::Fit
}

/// Assesses one holder; its tie-breaker is left at 0.
pub fn assess(view: &ClusterView<'_>, criteria: &SeatCriteria<'_>, id: NodeId) -> Candidate {
    let none = Candidate {
        node: id,
        verdict: Verdict::Down,
        available: Available::default(),
        level: 0,
        margin: 0,
        cost: 0,
        lot: 0,
    };
    let Some(node) = view.roster.node(id) else { return none };
    let NodeLoad { available, level } = load(view, id, node);
    let verdict = judge(view, criteria, id, node, NodeLoad { available, level });
    let margin = node.estimate.margin(available.rate, level, criteria.rate, &view.common);
    let mut price = view.zones.price(criteria.zone, &node.hello.zone);
    price += criteria.coverage.map_or(0, |coverage| coverage.price(id));
    let cost = match view.rule {
        RankRule::Margin => zones::cost(margin, price),
        RankRule::Headroom => -i64::try_from(available.rate.saturating_sub(level)).unwrap_or(i64::MAX),
    };
    Candidate { verdict, available, level, margin, cost, ..none }
}

/// A node's available and used bit/s.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeLoad {
    /// Bit/s available.
    pub available: Available,
    /// Bit/s in use.
    pub level: u64,
}

/// Returns the current load of a node.
pub fn load(view: &ClusterView<'_>, id: NodeId, node: &Node) -> NodeLoad {
    let level = node.estimate.level(view.now, view.ledger.pending_load(id), view.common.masters);
    let copying = view.copying.get(id.index()).copied().unwrap_or(0);
    NodeLoad { available: node.estimate.available(view.now, copying), level }
}

fn judge(view: &ClusterView<'_>, criteria: &SeatCriteria<'_>, id: NodeId, node: &Node, load: NodeLoad) -> Verdict {
    if criteria.exclude.contains(&id) {
        return Verdict::Excluded;
    }
    let unsure = match node.health(view.now) {
        NodeHealth::Draining => return Verdict::Draining,
        NodeHealth::Down => return Verdict::Down,
        NodeHealth::Held => return Verdict::Held,
        NodeHealth::Suspect => return Verdict::Suspect,
        NodeHealth::Unsure => true,
        NodeHealth::Well => false,
    };
    if node.hello.equipment.lacks(criteria.needs).is_some() {
        return Verdict::Unequipped;
    }
    if node.largest_session() < criteria.rate {
        return Verdict::Small;
    }
    let after = load.level.saturating_add(criteria.rate);
    if criteria.full.contains(&id) {
        Verdict::Full
    } else if after <= load.available.rate {
        if unsure { Verdict::Unsure } else { Verdict::Fit }
    } else if after <= load.available.upper_limit() {
        Verdict::Cold
    } else {
        Verdict::Full
    }
}

/// Index of the best suspect or held holder, if no other holder is available: a node that may be healthy beats a
/// refusal.
pub fn panic_choice(criteria: &SeatCriteria<'_>, ranked: &[Candidate]) -> Option<usize> {
    let held = |candidate: &Candidate| matches!(candidate.verdict, Verdict::Suspect | Verdict::Held);
    let out = |candidate: &Candidate| {
        use Verdict::{Down, Draining, Excluded, Growing, Small, Unequipped};
        matches!(candidate.verdict, Down | Draining | Excluded | Growing | Small | Unequipped)
    };
    if !ranked.iter().all(|candidate| held(candidate) || out(candidate)) {
        return None;
    }
    let fits = |candidate: &Candidate| held(candidate) && candidate.headroom() >= criteria.rate;
    let able = ranked.iter().enumerate().filter(|(_, candidate)| fits(candidate));
    able.max_by_key(|(_, candidate)| (candidate.margin, candidate.lot)).map(|(at, _)| at)
}

/// Index of the best holder with headroom in its reserves.
pub fn reserve_choice(ranked: &[Candidate]) -> Option<usize> {
    let cold = ranked.iter().enumerate().filter(|(_, candidate)| candidate.verdict == Verdict::Cold);
    cold.max_by_key(|(_, candidate)| (candidate.headroom(), candidate.lot)).map(|(at, _)| at)
}

/// Index of the best holder that only a burst of background traffic fills.
pub fn burst_choice(view: &ClusterView<'_>, criteria: &SeatCriteria<'_>, ranked: &[Candidate]) -> Option<usize> {
    let only_burst = |candidate: &Candidate| {
        candidate.verdict == Verdict::Full
            && view.roster.node(candidate.node).is_some_and(|node| {
                node.estimate.is_burst(candidate.available.rate, candidate.level, criteria.rate, &view.common)
            })
    };
    let able = ranked.iter().enumerate().filter(|(_, candidate)| only_burst(candidate));
    able.min_by_key(|(_, candidate)| (candidate.level.saturating_sub(candidate.available.rate), candidate.lot))
        .map(|(at, _)| at)
}

impl Verdict {
    /// Position in a ranking, usable holders first.
    pub(super) fn order(self) -> u8 {
        match self {
            Self::Fit => 0,
            Self::Unsure => 1,
            Self::Cold => 2,
            Self::Full => 3,
            _ => 4,
        }
    }

    /// The verdict's name in the API and in text output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Unsure => "unsure",
            Self::Full => "full",
            Self::Cold => "cold",
            Self::Suspect => "suspect",
            Self::Held => "held",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Excluded => "excluded",
            Self::Small => "small",
            Self::Unequipped => "unequipped",
            Self::Growing => "growing",
        }
    }
}
