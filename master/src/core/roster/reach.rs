//! Whether a node's advertised addresses answer when the master dials them. Only addresses that answered are offered to
//! clients. A node that answered before and does not any more is suspect, and is dialled until it answers. Knows one
//! node; the shell dials.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Shortest and longest wait between two dials of a node that does not answer.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Time for which an answer, or a session that a client began, outweighs reports of clients.
const FRESH: Duration = Duration::from_secs(1);

/// Time after which a dial without a result is forgotten.
const LOST: Duration = Duration::from_secs(10);

/// Results of dialling one node.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    /// Addresses that answered.
    answered: Vec<SocketAddr>,
    /// Whether the last dial found no address that answers.
    silent: bool,
    /// Last answer, or last session that a client began.
    seen: Option<Instant>,
    /// Start of a dial without a result.
    dialling: Option<Instant>,
    /// Time of the next dial.
    due: Option<Instant>,
    wait: Duration,
}

impl Reach {
    /// A node that was not dialled.
    pub(super) fn new(now: Instant) -> Self {
        Self { answered: Vec::new(), silent: false, seen: None, dialling: None, due: Some(now), wait: WAIT.0 }
    }

    /// Whether an address answered.
    pub(super) fn answered(&self, address: &SocketAddr) -> bool {
        self.answered.contains(address)
    }

    /// Whether the node answered before, and does not any more.
    pub(super) fn is_lost(&self) -> bool {
        self.silent && !self.answered.is_empty()
    }

    /// Handles a change of the advertised addresses: new ones are dialled at once.
    pub(super) fn handle_addresses(&mut self, now: Instant, addresses: &[SocketAddr]) {
        self.answered.retain(|address| addresses.contains(address));
        if addresses.iter().any(|address| !self.answered(address)) {
            (self.due, self.wait) = (Some(now), WAIT.0);
        }
    }

    /// Handles the report of a client that the node does not answer.
    pub(super) fn handle_hint(&mut self, now: Instant) {
        if self.seen.is_none_or(|seen| now.saturating_duration_since(seen) >= FRESH) {
            self.due = Some(now);
        }
    }

    /// Handles a session that a client began on the node.
    pub(super) fn handle_session(&mut self, now: Instant) {
        (self.silent, self.seen) = (false, Some(now));
    }

    /// Whether to dial the node now; the dial then counts as started.
    pub(super) fn poll_dial(&mut self, now: Instant) -> bool {
        let dial = self.next_timeout().is_some_and(|due| due <= now);
        if dial {
            (self.dialling, self.due) = (Some(now), Some(now + LOST));
        }
        dial
    }

    /// Handles the result of a dial of `addresses`, of which some `answered`.
    pub(super) fn handle_dialled(&mut self, now: Instant, addresses: &[SocketAddr], answered: Vec<SocketAddr>) {
        self.dialling = None;
        self.silent = answered.is_empty();
        let whole = addresses.iter().all(|address| answered.contains(address));
        if !self.silent {
            (self.answered, self.seen) = (answered, Some(now));
        }
        if whole {
            (self.due, self.wait) = (None, WAIT.0);
        } else {
            self.due = Some(now + self.wait);
            self.wait = (self.wait * 2).min(WAIT.1);
        }
    }

    /// Time of the next dial.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let free = self.dialling.map(|at| at + LOST);
        self.due.map(|due| free.map_or(due, |free| free.max(due)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn only_addresses_that_answered_count() {
        let now = Instant::now();
        let all = [address(1), address(2)];
        let mut reach = Reach::new(now);
        assert!(reach.poll_dial(now) && !reach.poll_dial(now), "one dial at a time");
        reach.handle_dialled(now, &all, vec![address(2)]);
        assert_eq!([reach.answered(&all[0]), reach.answered(&all[1]), reach.is_lost()], [false, true, false]);
        assert_eq!(reach.next_timeout(), Some(now + WAIT.0), "the other one is tried again");
        assert!(reach.poll_dial(now + WAIT.0));
        reach.handle_dialled(now + WAIT.0, &all, all.to_vec());
        assert!(reach.answered(&all[0]) && reach.next_timeout().is_none());
        reach.handle_addresses(now + WAIT.0, &[address(3)]);
        assert!(!reach.answered(&all[0]) && reach.poll_dial(now + WAIT.0), "a new address is dialled first");
    }

    #[test]
    fn a_dial_decides_and_reports_do_not() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let all = [address(1)];
        let mut reach = Reach::new(start);
        assert!(reach.poll_dial(start));
        reach.handle_dialled(start, &all, all.to_vec());
        for millis in 0..60_000 {
            reach.handle_hint(at(millis));
            if reach.poll_dial(at(millis)) {
                reach.handle_dialled(at(millis), &all, all.to_vec());
            }
            assert!(!reach.is_lost());
        }
        reach.handle_session(at(60_500));
        reach.handle_hint(at(61_000));
        assert!(!reach.poll_dial(at(61_000)), "a client has just been served");
        reach.handle_hint(at(61_500));
        let (mut millis, mut waits) = (61_500, Vec::new());
        for _ in 0..7 {
            assert!(reach.poll_dial(at(millis)));
            reach.handle_dialled(at(millis), &all, Vec::new());
            assert!(reach.is_lost() && reach.answered(&all[0]));
            let wait = reach.next_timeout().expect("again").saturating_duration_since(at(millis));
            waits.push(wait.as_secs());
            millis += u64::try_from(wait.as_millis()).expect("short");
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        reach.handle_session(at(millis));
        assert!(!reach.is_lost(), "a session is a sign of life");
    }

    #[test]
    fn a_lost_result_does_not_stop_the_dials() {
        let now = Instant::now();
        let mut reach = Reach::new(now);
        assert!(reach.poll_dial(now));
        reach.handle_hint(now);
        assert_eq!((reach.poll_dial(now), reach.next_timeout()), (false, Some(now + LOST)));
        assert!(reach.poll_dial(now + LOST));
    }
}
