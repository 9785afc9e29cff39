//! A fetch from several nodes at once. Each source is a session of its own, with a ticket of its own; `core::sources`
//! decides which groups a source is asked for and which copy of a group counts, and its `Growth` how many sources there are.
//!
//! The first source is the seat that the failover chose. Once the last source is gone, the failover learns what became of
//! the first; groups received ahead of their turn are kept.

mod candidate;
mod events;
mod source;

use std::time::{Duration, Instant};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::mpsc, time};
use usher_proto::{
    Code, ContentId, Fault, NodeName,
    backoff::Backoff,
    model::{Failed, SeatAddress},
    tree::{self, GROUP},
};
use usher_session::{
    batch::{Batch, QUEUED_BATCHES},
    core::stall::Expectation,
};

use self::{
    candidate::Candidate,
    events::SourceEvent,
    source::{OpeningSource, Source},
};
use super::{
    Fetch, Sink,
    interface::FetchEvent,
    spread::Spread,
    transfer::{Context, SpreadEnd, Transfer},
};
use crate::{
    clock,
    core::{
        failover::LONGEST_WAIT,
        sources::{Growth, GrowthStep, Id, RUN},
    },
    driver::Order,
    failover::{Attempt, LATE},
};

/// Missing groups from which on several sources are used by default: below 16 MiB the first source is done too soon.
const MIN_GROUPS: u64 = 4 * RUN;

/// Interval of decisions while nothing happens: a source that falls silent is noticed after a second.
const TICK: Duration = Duration::from_millis(250);

/// Time that nodes have to end complete sessions; it only serves their statistics.
const END_TIMEOUT: Duration = Duration::from_millis(300);

/// The sources of a transfer.
struct SourceSet<'a> {
    context: Context<'a>,
    order: &'a Order,
    spread: Spread,
    growth: Growth,
    live: Vec<Source>,
    /// Sources whose sessions are being opened.
    opening: Vec<(Id, SeatAddress)>,
    /// Nodes that failed as sources; they are not asked again.
    out: Vec<NodeName>,
    events: FuturesUnordered<BoxFuture<'a, SourceEvent>>,
    batches: mpsc::Sender<Batch>,
    /// The seat that the failover chose, and what became of it.
    first: Id,
    end: Option<SpreadEnd>,
    /// The first source serves one range a session.
    one_range: bool,
    expected: Expectation,
    /// A replacement of silent sources is being sought, and the time from which on the next one may be.
    seeking: bool,
    seek_from: Instant,
    backoff: Backoff,
}

impl Fetch<'_> {
    /// Whether the missing groups may come from several nodes at once.
    pub(super) fn spreads(&self) -> bool {
        let Some(transfer) = self.transfer.as_ref().filter(|transfer| !transfer.one_range) else { return false };
        let left = tree::groups(transfer.info.range.end).saturating_sub(transfer.assembler.next_group());
        let enough = match self.order.sources {
            Some(0 | 1) => return false,
            Some(_) => left > 1,
            None => left >= MIN_GROUPS,
        };
        transfer.info.content.is_some() && (enough || transfer.spread.is_some())
    }

    /// Fetches the missing groups from this seat and others, until all are there or all sources are gone.
    pub(super) async fn spread<S: Sink>(&mut self, attempt: Attempt, sink: &mut S) -> Result<ContentId, SpreadEnd> {
        let lost = || SpreadEnd::Source(Fault::new(Code::Internal, "a seat without an answer"));
        let answer = self.answer.as_ref().ok_or_else(lost)?;
        let transfer = self.transfer.as_mut().ok_or_else(lost)?;
        let content = transfer.info.content.ok_or_else(lost)?;
        if transfer.assembler.start_session().is_none() {
            return Ok(content);
        }
        let (send, mut batches) = mpsc::channel(QUEUED_BATCHES);
        let expected = Expectation::new(self.order.purpose, answer.rate);
        let mut set = SourceSet::new(self.context, self.order, transfer, expected, send);
        let Attempt { at, reason, .. } = attempt;
        let request_id = answer.request_id.clone();
        set.open(Candidate { at, request_id, reason, moves: 0, requested: false }, transfer);
        let result = loop {
            if let Some(first) = set.live.first().filter(|_| self.node.is_none() || set.live.len() == 1) {
                self.node = Some(first.at.node.clone());
                self.reason.clone_from(&first.reason);
            }
            set.ask(transfer);
            if set.spread.assignments.is_done() {
                break Ok(content);
            }
            if set.live.is_empty() && set.events.is_empty() {
                break Err(set.end.take().unwrap_or_else(lost));
            }
            set.grow(transfer);
            set.replace_silent(transfer);
            tokio::select! {
                Some(batch) = batches.recv() => match set.take(batch, transfer, sink).await {
                    Ok(true) => self.failover.progress(),
                    Ok(false) => {}
                    Err(end) => break Err(end),
                },
                Some(event) = set.events.next() => set.handle(event, transfer),
                () = time::sleep(TICK) => {}
            }
        };
        if result.is_ok() {
            // A node that does not answer is not waited for: every byte is there.
            drop(time::timeout(END_TIMEOUT, set.finish(&mut batches)).await);
        } else {
            set.release();
            transfer.one_range = set.one_range;
            transfer.spread = Some(set.spread).filter(|_| !set.one_range);
        }
        result
    }
}

