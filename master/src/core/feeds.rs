//! The feeds on the air, as the nodes tell of them: who takes each in, who has it from whom, and who may have it from
//! whom without a circle. Owns the grace of a feed whose node was lost. Knows nothing of load and zones.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    time::{Duration, Instant},
};

use usher_proto::{Bitrate, PublisherId, SessionId, Title, model::FeedState};

use super::NodeId;

/// How long a feed lives without a node that takes it in: its publisher looks for another one.
pub const GRACE: Duration = Duration::from_secs(15);

/// Relay legs from the node that takes a feed in to the last viewer's node.
pub const DEPTH: usize = 3;

/// How long an order to get a feed from a node counts until that node's word of it is here.
const ORDERED: Duration = Duration::from_secs(10);

/// One feed.
#[derive(Debug, Default)]
pub struct Feed {
    carriers: BTreeMap<NodeId, FeedState>,
    /// Upstreams that nodes were told of and have not confirmed.
    ordered: BTreeMap<NodeId, (NodeId, Instant)>,
    /// The publisher that was sent somewhere last.
    decided: Option<PublisherId>,
    /// Since when no node takes it in.
    lost: Option<Instant>,
}

/// A session of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedSession {
    /// Of which.
    pub title: Title,
    /// The node that gets it, if that is one.
    pub to: Option<NodeId>,
}

/// A publisher that has to end, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RivalPublisher {
    /// The node that it sends to.
    pub node: NodeId,
    /// What it sends.
    pub title: Title,
    /// Which one.
    pub publisher: PublisherId,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Feeds {
    feeds: BTreeMap<Title, Feed>,
    sessions: HashMap<SessionId, FeedSession>,
    /// Nodes whose channel closed, and when.
    gone: HashMap<NodeId, Instant>,
}

impl Feed {
    /// The node that takes it in, and what it says; one whose publisher is there, if there is any.
    pub fn ingest(&self) -> Option<(NodeId, &FeedState)> {
        let mut all: Vec<_> = self.carriers.iter().filter(|(_, state)| state.publisher.is_some()).collect();
        all.sort_by_key(|(_, state)| (state.interrupted, std::cmp::Reverse(state.newest)));
        all.first().map(|(node, state)| (**node, *state))
    }

    /// The nodes that carry it.
    pub fn carriers(&self) -> impl Iterator<Item = (NodeId, &FeedState)> {
        self.carriers.iter().map(|(node, state)| (*node, state))
    }

    /// Whether a node carries it, or was told to.
    pub fn is_at(&self, node: NodeId) -> bool {
        self.carriers.contains_key(&node) || self.ordered.contains_key(&node)
    }

    /// What is known of it: from the node that takes it in, else from any.
    pub fn state(&self) -> Option<&FeedState> {
        let newest = || self.carriers.values().max_by_key(|state| state.newest);
        self.ingest().map(|(_, state)| state).filter(|state| !state.medium.media_type.is_empty()).or_else(newest)
    }

    /// Its rate as measured; `None` while nobody knows.
    pub fn rate(&self) -> Option<Bitrate> {
        let rate = self.carriers.values().map(|state| state.bitrate).max().filter(|rate| rate.0 > 0)?;
        // Rates change; a tenth is room for that.
        Some(Bitrate(rate.0.saturating_add(rate.0 / 10)))
    }

    /// Its viewers on all nodes.
    pub fn viewers(&self) -> u32 {
        self.carriers.values().fold(0, |sum, state| sum.saturating_add(state.viewers))
    }

    fn upstream(&self, node: NodeId, id: impl Fn(&FeedState) -> Option<NodeId>) -> Option<NodeId> {
        let ordered = self.ordered.get(&node).map(|(upstream, _)| *upstream);
        ordered.or_else(|| self.carriers.get(&node).and_then(id))
    }

    /// Relay legs between a node and the one that takes the feed in; `None` when its feed comes from nowhere, from too
    /// far, or through `through`.
    fn legs(&self, from: NodeId, through: NodeId, id: &impl Fn(&FeedState) -> Option<NodeId>) -> Option<usize> {
        let mut at = from;
        for legs in 0..DEPTH {
            if at == through {
                return None;
            }
            if self.carriers.get(&at)?.publisher.is_some() {
                return Some(legs);
            }
            at = self.upstream(at, id)?;
        }
        None
    }

    /// The nodes that a node may get the feed from, with their relay legs: it does not come through that node, and not
    /// from too far. `id` tells the number of the upstream that a node names.
    pub fn upstreams(&self, to: NodeId, id: &impl Fn(&FeedState) -> Option<NodeId>) -> Vec<(NodeId, usize)> {
        let carriers = self.carriers.keys().filter(|node| **node != to);
        carriers.filter_map(|node| Some((*node, self.legs(*node, to, id)?))).collect()
    }
}

