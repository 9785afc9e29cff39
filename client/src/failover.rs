//! One session over any number of nodes: ask the master, open the next seat, open another beside a late one, give up.
//!
//! Owns the request to the master, the seats being opened, the pending switch of a session that its node moves, and the
//! reports of failed seats. Fetch, watch and publish decide what to ask for, how to open a seat and what counts as
//! progress; `core::failover` decides which seat comes next and when the timeout ends.

use std::{future::pending, time::Duration};

use futures::future::BoxFuture;
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{task::JoinSet, time};
use usher_proto::{
    Code, Fault, NodeName,
    model::{Failed, SeatAddress},
};
use usher_session::fault::silent;

use crate::{
    clock,
    core::failover::{Action, FailoverPolicy, SeatEvent},
};

/// Time after which a seat that does not answer is late: a dial and an Open take two round trips, and a disk may be slow.
pub(crate) const LATE: Duration = Duration::from_millis(700);

/// Next step of the driver.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send this query to the master through [`Failover::resolve`].
    Resolve(Query),
    /// Open this seat through [`Failover::open`].
    Open(Attempt),
    /// Wait in [`Failover::next`], or for the open session.
    Wait,
    /// Give up, unless an open session may still recover.
    Fail(Fault),
}

/// A query to the master.
#[derive(Debug)]
pub(crate) struct Query {
    /// Time to wait before it is sent.
    pub(crate) after: Duration,
    /// Nodes that the answer must not name, besides those that failed.
    pub(crate) exclude: Vec<NodeName>,
    /// Seats that failed since the last answer.
    pub(crate) failed: Vec<Failed>,
}

/// A seat to open.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Counts the attempts of this failover from 1.
    pub(crate) number: u64,
    pub(crate) at: SeatAddress,
    /// Why this seat: the master's reason, the node that failed before it, or the node that moved the session there.
    pub(crate) reason: String,
}

/// Reason to open another seat while a session is open.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PendingSwitch {
    /// The session is silent or, otherwise, slow. The first of the two seats that delivers keeps it.
    Alarm { silent: bool },
    /// Its node moves the session and sends nothing from here on: a byte of a title, or a group of a feed.
    Move { until: u64 },
}

/// Something happened to a query or to a seat that is being opened.
pub(crate) enum Update<A, S> {
    /// The master answered: continue with [`Failover::resolved`] or [`Failover::refused`].
    Answer(Result<A, Fault>),
    /// A seat is open.
    Opened(Attempt, S),
    /// A seat could not be opened: continue with [`Failover::not_opened`].
    NotOpened(Attempt, Fault),
    /// The newest seat is late.
    Late(Next),
}

/// Finds seats for one session. `A` is the master's answer, `S` an open seat.
pub(crate) struct Failover<'a, A, S> {
    policy: FailoverPolicy,
    rng: SmallRng,
    /// Seats of the master's last answer, with the seats that sessions were moved to in their places.
    seats: Vec<SeatAddress>,
    /// Why the master chose the first of them.
    reason: String,
    asking: Option<BoxFuture<'static, Result<A, Fault>>>,
    opening: JoinSet<(Attempt, Result<S, Fault>)>,
    /// Number of the newest attempt, and when it is late.
    newest: Option<(u64, Option<time::Instant>)>,
    attempts: u64,
    /// Whether another seat is opened beside a late one.
    hedged: bool,
    /// The failure to return once no late seat opens either.
    verdict: Option<Fault>,
    switch: Option<PendingSwitch>,
    report: Box<dyn Fn(&Fault) + Send + Sync + 'a>,
}

