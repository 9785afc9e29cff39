//! Reactions of a set of sources: what they send, how their sessions move, fall silent and end.

use usher_proto::{
    Fault,
    pb::wire::Moved,
    tree::{self, GROUP},
};
use usher_session::{
    batch::{Alarm, Batch},
    replies::moved_seat,
};

use super::{Candidate, SourceSet, source::OpeningSource};
use crate::{
    clock,
    core::{failover::MOVES, sources::Id},
    driver::fetch::{
        Sink,
        check::{CheckedBatch, StreamEnd, check, moved_in_vain},
        interface::FetchEvent,
        join::OpenTransfer,
        transfer::{SpreadEnd, Transfer},
    },
    failover::LATE,
};

/// An event of a source that does not send yet.
pub(super) enum SourceEvent {
    /// A node for another source was found, or there is none.
    Found(Result<Candidate, Fault>),
    /// The same, in place of silent sources.
    Replacement(Result<Candidate, Fault>),
    /// Its session is open, or failed to open.
    Opened(OpeningSource, Result<Box<OpenTransfer>, Fault>),
}

impl SourceSet<'_> {
    pub(super) fn handle(&mut self, event: SourceEvent, transfer: &Transfer) {
        match event {
            SourceEvent::Replacement(found) => {
                self.seeking = false;
                self.seek_from = clock::now() + self.backoff.wait(&mut rand::rng()).max(LATE);
                match found {
                    Ok(candidate) => self.open(candidate, transfer),
                    Err(fault) => tracing::debug!(error = %fault, "no replacement for silent sources yet"),
                }
            }
            SourceEvent::Found(Ok(candidate)) => self.open(candidate, transfer),
            SourceEvent::Found(Err(fault)) => {
                tracing::debug!(error = %fault, "no other source");
                self.none_other();
            }
            SourceEvent::Opened(opening, open) => self.opened(opening, open, transfer),
        }
    }

    fn opened(&mut self, opening: OpeningSource, open: Result<Box<OpenTransfer>, Fault>, transfer: &Transfer) {
        self.opening.retain(|(id, _)| *id != opening.id);
        let (id, node, requested) = (opening.id, opening.candidate.at.node.clone(), opening.candidate.requested);
        let source = open.and_then(|open| {
            let batches = self.batches.clone();
            opening.into_source(*open, self.context.connector, self.expected, self.order.timeout, batches)
        });
        match source {
            Ok(source) => {
                self.drop_silent();
                let first = self.live.is_empty();
                let reason = source.reason.clone();
                self.live.push(source);
                if first {
                    transfer.report_seat(self.context, node, reason);
                } else {
                    self.report_sources();
                }
                if requested {
                    self.growth.handle_added(clock::now(), self.spread.assignments.kept() * GROUP);
                }
            }
            Err(fault) => {
                if requested {
                    self.none_other();
                }
                self.remove(id, node, SpreadEnd::Source(fault));
            }
        }
    }

    /// Verifies a batch, and writes those groups whose turn it is; returns whether there were any. The verifier, the
    /// assignments and the assembler go to the thread that writes, and come back.
    pub(super) async fn take<S: Sink>(
        &mut self,
        batch: Batch,
        transfer: &mut Transfer,
        sink: &mut S,
    ) -> Result<bool, SpreadEnd> {
        let id = batch.stream;
        let Some(source) = self.live.iter_mut().find(|source| source.id == id) else { return Ok(false) };
        let Some(mut verifier) = source.verifier.take() else { return Ok(false) };
        let mut spread = std::mem::take(&mut self.spread);
        let mut assembler = std::mem::take(&mut transfer.assembler);
        let make = move || {
            let CheckedBatch { groups, moved, alarm, last } = check(&mut verifier, batch);
            let (chunks, wrong) = assembler.handle_groups(spread.in_turn(id, groups, assembler.next_group()));
            let bytes: u64 = chunks.iter().map(|chunk| chunk.data.len() as u64).sum();
            (chunks, (verifier, spread, assembler, bytes, wrong, (moved, alarm, last)))
        };
        let (verifier, spread, assembler, bytes, wrong, rest) = sink.write(make).await.map_err(SpreadEnd::Sink)?;
        let (moved, alarm, last) = rest;
        (self.spread, transfer.assembler) = (spread, assembler);
        transfer.received += bytes;
        let Some(source) = self.live.iter_mut().find(|source| source.id == id) else { return Ok(false) };
        source.verifier = Some(verifier);
        if bytes > 0 {
            transfer.report(self.context);
        }
        if let Some(error) = wrong {
            return Err(SpreadEnd::Source(error.into()));
        }
        if let Some(moved) = moved {
            self.moved(id, moved, transfer);
        }
        if let Some(alarm) = alarm {
            self.alarmed(id, alarm);
        }
        if let Some(last) = last {
            self.ended(id, last);
        }
        Ok(bytes > 0)
    }

    /// A source has fallen silent. Where others send, they replace it; otherwise it is kept until there is another.
    fn alarmed(&mut self, id: Id, alarm: Alarm) {
        let Some(source) = self.live.iter().find(|source| source.id == id) else { return };
        if alarm.silent {
            self.context.connector.retire(&source.at, &source.connection);
        }
        let others = self.live.iter().any(|one| one.id != id && !self.spread.assignments.is_silent(one.id));
        if others {
            return self.lose(id, SpreadEnd::Source(alarm.fault));
        }
        if !self.spread.assignments.is_silent(id) {
            (self.context.observer)(&FetchEvent::SeatFailed(alarm.fault));
            self.backoff.reset();
            self.seek_from = clock::now();
        }
        self.spread.assignments.handle_silent(id);
    }

    /// A source's node moves the session: it finishes what it is sending, and the next seat is opened at once.
    fn moved(&mut self, id: Id, moved: Moved, transfer: &Transfer) {
        let Some(source) = self.live.iter().find(|source| source.id == id) else { return };
        let (at, moves) = (source.at.clone(), source.moves + 1);
        self.spread.assignments.handle_leaving(id, tree::groups(moved.until));
        match moved_seat(&at, moved) {
            Ok(to) if moves <= MOVES && self.is_free(&to.node) => {
                let reason = format!("moved there by {}", at.node);
                if id == self.first {
                    self.first = self.spread.next;
                }
                let request_id = String::new();
                self.open(Candidate { at: to, request_id, reason, moves, requested: false }, transfer);
            }
            // The other sources send what it leaves.
            Ok(_) => {}
            Err(fault) => self.end = Some(SpreadEnd::Source(fault)),
        }
    }

    /// A source's stream ended.
    fn ended(&mut self, id: Id, last: StreamEnd) {
        let Some(source) = self.live.iter().find(|source| source.id == id) else { return };
        let at = source.at.clone();
        self.one_range |= id == self.first && matches!(last, StreamEnd::OneRange);
        if !self.spread.assignments.is_leaving(id) || !matches!(last, StreamEnd::Early(_)) {
            return self.lose(id, SpreadEnd::Source(last.into_fault(&at)));
        }
        // It ended where it announced.
        self.leave(|source| source.id == id);
        self.end.get_or_insert_with(|| SpreadEnd::Source(moved_in_vain(&at)));
        self.report_sources();
    }

    /// Drops silent sources: another one is open in their place.
    fn drop_silent(&mut self) {
        let ids = self.live.iter().map(|source| source.id);
        let silent: Vec<Id> = ids.filter(|id| self.spread.assignments.is_silent(*id)).collect();
        if !silent.is_empty() {
            self.leave(|source| silent.contains(&source.id));
        }
    }
}
