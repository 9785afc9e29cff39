//! Fetches one title: resolve, open, verify, write to the sink, and again after a failure.
//!
//! Owns the loop between the decisions of the core and the shells around it. Leaves the destination of bytes to the
//! [`Sink`] and presentation to the observer of [`FetchEvent`]s.

mod check;
mod interface;
mod join;
mod single;
mod sources;
mod spread;
mod stream;
mod transfer;

use std::time::Instant;

use usher_proto::{Code, ContentId, Fault, NodeName, model::What};

pub use self::interface::{FetchEvent, Outcome, Sink, TransferInfo};
pub(crate) use self::transfer::Context;
use self::{
    join::OpenTransfer,
    stream::Stream,
    transfer::{SpreadEnd, Transfer},
};
use super::order::Order;
use crate::{
    clock,
    core::assembler::Assembler,
    failover::{Failover, Next, Query},
    master::Answer,
};

/// Runs an order to its end. `first` is the master's answer if it was asked already.
pub(crate) async fn fetch<S: Sink>(
    context: Context<'_>,
    order: &Order,
    sink: &mut S,
    first: Option<Result<Answer, Fault>>,
) -> Result<Outcome, Fault> {
    let report = move |fault: &Fault| (context.observer)(&FetchEvent::SeatFailed(fault.clone()));
    let mut fetch = Fetch {
        context,
        order,
        failover: Failover::new(order.timeout, report),
        transfer: None,
        answer: None,
        first,
        reason: String::new(),
        node: None,
        current: None,
        next: None,
        started: clock::now(),
    };
    let result = fetch.drive(sink).await;
    if result.is_err() {
        sink.pause().await?;
    }
    result
}

/// The next step, or the content once every byte is verified.
enum Step {
    Next(Next),
    Done(ContentId),
}

impl Step {
    const WAIT: Self = Self::Next(Next::Wait);
}

struct Fetch<'a> {
    context: Context<'a>,
    order: &'a Order,
    failover: Failover<'a, Answer, OpenTransfer>,
    transfer: Option<Transfer>,
    answer: Option<Answer>,
    first: Option<Result<Answer, Fault>>,
    /// Why the node that sends was chosen.
    reason: String,
    /// The node that sends, or sent last.
    node: Option<NodeName>,
    /// The stream that brings bytes.
    current: Option<Stream>,
    /// The stream that continues where the current one stops.
    next: Option<Stream>,
    started: Instant,
}

