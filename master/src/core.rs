//! The master's mind: what is where, who is well, who may be chosen. Pure: time and chance are arguments, and
//! nothing here knows a socket, a file, a clock or a task.

pub mod balancer;
pub mod catalog;
pub mod cluster;
pub mod feeds;
pub mod fixed;
pub mod history;
pub mod journal;
pub mod ledger;
pub mod load_estimate;
pub mod moves;
pub mod recheck;
pub mod replication;
pub mod roster;
#[cfg(test)]
mod test_cluster;

use std::time::{Duration, Instant};

use usher_proto::units;

/// A node as the master counts them; never given to another node while the master runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// Its place in tables by node.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One reading of both clocks: elapsed time decides, wall time is for people and tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For leases and expiries.
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
