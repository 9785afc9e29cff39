//! The settings of a run. The run itself is left to `run`.

use std::{ops::Range, path::PathBuf, time::Duration};

use crate::core::plan::Kind;

/// One run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program under test.
    pub usher: PathBuf,
    /// Seed of titles, faults and choices.
    pub seed: u64,
    /// Duration of the faults, and of starting new clients.
    pub time: Duration,
    /// Clients at any time; every second one plays, the others fetch.
    pub clients: usize,
    /// Number of nodes, at least three.
    pub nodes: usize,
    /// Kinds of faults to inject.
    pub kinds: Vec<Kind>,
    /// Short faults and pauses, for a short run.
    pub brisk: bool,
    /// A folder for the standard error of clients.
    pub logs: Option<PathBuf>,
    /// The titles, and their load.
    pub load: Load,
}

/// Number, size and rate of the titles, and the nodes' capacity.
#[derive(Clone, Debug)]
pub struct Load {
    /// Number of titles that are played and fetched.
    pub titles: usize,
    /// Number of titles that are only fetched.
    pub large: usize,
    /// Size of those in bytes.
    pub large_size: u64,
    /// Rates of titles, in kbit/s.
    pub kbits: Range<u64>,
    /// Durations of titles, in seconds.
    pub secs: Range<u64>,
    /// Rate limits of fetches, in kbit/s.
    pub fetch_kbits: Range<u64>,
    /// Capacity of a node, in Mbit/s.
    pub capacity: u64,
    /// Media that a player buffers before it plays.
    pub startup: Duration,
}

impl Load {
    /// The load for an optimised program.
    pub fn release() -> Self {
        Self {
            titles: 14,
            large: 3,
            large_size: 36_000_000,
            kbits: 1000..4000,
            secs: 28..75,
            fetch_kbits: 4000..12_000,
            capacity: 100,
            startup: Duration::from_secs(4),
        }
    }

    /// The load for a debug build, which encrypts slowly: less of everything.
    pub fn debug() -> Self {
        Self {
            titles: 8,
            large: 2,
            large_size: 6_000_000,
            kbits: 1000..2000,
            secs: 24..45,
            fetch_kbits: 2000..5000,
            capacity: 40,
            startup: Duration::from_secs(4),
        }
    }
}
