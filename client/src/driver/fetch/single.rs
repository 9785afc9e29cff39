//! A fetch from one node at a time: at most one stream brings bytes, while another seat is sought and opened beside it. So a
//! session that its node moves, or that falls silent, is opened elsewhere before it is closed here.

use usher_proto::{Code, Fault, model::SeatAddress, tree::GROUP};
use usher_session::{
    batch::{Alarm, Batch},
    core::stall::Expectation,
};
use usher_transport::Connection;

use super::{
    Fetch, Sink, Step,
    check::moved_in_vain,
    join::{OpenTransfer, SessionRequest, join},
    stream::{Stream, StreamOutcome},
};
use crate::failover::{Attempt, PendingSwitch, Update};

impl Fetch<'_> {
    /// Waits for the first event, and handles it.
    pub(super) async fn wait<S: Sink>(&mut self, sink: &mut S) -> Result<Step, Fault> {
        if self.current.is_none() && !self.failover.is_pending() {
            return Err(Fault::new(Code::Internal, "no stream, seat or query to the master is pending"));
        }
        tokio::select! {
            batch = received(&mut self.current) => self.take(batch, sink).await,
            update = self.failover.next() => match update? {
                Update::Answer(answer) => self.answered(answer, sink).await,
                Update::Opened(attempt, open) => self.opened(attempt, open),
                Update::NotOpened(attempt, fault) => Ok(Step::Next(self.failover.not_opened(&attempt, &fault))),
                Update::Late(next) => Ok(Step::Next(next)),
            },
        }
    }

    /// Begins to open a seat for the missing bytes.
    pub(super) fn open(&mut self, attempt: Attempt) -> Result<Step, Fault> {
        let lost = || Fault::new(Code::Internal, "a seat without an answer");
        let request_id = self.answer.as_ref().ok_or_else(lost)?.request_id.clone();
        let transfer = self.transfer.as_mut().ok_or_else(lost)?;
        let missing = match self.failover.switch() {
            // The current node sends nothing from there on; behind the current position it sends nothing either.
            Some(PendingSwitch::Move { until }) => {
                transfer.assembler.missing_from(until.max(transfer.assembler.next_group() * GROUP))
            }
            _ => transfer.assembler.start_session().map(|range| (range, transfer.assembler.session_bytes())),
        };
        let Some((range, wide)) = missing else {
            if self.current.is_some() {
                // The current stream brings the remaining bytes.
                self.failover.cancel();
                return Ok(Step::WAIT);
            }
            return transfer.info.content.map(Step::Done).ok_or_else(lost);
        };
        let (connector, info, timeout) = (self.context.connector.clone(), transfer.info.clone(), self.order.timeout);
        let (at, request) = (attempt.at.clone(), SessionRequest { range, wide, request_id, more: false });
        self.failover.open(attempt, async move { join(&connector, &at, request, &info, timeout).await });
        Ok(Step::WAIT)
    }

    /// A seat is open: the transfer continues there, at once or where the current stream stops.
    fn opened(&mut self, attempt: Attempt, open: OpenTransfer) -> Result<Step, Fault> {
        let Attempt { at, reason, .. } = attempt;
        let moved = matches!(self.failover.switch(), Some(PendingSwitch::Move { .. }));
        self.seated(&at);
        let rate = self.answer.as_ref().map(|answer| answer.rate).unwrap_or_default();
        let expected = Expectation::new(self.order.purpose, rate);
        let stream = Stream::new(self.context.connector, at, reason, open, expected, self.order.timeout)?;
        if moved && self.current.is_some() {
            self.next = Some(stream);
        } else {
            self.continue_with(stream);
        }
        Ok(Step::WAIT)
    }

    fn continue_with(&mut self, stream: Stream) {
        self.node = Some(stream.at.node.clone());
        self.reason.clone_from(&stream.reason);
        if let Some(transfer) = &self.transfer {
            transfer.report_seat(self.context, stream.at.node.clone(), stream.reason.clone());
            transfer.report(self.context);
        }
        self.current = Some(stream);
    }

    /// The transfer is at this seat: attempts elsewhere, and a stream that was opened ahead, are dropped.
    fn seated(&mut self, at: &SeatAddress) {
        self.next = None;
        self.failover.seated(at);
    }

    /// Verifies and writes what the stream brought.
    async fn take<S: Sink>(&mut self, batch: Batch, sink: &mut S) -> Result<Step, Fault> {
        let lost = || Fault::new(Code::Internal, "a batch without a stream");
        let (stream, transfer) = self.current.as_mut().zip(self.transfer.as_mut()).ok_or_else(lost)?;
        let taken = stream.take(batch, transfer, sink).await?;
        if taken.progress {
            transfer.report(self.context);
            if matches!(self.failover.switch(), Some(PendingSwitch::Alarm { silent: true })) {
                let at = stream.at.clone();
                tracing::debug!(node = %at.node, "silent session delivers again");
                self.seated(&at);
            }
            self.failover.progress();
        }
        if let Some(end) = taken.end {
            // Its node moved it in the same batch, and the stream has nothing more to bring.
            return Ok(match (end, taken.moved) {
                (StreamOutcome::SentOn, Some((to, _))) => self.moved(to, None),
                (end, _) => self.ended(end),
            });
        }
        if let Some((to, until)) = taken.moved {
            return Ok(self.moved(to, Some(until)));
        }
        Ok(taken.alarm.map_or(Step::WAIT, |alarm| self.alarmed(alarm)))
    }

    /// The stream's node moves the session, and sends until that byte; without one, it has stopped.
    fn moved(&mut self, to: Result<SeatAddress, Fault>, until: Option<u64>) -> Step {
        let Some((at, hashed, _)) = self.current_seat() else { return Step::WAIT };
        self.seated(&at);
        // Bytes of a title that is not hashed are not verified yet: all of them are asked for again.
        match until.filter(|_| hashed) {
            Some(until) => self.failover.set_switch(Some(PendingSwitch::Move { until })),
            None => self.current = None,
        }
        Step::Next(self.failover.moved(to))
    }

    /// The stream has fallen silent, or is slow: another seat is opened, and the first of the two that delivers keeps the
    /// transfer.
    fn alarmed(&mut self, alarm: Alarm) -> Step {
        let Some((at, hashed, connection)) = self.current_seat() else { return Step::WAIT };
        if matches!(self.failover.switch(), Some(PendingSwitch::Alarm { .. })) && self.failover.is_pending() {
            return Step::WAIT;
        }
        if alarm.silent {
            self.context.connector.retire(&at, &connection);
        }
        // A seat that was opened for a later byte is dropped too: the current stream may never get there.
        self.seated(&at);
        if hashed {
            self.failover.set_switch(Some(PendingSwitch::Alarm { silent: alarm.silent }));
        } else {
            self.current = None;
        }
        Step::Next(self.failover.lost(&alarm.fault))
    }

    /// The stream ended.
    fn ended(&mut self, end: StreamOutcome) -> Step {
        let Some(stream) = self.current.take() else { return Step::WAIT };
        let alarm = matches!(self.failover.switch(), Some(PendingSwitch::Alarm { .. }));
        self.failover.set_switch(None);
        match (end, self.complete()) {
            (StreamOutcome::Done(content), _) | (StreamOutcome::SentOn, Some(content)) => Step::Done(content),
            (StreamOutcome::SentOn, None) => match self.next.take() {
                Some(next) => {
                    self.continue_with(next);
                    Step::WAIT
                }
                // The pending seat begins at this very byte.
                None if self.failover.is_pending() => Step::WAIT,
                None => self.lost(&stream.at, &moved_in_vain(&stream.at)),
            },
            // Reported by the alarm already.
            (StreamOutcome::Lost(fault), _) if alarm && self.failover.is_pending() => {
                tracing::debug!(node = %stream.at.node, error = %fault, "silent session failed");
                Step::WAIT
            }
            (StreamOutcome::Lost(fault), _) => self.lost(&stream.at, &fault),
        }
    }

    /// The stream from this seat failed.
    fn lost(&mut self, at: &SeatAddress, fault: &Fault) -> Step {
        self.seated(at);
        Step::Next(self.failover.lost(fault))
    }

    fn current_seat(&self) -> Option<(SeatAddress, bool, Connection)> {
        let stream = self.current.as_ref()?;
        Some((stream.at.clone(), stream.is_hashed(), stream.connection.clone()))
    }
}

async fn received(current: &mut Option<Stream>) -> Batch {
    match current {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}
