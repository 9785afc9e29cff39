//! Number of holders by verdict, and the error for a request that none of them can serve.

use std::{fmt, time::Duration};

use thiserror::Error;
use usher_proto::{
    Bitrate,
    code::{Code, Fault},
};

use super::Verdict;

/// Retry delay of a refused client: two reports arrive within it, and sessions may end.
pub const RETRY: Duration = Duration::from_secs(2);

/// Retry delay while a node is being probed.
const PROBING: Duration = Duration::from_millis(500);

/// Number of holders by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HolderCounts {
    /// All of them.
    pub holders: u32,
    /// May be chosen.
    pub fit: u32,
    /// Silent, being probed.
    pub unsure: u32,
    /// Excluded by the request.
    pub excluded: u32,
    /// Stale, gone, or with an unknown load.
    pub down: u32,
    /// Suspect, or held back after failures.
    pub held: u32,
    /// Draining.
    pub draining: u32,
    /// Healthy, without headroom.
    pub full: u32,
    /// Healthy, with a session limit below the rate.
    pub small: u32,
    /// Healthy, without a required feature.
    pub unequipped: u32,
    /// Incomplete copy.
    pub growing: u32,
    /// Highest session rate of any holder, bit/s.
    pub largest: u64,
}

/// Why no node was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoChoice {
    /// No node holds the title.
    #[error("no node holds it; `usher ls` lists all titles")]
    NotFound,
    /// No node with a complete catalog holds it, and some catalogs are still incomplete.
    #[error("no node holds it so far, and some catalogs are still incomplete; try again shortly")]
    Gathering,
    /// The request excludes every holder.
    #[error("all {0} nodes that hold it are excluded by the request; exclude fewer")]
    Excluded(u32),
    /// The remaining holders are down or draining.
    #[error("none of its holders can serve now: {0}; try again shortly")]
    Down(HolderCounts),
    /// The remaining holders are silent and are being probed.
    #[error("its holders are silent and are being probed: {0}; try again in a moment")]
    Probing(HolderCounts),
    /// The remaining holders have no headroom.
    #[error("its holders have no capacity for another {rate}: {count}; try again shortly")]
    Full {
        /// Requested rate.
        rate: Bitrate,
        /// Number of holders by verdict.
        count: HolderCounts,
    },
    /// No holder can ever serve that rate.
    #[error("{rate} is more than any of its holders may send ({largest}); ask for a lower rate")]
    TooFast {
        /// Requested rate.
        rate: Bitrate,
        /// Highest session rate of any holder.
        largest: Bitrate,
    },
    /// No holder has the required features.
    #[error("no holder has the required features: {0}; require less")]
    Unequipped(HolderCounts),
}

impl From<&NoChoice> for Fault {
    fn from(error: &NoChoice) -> Self {
        let text = error.to_string();
        match error {
            NoChoice::NotFound => Self::new(Code::NotFound, text),
            NoChoice::Gathering | NoChoice::Excluded(_) | NoChoice::Down(_) => {
                Self::new(Code::Unavailable, text).after(RETRY)
            }
            NoChoice::Probing(_) => Self::new(Code::Unavailable, text).after(PROBING),
            NoChoice::Full { .. } => Self::new(Code::NoCapacity, text).after(RETRY),
            NoChoice::TooFast { .. } => Self::new(Code::NoCapacity, text),
            NoChoice::Unequipped(_) => Self::new(Code::Unequipped, text),
        }
    }
}

impl HolderCounts {
    pub(super) fn add(&mut self, verdict: Verdict) {
        let place = match verdict {
            Verdict::Fit => &mut self.fit,
            Verdict::Unsure => &mut self.unsure,
            Verdict::Full | Verdict::Cold => &mut self.full,
            Verdict::Suspect | Verdict::Held => &mut self.held,
            Verdict::Down => &mut self.down,
            Verdict::Draining => &mut self.draining,
            Verdict::Excluded => &mut self.excluded,
            Verdict::Small => &mut self.small,
            Verdict::Unequipped => &mut self.unequipped,
            Verdict::Growing => &mut self.growing,
        };
        *place += 1;
    }

    /// The unusable holders by reason, for example "1 draining, 2 full"; empty if there are none.
    pub fn unfit(&self) -> String {
        let parts = [
            (self.down, "down"),
            (self.held, "held back after failures"),
            (self.unsure, "silent"),
            (self.draining, "draining"),
            (self.full, "full"),
            (self.small, "too small"),
            (self.unequipped, "not equipped"),
            (self.growing, "incomplete"),
            (self.excluded, "excluded"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        parts.collect::<Vec<_>>().join(", ")
    }

    /// The reason why no holder can serve `rate`.
    pub fn refuse(self, rate: Bitrate) -> NoChoice {
        let left = self.holders - self.excluded;
        if self.holders == 0 {
            NoChoice::NotFound
        } else if left == 0 {
            NoChoice::Excluded(self.holders)
        } else if self.unsure > 0 {
            NoChoice::Probing(self)
        } else if self.full > 0 || self.growing > 0 {
            NoChoice::Full { rate, count: self }
        } else if self.largest > 0 && self.largest < rate.0 {
            NoChoice::TooFast { rate, largest: Bitrate(self.largest) }
        } else if self.unequipped > 0 && self.down + self.held + self.draining == 0 {
            NoChoice::Unequipped(self)
        } else {
            NoChoice::Down(self)
        }
    }
}

impl fmt::Display for HolderCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.unfit(), self.holders)
    }
}
