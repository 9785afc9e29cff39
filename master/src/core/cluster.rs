//! The whole core behind one door: catalog, roster and ledger, kept in step. Owns what an event of one means for the
//! others, and the decision: look up, choose, reserve.

mod background_moves;
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
    live::{IngestSeats, PublishRefused},
    request::{Decision, Refused, SeatRequest},
    settings::{Order, Settings},
};
use super::{
    NodeId, Now,
    balancer::{self, ClusterView},
    catalog::{Catalog, TitleVersion},
    feeds::Feeds,
    journal::{DecisionRecord, Journal},
    ledger::Ledger,
    load_estimate::ClusterStats,
    moves::{self, HeadroomTable, MoveSearch, SessionMove},
    recheck::RecheckLimiter,
    replication::{self, NodeSnapshot, Planner},
    roster::{AttachError, AttachmentId, NodeState, Roster, RosterChange},
};

/// How often what no request asks for is looked at: moves, copies, and what all nodes have in common.
const ROUND: Duration = Duration::from_secs(1);

/// How long after a master's start its nodes may take to come back: they try at least every two seconds.
const RETURN: Duration = Duration::from_secs(5);

/// How long a node that has attached may take to tell its catalog until others are answered without it.
const TELL: Duration = Duration::from_secs(10);

