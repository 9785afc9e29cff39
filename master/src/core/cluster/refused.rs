//! Clients that were refused lately. Capacity that becomes free goes to those among them who hold little, however fast
//! the others ask; and a client that repeats one request does not count as a crowd.

use std::time::{Duration, Instant};

use crate::core::{NodeId, catalog::ContentKey, ledger::Source, recent::RecentMap};

/// Time for which a node keeps capacity for a refused client: clients wait 2 to 5 s before they ask again.
const WAITS: Duration = Duration::from_secs(6);

/// Time in which the refusals of one client for one title count once as demand.
const COUNTED: Duration = Duration::from_secs(10);

/// Refusals remembered as counted: 2 MB.
const MOST_COUNTED: usize = 16_384;

/// A client that waits for capacity.
#[derive(Clone, Copy)]
struct WaitingClient {
    source: Source,
    /// Bit/s that it would hold.
    weight: u64,
    /// Bit/s that it asked for.
    rate: u64,
    until: Instant,
}

/// Recently refused clients.
pub(super) struct RefusedClients {
    /// The lightest client that waits for each node.
    waiting: Vec<Option<WaitingClient>>,
    counted: RecentMap<(Source, ContentKey), ()>,
}

impl Default for RefusedClients {
    fn default() -> Self {
        Self { waiting: Vec::new(), counted: RecentMap::new(COUNTED, MOST_COUNTED) }
    }
}

impl RefusedClients {
    /// Handles the refusal of a client that would hold `weight` bit/s with the `rate` bit/s that it wants of a full node.
    /// Returns the client for which the node kept capacity in vain, and the bit/s.
    pub(super) fn handle_refused(
        &mut self,
        now: Instant,
        node: NodeId,
        source: Source,
        (weight, rate): (u64, u64),
    ) -> Option<(Source, u64)> {
        if self.waiting.len() <= node.index() {
            self.waiting.resize(node.index() + 1, None);
        }
        let place = &mut self.waiting[node.index()];
        let lapsed = place.take_if(|other| other.until <= now);
        let in_vain = lapsed.is_some_and(|other| other.source == source);
        if !in_vain && place.is_none_or(|other| other.source == source || weight < other.weight) {
            *place = Some(WaitingClient { source, weight, rate, until: now + WAITS });
        }
        lapsed.map(|other| (other.source, other.rate))
    }

    /// Handles a client that got its seat: it waits for none of these nodes any more.
    pub(super) fn handle_served(&mut self, source: Source, nodes: impl Iterator<Item = NodeId>) {
        for node in nodes {
            if let Some(place) = self.waiting.get_mut(node.index()) {
                *place = place.filter(|waiting| waiting.source != source);
            }
        }
    }

    /// Bit/s that a node keeps for a client that waits and holds less than this one would.
    pub(super) fn kept(&self, now: Instant, node: NodeId, source: Source, weight: u64) -> u64 {
        let waiting = self.waiting.get(node.index()).copied().flatten();
        let lighter = |one: &WaitingClient| one.until > now && one.source != source && one.weight < weight;
        waiting.filter(lighter).map_or(0, |one| one.rate)
    }

    /// Whether a refusal counts as demand for the title. Those of unknown clients always do.
    pub(super) fn counts(&mut self, now: Instant, source: Option<Source>, key: ContentKey) -> bool {
        let Some(source) = source else { return true };
        let first = self.counted.get(now, &(source, key)).is_none();
        if first {
            self.counted.insert(now, (source, key), ());
        }
        first
    }
}
