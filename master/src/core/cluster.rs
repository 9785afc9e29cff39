//! The whole core behind one door: catalog, roster and ledger, kept in step. Owns what an event of one means for the
//! others, and the decision: look up, choose, reserve.

mod calm;
mod copies;
mod decide;
mod live;
mod request;
mod settings;
#[cfg(test)]
mod tests;
mod updates;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use rand::Rng;
use usher_proto::{SessionId, Title, model::Hello};

pub use self::{
    live::{Ingest, NotPublished},
    request::{Ask, Decision, Refused},
    settings::{Order, Settings},
};
use super::{
    NodeId, Now,
    balancer::{self, View},
    books::Common,
    catalog::{Catalog, Found},
    doubts::Doubts,
    feeds::Feeds,
    journal::{Journal, Record},
    ledger::Ledger,
    moves::{self, Rooms, Search, Step},
    replication::{self, Planner, Spot},
    roster::{AttachError, Change, Link, Roster, State},
};

/// How often what no request asks for is looked at: moves, copies, and what all nodes have in common.
const ROUND: Duration = Duration::from_secs(1);

/// How long after a master's start its nodes may take to come back: they try at least every two seconds.
const RETURN: Duration = Duration::from_secs(5);

/// How long a node that has attached may take to tell its catalog until others are answered without it.
const TELL: Duration = Duration::from_secs(10);

/// Something that people who watch want to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node attached.
    Attached(NodeId),
    /// A node's state changed.
    State(NodeId, State),
    /// So many sessions of a node that drains find no room at the other nodes that hold their titles.
    Stuck(NodeId, usize),
}

