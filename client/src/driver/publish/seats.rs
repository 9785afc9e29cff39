//! The way of a feed to a node, and from there to the next: queries to the master, seats, and what a node sends on the
//! session's own stream.

use std::time::{Duration, Instant};

use usher_proto::{
    Code, Fault,
    feed::FeedSigner,
    model::{Published, SeatAddress, TAKEN_OVER},
    pb::{v1, wire},
    wire::Frame,
};
use usher_session::{core::stall::Health, fault::silent, replies};

use super::{
    PublishEvent, Publisher,
    session::{IngestSession, OpenIngest, join},
};
use crate::{
    driver::order::failures,
    failover::{Attempt, LATE, Next, Query, Update},
};

/// Ceiling of the time that a seat has to answer; it doubles from [`LATE`] after each failed seat.
const LATEST: Duration = Duration::from_secs(5);

impl Publisher<'_> {
    pub(super) fn act(&mut self, next: Next) -> Result<(), Fault> {
        match next {
            Next::Wait => {}
            Next::Fail(fault) => return Err(fault),
            Next::Resolve(Query { after, exclude, failed }) => {
                let request = v1::PublishRequest {
                    title: self.feed.title.to_string(),
                    publisher_id: self.feed.publisher.0.to_be_bytes().to_vec(),
                    rate_bps: self.feed.rate.0,
                    zone: self.feed.zone.clone(),
                    exclude: exclude.iter().map(ToString::to_string).collect(),
                    failed: failures(&failed),
                    // Once: a publisher that took over from this one later is not ended.
                    take_over: self.feed.take_over && !self.seated,
                    record: self.feed.record,
                };
                let master = self.connector.master.clone();
                self.failover.resolve(after, async move { master.publish(request).await });
            }
            Next::Open(attempt) => {
                let medium = self.medium.clone().unwrap_or_default();
                let offer = wire::FeedOffer {
                    media_type: medium.media_type,
                    tracks: medium.tracks,
                    started_ms: i64::try_from(self.started_ms).unwrap_or(i64::MAX),
                };
                let timeout = LATE.saturating_mul(1 << self.failures.min(4)).min(LATEST).min(self.feed.timeout);
                let (connector, at, title) = (self.connector.clone(), attempt.at.clone(), self.feed.title.clone());
                self.failover.open(attempt, async move { join(&connector, &at, offer, &title, timeout).await });
            }
        }
        Ok(())
    }

    pub(super) fn seat_update(&mut self, update: Update<Published, OpenIngest>) -> Result<(), Fault> {
        let next = match update {
            Update::Answer(Ok(mut answer)) => {
                let (seats, reason) = (std::mem::take(&mut answer.seats), answer.reason.clone());
                self.answer = Some(answer);
                self.failover.resolved(seats, &reason)
            }
            Update::Answer(Err(fault)) if fault.code == Code::Exists => {
                let message = format!("{}; end the other one with --take-over", fault.message);
                return Err(Fault { message, ..fault });
            }
            Update::Answer(Err(fault)) => self.failover.refused(&fault),
            Update::Opened(attempt, open) => return self.opened(attempt, open),
            Update::NotOpened(_, fault) if fault.code == TAKEN_OVER => return Err(fault),
            Update::NotOpened(attempt, fault) => {
                self.failures += 1;
                self.failover.not_opened(&attempt, &fault)
            }
            Update::Late(next) => next,
        };
        self.act(next)
    }

    fn opened(&mut self, attempt: Attempt, open: OpenIngest) -> Result<(), Fault> {
        let lost = || Fault::new(Code::Internal, "a seat without an answer");
        let answer = self.answer.as_ref().ok_or_else(lost)?;
        self.outbox.handle_signer(FeedSigner::from_seed(&answer.seed), open.info.first)?;
        let Attempt { at, reason, .. } = attempt;
        self.failover.seated(&at);
        (self.observer)(&PublishEvent::Seated { node: at.node.clone(), reason });
        // A silent session ends here.
        self.session = Some(IngestSession::new(&self.connector, at, open));
        self.seated = true;
        Ok(())
    }

    /// The session failed.
    fn lost(&mut self, fault: &Fault) -> Result<(), Fault> {
        self.session = None;
        // Reported already, when it fell silent.
        if self.failover.is_pending() {
            tracing::debug!(error = %fault, "silent session failed");
            return Ok(());
        }
        let next = self.failover.lost(fault);
        self.act(next)
    }

    /// Handles a frame of the session's own stream, or its end.
    pub(super) fn control(&mut self, frame: Result<Option<Frame>, Fault>) -> Result<(), Fault> {
        let Some(session) = &self.session else { return Ok(()) };
        let at = session.at.clone();
        // While another seat is sought, this publisher may have taken over from itself there.
        let alone = !self.failover.is_pending();
        match frame {
            Ok(Some(Frame::Refused(refused))) => {
                let fault = replies::refusal(&at, &refused);
                if fault.code == TAKEN_OVER && alone {
                    let text = format!("another publisher has taken {} over", self.feed.title);
                    return Err(Fault::new(TAKEN_OVER, text));
                }
                self.lost(&fault)
            }
            Ok(Some(Frame::Moved(moved))) => match replies::moved_seat(&at, moved) {
                Ok(to) => self.moved(&at, to),
                Err(fault) => self.lost(&fault),
            },
            Ok(Some(_)) => self.lost(&replies::with_node(&at, Fault::new(Code::Internal, "sends an unexpected frame"))),
            Ok(None) => self.lost(&Fault::new(Code::Network, format!("node {} ended the session", at.node))),
            Err(fault) if fault.code == TAKEN_OVER && alone => Err(fault),
            Err(fault) => self.lost(&fault),
        }
    }

    /// The node moves the feed: it goes on here until the next node receives it.
    fn moved(&mut self, at: &SeatAddress, to: SeatAddress) -> Result<(), Fault> {
        self.failover.seated(at);
        let next = self.failover.moved(Ok(to));
        self.act(next)
    }

    /// Checks whether the node is alive. A silent session is kept until another node receives the feed, or it recovers.
    pub(super) fn watch_node(&mut self, now: Instant) -> Result<(), Fault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let (look, received) = session.look(now);
        let at = session.at.clone();
        if received && std::mem::replace(&mut session.silent, false) {
            tracing::debug!(node = %at.node, "silent session delivers again");
            self.failover.seated(&at);
        } else if look == Health::Silent && !session.silent {
            session.silent = true;
            let fault = silent(&at.node, session.silence(now));
            self.connector.retire(&at, session.incoming.connection());
            if !self.failover.is_pending() {
                let next = self.failover.lost(&fault);
                return self.act(next);
            }
        }
        Ok(())
    }
}