impl<'a> SourceSet<'a> {
    /// No source yet; takes over what earlier sources were asked for.
    fn new(
        context: Context<'a>,
        order: &'a Order,
        transfer: &mut Transfer,
        expected: Expectation,
        batches: mpsc::Sender<Batch>,
    ) -> Self {
        let wanted = transfer.assembler.next_group()..tree::groups(transfer.info.range.end);
        let mut spread = transfer.spread.take().unwrap_or_else(|| Spread::new(wanted));
        spread.assignments.handle_expected(order.sources.unwrap_or(1));
        let now = clock::now();
        Self {
            context,
            order,
            growth: Growth::new(now, order.sources, spread.assignments.kept() * GROUP),
            first: spread.next,
            spread,
            live: Vec::new(),
            opening: Vec::new(),
            out: Vec::new(),
            events: FuturesUnordered::new(),
            batches,
            end: None,
            one_range: false,
            expected,
            seeking: false,
            seek_from: now + LATE,
            backoff: Backoff::new(LATE, LONGEST_WAIT),
        }
    }

    /// Opens a session at a seat, for the first run that is free.
    fn open(&mut self, candidate: Candidate, transfer: &Transfer) {
        let (id, now) = (self.spread.next, clock::now());
        self.spread.next += 1;
        self.spread.assignments.handle_added(id);
        let Some(groups) = self.spread.assignments.poll_run(now, id) else {
            self.spread.assignments.handle_lost(id);
            // Every missing group is being sent.
            self.none_other();
            return;
        };
        let source = OpeningSource { id, candidate, groups };
        self.opening.push((id, source.candidate.at.clone()));
        let opening = source.open(self.context.connector.clone(), &transfer.info, self.order.timeout);
        self.events.push(Box::pin(async move {
            let joined = opening.await.map(Box::new);
            SourceEvent::Opened(source, joined)
        }));
    }

    /// Asks every source for the groups that it is assigned.
    fn ask(&mut self, transfer: &Transfer) {
        let mut failed = Vec::new();
        for source in &mut self.live {
            while let Some(groups) = self.spread.assignments.poll_run(clock::now(), source.id) {
                if let Err(fault) = source.ask(groups, &transfer.info) {
                    failed.push((source.id, SpreadEnd::Source(fault)));
                    break;
                }
            }
        }
        failed.into_iter().for_each(|(id, end)| self.lose(id, end));
    }

    /// Adds or drops a source where that helps.
    fn grow(&mut self, transfer: &Transfer) {
        if self.live.is_empty() {
            return;
        }
        let (received, left) = (self.spread.assignments.kept() * GROUP, self.spread.assignments.missing() * GROUP);
        match self.growth.poll_step(clock::now(), received, left, self.spread.assignments.count()) {
            GrowthStep::Keep => {}
            GrowthStep::Add => {
                let exclude = self.in_use().chain(&self.out).cloned().collect();
                let finding = self.find(transfer, exclude, Vec::new());
                self.events.push(Box::pin(async move { SourceEvent::Found(finding.await) }));
            }
            GrowthStep::DropLast => {
                if let Some(source) = self.live.pop() {
                    tracing::debug!(node = %source.at.node, "source dropped: it did not make the transfer faster");
                    self.spread.assignments.handle_lost(source.id);
                    self.report_sources();
                }
            }
        }
    }