/// See the module.
pub struct Cluster {
    settings: Settings,
    /// When the master was started.
    started: Option<Instant>,
    catalog: Catalog,
    roster: Roster,
    ledger: Ledger,
    journal: Journal,
    doubts: Doubts,
    feeds: Feeds,
    common: Common,
    /// The sizes of the sessions that were placed: their mean square and mean, in kbit/s with 16 bits below the point.
    sizes: (u64, u64),
    /// The sessions that a node has named since it began to list all of them.
    listed: HashMap<NodeId, HashSet<SessionId>>,
    /// From the first node on, unless nothing is copied.
    planner: Option<Planner>,
    planned: Option<Instant>,
    spots: Vec<Option<Spot>>,
    /// Bit/s that copies on their way are to take of their sources.
    copying: Vec<u64>,
    copies: Vec<replication::Order>,
    rooms: Rooms,
    steps: Vec<Step>,
    round: Option<Instant>,
    /// Nodes whose last report shows that they have more than they can give.
    overloaded: Vec<NodeId>,
    calm: calm::Calm,
    orders: Vec<Order>,
    events: Vec<Event>,
    scratch: decide::Scratch,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Cluster {
    /// A cluster of no nodes.
    pub fn new(settings: Settings) -> Self {
        let common = Common { masters: settings.masters.max(1), ..Common::default() };
        Self {
            roster: Roster::new(settings.report_interval),
            settings,
            started: None,
            catalog: Catalog::new(),
            ledger: Ledger::default(),
            journal: Journal::default(),
            doubts: Doubts::default(),
            feeds: Feeds::default(),
            common,
            sizes: (0, 0),
            listed: HashMap::new(),
            planner: None,
            planned: None,
            spots: Vec::new(),
            copying: Vec::new(),
            copies: Vec::new(),
            rooms: Rooms::default(),
            steps: Vec::new(),
            round: None,
            overloaded: Vec::new(),
            calm: calm::Calm::default(),
            orders: Vec::new(),
            events: Vec::new(),
            scratch: decide::Scratch::default(),
        }
    }

    /// Attaches a node.
    pub fn attach(&mut self, now: Now, hello: Hello) -> Result<Link, AttachError> {
        let (link, fresh) = self.roster.attach(now, hello)?;
        if fresh {
            // The key of the tickets went with the old process.
            self.ledger.release_all(link.node);
        }
        self.listed.remove(&link.node);
        self.note_drain(now, link.node);
        self.round.get_or_insert(now.instant + ROUND);
        if self.settings.replication && self.planner.is_none() {
            self.planner = Some(Planner::new(now.instant, self.settings.copies.clone(), self.settings.grace));
        }
        self.events.push(Event::Attached(link.node));
        Ok(link)
    }

    /// The channel of an attachment closed.
    pub fn detach(&mut self, now: Now, link: Link) {
        if self.roster.detach(now, link) {
            self.calm.left(link.node);
            self.feeds.gone(now.instant, link.node);
            self.events.push(Event::State(link.node, State::Gone));
        }
    }

    /// The master has just been started: nodes of the one before it are about to attach.
    pub fn starting(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// Whether nodes may be about to tell of titles that the catalog does not have: one has attached and not told all of
    /// its own, or this master is young, and nobody has come yet, or such as were attached to a master before.
    pub fn is_gathering(&self, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        let young = self.started.is_some_and(|at| since(at) < RETURN);
        let mut attached = self.roster.nodes().map(|(_, node)| node).filter(|node| node.attached()).peekable();
        (young && attached.peek().is_none())
            || attached.any(|node| {
                let telling = !node.catalog_known && since(node.attached_at.instant) < TELL;
                telling || young && node.hello.attachment > 1
            })
    }

    /// Ends a reservation whose session will not be.
    pub fn release(&mut self, session: SessionId) {
        self.ledger.release(session);
    }

    /// Does what time alone brings: leases and reservations end, nodes that have too much shed, and the catalog collects
    /// a step of what is void.
    pub fn handle(&mut self, now: Now, rng: &mut impl Rng) {
        self.ledger.expire(now.instant);
        for (node, change) in self.roster.handle(now) {
            match change {
                Change::State(state) => self.events.push(Event::State(node, state)),
                Change::CopiesVoid => {
                    self.catalog.forget(node);
                    if let Some(planner) = &mut self.planner {
                        planner.forget(node);
                    }
                }
                Change::Forgotten => self.ledger.release_all(node),
            }
        }
        if !self.overloaded.is_empty() {
            let nodes = std::mem::take(&mut self.overloaded);
            self.make(now, |search, steps| moves::shed(search, &nodes, rng, steps));
        }
        self.calmly(now, rng);
        if self.round.is_some_and(|round| round <= now.instant) {
            self.round = Some(now.instant + ROUND);
            self.round();
            let ledger = &self.ledger;
            self.feeds.expire(now.instant, |session| ledger.session(session).is_some());
            self.join(now, rng);
            self.plan(now, rng);
        } else if self.hurry().is_some_and(|hurry| hurry <= now.instant) {
            self.plan(now, rng);
        }
    }

    fn is_overloaded(&self, now: Now, node: NodeId) -> bool {
        let Some(known) = self.roster.node(node) else { return false };
        let load = balancer::load(&self.view(now), node, known);
        load.level > load.available.most()
    }

    /// Makes the moves that `find` finds.
    fn make(&mut self, now: Now, find: impl FnOnce(&mut Search<'_>, &mut Vec<Step>)) {
        let mut steps = std::mem::take(&mut self.steps);
        self.search(now, |search| find(search, &mut steps));
        self.depart(now, &steps);
        self.steps = steps;
    }

    fn round(&mut self) {
        let variances = self.roster.nodes().filter_map(|(_, node)| node.books.variance());
        let (sum, count) = variances.fold((0_u64, 0), |(sum, count), one| (sum.saturating_add(one), count + 1));
        self.common.pool = sum.checked_div(count).unwrap_or(0);
    }

    /// Makes moves: their rates are promised, and the orders go out.
    pub fn depart(&mut self, now: Now, steps: &[Step]) {
        for step in steps {
            if self.ledger.depart(now, step.session, step.to) {
                self.orders.push(Order::Move(*step));
            }
        }
    }

    /// What is to be carried out since the last call.
    pub fn orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    fn probe(&mut self, now: Now, node: NodeId) {
        if self.roster.ask(now.instant, node) {
            self.orders.push(Order::Probe(node));
        }
    }

    fn view(&self, now: Now) -> View<'_> {
        View {
            now: now.instant,
            roster: &self.roster,
            ledger: &self.ledger,
            common: self.common,
            rule: self.settings.rule,
            zones: &self.settings.zones,
            copying: &self.copying,
        }
    }

    /// Looks for moves, with every node's room read anew.
    fn search<T>(&mut self, now: Now, look: impl FnOnce(&mut Search<'_>) -> T) -> T {
        let mut rooms = std::mem::take(&mut self.rooms);
        let view = self.view(now);
        rooms.read(&view);
        let found = look(&mut Search { view, catalog: &self.catalog, rooms: &mut rooms });
        self.rooms = rooms;
        found
    }

    /// Collects some of the copies that are void; true while there are more.
    pub fn sweep(&mut self) -> bool {
        self.catalog.sweep()
    }

    /// When [`Self::handle`] has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        // What is overloaded is so at once: any time that has passed says that.
        let at_once = if self.overloaded.is_empty() { None } else { self.round.map(|round| round - ROUND) };
        let others = [self.roster.deadline(), self.round, at_once, self.hurry(), self.calm.deadline()];
        self.ledger.deadline().into_iter().chain(others.into_iter().flatten()).min()
    }

    /// What has happened since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The roster.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The contents of a title, in the order of a request by name.
    pub fn versions(&self, title: &Title) -> Vec<Found> {
        self.catalog.versions(title.as_str(), |node| self.roster.attached(node))
    }

    /// Titles from a prefix on; see [`Catalog::list`].
    pub fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = Found> + 'a {
        self.catalog.list(prefix, after, |node| self.roster.attached(node))
    }

    /// A decision by the tag of its request, while it is kept.
    pub fn decided(&self, tag: u64) -> Option<&Record> {
        self.journal.find(tag)
    }

    /// What one node has taken, and left with its reserve: bit/s.
    pub fn load(&self, now: Now, node: NodeId) -> (u64, u64) {
        let Some(known) = self.roster.node(node) else { return (0, 0) };
        let load = balancer::load(&self.view(now), node, known);
        (load.level, load.available.last().saturating_sub(load.level))
    }
}