impl Fetch<'_> {
    async fn drive<S: Sink>(&mut self, sink: &mut S) -> Result<Outcome, Fault> {
        let mut step = Step::Next(self.failover.start());
        loop {
            step = match step {
                Step::Next(Next::Wait) => self.wait(sink).await?,
                Step::Next(next) => self.act(next, sink).await?,
                Step::Done(content) => return self.finish(sink, content).await,
            };
        }
    }

    async fn act<S: Sink>(&mut self, next: Next, sink: &mut S) -> Result<Step, Fault> {
        match next {
            Next::Wait => {}
            // The open stream may recover; it has a timeout of its own.
            Next::Fail(_) if self.current.is_some() => self.failover.cancel(),
            Next::Fail(fault) => return Err(fault),
            Next::Resolve(query) => self.resolve(&query),
            Next::Open(attempt) if self.current.is_none() && self.spreads() => {
                // Pending attempts are for a single stream: each would send what other sources are asked for.
                self.failover.cancel();
                return match Box::pin(self.spread(attempt, sink)).await {
                    Ok(content) => Ok(Step::Done(content)),
                    Err(SpreadEnd::Sink(fault)) => Err(fault),
                    Err(SpreadEnd::Source(fault)) => Ok(Step::Next(self.failover.lost(&fault))),
                };
            }
            Next::Open(attempt) => return self.open(attempt),
        }
        Ok(Step::WAIT)
    }

    fn resolve(&mut self, query: &Query) {
        let (master, first) = (self.context.connector.master.clone(), self.first.take());
        let known = self.transfer.as_ref().and_then(|transfer| transfer.info.content);
        let request = self.order.request(known, &query.exclude, &query.failed);
        self.failover.resolve(query.after, async move {
            match first {
                Some(first) => first,
                None => master.resolve(request).await,
            }
        });
    }

    /// Handles the master's answer. The error is the sink's, or a range outside the title.
    async fn answered<S: Sink>(&mut self, answer: Result<Answer, Fault>, sink: &mut S) -> Result<Step, Fault> {
        let mut answer = match answer.and_then(|answer| self.usable(answer)) {
            Ok(answer) => answer,
            Err(fault) => return Ok(Step::Next(self.failover.refused(&fault))),
        };
        match &mut self.transfer {
            Some(transfer) => transfer.info.content = answer.content,
            None => self.transfer = Some(begin(self.order, &answer, sink).await?),
        }
        let (seats, reason) = (std::mem::take(&mut answer.seats), answer.reason.clone());
        self.answer = Some(answer);
        Ok(match self.complete().filter(|_| self.current.is_none()) {
            Some(content) => Step::Done(content),
            None => Step::Next(self.failover.resolved(seats, &reason)),
        })
    }

    /// The answer, if it is about what was asked for, and about the content that was fetched so far.
    fn usable(&self, answer: Answer) -> Result<Answer, Fault> {
        let known = self.transfer.as_ref().and_then(|transfer| transfer.info.content);
        let internal = |text: &str| Err(Fault::new(Code::Internal, text));
        match (&self.order.what, answer.content) {
            (What::Content(asked), Some(named)) if *asked != named => {
                let text = "the master answered with another content than asked for";
                return Err(Fault::new(Code::ContentChanged, text));
            }
            (What::Title(asked), _) if known.is_none() && *asked != answer.title => {
                return internal("the master answered with another title than asked for");
            }
            _ => {}
        }
        if let Some(transfer) = &self.transfer
            && (known.is_some() && known != answer.content || transfer.info.size != answer.size)
        {
            let text = format!("{} changed while it was fetched; run again to start over", answer.title);
            return Err(Fault::new(Code::ContentChanged, text));
        }
        Ok(answer)
    }

    fn complete(&self) -> Option<ContentId> {
        self.transfer.as_ref().and_then(Transfer::complete)
    }

    async fn finish<S: Sink>(&mut self, sink: &mut S, content: ContentId) -> Result<Outcome, Fault> {
        let lost = || Fault::new(Code::Internal, "the transfer ended before it began");
        let transfer = self.transfer.as_ref().ok_or_else(lost)?;
        sink.finish(content).await?;
        Ok(Outcome {
            title: transfer.info.title.clone(),
            content,
            bytes: transfer.assembler.total(),
            resumed: transfer.resumed,
            node: self.node.clone(),
            reason: self.reason.clone(),
            request_id: self.answer.as_ref().map(|answer| answer.request_id.clone()).unwrap_or_default(),
            elapsed: self.started.elapsed(),
        })
    }
}

/// Begins the transfer that an answer describes.
async fn begin<S: Sink>(order: &Order, answer: &Answer, sink: &mut S) -> Result<Transfer, Fault> {
    let size = answer.size;
    let range = order.range.within(size).ok_or_else(|| {
        Fault::new(Code::BadRange, format!("the range lies outside {} of {size} bytes", answer.title))
    })?;
    let content = match order.what {
        What::Content(content) => Some(content),
        What::Title(_) => answer.content,
    };
    let info = TransferInfo { title: answer.title.clone(), content, size, range: range.clone() };
    let groups = sink.begin(&info).await?;
    let assembler = Assembler::new(size, range, groups);
    let resumed = assembler.progress();
    let (spread, one_range) = (None, false);
    Ok(Transfer { info, assembler, resumed, received: resumed, spread, one_range })
}