    /// Seeks another source where all are silent, or none has opened yet.
    fn replace_silent(&mut self, transfer: &Transfer) {
        let now = clock::now();
        let silent = self.live.iter().all(|source| self.spread.assignments.is_silent(source.id));
        let owed = !self.live.is_empty() || !self.opening.is_empty();
        if !silent || !owed || self.seeking || now < self.seek_from {
            return;
        }
        for (id, _) in &self.opening {
            self.spread.assignments.handle_silent(*id);
        }
        let failed =
            |at: &SeatAddress| Failed { ticket: at.ticket.clone(), ..Failed::new(at.node.clone(), Code::Timeout) };
        let failed = self.seats_in_use().map(failed).collect();
        let finding = self.find(transfer, self.in_use().cloned().collect(), failed);
        self.seeking = true;
        self.events.push(Box::pin(async move {
            let found = finding.await;
            SourceEvent::Replacement(found.map(|candidate| Candidate { requested: false, ..candidate }))
        }));
    }

    fn find(
        &self,
        transfer: &Transfer,
        exclude: Vec<NodeName>,
        failed: Vec<Failed>,
    ) -> impl Future<Output = Result<Candidate, Fault>> + Send + use<> {
        let (connector, order) = (self.context.connector.clone(), self.order.clone());
        candidate::find(connector, order, transfer.info.clone(), exclude, failed)
    }

    /// A live source failed.
    fn lose(&mut self, id: Id, end: SpreadEnd) {
        let Some(at) = self.live.iter().position(|source| source.id == id) else { return };
        let source = self.live.remove(at);
        self.remove(id, source.at.node.clone(), end);
        self.growth.handle_lost(clock::now(), self.spread.assignments.kept() * GROUP);
        self.report_sources();
    }

    /// Removes a failed source: other sources are asked for what it owes.
    fn remove(&mut self, id: Id, node: NodeName, end: SpreadEnd) {
        self.spread.assignments.handle_lost(id);
        let others = !self.live.is_empty() || !self.events.is_empty();
        if let SpreadEnd::Source(fault) = &end
            && others
        {
            tracing::debug!(%node, error = %fault, "source failed");
            (self.context.observer)(&FetchEvent::SeatFailed(fault.clone()));
        }
        self.out.push(node);
        // The failover knows the first source only; the others are replaced here.
        if id == self.first || self.end.is_none() {
            self.end = Some(end);
        }
    }

    /// Drops these sources: other sources are asked for what they owe.
    fn leave(&mut self, these: impl Fn(&Source) -> bool) {
        for source in self.live.extract_if(.., |source| these(source)) {
            tracing::debug!(node = %source.at.node, "source dropped");
            self.spread.assignments.handle_lost(source.id);
        }
        self.growth.handle_lost(clock::now(), self.spread.assignments.kept() * GROUP);
    }

    /// There is no other source to be had.
    fn none_other(&mut self) {
        self.growth.handle_refused();
        self.spread.assignments.handle_expected(1);
    }

    fn seats_in_use(&self) -> impl Iterator<Item = &SeatAddress> {
        self.live.iter().map(|source| &source.at).chain(self.opening.iter().map(|(_, at)| at))
    }

    fn in_use(&self) -> impl Iterator<Item = &NodeName> {
        self.seats_in_use().map(|at| &at.node)
    }

    fn is_free(&self, node: &NodeName) -> bool {
        !self.out.contains(node) && self.in_use().all(|one| one != node)
    }

    /// Reports the nodes that send.
    fn report_sources(&self) {
        let nodes = self.live.iter().map(|source| source.at.node.clone()).collect();
        (self.context.observer)(&FetchEvent::Sources(nodes));
    }

    /// Every byte is there: ends the sessions of sources that owe nothing, and waits for their nodes.
    async fn finish(&mut self, batches: &mut mpsc::Receiver<Batch>) {
        let assignments = &self.spread.assignments;
        self.live.retain(|source| assignments.is_idle(source.id));
        self.live.iter_mut().for_each(Source::finish);
        while !self.live.is_empty() {
            // Only Finish is due; its content id was verified with the bytes.
            let Some(batch) = batches.recv().await else { return };
            if !batch.frames.is_empty() || batch.end.is_some() {
                self.live.retain(|source| source.id != batch.stream);
            }
        }
    }

    /// Ends all sources, and frees every group that was asked for and not received.
    fn release(&mut self) {
        self.events.clear();
        self.opening.clear();
        self.live.clear();
        (self.first..self.spread.next).for_each(|id| self.spread.assignments.handle_lost(id));
    }
}
