//! The decision after a failure: the next seat at once, then the master again without the suspects, then the same after a
//! wait, until nothing has made progress for the timeout. A session that its node moves is no failure.
//!
//! Owns the timeout of one session, the list of suspects and the reports of failed seats to the master. Of a seat it knows
//! the node's name alone; the `failover` shell dials.

use std::time::{Duration, Instant};

use rand::Rng;
use usher_proto::{
    Code, Fault, NodeName,
    backoff::Backoff,
    model::{Failed, MAX_EXCLUDE, MAX_FAILED},
    ticket::LIFETIME_SECS,
};

/// Ceiling of the first wait for a master: about a round trip over a continent.
pub const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Ceiling of every wait: a viewer is waiting, and a node restarts within seconds.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The reaction to a failure at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Another node may serve the session; this one is a suspect.
    NextSeat,
    /// The ticket cannot be used: another seat has its own, and for a lone node the master may issue a new one.
    NewTicket,
    /// Neither helps.
    Fail,
}

/// The reaction to a failure at a node. A failure of this node alone, such as its disk, does not end the session.
pub fn remedy(code: Code) -> Remedy {
    match code {
        Code::NoCapacity | Code::Unavailable | Code::Draining | Code::NotFound | Code::ContentChanged => {
            Remedy::NextSeat
        }
        Code::VerificationFailed | Code::Timeout | Code::Network | Code::Internal | Code::Cancelled => Remedy::NextSeat,
        Code::TicketInvalid | Code::TicketExpired | Code::TicketReplayed => Remedy::NewTicket,
        Code::Denied | Code::Unauthenticated | Code::TicketMismatch | Code::BadRequest | Code::BadRange => Remedy::Fail,
        Code::Unequipped | Code::BudgetExceeded => Remedy::NextSeat,
        // A node sends these about itself, or by mistake; failures of this side never come from a node.
        Code::Disk | Code::Interrupted | Code::Exists | Code::Usage => Remedy::NextSeat,
    }
}

/// Whether asking the master again can help after a refusal.
fn is_temporary(fault: &Fault) -> bool {
    match fault.code {
        // Without a time to retry after, the title's rate exceeds what its holders can ever send.
        Code::NoCapacity | Code::BudgetExceeded => fault.retry_after.is_some(),
        code => matches!(code, Code::Unavailable | Code::Draining | Code::Timeout | Code::Network | Code::Internal),
    }
}

/// Whether a refusal of the master concerns the nodes that were not excluded.
fn concerns_others(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::Unavailable | Code::NoCapacity | Code::Unequipped)
}

