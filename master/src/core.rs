//! The master's pure core: catalog, roster, reservations and the choice of nodes. Time and randomness are arguments;
//! the core uses no sockets, files, clocks or tasks.

pub mod addresses;
pub mod balancer;
pub mod catalog;
pub mod cluster;
pub mod fair_queue;
pub mod fair_set;
pub mod feeds;
pub mod fixed;
pub mod history;
pub mod journal;
pub mod ledger;
pub mod load_estimate;
pub mod moves;
pub mod recent;
pub mod recheck;
pub mod replication;
pub mod revocations;
pub mod roster;
#[cfg(test)]
mod test_cluster;
pub mod viewers;

use std::time::{Duration, Instant};

use usher_proto::units;

/// Number of a node. The master assigns it and never reuses it while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// Index in tables by node.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One reading of both clocks. Elapsed time drives decisions; wall time is for display and tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time, for leases and expiry.
    pub instant: Instant,
    /// Unix milliseconds.
    pub unix_ms: u64,
}

impl Now {
    /// The reading `by` later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        let ms = units::millis(by);
        Self { instant: self.instant + by, unix_ms: self.unix_ms.saturating_add(ms) }
    }
}
