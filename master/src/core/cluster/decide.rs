//! The decision: look up, choose, reserve. Owns the order of these, and the words that explain it.

use std::fmt;

use rand::Rng;
use thiserror::Error;
use usher_proto::{
    Bitrate, ContentId, NodeName, SessionId, Title,
    code::{Code, Fault},
    model::{Range, Resolve, What},
    ticket::Purpose,
};

use super::{
    super::{
        NodeId, Now,
        balancer::{self, ALTERNATES, Candidate, Count, Coverage, DEFAULT_RATE, Need, NoChoice},
        catalog::Found,
    },
    Cluster,
};

/// A fetch reserves at most one part in this many of its largest node.
const FETCH_SHARE: u64 = 4;

/// A request as the core sees it.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Which title.
    pub what: &'a What,
    /// What it is wanted for.
    pub purpose: Purpose,
    /// Which bytes of it.
    pub range: Range,
    /// The rate to reserve, if not the title's own.
    pub rate: Option<Bitrate>,
    /// Nodes that must not be chosen.
    pub exclude: &'a [NodeName],
    /// The client's zone, empty if unknown.
    pub zone: &'a str,
}

impl<'a> From<&'a Resolve> for Ask<'a> {
    fn from(resolve: &'a Resolve) -> Self {
        let Resolve { what, purpose, range, rate, exclude, zone, .. } = resolve;
        Self { what, purpose: *purpose, range: *range, rate: *rate, exclude, zone }
    }
}

/// What was decided. The first seat's rate is reserved under the session's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The session.
    pub session: SessionId,
    /// The title on the chosen nodes.
    pub title: Title,
    /// The content, once hashed.
    pub content: Option<ContentId>,
    /// Bytes.
    pub size: u64,
    /// Bit/s reserved on the first seat.
    pub rate: Bitrate,
    /// The chosen node.
    pub first: NodeId,
    /// Others that could serve, best first.
    pub alternates: [Option<NodeId>; ALTERNATES],
    /// The first's headroom in bit/s before this request.
    pub headroom: u64,
    /// Holders that could have served.
    pub fit: u32,
    /// Where the holders stand.
    pub count: Count,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Nothing could be chosen.
    #[error("`{what}`: {why}")]
    NoChoice {
        /// The title or content.
        what: What,
        /// Why.
        why: NoChoice,
    },
    /// The range is not in the title.
    #[error("the range begins at byte {start}, and `{what}` has {size}")]
    Range {
        /// The title or content.
        what: What,
        /// First byte asked for.
        start: u64,
        /// Bytes of the title.
        size: u64,
    },
}

impl From<&Refused> for Fault {
    fn from(error: &Refused) -> Self {
        let message = error.to_string();
        match error {
            Refused::NoChoice { why, .. } => Self { message, ..Self::from(why) },
            Refused::Range { .. } => Self::new(Code::BadRange, message),
        }
    }
}

/// Why the first seat was chosen, for people.
pub struct Reason<'a> {
    decision: &'a Decision,
    node: &'a str,
    capacity: Bitrate,
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { decision, node, capacity } = self;
        let free = Bitrate(decision.headroom);
        if decision.count.holders == 1 {
            return write!(f, "the only holder: {free} of {capacity} free on {node}");
        }
        write!(f, "greatest headroom: {free} of {capacity} free on {node}; ")?;
        write!(f, "{} of {} holders could serve", decision.fit, decision.count.holders)?;
        match decision.count.unfit() {
            unfit if unfit.is_empty() => Ok(()),
            unfit => write!(f, " ({unfit})"),
        }
    }
}

/// Kept between decisions so that none allocates beyond its answer.
#[derive(Default)]
pub(super) struct Scratch {
    found: Vec<Found>,
    holders: Vec<(NodeId, usize)>,
    exclude: Vec<NodeId>,
    ranked: Vec<Candidate>,
}

impl Cluster {
    /// Decides one request. `session` must be new.
    pub fn resolve(
        &mut self,
        now: Now,
        session: SessionId,
        ask: &Ask<'_>,
        rng: &mut impl Rng,
    ) -> Result<Decision, Refused> {
        self.decide(now, session, ask, None, rng)
    }

