//! Decisions about publishers: the nodes where one may send its feed.

use std::time::Duration;

use rand::Rng;
use usher_proto::{
    Code, Fault, NodeName,
    model::{Publish, Requirements},
};

use super::Cluster;
use crate::core::{
    NodeId, Now,
    balancer::{self, DEFAULT_RATE, HolderCounts, NoChoice, SeatCriteria, Verdict},
};

/// Seats offered to a publisher.
const MAX_SEATS: usize = 3;

/// Retry delay of a publisher or a relay that found no node.
pub(super) const RETRY: Duration = Duration::from_millis(300);

/// Seats for a publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestSeats {
    /// Best first; at least one.
    pub nodes: Vec<NodeId>,
    /// Explanation for people.
    pub reason: String,
}

/// Why a publisher gets no seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishRefused {
    /// Another publisher sends the title to this node.
    Taken(NodeName),
    /// No node can ingest it.
    NoChoice(NoChoice),
}

impl From<&PublishRefused> for Fault {
    fn from(why: &PublishRefused) -> Self {
        match why {
            PublishRefused::Taken(node) => {
                let text = format!("another publisher sends it, to {node}");
                Self::new(Code::Exists, text)
            }
            PublishRefused::NoChoice(NoChoice::NotFound) => {
                Self::new(Code::Unavailable, "no node is attached").after(RETRY)
            }
            PublishRefused::NoChoice(why) => Self::from(why),
        }
    }
}

impl Cluster {
    /// Decides where a publisher sends its feed.
    ///
    /// # Errors
    /// Another publisher sends the feed, or no node can ingest it.
    pub fn publish(&mut self, now: Now, publish: &Publish, rng: &mut impl Rng) -> Result<IngestSeats, PublishRefused> {
        let Publish { title, publisher, rate, zone, exclude, take_over, record, .. } = publish;
        let present = self.feeds.get(title).and_then(|feed| {
            let (node, state) = feed.ingest()?;
            let there = !state.interrupted && self.roster.attached(node);
            Some((node, state.publisher, there))
        });
        if let Some((node, Some(other), true)) = present
            && other != *publisher
            && !take_over
        {
            let name = self.roster.node(node).map(|node| node.name().clone());
            return Err(name.map_or(PublishRefused::NoChoice(NoChoice::NotFound), PublishRefused::Taken));
        }
        let needs = Requirements { live_ingest: true, records: *record, ..Requirements::default() };
        let exclude: Vec<NodeId> = exclude.iter().filter_map(|name| self.roster.id(name)).collect();
        let rate = rate.unwrap_or(DEFAULT_RATE);
        let criteria = SeatCriteria { full: &[], rate: rate.0, exclude: &exclude, zone, needs: &needs, coverage: None };
        let attached: Vec<(NodeId, bool)> =
            self.roster.nodes().filter(|(_, node)| node.attached()).map(|(node, _)| (node, true)).collect();
        let mut ranked = Vec::new();
        let count: HolderCounts = balancer::rank(&self.view(now), &criteria, attached.into_iter(), rng, &mut ranked);
        let able = ranked.iter().filter(|one| matches!(one.verdict, Verdict::Fit | Verdict::Unsure | Verdict::Cold));
        let mut nodes: Vec<NodeId> = able.map(|one| one.node).collect();
        // The feed continues without a gap at its current node.
        if let Some(at) = present.and_then(|(node, ..)| nodes.iter().position(|one| *one == node)) {
            nodes[..=at].rotate_right(1);
        }
        nodes.truncate(MAX_SEATS);
        let Some(best) = nodes.first() else { return Err(PublishRefused::NoChoice(count.refuse(rate))) };
        let name = self.roster.node(*best).map(|node| node.name().to_string()).unwrap_or_default();
        let here = present.is_some_and(|(node, ..)| node == *best);
        let why = if here { "the feed is there already" } else { "farthest from full" };
        let reason = format!("{name}: {why}; {} of {} nodes could take it", count.fit, count.holders);
        self.feeds.handle_published(title, *publisher);
        Ok(IngestSeats { nodes, reason })
    }
}
