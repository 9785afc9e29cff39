//! Moves that no request waits for: off draining nodes, to nodes that have just joined, and those that the operator
//! ordered. Owns their timing, pace and retries.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::{Duration, Instant},
};

use rand::Rng;
use usher_proto::SessionId;

use super::{Cluster, ClusterEvent};
use crate::core::{
    NodeId, Now,
    catalog::ContentKey,
    moves::{self, DrainPace, SessionMove, SourceNodes},
    roster::{NodeHealth, NodeState},
};

/// Interval between batches of moves: many small batches disturb less than few large ones.
const BATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Time before a session is tried again after its node refused the move.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Operator-ordered moves per batch: 16 a second.
const ORDERED_PER_BATCH: usize = 4;

/// Moves per second to nodes that have joined.
const JOINED_PER_SECOND: usize = 4;

/// Time during which a joined node receives sessions: one minute of warm-up and two minutes of moves.
const JOIN_PERIOD: Duration = Duration::from_secs(180);

/// Time before the same node receives sessions again when it rejoins: a flapping node must not disturb viewers.
const REJOIN_PAUSE: Duration = Duration::from_secs(600);

/// State of background moves.
#[derive(Default)]
pub(super) struct BackgroundMoves {
    /// Draining nodes.
    drains: HashMap<NodeId, DrainPace>,
    /// Sessions whose move was refused since the last batch.
    refused: Vec<SessionId>,
    /// Sessions left alone after a refusal, and until when.
    resting: HashMap<SessionId, Instant>,
    /// Time at which nodes joined.
    joined: HashMap<NodeId, Instant>,
    sources: SourceNodes,
    /// Moves ordered by the operator.
    ordered: VecDeque<SessionMove>,
    next: Option<Instant>,
}

impl BackgroundMoves {
    /// Handles the end of a node's channel.
    pub(super) fn left(&mut self, node: NodeId) {
        self.drains.remove(&node);
    }

    /// Handles a node's refusal to move a session.
    pub(super) fn refused(&mut self, session: SessionId) {
        // Only drains retry.
        if !self.drains.is_empty() {
            self.refused.push(session);
        }
    }

    /// Time of the next batch.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn is_idle(&self) -> bool {
        self.drains.is_empty() && self.ordered.is_empty()
    }
}

impl Cluster {
    /// Records whether a node drains, or has started to serve.
    pub(super) fn note_drain(&mut self, now: Now, node: NodeId) {
        let Some(known) = self.roster.node(node) else { return };
        let presence = &known.hello.presence;
        if presence.draining {
            let left = presence.drain_left;
            match self.background.drains.entry(node) {
                Entry::Occupied(drain) => drain.into_mut().again(now.instant, left),
                Entry::Vacant(place) => {
                    place.insert(DrainPace::new(now.instant, left));
                }
            }
            self.background.next.get_or_insert(now.instant + BATCH_INTERVAL);
        } else {
            let undrained = self.background.drains.remove(&node).is_some();
            // A node that attaches again was present before, perhaps at another master.
            let started = known.attached_at == now && known.hello.attachment == 1;
            let quiet = self.background.joined.get(&node).is_some_and(|at| *at + REJOIN_PAUSE > now.instant);
            if (undrained || started) && !quiet {
                self.background.joined.insert(node, now.instant);
            }
        }
    }

    /// Time until a draining node ends its sessions; zero if it does not drain or has ended them.
    pub fn drain_left(&self, now: Now, node: NodeId) -> Duration {
        let timed = self.roster.node(node).is_some_and(|node| !node.hello.presence.drain_left.is_zero());
        let left = self.background.drains.get(&node).filter(|_| timed).map(|drain| drain.left(now.instant));
        left.unwrap_or_default()
    }

    /// Contents in use on a node that no other node could serve, with their session counts.
    pub fn only_held_by(&mut self, now: Now, node: NodeId) -> Vec<(Option<ContentKey>, usize)> {
        let mut only = self.search(now, |search| search.only_at(node));
        // Feeds continue at any other node; their sessions are among those without a known title.
        let feeds = self.feeds.sessions().filter(|(session, used)| {
            self.feeds.get(&used.title).is_some()
                && self.ledger.session(*session).is_some_and(|known| known.node == node)
        });
        let feeds = feeds.count();
        only.retain_mut(|(key, sessions)| {
            if key.is_none() {
                *sessions = sessions.saturating_sub(feeds);
            }
            *sessions > 0
        });
        only
    }