/// An event of a session or of the master.
#[derive(Clone, Copy, Debug)]
pub enum SeatEvent<'a> {
    /// The session begins.
    Start,
    /// The master named these nodes, the best first.
    Resolved(&'a [NodeName]),
    /// The master refused, or could not be reached.
    Refused(&'a Fault),
    /// Bytes were verified.
    Progress,
    /// The session at the current seat, which was opened last, failed.
    Lost(&'a Fault),
    /// The current seat's node moves the session to this node, which takes that seat's place.
    Moved(&'a NodeName),
    /// The session is at this node, which answered late or was silent. A node that is not among the seats is added after
    /// the last one.
    Seated(&'a NodeName),
}

/// The next step of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open the seat of this number, counted from 0, of the last answer.
    Open(usize),
    /// Ask the master, after a wait.
    Resolve {
        /// Time to wait first.
        after: Duration,
        /// Nodes that the master must not choose, besides those that failed.
        exclude: Vec<NodeName>,
        /// Seats that failed since the last answer: the master must not choose them, and checks them.
        failed: Vec<Failed>,
    },
    /// Give up, for this reason.
    Fail(Fault),
    /// Nothing changes.
    Continue,
}

/// Decides where a session continues after a failure, and when it gives up.
#[derive(Debug)]
pub struct FailoverPolicy {
    timeout: Duration,
    backoff: Backoff,
    seats: Vec<NodeName>,
    /// When the master named them.
    answered: Option<Instant>,
    /// The current seat, which was opened last.
    seat: usize,
    /// Whether a node moved the session to that seat, and nothing was verified there yet.
    moved_there: bool,
    /// Moves in a row before anything was verified.
    moves: u32,
    /// Nodes that failed since the last progress, and when; they are tried again when no other is left.
    suspects: Vec<(Instant, NodeName)>,
    /// Seats that failed, and when, since the last report to the master.
    failed: Vec<(Instant, Failed)>,
    /// Nodes that sent wrong bytes; never asked again for this title.
    forgers: Vec<NodeName>,
    /// Nodes that the master named, up to [`NAMED`].
    named: Vec<NodeName>,
    /// New tickets in a row for a node that was the only one named.
    new_tickets: u32,
    /// The last progress, or the start.
    since: Option<Instant>,
    /// Whether anything was ever verified: a title that existed may come back.
    progressed: bool,
    /// Whether the master was asked without the suspects since the last progress.
    asked: bool,
    /// The last failure of a node: it explains more than the master's "no other node".
    lost: Option<Fault>,
}

/// New tickets for a lone node before it becomes a suspect like others.
const TICKETS: u32 = 2;

/// Moves without a verified byte between them: a balancer orders chains of two, and longer ones are nodes that move a
/// session back and forth.
pub const MOVES: u32 = 8;

/// Named nodes that are remembered: a title has fewer holders.
const NAMED: usize = 256;

/// Age from which on the seats of an answer may belong to an earlier start of their nodes.
const STALE: Duration = Duration::from_secs(2);

/// Time for which a node that failed is excluded: it may have been restarted by then.
const EXCLUDED: Duration = Duration::from_secs(30);

impl FailoverPolicy {
    /// A session that fails after `timeout` without progress.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            seats: Vec::new(),
            answered: None,
            seat: 0,
            moved_there: false,
            moves: 0,
            suspects: Vec::new(),
            failed: Vec::new(),
            forgers: Vec::new(),
            named: Vec::new(),
            new_tickets: 0,
            since: None,
            progressed: false,
            asked: false,
            lost: None,
        }
    }

    /// Handles an event; returns the next step.
    pub fn handle_event(&mut self, now: Instant, event: SeatEvent<'_>, rng: &mut impl Rng) -> Action {
        let since = *self.since.get_or_insert(now);
        match event {
            SeatEvent::Start => self.resolve(now, Duration::ZERO),
            SeatEvent::Resolved(seats) => {
                self.failed.clear();
                let first = seats.iter().position(|seat| !self.forgers.contains(seat));
                match first {
                    Some(seat) => {
                        self.seats = seats.to_vec();
                        self.remember(seats);
                        self.answered = Some(now);
                        self.open(seat)
                    }
                    None => {
                        let none = Fault::new(Code::Unavailable, "the master named no node that can be asked");
                        self.again(now, since, &none, rng)
                    }
                }
            }
            SeatEvent::Progress => {
                self.since = Some(now);
                self.progressed = true;
                self.asked = false;
                self.backoff.reset();
                self.suspects.clear();
                (self.moved_there, self.moves, self.new_tickets) = (false, 0, 0);
                Action::Continue
            }
            SeatEvent::Lost(fault) => self.lost(now, since, fault, rng),
            SeatEvent::Moved(node) => self.move_to(now, since, node, rng),
            SeatEvent::Seated(node) => {
                self.seated(node);
                Action::Continue
            }
            SeatEvent::Refused(fault) => self.refused(now, since, fault, rng),
        }
    }

    /// Whether a node moved the session to the current seat, and nothing was verified there yet.
    pub fn was_moved_there(&self) -> bool {
        self.moved_there
    }

    /// The node of the current seat.
    pub fn seat(&self) -> Option<&NodeName> {
        self.seats.get(self.seat)
    }

    /// The last failure of a node.
    pub fn last_loss(&self) -> Option<&Fault> {
        self.lost.as_ref()
    }

    fn open(&mut self, seat: usize) -> Action {
        (self.seat, self.moved_there) = (seat, false);
        Action::Open(seat)
    }

    fn remember(&mut self, seats: &[NodeName]) {
        for seat in seats {
            if self.named.len() < NAMED && !self.named.contains(seat) {
                self.named.push(seat.clone());
            }
        }
    }

    fn seated(&mut self, node: &NodeName) {
        let place = self.seats.iter().position(|one| one == node);
        let seat = place.unwrap_or_else(|| {
            self.seats.push(node.clone());
            self.seats.len() - 1
        });
        if seat != self.seat {
            (self.seat, self.moved_there) = (seat, false);
        }
        self.suspects.retain(|(_, one)| one != node);
        self.failed.retain(|(_, failed)| failed.node != *node);
    }

    fn move_to(&mut self, now: Instant, since: Instant, node: &NodeName, rng: &mut impl Rng) -> Action {
        self.moves = self.moves.saturating_add(1);
        let fair = self.moves <= MOVES && !self.forgers.contains(node);
        match self.seats.get_mut(self.seat) {
            Some(seat) if fair => {
                seat.clone_from(node);
                self.moved_there = true;
                Action::Open(self.seat)
            }
            _ => {
                let text = format!("the session was moved to node {node}, and no node serves it");
                self.lost(now, since, &Fault::new(Code::Unavailable, text), rng)
            }
        }
    }

    fn lost(&mut self, now: Instant, since: Instant, fault: &Fault, rng: &mut impl Rng) -> Action {
        self.lost = Some(fault.clone());
        match remedy(fault.code) {
            // The node chose that seat, not the master: its failure says nothing about other seats.
            _ if self.moved_there => {}
            Remedy::Fail => return Action::Fail(fault.clone()),
            Remedy::NewTicket if self.seats.len() == 1 && self.new_tickets < TICKETS => {
                self.new_tickets += 1;
                return self.again(now, since, fault, rng);
            }
            Remedy::NewTicket | Remedy::NextSeat => {}
        }
        // The tickets of an old answer are void once their node restarts; that is no failure of the node.
        let stale = remedy(fault.code) == Remedy::NewTicket
            && self.answered.is_none_or(|at| now.saturating_duration_since(at) >= STALE);
        let twice = self.seats.get(self.seat).is_some_and(|node| self.suspects.iter().any(|(_, one)| one == node));
        if !stale {
            self.record(now, fault.code);
        }
        let out = |node: &NodeName| self.forgers.contains(node) || self.suspects.iter().any(|(_, one)| one == node);
        // Tickets expire.
        let lifetime = Duration::from_secs(LIFETIME_SECS);
        let fresh = self.answered.is_some_and(|at| now.saturating_duration_since(at) < lifetime);
        let next = (self.seat + 1..self.seats.len()).find(|at| !self.seats.get(*at).is_none_or(out));
        match next.filter(|_| fresh) {
            Some(next) => self.open(next),
            // The master names a full node again once it has made room there. If the node still refuses, asking at once
            // would loop between the two.
            None if twice => self.again(now, since, fault, rng),
            // Another node is asked for at once. A silent node may have used up the timeout, but other nodes get their
            // chance.
            None if !self.asked || now.saturating_duration_since(since) < self.timeout => {
                self.asked = true;
                self.resolve(now, Duration::ZERO)
            }
            None => Action::Fail(self.reason(fault)),
        }
    }

    /// Records the failure of the current seat's node.
    fn record(&mut self, now: Instant, code: Code) {
        let Some(node) = self.seats.get(self.seat).cloned() else { return };
        self.failed.retain(|(_, failed)| failed.node != node);
        if self.failed.len() >= MAX_FAILED {
            self.failed.remove(0);
        }
        self.failed.push((now, Failed::new(node.clone(), code)));
        if code != Code::VerificationFailed {
            self.suspects.retain(|(_, one)| *one != node);
            self.suspects.push((now, node));
        } else if !self.forgers.contains(&node) {
            self.forgers.push(node);
        }
    }

    fn refused(&mut self, now: Instant, since: Instant, fault: &Fault, rng: &mut impl Rng) -> Action {
        let answered = !matches!(fault.code, Code::Network | Code::Timeout);
        let others = |node: &NodeName| !self.forgers.contains(node);
        let excluded = !self.suspects.is_empty() || self.failed.iter().any(|(_, failed)| others(&failed.node));
        if answered {
            self.suspects.clear();
            self.failed.clear();
        }
        if answered && excluded {
            // Perhaps only the suspects hold the title: they are tried again soon. The master's time to retry after concerns
            // the other nodes.
            let fault = Fault { retry_after: None, ..fault.clone() };
            return self.again(now, since, &fault, rng);
        }
        let gone = fault.code == Code::NotFound && self.progressed && self.forgers.is_empty();
        // A node that sent no wrong bytes may return, or have capacity again.
        let only_forgers =
            answered && !self.forgers.is_empty() && self.named.iter().all(|node| self.forgers.contains(node));
        if !only_forgers && (gone || is_temporary(fault)) {
            return self.again(now, since, fault, rng);
        }
        Action::Fail(self.reason(fault))
    }

    /// Asks the master after a wait, unless the timeout ends before.
    fn again(&mut self, now: Instant, since: Instant, fault: &Fault, rng: &mut impl Rng) -> Action {
        let after = self.backoff.wait(rng).max(fault.retry_after.unwrap_or_default());
        if now.saturating_duration_since(since).saturating_add(after) >= self.timeout {
            return Action::Fail(self.reason(fault));
        }
        self.resolve(now, after)
    }

    fn resolve(&mut self, now: Instant, after: Duration) -> Action {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < EXCLUDED;
        self.suspects.retain(|(at, _)| recent(at));
        self.failed.retain(|(at, _)| recent(at));
        let failed: Vec<Failed> = self.failed.iter().map(|(_, failed)| failed.clone()).collect();
        let reported = |node: &&NodeName| failed.iter().any(|one| one.node == **node);
        let out = self.forgers.iter().chain(self.suspects.iter().map(|(_, node)| node));
        let exclude = out.filter(|node| !reported(node)).take(MAX_EXCLUDE).cloned().collect();
        Action::Resolve { after, exclude, failed }
    }

    /// The failure to return: the last node's, unless the master itself failed.
    fn reason(&self, fault: &Fault) -> Fault {
        match &self.lost {
            Some(lost) if concerns_others(fault.code) => lost.clone(),
            _ => fault.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
