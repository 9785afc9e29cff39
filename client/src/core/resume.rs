//! What to do after a loss: the next seat, then the master again without the suspect, then the same after a wait, until
//! nothing has moved for the timeout.
//!
//! Owns the patience of one title and the list of suspects. Refuses to know what a seat is beyond its node's name, and
//! how anything is dialled.

use std::time::{Duration, Instant};

use rand::Rng;
use usher_proto::{Code, Fault, NodeName, model::MAX_EXCLUDE};

use super::backoff::Backoff;

/// What a failure calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// Another node may do better; this one is a suspect.
    NextSeat,
    /// The ticket is of no use; a new one for the same node may be.
    Resolve,
    /// Neither helps.
    Fail,
}

/// What a failure at a node calls for. What is wrong with the node alone, its disk or its manners, is no reason to end.
pub fn cure(code: Code) -> Cure {
    match code {
        Code::NoCapacity | Code::Unavailable | Code::Draining | Code::NotFound | Code::ContentChanged => Cure::NextSeat,
        Code::VerificationFailed | Code::Timeout | Code::Network | Code::Internal | Code::Cancelled => Cure::NextSeat,
        Code::TicketInvalid | Code::TicketExpired | Code::TicketReplayed => Cure::Resolve,
        Code::Denied | Code::Unauthenticated | Code::TicketMismatch | Code::BadRequest | Code::BadRange => Cure::Fail,
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
        /// Nodes that it must not choose.
        exclude: Vec<NodeName>,
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
    /// The seat opened last.
    seat: usize,
    /// Nodes that failed since the last progress; given another chance when no other is left.
    suspects: Vec<NodeName>,
    /// Nodes that sent wrong bytes; never asked again.
    liars: Vec<NodeName>,
    /// Tickets in a row that a node did not take.
    refused_tickets: u32,
    /// The last progress, or the start.
    since: Option<Instant>,
    /// Whether anything was ever verified: what was there once may come back.
    moved: bool,
    /// Whether the master was asked without the suspects since the last progress.
    asked: bool,
    /// What a node did last: it tells more than the master's "no other node".
    lost: Option<Fault>,
}

/// New tickets for the same node before it becomes a suspect like others.
const TICKETS: u32 = 2;

impl Resume {
    /// Gives up when nothing was verified for `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            backoff: Backoff::default(),
            seats: Vec::new(),
            seat: 0,
            suspects: Vec::new(),
            liars: Vec::new(),
            refused_tickets: 0,
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
            Event::Start => self.resolve(Duration::ZERO),
            Event::Resolved(seats) => {
                let first = seats.iter().position(|seat| !self.liars.contains(seat));
                match first {
                    Some(seat) => {
                        self.seats = seats.to_vec();
                        self.seat = seat;
                        Action::Open(seat)
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
                self.refused_tickets = 0;
                Action::Continue
            }
            Event::Lost(fault) => self.lost(now, since, fault, rng),
            Event::Refused(fault) => self.refused(now, since, fault, rng),
        }
    }

    fn lost(&mut self, now: Instant, since: Instant, fault: &Fault, rng: &mut impl Rng) -> Action {
        self.lost = Some(fault.clone());
        let mut cure = cure(fault.code);
        if cure == Cure::Resolve {
            self.refused_tickets += 1;
            if self.refused_tickets > TICKETS {
                cure = Cure::NextSeat;
            }
        }
        match cure {
            Cure::Fail => Action::Fail(fault.clone()),
            Cure::Resolve => self.again(now, since, fault, rng),
            Cure::NextSeat => {
                if let Some(node) = self.seats.get(self.seat) {
                    let list =
                        if fault.code == Code::VerificationFailed { &mut self.liars } else { &mut self.suspects };
                    if !list.contains(node) {
                        list.push(node.clone());
                    }
                }
                let out = |node: &NodeName| self.liars.contains(node) || self.suspects.contains(node);
                let next = (self.seat + 1..self.seats.len()).find(|at| !self.seats.get(*at).is_none_or(out));
                match next {
                    Some(next) => {
                        self.seat = next;
                        Action::Open(next)
                    }
                    // Nothing is gained by waiting before another node is asked for. A node that was silent has used
                    // up all patience, but the others have not been heard.
                    None if !self.asked || now.saturating_duration_since(since) < self.timeout => {
                        self.asked = true;
                        self.resolve(Duration::ZERO)
                    }
                    None => Action::Fail(self.reason(fault)),
                }
            }
        }
    }

    fn refused(&mut self, now: Instant, since: Instant, fault: &Fault, rng: &mut impl Rng) -> Action {
        let heard = !matches!(fault.code, Code::Network | Code::Timeout);
        if heard && !self.suspects.is_empty() {
            // It may be that only the suspects have it: they get another chance, later.
            self.suspects.clear();
            return self.again(now, since, fault, rng);
        }
        let gone = fault.code == Code::NotFound && self.moved && self.liars.is_empty();
        let only_liars = heard && !self.liars.is_empty();
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
        self.resolve(after)
    }

    fn resolve(&self, after: Duration) -> Action {
        let exclude = self.liars.iter().chain(&self.suspects).take(MAX_EXCLUDE).cloned().collect();
        Action::Resolve { after, exclude }
    }

    /// What to tell the user: what the last node did, unless the master itself is the trouble.
    fn reason(&self, fault: &Fault) -> Fault {
        match &self.lost {
            Some(lost) if matches!(fault.code, Code::NotFound | Code::Unavailable | Code::NoCapacity) => lost.clone(),
            _ => fault.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
