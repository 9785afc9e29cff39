//! The core's entry point: keeps catalog, roster, ledger, feeds and planner consistent. Inputs are `handle_*` methods,
//! outputs `poll_*` methods, and [`Cluster::next_timeout`] is the time of the next [`Cluster::handle_timeout`].

mod background_moves;
mod copies;
mod decide;
mod fairness;
mod live;
mod publish;
mod refused;
mod request;
mod settings;
#[cfg(test)]
mod tests;
mod updates;
mod viewers;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use rand::{Rng, RngExt as _};
use usher_proto::{ContentId, SessionId, Title, model::Hello};

pub use self::{
    publish::{IngestSeats, PublishRefused},
    request::{Decision, Refused, SeatRequest},
    settings::{NodeLimits, Order, Settings},
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
    viewers::ViewerSessions,
};

/// Interval of periodic work: moves, copies, and statistics over all nodes.
const ROUND: Duration = Duration::from_secs(1);

/// Time that nodes have to return after a master's start: they retry at least every two seconds.
const RETURN_PERIOD: Duration = Duration::from_secs(5);

/// Time that an attached node has to send its catalog before requests are answered without it.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(10);

/// A change that watchers are notified of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A node attached.
    Attached(NodeId),
    /// A node's state changed.
    State(NodeId, NodeState),
    /// Number of sessions on a draining node for which the other holders have no headroom.
    Stuck(NodeId, usize),
}

