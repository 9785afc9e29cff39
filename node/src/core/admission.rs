//! Admission control: which sessions a node accepts, whatever their tickets say. Knows rates and counts, not clients.

use std::time::Duration;

use thiserror::Error;
use usher_proto::{Bitrate, Code, Fault};

/// Default maximum number of sessions: with two buffers of half a megabyte each they hold 10 GB at worst.
pub const MAX_SESSIONS: usize = 10_000;

/// Time after which a client of a full node should retry: the master knows within 0.2 s.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Units of a shared resource that every client may have while there are any: more than a household's players use.
pub const FLOOR: u64 = 16;

/// Units that a client may have for each unit that is free: one alone gets three quarters, many get equal parts.
pub const ALPHA: u64 = 3;

/// Part of the sessions that is kept for nodes that relay a feed: 1 in 20.
const FOR_NODES: usize = 20;

/// Limits that the operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionControl {
    /// Maximum of all reserved rates and background traffic together.
    pub capacity: Bitrate,
    /// Maximum number of sessions.
    pub sessions: usize,
    /// Maximum rate of one session; `None` for no limit but the capacity.
    pub session_rate: Option<Bitrate>,
}

impl From<Bitrate> for AdmissionControl {
    /// Default limits of a node with this capacity.
    fn from(capacity: Bitrate) -> Self {
        Self { capacity, sessions: MAX_SESSIONS, session_rate: None }
    }
}

/// Current load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeLoad {
    /// Bit/s reserved by active sessions.
    pub committed: u64,
    /// Bit/s of other traffic on the link.
    pub background: u64,
    /// Number of active sessions.
    pub sessions: usize,
}

/// The reason why a session is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AdmissionError {
    /// The rate exceeds the limit of one session.
    #[error("{wanted} is more than one session gets here, {limit}; ask another node")]
    Rate {
        /// Rate of the ticket.
        wanted: Bitrate,
        /// Limit of one session.
        limit: Bitrate,
    },
    /// The rate does not fit into the capacity.
    #[error("the node's capacity is {limit}, and {taken} is in use; resolve again")]
    Capacity {
        /// Capacity.
        limit: Bitrate,
        /// Reserved rates and background traffic.
        taken: Bitrate,
    },
    /// The maximum number of sessions is active.
    #[error("the node has {0} sessions, its maximum; resolve again")]
    Sessions(usize),
    /// The client's network has its share of the sessions.
    #[error("your network has its share of the sessions that this node serves; resolve again")]
    Share,
    /// The session is active already.
    #[error("a session of this ticket runs already; resolve again")]
    Duplicate,
}

impl From<AdmissionError> for Fault {
    fn from(full: AdmissionError) -> Self {
        let fault = |code| Self::new(code, full.to_string());
        match full {
            AdmissionError::Rate { .. } => fault(Code::Unequipped),
            AdmissionError::Capacity { .. } | AdmissionError::Sessions(_) => fault(Code::NoCapacity).after(RETRY_AFTER),
            AdmissionError::Share => fault(Code::BudgetExceeded).after(RETRY_AFTER),
            AdmissionError::Duplicate => fault(Code::TicketReplayed),
        }
    }
}

impl AdmissionControl {
    /// Bit/s that may be used in all; a tenth more for a ticket that was issued into a `burst` of background traffic.
    fn capacity(&self, burst: bool) -> u64 {
        let tenth = if burst { self.capacity.0 / 10 } else { 0 };
        self.capacity.0.saturating_add(tenth)
    }

    /// Maximum number of sessions, clients' ones if `client`; the rest is for nodes that relay a feed.
    fn most_sessions(&self, client: bool) -> usize {
        if client { self.sessions - self.sessions / FOR_NODES } else { self.sessions }
    }