impl Feeds {
    /// A node tells of all the feeds that it carries. Returns the publishers that have to end since another one was sent
    /// elsewhere later.
    pub fn handle_update(&mut self, now: Instant, node: NodeId, told: Vec<FeedState>) -> Vec<RivalPublisher> {
        self.gone.remove(&node);
        let titles: Vec<Title> = told.iter().map(|state| state.title.clone()).collect();
        self.feeds.retain(|title, feed| {
            let here = titles.binary_search(title).is_ok();
            if here {
                return true;
            }
            let took_in = feed.carriers.remove(&node).is_some_and(|state| state.publisher.is_some());
            // What its own node does not carry any more is over, unless its publisher has gone elsewhere.
            let over = took_in && feed.ingest().is_none();
            !(over || feed.carriers.is_empty() && feed.lost.is_none())
        });
        let mut rivals = Vec::new();
        for state in told {
            let title = state.title.clone();
            let feed = self.feeds.entry(title.clone()).or_default();
            if state.upstream.is_some() || state.publisher.is_some() {
                feed.ordered.remove(&node);
            }
            feed.carriers.insert(node, state);
            feed.lost = if feed.ingest().is_some() { None } else { feed.lost.or(Some(now)) };
            rivals.extend(feed.rivals(&title, node));
        }
        rivals
    }

    /// The channel of a node closed: what it carried is not chosen, and forgotten after a while.
    pub fn handle_detach(&mut self, now: Instant, node: NodeId) {
        self.gone.insert(node, now);
        for feed in self.feeds.values_mut() {
            if let Some(state) = feed.carriers.get_mut(&node) {
                state.interrupted = true;
            }
        }
    }

    /// Forgets what has been away for too long; of the sessions keeps those that are still `known`.
    pub fn handle_timeout(&mut self, now: Instant, known: impl Fn(SessionId) -> bool) {
        let since = |at: Instant| now.saturating_duration_since(at);
        let lost: Vec<NodeId> =
            self.gone.iter().filter(|(_, at)| since(**at) >= GRACE).map(|(node, _)| *node).collect();
        self.gone.retain(|node, _| !lost.contains(node));
        self.feeds.retain(|_, feed| {
            let took_in =
                lost.iter().any(|node| feed.carriers.get(node).is_some_and(|state| state.publisher.is_some()));
            feed.carriers.retain(|node, _| !lost.contains(node));
            feed.ordered.retain(|_, (_, at)| since(*at) < ORDERED);
            if feed.ingest().is_some() {
                return true;
            }
            // The node that took it in has been waited for already.
            !took_in && since(*feed.lost.get_or_insert(now)) < GRACE
        });
        self.sessions.retain(|session, _| known(*session));
    }

    /// A publisher was sent to a node.
    pub fn handle_published(&mut self, title: &Title, publisher: PublisherId) {
        if let Some(feed) = self.feeds.get_mut(title) {
            feed.decided = Some(publisher);
        }
    }

    /// A node was told to get a feed from another.
    pub fn handle_ordered(&mut self, now: Instant, title: &Title, node: NodeId, upstream: NodeId) {
        if let Some(feed) = self.feeds.get_mut(title) {
            feed.ordered.insert(node, (upstream, now));
        }
    }

    /// A session of a feed begins, or is about to.
    pub fn add_session(&mut self, session: SessionId, used: FeedSession) {
        self.sessions.entry(session).or_insert(used);
    }

    /// A session is over.
    pub fn remove_session(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// Which feed a session is of.
    pub fn session(&self, session: SessionId) -> Option<&FeedSession> {
        self.sessions.get(&session)
    }

    /// All sessions of feeds.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &FeedSession)> {
        self.sessions.iter().map(|(session, used)| (*session, used))
    }

    /// A feed that is on the air.
    pub fn get(&self, title: &Title) -> Option<&Feed> {
        self.feeds.get(title)
    }

    /// Those that begin with a prefix, after a title, in order.
    pub fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = (&'a Title, &'a Feed)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let from = self.feeds.range::<str, _>((from, Bound::Unbounded));
        from.take_while(move |(title, _)| title.as_str().starts_with(prefix))
    }

    /// Feeds on the air, and viewers of all of them.
    pub fn totals(&self) -> (usize, u64) {
        (self.feeds.len(), self.feeds.values().map(|feed| u64::from(feed.viewers())).sum())
    }
}

impl Feed {
    /// Of several publishers at several nodes the one that was sent somewhere last stays, or the one that began last; of
    /// one that is at two nodes, that at the node which tells.
    fn rivals(&self, title: &Title, tells: NodeId) -> Vec<RivalPublisher> {
        let there = self.carriers.iter().filter(|(_, state)| !state.interrupted);
        let all: Vec<(NodeId, PublisherId, i64)> =
            there.filter_map(|(node, state)| Some((*node, state.publisher?, state.started_ms))).collect();
        if all.len() < 2 {
            return Vec::new();
        }
        let stays =
            all.iter().max_by_key(|(node, id, started)| (self.decided == Some(*id), *node == tells, *started)).copied();
        let others = all.into_iter().filter(|one| Some(*one) != stays);
        others.map(|(node, publisher, _)| RivalPublisher { node, title: title.clone(), publisher }).collect()
    }
}

#[cfg(test)]
mod tests;