/// Core state of one cluster.
pub struct Cluster {
    settings: Settings,
    /// Time of the master's start.
    started: Option<Instant>,
    catalog: Catalog,
    roster: Roster,
    ledger: Ledger,
    journal: Journal,
    rechecks: RecheckLimiter,
    refused: refused::RefusedClients,
    feeds: Feeds,
    viewers: ViewerSessions,
    common: ClusterStats,
    /// Mean square and mean of the rates of placed sessions, in kbit/s with 16 fraction bits.
    sizes: (u64, u64),
    /// Sessions that a node has named since it started to list all of them.
    listed: HashMap<NodeId, HashSet<SessionId>>,
    /// Set from the first node on, unless replication is off.
    planner: Option<Planner>,
    planned: Option<Instant>,
    snapshots: Vec<Option<NodeSnapshot>>,
    /// Bit/s reserved on source nodes for copies in progress.
    copying: Vec<u64>,
    copies: Vec<replication::CopyOrder>,
    headroom: HeadroomTable,
    steps: Vec<SessionMove>,
    round: Option<Instant>,
    /// Nodes whose last report shows more load than they can serve.
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
    /// A cluster without nodes.
    pub fn new(settings: Settings) -> Self {
        let common = ClusterStats { masters: settings.masters.max(1), ..ClusterStats::default() };
        Self {
            roster: Roster::new(settings.report_interval, settings.dial_back),
            catalog: Catalog::within(settings.catalog_memory),
            settings,
            started: None,
            ledger: Ledger::default(),
            journal: Journal::default(),
            rechecks: RecheckLimiter::default(),
            refused: refused::RefusedClients::default(),
            feeds: Feeds::default(),
            viewers: ViewerSessions::default(),
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
    pub fn handle_attach(&mut self, now: Now, mut hello: Hello) -> Result<AttachmentId, AttachError> {
        let most = self.settings.limits.get(&hello.node).and_then(|limits| limits.max_rate);
        hello.capacity.0 = hello.capacity.0.min(most.unwrap_or(u64::MAX));
        let (attachment, fresh) = self.roster.handle_attach(now, hello)?;
        if fresh {
            // The old process's ticket key is gone.
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

    /// Handles the end of an attachment's channel.
    pub fn handle_detach(&mut self, now: Now, attachment: AttachmentId) {
        if self.roster.handle_detach(now, attachment) {
            self.background.left(attachment.node);
            self.feeds.handle_detach(now.instant, attachment.node);
            self.events.push(ClusterEvent::State(attachment.node, NodeState::Gone));
        }
    }

    /// Handles the master's start: nodes of a previous master are about to attach.
    pub fn handle_start(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// Whether titles may be missing from the catalog: an attached node has not sent all of its catalog, or the master
    /// is young and either no node has attached or some were attached to a previous master.
    pub fn is_gathering(&self, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        let young = self.started.is_some_and(|at| since(at) < RETURN_PERIOD);
        let mut attached = self.roster.nodes().map(|(_, node)| node).filter(|node| node.attached()).peekable();
        (young && attached.peek().is_none())
            || attached.any(|node| {
                let telling = !node.catalog_known && since(node.attached_at.instant) < CATALOG_TIMEOUT;
                telling || young && node.hello.attachment > 1
            })
    }

    /// The id of a new session.
    pub fn new_session(&self, rng: &mut impl Rng) -> SessionId {
        match &self.settings.session_key {
            Some(key) => key.issue(rng.random()),
            None => SessionId(rng.random()),
        }
    }

    /// Releases a reservation whose session will not start.
    pub fn release(&mut self, session: SessionId) {
        self.ledger.release(session);
    }

    /// Handles the passage of time: expires leases and reservations, moves sessions off overloaded nodes, and runs
    /// periodic work.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut impl Rng) {
        self.ledger.handle_timeout(now.instant);
        while let Some((session, node)) = self.ledger.poll_surplus(now.instant) {
            self.orders.push(Order::EndSurplus { session, node });
        }
        self.dial_back(now);
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
            self.viewers.sweep(ledger);
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

    /// Starts the moves that `find` returns.
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
        let proven = self.roster.nodes().map(|(_, node)| node.estimate.proven()).max().unwrap_or(0);
        self.roster.trust(proven);
    }

    /// Starts moves: reserves their rates at the targets and emits the orders.
    pub fn start_moves(&mut self, now: Now, steps: &[SessionMove]) {
        for step in steps {
            if self.ledger.start_move(now, step.session, step.to) {
                self.orders.push(Order::Move(*step));
            }
        }
    }

    /// Returns the orders since the last call.
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

    /// Runs a search for moves over the current headroom of every node.
    fn search<T>(&mut self, now: Now, look: impl FnOnce(&mut MoveSearch<'_>) -> T) -> T {
        let mut headroom = std::mem::take(&mut self.headroom);
        let view = self.view(now);
        headroom.read(&view);
        let found = look(&mut MoveSearch { view, catalog: &self.catalog, headroom: &mut headroom });
        self.headroom = headroom;
        found
    }

    /// Collects some invalid copies. Returns whether more remain.
    pub fn sweep(&mut self) -> bool {
        self.catalog.sweep()
    }

    /// Time at which [`Self::handle_timeout`] has work next.
    pub fn next_timeout(&self) -> Option<Instant> {
        // An overloaded node is due at once, so any time in the past serves.
        let at_once = if self.overloaded.is_empty() { None } else { self.round.map(|round| round - ROUND) };
        let others =
            [self.roster.next_timeout(), self.round, at_once, self.urgent_plan(), self.background.next_timeout()];
        self.ledger.next_timeout().into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Returns the events since the last call.
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

    /// Makes a content the one that requests for a title get. Returns false if there is no copy of it.
    pub fn decide_content(&mut self, title: &Title, content: ContentId) -> bool {
        self.catalog.decide(title, content)
    }

    /// Restores decisions about contents that were made before the master's start.
    pub fn restore_decisions(&mut self, decisions: Vec<(Title, ContentId)>) {
        decisions.into_iter().for_each(|(title, content)| self.catalog.restore_decision(title, content));
    }

    /// The contents of a title, the default one first.
    pub fn versions(&self, title: &Title) -> Vec<TitleVersion> {
        self.catalog.versions(title.as_str(), |node| self.roster.attached(node))
    }

    /// Titles by prefix; see [`Catalog::list`].
    pub fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = TitleVersion> + 'a {
        self.catalog.list(prefix, after, |node| self.roster.attached(node))
    }

    /// A recorded decision by the tag of its request.
    pub fn decision(&self, tag: u64) -> Option<&DecisionRecord> {
        self.journal.find(tag)
    }

    /// Bit/s in use on a node, and bit/s free, reserves included.
    pub fn load(&self, now: Now, node: NodeId) -> (u64, u64) {
        let Some(known) = self.roster.node(node) else { return (0, 0) };
        let load = balancer::load(&self.view(now), node, known);
        (load.level, load.available.upper_limit().saturating_sub(load.level))
    }
}