    /// Checks whether a session of this rate may start, one of a `client` or of a node. One without a rate uses only
    /// spare capacity, and passes.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn check(&self, load: NodeLoad, rate: Bitrate, burst: bool, client: bool) -> Result<(), AdmissionError> {
        if let Some(limit) = self.session_rate.filter(|limit| rate > *limit) {
            return Err(AdmissionError::Rate { wanted: rate, limit });
        }
        let most = self.most_sessions(client);
        if load.sessions >= most {
            return Err(AdmissionError::Sessions(most));
        }
        self.check_rate(load, rate, burst)
    }

    /// Checks whether this rate may be reserved, for a session that is counted or not.
    ///
    /// # Errors
    /// [`AdmissionError::Capacity`].
    pub fn check_rate(&self, load: NodeLoad, rate: Bitrate, burst: bool) -> Result<(), AdmissionError> {
        let (most, taken) = (self.capacity(burst), load.committed.saturating_add(load.background));
        if rate.0 > 0 && taken.saturating_add(rate.0) > most {
            return Err(AdmissionError::Capacity { limit: Bitrate(most), taken: Bitrate(taken) });
        }
        Ok(())
    }

    /// The limit that the master receives when the node is full, in bit/s including background traffic, as the master
    /// counts it. With the maximum number of sessions it is the current load.
    pub fn reported_limit(&self, load: NodeLoad, burst: bool) -> Bitrate {
        let taken = load.committed.saturating_add(load.background);
        Bitrate(if load.sessions >= self.most_sessions(true) { taken } else { self.capacity(burst) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_admitted_up_to_the_last_bit() {
        let admission = AdmissionControl { capacity: Bitrate(1000), sessions: 3, session_rate: Some(Bitrate(900)) };
        let load = |committed, background, sessions| NodeLoad { committed, background, sessions };
        let full = |limit, taken| Err(AdmissionError::Capacity { limit: Bitrate(limit), taken: Bitrate(taken) });
        for (load, rate, burst, result) in [
            (load(0, 0, 0), 900, false, Ok(())),
            (load(0, 0, 0), 901, false, Err(AdmissionError::Rate { wanted: Bitrate(901), limit: Bitrate(900) })),
            (load(500, 100, 2), 400, false, Ok(())),
            (load(500, 100, 2), 401, false, full(1000, 600)),
            (load(500, 100, 2), 500, true, Ok(())),
            (load(500, 100, 2), 501, true, full(1100, 600)),
            (load(5000, 0, 2), 0, false, Ok(())),
            (load(0, 0, 3), 0, false, Err(AdmissionError::Sessions(3))),
            (load(u64::MAX, u64::MAX, 1), 1, true, full(1100, u64::MAX)),
        ] {
            assert_eq!(admission.check(load, Bitrate(rate), burst, true), result, "{load:?} {rate} {burst}");
        }
        assert_eq!(admission.reported_limit(load(700, 200, 2), false), Bitrate(1000));
        assert_eq!(admission.reported_limit(load(700, 200, 2), true), Bitrate(1100));
        assert_eq!(admission.reported_limit(load(700, 200, 3), true), Bitrate(900));
    }

    #[test]
    fn places_remain_for_nodes() {
        let admission = AdmissionControl { sessions: 100, ..AdmissionControl::from(Bitrate(1000)) };
        let check =
            |sessions, client| admission.check(NodeLoad { sessions, ..NodeLoad::default() }, Bitrate(1), false, client);
        assert_eq!((check(94, true), check(95, true)), (Ok(()), Err(AdmissionError::Sessions(95))));
        assert_eq!((check(99, false), check(100, false)), (Ok(()), Err(AdmissionError::Sessions(100))));
    }

    #[test]
    fn a_refusal_says_when_to_retry() {
        let fault = Fault::from(AdmissionError::Capacity { limit: Bitrate(1_000_000), taken: Bitrate(0) });
        assert_eq!((fault.code, fault.retry_after), (Code::NoCapacity, Some(RETRY_AFTER)));
        assert!(fault.message.contains("1 Mbit/s"), "{fault}");
        assert_eq!(Fault::from(AdmissionError::Sessions(3)).code, Code::NoCapacity);
        let share = Fault::from(AdmissionError::Share);
        assert_eq!((share.code, share.retry_after), (Code::BudgetExceeded, Some(RETRY_AFTER)));
        let rate = AdmissionError::Rate { wanted: Bitrate(2), limit: Bitrate(1) };
        assert_eq!((Fault::from(rate).code, Fault::from(rate).retry_after), (Code::Unequipped, None));
    }
}