    /// Finds up to `most` moves that level the load. Starts none of them.
    pub fn rebalance(&mut self, now: Now, most: usize, rng: &mut impl Rng) -> Vec<SessionMove> {
        let mut steps = Vec::new();
        self.search(now, |search| moves::spread(search, most, |_| true, &mut SourceNodes::new(), rng, &mut steps));
        steps
    }

    /// Schedules moves; each is skipped if it no longer makes sense when its turn comes.
    pub fn order_moves(&mut self, now: Now, steps: &[SessionMove]) {
        // Earlier orders are already part of this plan.
        self.background.ordered = steps.iter().copied().collect();
        if !steps.is_empty() {
            self.background.next.get_or_insert(now.instant + BATCH_INTERVAL);
        }
    }

    /// Starts the moves that are due.
    pub(super) fn make_background_moves(&mut self, now: Now, rng: &mut impl Rng) {
        if self.background.next.is_none_or(|next| next > now.instant) {
            return;
        }
        let due: Vec<SessionMove> =
            self.background.ordered.drain(..ORDERED_PER_BATCH.min(self.background.ordered.len())).collect();
        for step in due {
            self.make_ordered_move(now, step);
        }
        self.background.resting.retain(|_, until| *until > now.instant);
        let refused = std::mem::take(&mut self.background.refused);
        self.background.resting.extend(refused.into_iter().map(|session| (session, now.instant + RETRY_PAUSE)));
        if self.settings.moves {
            let mut drains = std::mem::take(&mut self.background.drains);
            for (node, drain) in &mut drains {
                self.drain_node(now, *node, drain, rng);
            }
            self.background.drains = drains;
        }
        self.background.next = if self.background.is_idle() { None } else { Some(now.instant + BATCH_INTERVAL) };
        if self.background.drains.is_empty() {
            self.background.resting.clear();
        }
    }

    fn make_ordered_move(&mut self, now: Now, step: SessionMove) {
        let there = self.ledger.session(step.session).is_some_and(|session| session.node == step.from);
        let well = self.roster.node(step.to).is_some_and(|node| node.health(now.instant) == NodeHealth::Well);
        if there && well && self.load(now, step.to).1 >= step.rate {
            self.start_moves(now, &[step]);
        }
    }

    fn drain_node(&mut self, now: Now, node: NodeId, drain: &mut DrainPace, rng: &mut impl Rng) {
        if self.roster.node(node).is_none_or(|node| node.state != NodeState::Draining) {
            return;
        }
        let due = drain.due(now.instant, self.ledger.running(node));
        if due == 0 {
            return;
        }
        let resting = std::mem::take(&mut self.background.resting);
        let left = self.move_feed_sessions(now, node, |session| resting.contains_key(&session), rng).min(due);
        let due = due - left;
        drain.made(left);
        let (mut made, mut stuck) = (0, 0);
        self.find_and_start_moves(now, |search, steps| {
            steps.clear();
            stuck = moves::drain(search, node, due, |session| resting.contains_key(session), rng, steps);
            made = steps.len();
        });
        self.background.resting = resting;
        drain.made(made);
        // Reported once, and again after it was resolved.
        if stuck > 0 && drain.stuck == 0 {
            self.events.push(ClusterEvent::Stuck(node, stuck));
        }
        if stuck > 0 || made == due {
            drain.stuck = stuck;
        }
    }

    /// Moves sessions to the nodes that have joined, once a second.
    pub(super) fn fill_joined_nodes(&mut self, now: Now, rng: &mut impl Rng) {
        self.background.joined.retain(|_, at| *at + REJOIN_PAUSE > now.instant);
        let fresh = |at: &Instant| *at + JOIN_PERIOD > now.instant;
        if !self.settings.moves || !self.settings.rebalance || !self.background.joined.values().any(fresh) {
            self.background.sources.clear();
            return;
        }
        let (joined, mut sources) =
            (std::mem::take(&mut self.background.joined), std::mem::take(&mut self.background.sources));
        let may = |node: NodeId| joined.get(&node).is_some_and(fresh);
        self.find_and_start_moves(now, |search, steps| {
            moves::spread(search, JOINED_PER_SECOND, may, &mut sources, rng, steps)
        });
        (self.background.joined, self.background.sources) = (joined, sources);
    }
}
