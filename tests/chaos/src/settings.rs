//! The settings of a run. The run itself is left to `run`.

use std::{ops::Range, path::PathBuf, time::Duration};

use crate::core::plan::Kind;

/// One run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program under test.
    pub usher: PathBuf,
    /// Which titles, which faults and which choices.
    pub seed: u64,
    /// Faults come, and clients are replaced, for so long.
    pub time: Duration,
    /// At any time; every second one plays, the others fetch.
    pub clients: usize,
    /// Three at least.
    pub nodes: usize,
    /// Which faults may come.
    pub kinds: Vec<Kind>,
    /// Short faults and pauses, for a short run.
    pub brisk: bool,
    /// A folder for all that clients write.
    pub logs: Option<PathBuf>,
    /// The titles, and their load.
    pub load: Load,
}

/// How much there is to send, and how fast.
#[derive(Clone, Debug)]
pub struct Load {
    /// Titles that are played, and fetched.
    pub titles: usize,
    /// Titles that are fetched only.
    pub large: usize,
    /// Their bytes.
    pub large_size: u64,
    /// Rates of titles, in kbit/s.
    pub kbits: Range<u64>,
    /// How long they play, in seconds.
    pub secs: Range<u64>,
    /// Rate limits of fetches, in kbit/s.
    pub fetch_kbits: Range<u64>,
    /// Of a node, in Mbit/s.
    pub capacity: u64,
    /// Media that a player buffers before it plays.
    pub startup: Duration,
}

impl Load {
    /// For an optimised program.
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

    /// For a program with checks, which encrypts slowly: less of everything.
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
