//! Live feeds, as nodes report them: ingest node, carriers, upstreams, and the possible upstreams that form no loop.
//! Owns the grace period of a feed whose ingest node is lost. Knows neither load nor zones.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    time::{Duration, Instant},
};

use usher_proto::{Bitrate, PublisherId, SessionId, Title, model::FeedState};

use super::NodeId;

/// Time that a feed survives without an ingest node, while its publisher reconnects.
pub const GRACE: Duration = Duration::from_secs(15);

/// Limit of relay legs between the ingest node and a viewer's node.
pub const DEPTH: usize = 3;

/// Time that a relay order counts until the node confirms it.
const ORDERED: Duration = Duration::from_secs(10);

/// A live feed.
#[derive(Debug, Default)]
pub struct Feed {
    carriers: BTreeMap<NodeId, FeedState>,
    /// Ordered upstreams that nodes have not confirmed.
    ordered: BTreeMap<NodeId, (NodeId, Instant)>,
    /// The publisher placed last.
    decided: Option<PublisherId>,
    /// Time since which no node ingests it.
    lost: Option<Instant>,
}

/// A session of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedSession {
    /// The feed.
    pub title: Title,
    /// The receiving node, if it is a relay.
    pub to: Option<NodeId>,
}

/// A publisher to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RivalPublisher {
    /// Its ingest node.
    pub node: NodeId,
    /// The feed.
    pub title: Title,
    /// The publisher.
    pub publisher: PublisherId,
}

/// All live feeds.
#[derive(Debug, Default)]
pub struct Feeds {
    feeds: BTreeMap<Title, Feed>,
    sessions: HashMap<SessionId, FeedSession>,
    /// Detached nodes, and when.
    gone: HashMap<NodeId, Instant>,
}

impl Feed {
    /// The ingest node and its state; one with a connected publisher is preferred.
    pub fn ingest(&self) -> Option<(NodeId, &FeedState)> {
        let mut all: Vec<_> = self.carriers.iter().filter(|(_, state)| state.publisher.is_some()).collect();
        all.sort_by_key(|(_, state)| (state.interrupted, std::cmp::Reverse(state.newest)));
        all.first().map(|(node, state)| (**node, *state))
    }

    /// Nodes that carry it.
    pub fn carriers(&self) -> impl Iterator<Item = (NodeId, &FeedState)> {
        self.carriers.iter().map(|(node, state)| (*node, state))
    }

    /// Whether a node carries it or was ordered to.
    pub fn is_at(&self, node: NodeId) -> bool {
        self.carriers.contains_key(&node) || self.ordered.contains_key(&node)
    }

    /// State at the ingest node, otherwise at any carrier.
    pub fn state(&self) -> Option<&FeedState> {
        let newest = || self.carriers.values().max_by_key(|state| state.newest);
        self.ingest().map(|(_, state)| state).filter(|state| !state.medium.media_type.is_empty()).or_else(newest)
    }

    /// Measured rate plus headroom; `None` while unknown.
    pub fn rate(&self) -> Option<Bitrate> {
        let rate = self.carriers.values().map(|state| state.bitrate).max().filter(|rate| rate.0 > 0)?;
        // A tenth more, since rates vary.
        Some(Bitrate(rate.0.saturating_add(rate.0 / 10)))
    }

    /// Number of viewers on all nodes.
    pub fn viewers(&self) -> u32 {
        self.carriers.values().fold(0, |sum, state| sum.saturating_add(state.viewers))
    }

    fn upstream(&self, node: NodeId, id: impl Fn(&FeedState) -> Option<NodeId>) -> Option<NodeId> {
        let ordered = self.ordered.get(&node).map(|(upstream, _)| *upstream);
        ordered.or_else(|| self.carriers.get(&node).and_then(id))
    }

    /// Number of relay legs from a node to the ingest node; `None` if there is no path, the path is too long, or it
    /// passes `through`.
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

    /// Possible upstreams of a node, with their relay legs: none is downstream of that node or too far away. `id`
    /// returns the number of a state's upstream.
    pub fn upstreams(&self, to: NodeId, id: &impl Fn(&FeedState) -> Option<NodeId>) -> Vec<(NodeId, usize)> {
        let carriers = self.carriers.keys().filter(|node| **node != to);
        carriers.filter_map(|node| Some((*node, self.legs(*node, to, id)?))).collect()
    }
}

