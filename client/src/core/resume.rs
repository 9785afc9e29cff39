//! What to do after a loss: the next seat at once, then the master again without the suspects, then the same after a
//! wait, until nothing has moved for the timeout. A session that its node moves goes on where it is sent, which is no
//! loss.
//!
//! Owns the patience of one title, the list of suspects and what the master is told of them. Refuses to know what a seat
//! is beyond its node's name, and how anything is dialled.

use std::time::{Duration, Instant};

use rand::Rng;
use usher_proto::{
    Code, Fault, NodeName,
    backoff::Backoff,
    model::{Failed, MAX_EXCLUDE, MAX_FAILED},
    ticket::LIFETIME_SECS,
};

/// The ceiling of the first wait for a master: about a round trip over a continent.
pub const FIRST_WAIT: Duration = Duration::from_millis(200);

/// The ceiling of every wait: someone watches, and a node is back within seconds.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What a failure calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// Another node may do better; this one is a suspect.
    NextSeat,
    /// The ticket is of no use: another seat has its own, and where there is none, a new one may do.
    NewTicket,
    /// Neither helps.
    Fail,
}

/// What a failure at a node calls for. What is wrong with the node alone, its disk or its manners, is no reason to end.
pub fn cure(code: Code) -> Cure {
    match code {
        Code::NoCapacity | Code::Unavailable | Code::Draining | Code::NotFound | Code::ContentChanged => Cure::NextSeat,
        Code::VerificationFailed | Code::Timeout | Code::Network | Code::Internal | Code::Cancelled => Cure::NextSeat,
        Code::TicketInvalid | Code::TicketExpired | Code::TicketReplayed => Cure::NewTicket,
        Code::Denied | Code::Unauthenticated | Code::TicketMismatch | Code::BadRequest | Code::BadRange => Cure::Fail,
        Code::Unequipped => Cure::NextSeat,
        // Failures of this side travel another way: from a node these are about the node, or nonsense.
        Code::Disk | Code::Interrupted | Code::Exists | Code::Usage => Cure::NextSeat,
    }
}

/// Whether asking the master again can help after it said no.
fn master_may_yet(fault: &Fault) -> bool {
    match fault.code {
        // Without a time to come again the title is faster than its holders may ever send, however idle they are.
        Code::NoCapacity => fault.retry_after.is_some(),
        code => matches!(code, Code::Unavailable | Code::Draining | Code::Timeout | Code::Network | Code::Internal),
    }
}