    /// Decides several requests, one after the other, so that each sees what those before it reserved. A node that
    /// could serve more of them is preferred when it has nearly the greatest headroom anyway.
    pub fn resolve_many(
        &mut self,
        now: Now,
        asks: &[(SessionId, Ask<'_>)],
        rng: &mut impl Rng,
    ) -> Vec<Result<Decision, Refused>> {
        let mut coverage = Coverage::default();
        for (_, ask) in asks {
            self.look_up(ask.what);
            self.scratch.exclude(ask.exclude.iter().filter_map(|name| self.roster.id(name)));
            let Some(first) = self.scratch.found.first() else { continue };
            let rate = self.rate(now, ask, first);
            let need = Need { rate, exclude: &self.scratch.exclude, zone: ask.zone, coverage: None };
            for (node, _) in &self.scratch.holders {
                if balancer::could_serve(now, &need, *node, (&self.roster, &self.ledger)) {
                    coverage.add(*node);
                }
            }
        }
        let decide = |(session, ask): &(SessionId, Ask<'_>)| {
            let decision = self.decide(now, *session, ask, Some(&coverage), rng);
            if let Ok(decision) = &decision {
                // Among nodes that could serve equally many, the one that serves already.
                coverage.add(decision.first);
            }
            decision
        };
        asks.iter().map(decide).collect()
    }

    /// Why a decision fell as it did; `None` once the node is forgotten.
    pub fn reason<'a>(&'a self, decision: &'a Decision) -> Option<Reason<'a>> {
        let node = self.roster.node(decision.first)?;
        Some(Reason { decision, node: node.name().as_str(), capacity: node.hello.capacity })
    }

    fn decide(
        &mut self,
        now: Now,
        session: SessionId,
        ask: &Ask<'_>,
        coverage: Option<&Coverage>,
        rng: &mut impl Rng,
    ) -> Result<Decision, Refused> {
        let no = |why| Refused::NoChoice { what: ask.what.clone(), why };
        self.look_up(ask.what);
        let first = self.scratch.found.first().copied().ok_or_else(|| no(NoChoice::NotFound))?;
        let size = self.catalog.facts(&first).map_or(0, |facts| facts.size);
        if ask.range.within(size).is_none() {
            return Err(Refused::Range { what: ask.what.clone(), start: ask.range.start, size });
        }
        let rate = self.rate(now, ask, &first);
        self.scratch.exclude(ask.exclude.iter().filter_map(|name| self.roster.id(name)));
        let Scratch { found, holders, exclude, ranked } = &mut self.scratch;
        let need = Need { rate, exclude, zone: ask.zone, coverage };
        let nodes = holders.iter().map(|(node, _)| *node);
        let count = balancer::choose(now, &need, nodes, (&self.roster, &self.ledger), rng, ranked).map_err(no)?;
        // `choose` leaves at least one candidate when it does not fail.
        let best = *ranked.first().ok_or_else(|| no(NoChoice::NotFound))?;
        let name_of = |node| holders.iter().find(|(holder, _)| *holder == node).map(|(_, at)| *at);
        let title_at = name_of(best.node).unwrap_or(0);
        // An alternate under another name would be another title to the client.
        let mut others = ranked.iter().skip(1).map(|c| c.node).filter(|node| name_of(*node) == Some(title_at));
        let alternates = std::array::from_fn(|_| others.next());
        let facts = found.get(title_at).and_then(|found| self.catalog.facts(found));
        let facts = facts.ok_or_else(|| no(NoChoice::NotFound))?;
        let decision = Decision {
            session,
            title: facts.title.clone(),
            content: facts.content,
            size: facts.size,
            rate,
            first: best.node,
            alternates,
            headroom: best.headroom,
            fit: u32::try_from(ranked.len()).unwrap_or(u32::MAX),
            count,
        };
        self.ledger.reserve(now, session, best.node, rate.0);
        Ok(decision)
    }

    /// Fills the scratch with what a request means and who holds it, each node once.
    fn look_up(&mut self, what: &What) {
        let Scratch { found, holders, .. } = &mut self.scratch;
        found.clear();
        holders.clear();
        match what {
            What::Title(title) => {
                found.extend(self.catalog.by_title(title.as_str(), |node| self.roster.attached(node)));
            }
            What::Content(content) => self.catalog.by_content(content, found),
        }
        for (at, version) in found.iter().enumerate() {
            holders.extend(self.catalog.holders(version).map(|node| (node, at)));
        }
        if found.len() > 1 {
            // A node may hold one content under two names.
            holders.sort_unstable();
            holders.dedup_by_key(|(node, _)| *node);
        }
    }

    /// What to reserve. A viewer gets the title's own rate at least, whatever it asks for: it will take that much. A
    /// fetch gives way, so it holds a place in proportion to its nodes and is never too fast for all of them.
    fn rate(&self, now: Now, ask: &Ask<'_>, found: &Found) -> Bitrate {
        let own = self.catalog.facts(found).map(|facts| facts.bitrate).filter(|rate| rate.0 > 0);
        let own = own.unwrap_or(DEFAULT_RATE).0;
        let asked = ask.rate.map_or(own, |rate| rate.0);
        Bitrate(match ask.purpose {
            Purpose::Play => asked.max(own),
            Purpose::Fetch => {
                let holders = self.scratch.holders.iter().filter_map(|(node, _)| self.roster.node(*node));
                let serving = holders.filter(|node| node.can_serve(now.instant));
                let largest = serving.map(|node| node.hello.capacity.0).max();
                asked.min(own).min(largest.map_or(u64::MAX, |largest| (largest / FETCH_SHARE).max(1)))
            }
        })
    }
}

impl Scratch {
    fn exclude(&mut self, nodes: impl Iterator<Item = NodeId>) {
        self.exclude.clear();
        self.exclude.extend(nodes);
    }
}
