//! The choice among the nodes that hold a title: which of them may be chosen, and which of those is the farthest from
//! full, measured in standard deviations of its own load. A pure function of what roster, ledger and books say now; it
//! changes none of them.

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

/// Rate that is reserved for a title whose bitrate nobody knows: full-HD video as it is commonly encoded.
pub const DEFAULT_RATE: Bitrate = Bitrate(8_000_000);

/// Seats beside the first.
pub const ALTERNATES: usize = 2;

/// Holders that are looked at: beyond these, more choice changes nothing and costs time.
pub const LOOKED_AT: usize = 64;

/// What one more node, and with it one more connection, costs a client that asks for several titles together: as much
/// as leaving its zone.
const APART: i64 = zones::REMOTE;

/// What is better among the nodes that may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RankRule {
    /// The farthest from full in standard deviations.
    #[default]
    Margin,
    /// The most bit/s free, as the system of 2000 chose.
    Headroom,
}

/// How many of the titles asked for together each node could serve, by number.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    titles: Vec<u16>,
    /// The most on one node.
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

    /// What it costs to take a node that serves fewer of them than the best, in units of [`zones::UNIT`].
    fn price(&self, node: NodeId) -> i64 {
        let own = self.titles.get(node.index()).copied().unwrap_or(0);
        if self.best == 0 { 0 } else { APART * i64::from(self.best - own) / i64::from(self.best) }
    }
}

/// What is wanted of a node.
#[derive(Clone, Copy, Debug)]
pub struct SeatCriteria<'a> {
    /// Bit/s.
    pub rate: u64,
    /// Nodes that must not be chosen.
    pub exclude: &'a [NodeId],
    /// Nodes that have just turned the client away for lack of room: chosen only if room is made.
    pub full: &'a [NodeId],
    /// The client's zone, empty if unknown.
    pub zone: &'a str,
    /// What the node must be able to do.
    pub needs: &'a Requirements,
    /// Set when several titles are asked for together.
    pub coverage: Option<&'a Coverage>,
}

/// What a decision sees, beside the need.
#[derive(Clone, Copy)]
pub struct ClusterView<'a> {
    /// Elapsed time.
    pub now: Instant,
    /// The nodes.
    pub roster: &'a Roster,
    /// What they were promised.
    pub ledger: &'a Ledger,
    /// What all of them have in common.
    pub common: ClusterStats,
    /// What is better.
    pub rule: RankRule,
    /// What it costs to leave a zone.
    pub zones: &'a Zones,
    /// Bit/s that copies on their way are to take, by node.
    pub copying: &'a [u64],
}

/// Why a holder is not, or only at need, chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be chosen.
    Fit,
    /// It may be chosen once it has answered a probe: its last word is old.
    Unsure,
    /// It has no room.
    Full,
    /// It has room only in its reserve: what is kept free because it is young, or because others' traffic is unsteady.
    Cold,
    /// Its silence, or clients, say that it does not serve.
    Suspect,
    /// It has failed often lately, and is given time.
    Held,
    /// Its channel is closed, its lease over, or its load unknown.
    Down,
    /// It takes no new sessions.
    Draining,
    /// The request excludes it.
    Excluded,
    /// It may never send that rate.
    Small,
    /// It cannot do what the request needs.
    Unequipped,
    /// Its copy is not whole, and grows too slowly, or not from where the request begins.
    Growing,
}

/// One holder, looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Whether it may be chosen.
    pub verdict: Verdict,
    /// What may be given.
    pub available: Available,
    /// Bit/s taken.
    pub level: u64,
    /// After this request, in thousandths of a standard deviation.
    pub margin: i64,
    /// Lower is better; see [`RankRule`].
    cost: i64,
    /// Decides between equals.
    lot: u32,
}

impl Candidate {
    /// Whether after so many bit/s more nothing would be left for changes of others' traffic.
    pub fn is_tight(&self, rate: u64) -> bool {
        let calm = self.available.rate.saturating_add(self.available.warm_up);
        self.available.variance > 0 && self.level.saturating_add(rate) > calm
    }

    /// Bit/s free before this request, its reserve included.
    pub fn headroom(&self) -> u64 {
        self.available.upper_limit().saturating_sub(self.level)
    }
}

/// Looks at every holder: `ranked` gets them all, those that may be chosen first and the best of them at its head.
/// Tells how many stand where.
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

/// Whether a node may be given this rate now.
pub fn could_serve(view: &ClusterView<'_>, criteria: &SeatCriteria<'_>, node: NodeId) -> bool {
    assess(view, criteria, node).verdict == Verdict::Fit
}

/// One holder, looked at; without its lot.
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

/// What may be given of a node, and what is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeLoad {
    /// What may be given.
    pub available: Available,
    /// Bit/s taken.
    pub level: u64,
}

/// A node's load now.
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

/// The first of the holders that are suspect or held, when there is no other: those who may be well are better than
/// none.
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

/// The best of the holders that have room in their reserve.
pub fn reserve_choice(ranked: &[Candidate]) -> Option<usize> {
    let cold = ranked.iter().enumerate().filter(|(_, candidate)| candidate.verdict == Verdict::Cold);
    cold.max_by_key(|(_, candidate)| (candidate.headroom(), candidate.lot)).map(|(at, _)| at)
}

/// The best of the holders that only a burst of others' traffic fills.
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
    fn order(self) -> u8 {
        match self {
            Self::Fit => 0,
            Self::Unsure => 1,
            Self::Cold => 2,
            Self::Full => 3,
            _ => 4,
        }
    }

    /// Its word for people and programs.
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
