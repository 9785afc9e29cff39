//! The node's own door: what it may promise, whatever a ticket says. Knows rates and counts, not who asks.

use std::time::Duration;

use thiserror::Error;
use usher_proto::{Bitrate, Code, Fault};

/// Most sessions at a time when nothing else is set: with two buffers of half a megabyte each they hold 10 GB at worst.
pub const MAX_SESSIONS: usize = 10_000;

/// When a client that found the node full should come again: the master hears of it within 0.2 s.
const AGAIN: Duration = Duration::from_secs(1);

/// What the operator allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all promises and of others' traffic together.
    pub capacity: Bitrate,
    /// Sessions at a time.
    pub sessions: usize,
    /// Of one session; `None` for no limit but the capacity.
    pub session_rate: Option<Bitrate>,
}

impl From<Bitrate> for Limits {
    /// The defaults of a node of this capacity.
    fn from(capacity: Bitrate) -> Self {
        Self { capacity, sessions: MAX_SESSIONS, session_rate: None }
    }
}

/// What is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bit/s promised to running sessions.
    pub committed: u64,
    /// Bit/s that others take of the link.
    pub background: u64,
    /// Running sessions.
    pub sessions: usize,
}

/// Why a session is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Full {
    /// The rate is above what one session gets.
    #[error("{wanted} is more than one session gets here, {limit}; ask another node")]
    Rate {
        /// What its ticket says.
        wanted: Bitrate,
        /// The most.
        limit: Bitrate,
    },
    /// The promise would not be kept.
    #[error("the node can carry {limit}, and {taken} is promised or taken by others; try another, or later")]
    Capacity {
        /// Bit/s that it carries in all.
        limit: Bitrate,
        /// Bit/s of that which are gone.
        taken: Bitrate,
    },
    /// As many sessions as are allowed run.
    #[error("the node serves {0} sessions, as many as it may; try another, or later")]
    Sessions(usize),
    /// This very session runs.
    #[error("a session of this ticket runs already; resolve again")]
    Twice,
}

impl From<Full> for Fault {
    fn from(full: Full) -> Self {
        let fault = |code| Self::new(code, full.to_string());
        match full {
            Full::Rate { .. } => fault(Code::Unequipped),
            Full::Capacity { .. } | Full::Sessions(_) => fault(Code::NoCapacity).after(AGAIN),
            Full::Twice => fault(Code::TicketReplayed),
        }
    }
}

impl Limits {
    /// Bit/s that may be taken in all; a tenth more for a ticket that was given into a `burst` of others' traffic.
    fn most(&self, burst: bool) -> u64 {
        let tenth = if burst { self.capacity.0 / 10 } else { 0 };
        self.capacity.0.saturating_add(tenth)
    }

    /// Whether a session of this rate may begin. One without a rate takes only what others leave, and passes.
    ///
    /// # Errors
    /// The limit that it would break.
    pub fn check(&self, load: Load, rate: Bitrate, burst: bool) -> Result<(), Full> {
        if let Some(limit) = self.session_rate.filter(|limit| rate > *limit) {
            return Err(Full::Rate { wanted: rate, limit });
        }
        if load.sessions >= self.sessions {
            return Err(Full::Sessions(self.sessions));
        }
        let (most, taken) = (self.most(burst), load.committed.saturating_add(load.background));
        if rate.0 > 0 && taken.saturating_add(rate.0) > most {
            return Err(Full::Capacity { limit: Bitrate(most), taken: Bitrate(taken) });
        }
        Ok(())
    }

    /// What the master is told when the node was full: bit/s that it carries in all, others' traffic included, as the
    /// master counts it too. With as many sessions as are allowed that is what is taken now.
    pub fn told(&self, load: Load, burst: bool) -> Bitrate {
        let taken = load.committed.saturating_add(load.background);
        Bitrate(if load.sessions >= self.sessions { taken } else { self.most(burst) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_let_in_to_the_last_bit() {
        let limits = Limits { capacity: Bitrate(1000), sessions: 3, session_rate: Some(Bitrate(900)) };
        let load = |committed, background, sessions| Load { committed, background, sessions };
        let full = |limit, taken| Err(Full::Capacity { limit: Bitrate(limit), taken: Bitrate(taken) });
        for (load, rate, burst, result) in [
            (load(0, 0, 0), 900, false, Ok(())),
            (load(0, 0, 0), 901, false, Err(Full::Rate { wanted: Bitrate(901), limit: Bitrate(900) })),
            (load(500, 100, 2), 400, false, Ok(())),
            (load(500, 100, 2), 401, false, full(1000, 600)),
            (load(500, 100, 2), 500, true, Ok(())),
            (load(500, 100, 2), 501, true, full(1100, 600)),
            (load(5000, 0, 2), 0, false, Ok(())),
            (load(0, 0, 3), 0, false, Err(Full::Sessions(3))),
            (load(u64::MAX, u64::MAX, 1), 1, true, full(1100, u64::MAX)),
        ] {
            assert_eq!(limits.check(load, Bitrate(rate), burst), result, "{load:?} {rate} {burst}");
        }
        assert_eq!(limits.told(load(700, 200, 2), false), Bitrate(1000));
        assert_eq!(limits.told(load(700, 200, 2), true), Bitrate(1100));
        assert_eq!(limits.told(load(700, 200, 3), true), Bitrate(900));
    }

    #[test]
    fn a_refusal_says_when_to_come_again() {
        let fault = Fault::from(Full::Capacity { limit: Bitrate(1_000_000), taken: Bitrate(0) });
        assert_eq!((fault.code, fault.retry_after), (Code::NoCapacity, Some(AGAIN)));
        assert!(fault.message.contains("1 Mbit/s"), "{fault}");
        assert_eq!(Fault::from(Full::Sessions(3)).code, Code::NoCapacity);
        let rate = Full::Rate { wanted: Bitrate(2), limit: Bitrate(1) };
        assert_eq!((Fault::from(rate).code, Fault::from(rate).retry_after), (Code::Unequipped, None));
    }
}