/// Something that people who watch want to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A node attached.
    Attached(NodeId),
    /// A node's state changed.
    State(NodeId, NodeState),
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
    rechecks: RecheckLimiter,
    feeds: Feeds,
    common: ClusterStats,
    /// The sizes of the sessions that were placed: their mean square and mean, in kbit/s with 16 bits below the point.
    sizes: (u64, u64),
    /// The sessions that a node has named since it began to list all of them.
    listed: HashMap<NodeId, HashSet<SessionId>>,
    /// From the first node on, unless nothing is copied.
    planner: Option<Planner>,
    planned: Option<Instant>,
    snapshots: Vec<Option<NodeSnapshot>>,
    /// Bit/s that copies on their way are to take of their sources.
    copying: Vec<u64>,
    copies: Vec<replication::CopyOrder>,
    headroom: HeadroomTable,
    steps: Vec<SessionMove>,
    round: Option<Instant>,
    /// Nodes whose last report shows that they have more than they can give.
    overloaded: Vec<NodeId>,
    background: background_moves::BackgroundMoves,
    orders: Vec<Order>,
    events: Vec<ClusterEvent>,
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
        let common = ClusterStats { masters: settings.masters.max(1), ..ClusterStats::default() };
        Self {
            roster: Roster::new(settings.report_interval),
            settings,
            started: None,
            catalog: Catalog::new(),
            ledger: Ledger::default(),
            journal: Journal::default(),
            rechecks: RecheckLimiter::default(),
            feeds: Feeds::default(),
            common,
            sizes: (0, 0),
            listed: HashMap::new(),
            planner: None,
            planned: None,
            snapshots: Vec::new(),
            copying: Vec::new(),
            copies: Vec::new(),
            headroom: HeadroomTable::default(),
            steps: Vec::new(),
            round: None,
            overloaded: Vec::new(),
            background: background_moves::BackgroundMoves::default(),
            orders: Vec::new(),
            events: Vec::new(),
            scratch: decide::Scratch::default(),
        }
    }

    /// Attaches a node.
    pub fn handle_attach(&mut self, now: Now, hello: Hello) -> Result<AttachmentId, AttachError> {
        let (attachment, fresh) = self.roster.handle_attach(now, hello)?;
        if fresh {
            // The key of the tickets went with the old process.
            self.ledger.release_all(attachment.node);
        }
        self.listed.remove(&attachment.node);
        self.note_drain(now, attachment.node);
        self.round.get_or_insert(now.instant + ROUND);
        if self.settings.replication && self.planner.is_none() {
            self.planner = Some(Planner::new(now.instant, self.settings.copies.clone(), self.settings.grace));
        }
        self.events.push(ClusterEvent::Attached(attachment.node));
        Ok(attachment)
    }

    /// The channel of an attachment closed.
    pub fn handle_detach(&mut self, now: Now, attachment: AttachmentId) {
        if self.roster.handle_detach(now, attachment) {
            self.background.left(attachment.node);
            self.feeds.handle_detach(now.instant, attachment.node);
            self.events.push(ClusterEvent::State(attachment.node, NodeState::Gone));
        }
    }

    /// The master has just been started: nodes of the one before it are about to attach.
    pub fn handle_start(&mut self, now: Instant) {
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
    pub fn handle_timeout(&mut self, now: Now, rng: &mut impl Rng) {
        self.ledger.handle_timeout(now.instant);
        for (node, change) in self.roster.handle_timeout(now) {
            match change {
                RosterChange::State(state) => self.events.push(ClusterEvent::State(node, state)),
                RosterChange::CopiesVoid => {
                    self.catalog.forget(node);
                    if let Some(planner) = &mut self.planner {
                        planner.handle_node_lost(node);
                    }
                }
                RosterChange::Forgotten => self.ledger.release_all(node),
            }
        }
        if !self.overloaded.is_empty() {
            let nodes = std::mem::take(&mut self.overloaded);
            self.find_and_start_moves(now, |search, steps| moves::shed(search, &nodes, rng, steps));
        }
        self.make_background_moves(now, rng);
        if self.round.is_some_and(|round| round <= now.instant) {
            self.round = Some(now.instant + ROUND);
            self.refresh_stats();
            let ledger = &self.ledger;
            self.feeds.handle_timeout(now.instant, |session| ledger.session(session).is_some());
            self.fill_joined_nodes(now, rng);
            self.plan_copies(now, rng);
        } else if self.urgent_plan().is_some_and(|hurry| hurry <= now.instant) {
            self.plan_copies(now, rng);
        }
    }

    fn is_overloaded(&self, now: Now, node: NodeId) -> bool {
        let Some(known) = self.roster.node(node) else { return false };
        let load = balancer::load(&self.view(now), node, known);
        load.level > load.available.with_reserves()
    }

    /// Makes the moves that `find` finds.
    fn find_and_start_moves(&mut self, now: Now, find: impl FnOnce(&mut MoveSearch<'_>, &mut Vec<SessionMove>)) {
        let mut steps = std::mem::take(&mut self.steps);
        self.search(now, |search| find(search, &mut steps));
        self.start_moves(now, &steps);
        self.steps = steps;
    }

    fn refresh_stats(&mut self) {
        let variances = self.roster.nodes().filter_map(|(_, node)| node.estimate.variance());
        let (sum, count) = variances.fold((0_u64, 0), |(sum, count), one| (sum.saturating_add(one), count + 1));
        self.common.pool = sum.checked_div(count).unwrap_or(0);
    }

    /// Makes moves: their rates are promised, and the orders go out.
    pub fn start_moves(&mut self, now: Now, steps: &[SessionMove]) {
        for step in steps {
            if self.ledger.start_move(now, step.session, step.to) {
                self.orders.push(Order::Move(*step));
            }
        }
    }

    /// What is to be carried out since the last call.
    pub fn poll_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    fn probe(&mut self, now: Now, node: NodeId) {
        if self.roster.start_probe(now.instant, node) {
            self.orders.push(Order::Probe(node));
        }
    }

    fn view(&self, now: Now) -> ClusterView<'_> {
        ClusterView {
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
    fn search<T>(&mut self, now: Now, look: impl FnOnce(&mut MoveSearch<'_>) -> T) -> T {
        let mut headroom = std::mem::take(&mut self.headroom);
        let view = self.view(now);
        headroom.read(&view);
        let found = look(&mut MoveSearch { view, catalog: &self.catalog, headroom: &mut headroom });
        self.headroom = headroom;
        found
    }

    /// Collects some of the copies that are void; true while there are more.
    pub fn sweep(&mut self) -> bool {
        self.catalog.sweep()
    }

    /// When [`Self::handle_timeout`] has something to do next.
    pub fn next_timeout(&self) -> Option<Instant> {
        // What is overloaded is so at once: any time that has passed says that.
        let at_once = if self.overloaded.is_empty() { None } else { self.round.map(|round| round - ROUND) };
        let others =
            [self.roster.next_timeout(), self.round, at_once, self.urgent_plan(), self.background.next_timeout()];
        self.ledger.next_timeout().into_iter().chain(others.into_iter().flatten()).min()
    }

    /// What has happened since the last call.
    pub fn poll_events(&mut self) -> Vec<ClusterEvent> {
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
    pub fn versions(&self, title: &Title) -> Vec<TitleVersion> {
        self.catalog.versions(title.as_str(), |node| self.roster.attached(node))
    }

    /// Titles from a prefix on; see [`Catalog::list`].
    pub fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = TitleVersion> + 'a {
        self.catalog.list(prefix, after, |node| self.roster.attached(node))
    }

    /// A decision by the tag of its request, while it is kept.
    pub fn decision(&self, tag: u64) -> Option<&DecisionRecord> {
        self.journal.find(tag)
    }

    /// What one node has taken, and left with its reserve: bit/s.
    pub fn load(&self, now: Now, node: NodeId) -> (u64, u64) {
        let Some(known) = self.roster.node(node) else { return (0, 0) };
        let load = balancer::load(&self.view(now), node, known);
        (load.level, load.available.upper_limit().saturating_sub(load.level))
    }
}
