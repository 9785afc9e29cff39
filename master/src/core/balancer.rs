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
    refusal::{Count, NoChoice, RETRY},
    zones::{Link, Zones},
};
use super::{
    NodeId,
    books::{Available, Common},
    ledger::Ledger,
    roster::{Node, Roster, Standing},
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
pub enum Rule {
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
pub struct Need<'a> {
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
pub struct View<'a> {
    /// Elapsed time.
    pub now: Instant,
    /// The nodes.
    pub roster: &'a Roster,
    /// What they were promised.
    pub ledger: &'a Ledger,
    /// What all of them have in common.
    pub common: Common,
    /// What is better.
    pub rule: Rule,
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
    /// Lower is better; see [`Rule`].
    cost: i64,
    /// Decides between equals.
    lot: u32,
}

impl Candidate {
    /// Whether after so many bit/s more nothing would be left for changes of others' traffic.
    pub fn is_tight(&self, rate: u64) -> bool {
        let calm = self.available.rate.saturating_add(self.available.cold);
        self.available.unsteady > 0 && self.level.saturating_add(rate) > calm
    }

    /// Bit/s free before this request, its reserve included.
    pub fn last_room(&self) -> u64 {
        self.available.last().saturating_sub(self.level)
    }
}

/// Looks at every holder: `ranked` gets them all, those that may be chosen first and the best of them at its head.
/// Tells how many stand where.
pub fn rank(
    view: &View<'_>,
    need: &Need<'_>,
    holders: impl Iterator<Item = (NodeId, bool)>,
    rng: &mut impl Rng,
    ranked: &mut Vec<Candidate>,
) -> Count {
    ranked.clear();
    let mut count = Count::default();
    for (node, served) in holders {
        count.holders += 1;
        let mut candidate = look(view, need, node);
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
pub fn could_serve(view: &View<'_>, need: &Need<'_>, node: NodeId) -> bool {
    look(view, need, node).verdict == Verdict::Fit
}

/// One holder, looked at; without its lot.
pub fn look(view: &View<'_>, need: &Need<'_>, id: NodeId) -> Candidate {
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
    let Load { available, level } = load(view, id, node);
    let verdict = judge(view, need, id, node, Load { available, level });
    let margin = node.books.margin(available.rate, level, need.rate, &view.common);
    let mut price = view.zones.price(need.zone, &node.hello.zone);
    price += need.coverage.map_or(0, |coverage| coverage.price(id));
    let cost = match view.rule {
        Rule::Margin => zones::cost(margin, price),
        Rule::Headroom => -i64::try_from(available.rate.saturating_sub(level)).unwrap_or(i64::MAX),
    };
    Candidate { verdict, available, level, margin, cost, ..none }
}

/// What may be given of a node, and what is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// What may be given.
    pub available: Available,
    /// Bit/s taken.
    pub level: u64,
}

/// A node's load now.
pub fn load(view: &View<'_>, id: NodeId, node: &Node) -> Load {
    let level = node.books.level(view.now, view.ledger.promised(id), view.common.masters);
    let copying = view.copying.get(id.index()).copied().unwrap_or(0);
    Load { available: node.books.available(view.now, copying), level }
}

fn judge(view: &View<'_>, need: &Need<'_>, id: NodeId, node: &Node, load: Load) -> Verdict {
    if need.exclude.contains(&id) {
        return Verdict::Excluded;
    }
    let unsure = match node.standing(view.now) {
        Standing::Draining => return Verdict::Draining,
        Standing::Down => return Verdict::Down,
        Standing::Held => return Verdict::Held,
        Standing::Suspect => return Verdict::Suspect,
        Standing::Unsure => true,
        Standing::Well => false,
    };
    if node.hello.equipment.lacks(need.needs).is_some() {
        return Verdict::Unequipped;
    }
    if node.largest_session() < need.rate {
        return Verdict::Small;
    }
    let after = load.level.saturating_add(need.rate);
    if need.full.contains(&id) {
        Verdict::Full
    } else if after <= load.available.rate {
        if unsure { Verdict::Unsure } else { Verdict::Fit }
    } else if after <= load.available.last() {
        Verdict::Cold
    } else {
        Verdict::Full
    }
}

/// The first of the holders that are suspect or held, when there is no other: those who may be well are better than
/// none.
pub fn panic(need: &Need<'_>, ranked: &[Candidate]) -> Option<usize> {
    let held = |candidate: &Candidate| matches!(candidate.verdict, Verdict::Suspect | Verdict::Held);
    let out = |candidate: &Candidate| {
        use Verdict::{Down, Draining, Excluded, Growing, Small, Unequipped};
        matches!(candidate.verdict, Down | Draining | Excluded | Growing | Small | Unequipped)
    };
    if !ranked.iter().all(|candidate| held(candidate) || out(candidate)) {
        return None;
    }
    let fits = |candidate: &Candidate| held(candidate) && candidate.last_room() >= need.rate;
    let able = ranked.iter().enumerate().filter(|(_, candidate)| fits(candidate));
    able.max_by_key(|(_, candidate)| (candidate.margin, candidate.lot)).map(|(at, _)| at)
}

/// The best of the holders that have room in their reserve.
pub fn cold(ranked: &[Candidate]) -> Option<usize> {
    let cold = ranked.iter().enumerate().filter(|(_, candidate)| candidate.verdict == Verdict::Cold);
    cold.max_by_key(|(_, candidate)| (candidate.last_room(), candidate.lot)).map(|(at, _)| at)
}

/// The best of the holders that only a burst of others' traffic fills.
pub fn burst(view: &View<'_>, need: &Need<'_>, ranked: &[Candidate]) -> Option<usize> {
    let only_burst = |candidate: &Candidate| {
        candidate.verdict == Verdict::Full
            && view.roster.node(candidate.node).is_some_and(|node| {
                node.books.is_burst(candidate.available.rate, candidate.level, need.rate, &view.common)
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
