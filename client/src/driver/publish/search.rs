//! Where a feed goes: the steps towards a seat, and what a node says and does that leads to the next. Decides nothing: what to
//! do is `core::resume`'s, when to worry `core::vigil`'s.

use std::time::{Duration, Instant};

use usher_proto::{
    Code, Fault, NodeName,
    feed::FeedSigner,
    model::{FeedSetupInfo, SeatAddress, TAKEN_OVER},
    pb::{v1, wire},
    wire::Frame,
};

use super::{
    super::words,
    Run, Step, Told,
    seat::{Joined, Session, ask, join},
};
use crate::{
    clock,
    core::{
        resume::{Action, Event},
        vigil::Look,
    },
    quic::silent,
};

/// How long a seat may take to answer before another is tried; twice as long after each in vain.
const LATE: Duration = crate::driver::session::LATE;

/// The longest of these.
const LATEST: Duration = Duration::from_secs(5);

impl Run<'_> {
    pub(super) fn act(&mut self, action: Action) -> Result<(), Fault> {
        match action {
            Action::Continue => {}
            Action::Fail(fault) => return Err(fault),
            Action::Resolve { after, exclude, failed } => {
                let failed = failed.into_iter().map(|failed| v1::SeatFailure {
                    node: failed.node.to_string(),
                    reason: failed.code.reason().to_owned(),
                });
                let request = v1::PublishRequest {
                    title: self.feed.title.to_string(),
                    publisher_id: self.feed.publisher.0.to_be_bytes().to_vec(),
                    rate_bps: self.feed.rate.0,
                    zone: self.feed.zone.clone(),
                    exclude: exclude.iter().map(ToString::to_string).collect(),
                    failed: failed.collect(),
                    // Once: who took over from this one later is not ended.
                    take_over: self.feed.take_over && !self.seated,
                    record: self.feed.record,
                };
                let way = self.way.clone();
                self.seek = Some(Box::pin(async move { Step::Asked(ask(&way, request, after).await) }));
            }
            Action::Open(seat) => {
                let lost = || Fault::new(Code::Internal, "the seat to open is none that was named");
                let at = self.answer.as_ref().and_then(|answer| answer.seats.get(seat)).ok_or_else(lost)?.clone();
                let medium = self.medium.clone().unwrap_or_default();
                let offer = wire::FeedOffer {
                    media_type: medium.media_type,
                    tracks: medium.tracks,
                    started_ms: i64::try_from(self.started_ms).unwrap_or(i64::MAX),
                };
                let patience = LATE.saturating_mul(1 << self.vain.min(4)).min(LATEST).min(self.feed.timeout);
                let (way, title) = (self.way.clone(), self.feed.title.clone());
                self.seek = Some(Box::pin(async move {
                    let joined = join(&way, &at, offer, &title, patience).await;
                    Step::Joined(Box::new(at), joined.map(Box::new))
                }));
            }
        }
        Ok(())
    }

    pub(super) fn stepped(&mut self, step: Step) -> Result<(), Fault> {
        match step {
            Step::Asked(Ok(answer)) => {
                let nodes: Vec<NodeName> = answer.seats.iter().map(|seat| seat.node.clone()).collect();
                (self.answer, self.sent_by) = (Some(answer), None);
                let action = self.resume.handle(clock::now(), Event::Resolved(&nodes), &mut self.rng);
                self.act(action)
            }
            Step::Asked(Err(fault)) if fault.code == Code::Exists => {
                Err(Fault { message: format!("{}; end the other one with --take-over", fault.message), ..fault })
            }
            Step::Asked(Err(fault)) => self.after(Event::Refused(&fault), &fault),
            Step::Joined(at, Ok(joined)) => self.joined(*at, *joined),
            Step::Joined(_, Err(fault)) if fault.code == TAKEN_OVER => Err(fault),
            Step::Joined(_, Err(fault)) => {
                self.vain += 1;
                self.after(Event::Lost(&fault), &fault)
            }
        }
    }

    fn joined(&mut self, at: SeatAddress, joined: Joined) -> Result<(), Fault> {
        let lost = || Fault::new(Code::Internal, "a seat without an answer");
        let answer = self.answer.as_ref().ok_or_else(lost)?;
        let Joined { incoming, control, info } = joined;
        let FeedSetupInfo { first, subscription, .. } = info;
        self.outbox.sign_as(FeedSigner::from_seed(&answer.seed), first)?;
        let reason = match self.sent_by.take() {
            Some(node) => format!("moved there by {node}"),
            None => answer.reason.clone(),
        };
        self.resume.handle(clock::now(), Event::Seated(&at.node), &mut self.rng);
        (self.observer)(&Told::Seated { node: at.node.clone(), reason });
        // A session that was silent ends here.
        self.session = Some(Session::new(&self.way, at, incoming, control, subscription));
        self.seated = true;
        Ok(())
    }

    fn after(&mut self, event: Event<'_>, fault: &Fault) -> Result<(), Fault> {
        let action = self.resume.handle(clock::now(), event, &mut self.rng);
        tracing::debug!(reason = fault.code.reason(), %fault, ?action, "lost");
        if !matches!(action, Action::Fail(_)) {
            (self.observer)(&Told::Lost(fault.clone()));
        }
        self.act(action)
    }

    /// The session is gone.
    fn lost(&mut self, fault: &Fault) -> Result<(), Fault> {
        self.session = None;
        // Told of already, when it fell silent.
        if self.seek.is_some() {
            tracing::debug!(%fault, "lost for good");
            return Ok(());
        }
        self.after(Event::Lost(fault), fault)
    }

    /// The node says something on the session's stream.
    pub(super) fn told(&mut self, frame: Result<Option<Frame>, Fault>) -> Result<(), Fault> {
        let Some(session) = &self.session else { return Ok(()) };
        let at = session.at.clone();
        let network = |what: &str| Fault::new(Code::Network, format!("node {} {what}", at.node));
        match frame {
            Ok(Some(Frame::Refused(refused))) => {
                let fault = words::refusal(&at, &refused);
                // Unless it was this one, at its next seat.
                if fault.code == TAKEN_OVER && self.seek.is_none() {
                    let text = format!("another publisher has taken {} over", self.feed.title);
                    return Err(Fault::new(TAKEN_OVER, text));
                }
                self.lost(&fault)
            }
            Ok(Some(Frame::Moved(moved))) => match words::seat_of(&at, moved) {
                Ok(to) => self.moved(to),
                Err(fault) => self.lost(&fault),
            },
            Ok(Some(_)) => self.lost(&words::blame(&at, Fault::new(Code::Internal, "answers what nobody asked"))),
            Ok(None) => self.lost(&network("ended the session")),
            Err(fault) if fault.code == TAKEN_OVER && self.seek.is_none() => Err(fault),
            Err(fault) => self.lost(&fault),
        }
    }

    /// The node sends the feed elsewhere: it goes on here until it is taken there.
    fn moved(&mut self, to: SeatAddress) -> Result<(), Fault> {
        let from = self.session.as_ref().map(|session| session.at.node.clone());
        let action = self.resume.handle(clock::now(), Event::Moved(&to.node), &mut self.rng);
        if let (Action::Open(seat), Some(answer)) = (&action, self.answer.as_mut())
            && self.resume.was_sent_there()
            && let Some(place) = answer.seats.get_mut(*seat)
        {
            (*place, self.sent_by) = (to, from);
        }
        self.act(action)
    }

    /// Looks whether the node is still there. One that is silent is kept until another takes the feed, or it is back.
    pub(super) fn look(&mut self, now: Instant) -> Result<(), Fault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let (look, heard) = session.look(now);
        let node = session.at.node.clone();
        if heard && std::mem::replace(&mut session.silent, false) {
            tracing::debug!(%node, "it goes on after all");
            self.seek = None;
            self.resume.handle(now, Event::Seated(&node), &mut self.rng);
        } else if look == Look::Silent && !session.silent {
            session.silent = true;
            let fault = silent(&node, session.silence(now));
            self.way.pool.doubt(self.way.master.address(), &node, session.incoming.connection());
            if self.seek.is_none() {
                return self.after(Event::Lost(&fault), &fault);
            }
        }
        Ok(())
    }
}
