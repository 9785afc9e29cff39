//! How many holders stand where, and the words for a request that none of them can serve.

use std::{fmt, time::Duration};

use thiserror::Error;
use usher_proto::{
    Bitrate,
    code::{Code, Fault},
};

use super::Verdict;

/// When a refused client should ask again: by then two reports have come in and sessions may have ended.
pub const RETRY: Duration = Duration::from_secs(2);

/// When a client should ask again for a node that is being probed.
const PROBING: Duration = Duration::from_millis(500);

/// How many holders stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HolderCounts {
    /// All of them.
    pub holders: u32,
    /// May be chosen.
    pub fit: u32,
    /// Asked for a sign of life.
    pub unsure: u32,
    /// Excluded by the request.
    pub excluded: u32,
    /// Stale, gone, or with an unknown load.
    pub down: u32,
    /// Suspect, or held for failing often.
    pub held: u32,
    /// Draining.
    pub draining: u32,
    /// Well, but without room now.
    pub full: u32,
    /// Well, but smaller than the rate.
    pub small: u32,
    /// Well, but not able to do what is needed.
    pub unequipped: u32,
    /// Not whole yet.
    pub growing: u32,
    /// The highest rate of one session on any of them, bit/s.
    pub largest: u64,
}

/// Why nothing was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoChoice {
    /// Nobody holds it.
    #[error("no node holds it; `usher ls` lists what there is")]
    NotFound,
    /// Nobody who has told its catalog holds it, and some have not told theirs.
    #[error("no node that has told its catalog yet holds it, and others are about to; try again shortly")]
    Gathering,
    /// The request excludes every holder.
    #[error("all {0} nodes that hold it are excluded by the request; exclude fewer")]
    Excluded(u32),
    /// The holders that are left are down or draining.
    #[error("none of its holders can serve now: {0}; try again shortly")]
    Down(HolderCounts),
    /// The only holders that are left have been silent, and are asked for a sign of life.
    #[error("its holders have been silent and are being probed: {0}; try again in a moment")]
    Probing(HolderCounts),
    /// The holders that are left have no room.
    #[error("its holders have no room for {rate} more: {count}; try again shortly")]
    Full {
        /// What was asked for.
        rate: Bitrate,
        /// Where the holders stand.
        count: HolderCounts,
    },
    /// No holder could ever serve that rate.
    #[error("{rate} is more than any of its holders may send ({largest}); ask for a lower rate")]
    TooFast {
        /// What was asked for.
        rate: Bitrate,
        /// The highest rate of one session on any of them.
        largest: Bitrate,
    },
    /// No holder can do what is needed.
    #[error("none of its holders is equipped for this request: {0}; ask for less")]
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

    /// The holders that could not be chosen, and why: "1 draining, 2 full"; empty when there are none.
    pub fn unfit(&self) -> String {
        let parts = [
            (self.down, "down"),
            (self.held, "held back after failures"),
            (self.unsure, "silent"),
            (self.draining, "draining"),
            (self.full, "full"),
            (self.small, "too small"),
            (self.unequipped, "not equipped"),
            (self.growing, "not whole yet"),
            (self.excluded, "excluded"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        parts.collect::<Vec<_>>().join(", ")
    }

    /// Why none of them serves `rate`.
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