impl<'a, A, S: Send + 'static> Failover<'a, A, S> {
    /// Gives up after `timeout` without progress. `report` receives every failure that another seat or the master may make
    /// good.
    pub(crate) fn new(timeout: Duration, report: impl Fn(&Fault) + Send + Sync + 'a) -> Self {
        Self {
            policy: FailoverPolicy::new(timeout),
            rng: SmallRng::seed_from_u64(rand::random()),
            seats: Vec::new(),
            reason: String::new(),
            asking: None,
            opening: JoinSet::new(),
            newest: None,
            attempts: 0,
            hedged: true,
            verdict: None,
            switch: None,
            report: Box::new(report),
        }
    }

    /// Opens one seat at a time: a second session of this kind would end the first.
    pub(crate) fn without_hedging(mut self) -> Self {
        self.hedged = false;
        self
    }

    /// The first step.
    pub(crate) fn start(&mut self) -> Next {
        self.decide(SeatEvent::Start, None)
    }

    /// Sends a query to the master after its wait, in place of a pending one.
    pub(crate) fn resolve(&mut self, after: Duration, query: impl Future<Output = Result<A, Fault>> + Send + 'static) {
        self.newest = None;
        self.asking = Some(Box::pin(async move {
            time::sleep(after).await;
            query.await
        }));
    }

    /// Opens a seat, beside those that are late.
    pub(crate) fn open(&mut self, attempt: Attempt, opening: impl Future<Output = Result<S, Fault>> + Send + 'static) {
        let late = self.hedged.then(|| time::Instant::now() + LATE);
        self.newest = Some((attempt.number, late));
        self.opening.spawn(async move {
            let opened = opening.await;
            (attempt, opened)
        });
    }

    /// Waits for the master or a seat; forever while nothing is pending. Cancel safe.
    ///
    /// # Errors
    /// [`Code::Internal`] when opening a seat panicked.
    pub(crate) async fn next(&mut self) -> Result<Update<A, S>, Fault> {
        let late = self.newest.and_then(|(_, late)| late);
        tokio::select! {
            Some(opened) = self.opening.join_next(), if !self.opening.is_empty() => match opened {
                Ok((attempt, Ok(opened))) => Ok(Update::Opened(attempt, opened)),
                Ok((attempt, Err(fault))) => Ok(Update::NotOpened(attempt, fault)),
                Err(_) => Err(Fault::new(Code::Internal, "the task that opens a seat panicked")),
            },
            answer = answered(&mut self.asking) => {
                self.asking = None;
                Ok(Update::Answer(answer))
            }
            () = clock::sleep_until(late.map(Into::into)) => Ok(Update::Late(self.late())),
        }
    }

    /// The master named these seats, the best first, for this reason.
    pub(crate) fn resolved(&mut self, seats: Vec<SeatAddress>, reason: &str) -> Next {
        let nodes: Vec<NodeName> = seats.iter().map(|seat| seat.node.clone()).collect();
        (self.seats, self.reason) = (seats, reason.to_owned());
        self.decide(SeatEvent::Resolved(&nodes), None)
    }

    /// The master refused, or its answer cannot be used.
    pub(crate) fn refused(&mut self, fault: &Fault) -> Next {
        self.decide(SeatEvent::Refused(fault), Some(fault))
    }

    /// The session at the current seat failed.
    pub(crate) fn lost(&mut self, fault: &Fault) -> Next {
        self.decide(SeatEvent::Lost(fault), Some(fault))
    }

    /// A seat could not be opened.
    pub(crate) fn not_opened(&mut self, attempt: &Attempt, fault: &Fault) -> Next {
        if self.newest.is_some_and(|(number, _)| number == attempt.number) {
            self.newest = None;
            return self.lost(fault);
        }
        // A newer attempt or the master is pending, or the failure is returned once the last late seat fails.
        match self.verdict.take() {
            Some(verdict) => self.fail(verdict),
            None => Next::Wait,
        }
    }

    /// The current seat's node moves the session to this seat. A move is no failure, unless moves never end.
    pub(crate) fn moved(&mut self, to: Result<SeatAddress, Fault>) -> Next {
        let to = match to {
            Ok(to) => to,
            Err(fault) => return self.lost(&fault),
        };
        let action = self.policy.handle_event(clock::now(), SeatEvent::Moved(&to.node), &mut self.rng);
        tracing::debug!(to = %to.node, ?action, "session moved");
        match (&action, self.policy.was_moved_there()) {
            (Action::Open(seat), true) => {
                let from = self.seats.get_mut(*seat).map(|place| std::mem::replace(place, to).node);
                self.attempt(*seat, from)
            }
            _ => {
                if let Some(fault) = self.policy.last_loss().filter(|_| !matches!(action, Action::Fail(_))) {
                    (self.report)(fault);
                }
                self.next_of(action)
            }
        }
    }

    /// The session is at this seat: pending queries and seats are dropped.
    pub(crate) fn seated(&mut self, at: &SeatAddress) {
        self.cancel();
        self.policy.handle_event(clock::now(), SeatEvent::Seated(&at.node), &mut self.rng);
        if !self.seats.iter().any(|seat| seat.node == at.node) {
            self.seats.push(at.clone());
        }
    }

    /// The session made progress: the timeout starts again.
    pub(crate) fn progress(&mut self) {
        self.policy.handle_event(clock::now(), SeatEvent::Progress, &mut self.rng);
    }

    /// Drops pending queries, seats and the switch.
    pub(crate) fn cancel(&mut self) {
        self.opening = JoinSet::new();
        (self.asking, self.newest, self.verdict, self.switch) = (None, None, None, None);
    }

    /// Whether a query or a seat is pending.
    pub(crate) fn is_pending(&self) -> bool {
        self.asking.is_some() || !self.opening.is_empty()
    }

    /// The pending switch; [`Failover::seated`] ends it.
    pub(crate) fn switch(&self) -> Option<PendingSwitch> {
        self.switch
    }

    /// Sets or ends the pending switch.
    pub(crate) fn set_switch(&mut self, switch: Option<PendingSwitch>) {
        self.switch = switch;
    }

    /// The newest seat is late: the next one is opened beside it. No failure is reported, since it may still open.
    fn late(&mut self) -> Next {
        self.newest = None;
        let fault = match self.policy.seat() {
            Some(node) => silent(node, LATE),
            None => Fault::new(Code::Timeout, "a node does not answer"),
        };
        tracing::debug!(error = %fault, "seat is late; the next one is opened beside it");
        let action = self.policy.handle_event(clock::now(), SeatEvent::Lost(&fault), &mut self.rng);
        self.next_of(action)
    }

    /// Handles an event; a failure that led to it is reported unless it is final.
    fn decide(&mut self, event: SeatEvent<'_>, failure: Option<&Fault>) -> Next {
        let action = self.policy.handle_event(clock::now(), event, &mut self.rng);
        if let Some(fault) = failure {
            tracing::debug!(reason = fault.code.reason(), error = %fault, ?action, "seat or master failed");
            if !matches!(action, Action::Fail(_)) {
                (self.report)(fault);
            }
        }
        self.next_of(action)
    }

    fn next_of(&mut self, action: Action) -> Next {
        match action {
            Action::Fail(fault) => self.fail(fault),
            Action::Resolve { after, exclude, mut failed } => {
                // The proof that the master named the node.
                for failed in &mut failed {
                    let seat = self.seats.iter().find(|seat| seat.node == failed.node);
                    failed.ticket = seat.map(|seat| seat.ticket.clone()).unwrap_or_default();
                }
                Next::Resolve(Query { after, exclude, failed })
            }
            Action::Open(seat) => self.attempt(seat, None),
            Action::Continue => Next::Wait,
        }
    }

    /// Fails once no pending seat can open.
    fn fail(&mut self, fault: Fault) -> Next {
        if self.opening.is_empty() {
            return Next::Fail(fault);
        }
        self.verdict = Some(fault);
        Next::Wait
    }

    fn attempt(&mut self, seat: usize, moved_by: Option<NodeName>) -> Next {
        let Some(at) = self.seats.get(seat).cloned() else {
            return self.fail(Fault::new(Code::Internal, "the seat to open is none that was named"));
        };
        let before = seat.checked_sub(1).and_then(|before| self.seats.get(before));
        let reason = match (moved_by, before) {
            (Some(from), _) => format!("moved there by {from}"),
            (None, Some(failed)) => format!("alternate after {} failed", failed.node),
            (None, None) => self.reason.clone(),
        };
        self.attempts += 1;
        Next::Open(Attempt { number: self.attempts, at, reason })
    }
}

async fn answered<A>(asking: &mut Option<BoxFuture<'static, Result<A, Fault>>>) -> Result<A, Fault> {
    match asking {
        Some(asking) => asking.await,
        None => pending().await,
    }
}