/// Whether a master's no is about the nodes that were left to choose from.
fn about_others(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::Unavailable | Code::NoCapacity | Code::Unequipped)
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The title is wanted.
    Start,
    /// The master named these nodes, the best first.
    Resolved(&'a [NodeName]),
    /// The master, or the way to it, failed.
    Refused(&'a Fault),
    /// Bytes were verified.
    Progress,
    /// The session at the seat that was opened last ended too early.
    Lost(&'a Fault),
    /// The node of the seat that was opened last sends the session to this node, which takes that seat's place.
    Moved(&'a NodeName),
    /// The session is at this node: one that answered late, or that was silent and is so no more. A node that is not among
    /// the seats has the place after the last.
    Seated(&'a NodeName),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open the seat of this number, counted from 0, of the last answer.
    Open(usize),
    /// Ask the master, after a wait.
    Resolve {
        /// How long to wait first.
        after: Duration,
        /// Nodes that it must not choose, besides those that failed.
        exclude: Vec<NodeName>,
        /// Seats that failed since its last answer; it must not choose them, and looks into it.
        failed: Vec<Failed>,
    },
    /// Give up, for this reason.
    Fail(Fault),
    /// Go on.
    Continue,
}

/// The patience of one title.
#[derive(Debug)]
pub struct Resume {
    timeout: Duration,
    backoff: Backoff,
    seats: Vec<NodeName>,
    /// When the master named them.
    answered: Option<Instant>,
    /// The seat opened last.
    seat: usize,
    /// Whether a node sent the session to that seat, and nothing was verified there yet.
    sent_there: bool,
    /// Sessions in a row that were moved before anything was verified.
    moves: u32,
    /// Nodes that failed since the last progress, and when; given another chance when no other is left.
    suspects: Vec<(Instant, NodeName)>,
    /// Seats that failed, and when: what the master has not been told.
    failed: Vec<(Instant, Failed)>,
    /// Nodes that sent wrong bytes; never asked again for this title.
    liars: Vec<NodeName>,
    /// Nodes that the master ever named, as far as is remembered.
    named: Vec<NodeName>,
    /// New tickets in a row for a node that was the only one named.
    new_tickets: u32,
    /// The last progress, or the start.
    since: Option<Instant>,
    /// Whether anything was ever verified: what was there once may come back.
    moved: bool,
    /// Whether the master was asked without the suspects since the last progress.
    asked: bool,
    /// What a node did last: it tells more than the master's "no other node".
    lost: Option<Fault>,
}

/// New tickets for a lone node before it becomes a suspect like others.
const TICKETS: u32 = 2;

/// Moves without a verified byte between them: a chain of two is what a balancer orders, more is two nodes that play
/// ball.
pub const MOVES: u32 = 8;

/// Nodes that are remembered to have been named: a title has fewer holders.
const NAMED: usize = 256;

/// The age from which on an answer's seats may be of a node's start before the present one.
const STALE: Duration = Duration::from_secs(2);

/// How long a node that failed is not asked for: it may have been started again by then.
const EXCLUDED: Duration = Duration::from_secs(30);

impl Resume {
    /// Gives up when nothing was verified for `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            seats: Vec::new(),
            answered: None,
            seat: 0,
            sent_there: false,
            moves: 0,
            suspects: Vec::new(),
            failed: Vec::new(),
            liars: Vec::new(),
            named: Vec::new(),
            new_tickets: 0,
            since: None,
            moved: false,
            asked: false,
            lost: None,
        }
    }

    /// What to do now that this happened.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, rng: &mut impl Rng) -> Action {
        let since = *self.since.get_or_insert(now);
        match event {
            Event::Start => self.resolve(now, Duration::ZERO),
            Event::Resolved(seats) => {
                self.failed.clear();
                let first = seats.iter().position(|seat| !self.liars.contains(seat));
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
            Event::Progress => {
                self.since = Some(now);
                self.moved = true;
                self.asked = false;
                self.backoff.reset();
                self.suspects.clear();
                (self.sent_there, self.moves, self.new_tickets) = (false, 0, 0);
                Action::Continue
            }
            Event::Lost(fault) => self.lost(now, since, fault, rng),
            Event::Moved(node) => self.sent_on(now, since, node, rng),
            Event::Seated(node) => {
                self.seated(node);
                Action::Continue
            }
            Event::Refused(fault) => self.refused(now, since, fault, rng),
        }
    }

    /// Whether the last seat to open is one that a node sent the session to.
    pub fn was_sent_there(&self) -> bool {
        self.sent_there
    }

    /// The node of the seat that was opened last.
    pub fn seat(&self) -> Option<&NodeName> {
        self.seats.get(self.seat)
    }

    /// What the node that failed last did.
    pub fn last_loss(&self) -> Option<&Fault> {
        self.lost.as_ref()
    }

    fn open(&mut self, seat: usize) -> Action {
        (self.seat, self.sent_there) = (seat, false);
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
            (self.seat, self.sent_there) = (seat, false);
        }
        self.suspects.retain(|(_, one)| one != node);
        self.failed.retain(|(_, failed)| failed.node != *node);
    }

    fn sent_on(&mut self, now: Instant, since: Instant, node: &NodeName, rng: &mut impl Rng) -> Action {
        self.moves = self.moves.saturating_add(1);
        let fair = self.moves <= MOVES && !self.liars.contains(node);
        match self.seats.get_mut(self.seat) {
            Some(seat) if fair => {
                seat.clone_from(node);
                self.sent_there = true;
                Action::Open(self.seat)
            }
            _ => {
                let text = format!("the session was sent on to node {node}, and no node would serve it");
                self.lost(now, since, &Fault::new(Code::Unavailable, text), rng)
            }
        }
    }

    fn lost(&mut self, now: Instant, since: Instant, fault: &Fault, rng: &mut impl Rng) -> Action {
        self.lost = Some(fault.clone());
        match cure(fault.code) {
            // Where a node sent the session is its own idea: that it does not work there says nothing of other seats.
            _ if self.sent_there => {}
            Cure::Fail => return Action::Fail(fault.clone()),
            Cure::NewTicket if self.seats.len() == 1 && self.new_tickets < TICKETS => {
                self.new_tickets += 1;
                return self.again(now, since, fault, rng);
            }
            Cure::NewTicket | Cure::NextSeat => {}
        }
        // What an old answer grants may be void since its node was started again; that says nothing of the node.
        let stale = cure(fault.code) == Cure::NewTicket
            && self.answered.is_none_or(|at| now.saturating_duration_since(at) >= STALE);
        let twice = self.seats.get(self.seat).is_some_and(|node| self.suspects.iter().any(|(_, one)| one == node));
        if !stale {
            self.blame(now, fault.code);
        }
        let out = |node: &NodeName| self.liars.contains(node) || self.suspects.iter().any(|(_, one)| one == node);
        // The tickets of an older answer are good for nothing any more.
        let good = Duration::from_secs(LIFETIME_SECS);
        let fresh = self.answered.is_some_and(|at| now.saturating_duration_since(at) < good);
        let next = (self.seat + 1..self.seats.len()).find(|at| !self.seats.get(*at).is_none_or(out));
        match next.filter(|_| fresh) {
            Some(next) => self.open(next),
            // The master may name a full node again, once it has made room there. That did not help: to ask at once
            // would go round and round between the two.
            None if twice => self.again(now, since, fault, rng),
            // Nothing is gained by waiting before another node is asked for. A node that was silent has used
            // up all patience, but the others have not been heard.
            None if !self.asked || now.saturating_duration_since(since) < self.timeout => {
                self.asked = true;
                self.resolve(now, Duration::ZERO)
            }
            None => Action::Fail(self.reason(fault)),
        }
    }

    /// Remembers what the node of the seat opened last did.
    fn blame(&mut self, now: Instant, code: Code) {
        let Some(node) = self.seats.get(self.seat).cloned() else { return };
        self.failed.retain(|(_, failed)| failed.node != node);
        if self.failed.len() >= MAX_FAILED {
            self.failed.remove(0);
        }
        self.failed.push((now, Failed { node: node.clone(), code }));
        if code != Code::VerificationFailed {
            self.suspects.retain(|(_, one)| *one != node);
            self.suspects.push((now, node));
        } else if !self.liars.contains(&node) {
            self.liars.push(node);
        }
    }

    fn refused(&mut self, now: Instant, since: Instant, fault: &Fault, rng: &mut impl Rng) -> Action {
        let heard = !matches!(fault.code, Code::Network | Code::Timeout);
        let others = |node: &NodeName| !self.liars.contains(node);
        let excluded = !self.suspects.is_empty() || self.failed.iter().any(|(_, failed)| others(&failed.node));
        if heard {
            self.suspects.clear();
            self.failed.clear();
        }
        if heard && excluded {
            // It may be that only the suspects have it: they get another chance, soon. When it is worth to ask again, as
            // the master sees it, is about the others.
            let fault = Fault { retry_after: None, ..fault.clone() };
            return self.again(now, since, &fault, rng);
        }
        let gone = fault.code == Code::NotFound && self.moved && self.liars.is_empty();
        // One that did not lie may be back, or have room, in a moment.
        let only_liars = heard && !self.liars.is_empty() && self.named.iter().all(|node| self.liars.contains(node));
        if !only_liars && (gone || master_may_yet(fault)) {
            return self.again(now, since, fault, rng);
        }
        Action::Fail(self.reason(fault))
    }

    /// Asks the master after a wait, if patience lasts that long.
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
        let told = |node: &&NodeName| failed.iter().any(|one| one.node == **node);
        let out = self.liars.iter().chain(self.suspects.iter().map(|(_, node)| node));
        let exclude = out.filter(|node| !told(node)).take(MAX_EXCLUDE).cloned().collect();
        Action::Resolve { after, exclude, failed }
    }

    /// What to tell the user: what the last node did, unless the master itself is the trouble.
    fn reason(&self, fault: &Fault) -> Fault {
        match &self.lost {
            Some(lost) if about_others(fault.code) => lost.clone(),
            _ => fault.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