impl Feeds {
    /// Handles a node's list of all its feeds. Returns publishers to end because a newer one was placed elsewhere.
    pub fn handle_update(&mut self, now: Instant, node: NodeId, states: Vec<FeedState>) -> Vec<RivalPublisher> {
        self.gone.remove(&node);
        let titles: Vec<Title> = states.iter().map(|state| state.title.clone()).collect();
        self.feeds.retain(|title, feed| {
            let here = titles.binary_search(title).is_ok();
            if here {
                return true;
            }
            let took_in = feed.carriers.remove(&node).is_some_and(|state| state.publisher.is_some());
            // A feed that its ingest node no longer carries is over, unless its publisher moved.
            let over = took_in && feed.ingest().is_none();
            !(over || feed.carriers.is_empty() && feed.lost.is_none())
        });
        let mut rivals = Vec::new();
        for state in states {
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

    /// Handles a closed channel: the node's feeds count as interrupted and are dropped after a while.
    pub fn handle_detach(&mut self, now: Instant, node: NodeId) {
        self.gone.insert(node, now);
        for feed in self.feeds.values_mut() {
            if let Some(state) = feed.carriers.get_mut(&node) {
                state.interrupted = true;
            }
        }
    }

    /// Drops what has been lost for too long, and sessions that are not `known`.
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
            // Its ingest node already had the grace period.
            !took_in && since(*feed.lost.get_or_insert(now)) < GRACE
        });
        self.sessions.retain(|session, _| known(*session));
    }

    /// Records that a publisher was placed.
    pub fn handle_published(&mut self, title: &Title, publisher: PublisherId) {
        if let Some(feed) = self.feeds.get_mut(title) {
            feed.decided = Some(publisher);
        }
    }

    /// Records that a node was ordered to relay from an upstream.
    pub fn handle_ordered(&mut self, now: Instant, title: &Title, node: NodeId, upstream: NodeId) {
        if let Some(feed) = self.feeds.get_mut(title) {
            feed.ordered.insert(node, (upstream, now));
        }
    }

    /// Adds a session of a feed.
    pub fn add_session(&mut self, session: SessionId, used: FeedSession) {
        self.sessions.entry(session).or_insert(used);
    }

    /// Removes a session.
    pub fn remove_session(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// The feed of a session.
    pub fn session(&self, session: SessionId) -> Option<&FeedSession> {
        self.sessions.get(&session)
    }

    /// All sessions of feeds.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &FeedSession)> {
        self.sessions.iter().map(|(session, used)| (*session, used))
    }

    /// A live feed by title.
    pub fn get(&self, title: &Title) -> Option<&Feed> {
        self.feeds.get(title)
    }

    /// Feeds by prefix that follow `after`, in order.
    pub fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> impl Iterator<Item = (&'a Title, &'a Feed)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let from = self.feeds.range::<str, _>((from, Bound::Unbounded));
        from.take_while(move |(title, _)| title.as_str().starts_with(prefix))
    }

    /// Number of feeds, and of their viewers.
    pub fn totals(&self) -> (usize, u64) {
        (self.feeds.len(), self.feeds.values().map(|feed| u64::from(feed.viewers())).sum())
    }
}

impl Feed {
    /// Of several publishers at several nodes, the one placed last stays, or the one that started last. Of one
    /// publisher at two nodes, that at the reporting node stays.
    fn rivals(&self, title: &Title, reporting: NodeId) -> Vec<RivalPublisher> {
        let there = self.carriers.iter().filter(|(_, state)| !state.interrupted);
        let all: Vec<(NodeId, PublisherId, i64)> =
            there.filter_map(|(node, state)| Some((*node, state.publisher?, state.started_ms))).collect();
        if all.len() < 2 {
            return Vec::new();
        }
        let stays = all
            .iter()
            .max_by_key(|(node, id, started)| (self.decided == Some(*id), *node == reporting, *started))
            .copied();
        let others = all.into_iter().filter(|one| Some(*one) != stays);
        others.map(|(node, publisher, _)| RivalPublisher { node, title: title.clone(), publisher }).collect()
    }
}

#[cfg(test)]
mod tests;
