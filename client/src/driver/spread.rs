//! One title from several nodes at once. Each source is a session of its own, with a ticket of its own; what it is asked
//! for, and which copy of a group counts, is decided in `core::sources`, and how many there are in its `Growth`.
//!
//! The first source is the seat that the resume machine chose. When the last one is gone, that machine hears what became
//! of the first; what came ahead of its turn is kept until then and after.

mod more;
mod source;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use usher_proto::{
    Code, ContentId, Fault, NodeName,
    backoff::Backoff,
    model::Failed,
    pb::wire::Moved,
    tree::{self, GROUP},
    verify::Group,
};

use self::{
    more::Found,
    source::{Joining, Source},
};
use super::{
    End, Means, Ongoing, Order, Progress, Run, Sink,
    check::{Last, Passed, check},
    join::Joined,
    report,
    session::{LATE, reason},
    words::{failure, nowhere, seat_of},
};
use crate::{
    clock,
    core::{
        resume::{Event, LONGEST_WAIT},
        sources::{Growth, Id, RUN, Sources, Wish},
        vigil::Terms,
    },
    quic::{Alarm, Batch, WAITING},
};

/// Groups from which on a title may be spread without being told: below 16 MiB the first source is done too soon.
const FROM: u64 = 4 * RUN;

/// How often the decisions are asked when nothing happens: a source that falls silent is noticed after a second.
const TICK: Duration = Duration::from_millis(250);

/// How long nodes may take to say that a session ended well: waiting is a courtesy to their statistics.
const GOODBYE: Duration = Duration::from_millis(300);

/// Moves of one source; see `core::resume`.
const MOVES: u32 = 8;

/// What outlives the sources: who was asked for what, and groups that came ahead of their turn.
#[derive(Default)]
pub(super) struct Spread {
    sources: Sources,
    ahead: BTreeMap<u64, Group>,
    next: Id,
}

impl Spread {
    /// Takes groups from a source; gives those whose turn it is, from `next` on.
    fn in_turn(&mut self, id: Id, groups: Vec<Group>, mut next: u64) -> Vec<Group> {
        for group in groups {
            if self.sources.received(clock::now(), id, group.index) {
                self.ahead.insert(group.index, group);
            }
        }
        let mut ready = Vec::new();
        while let Some(group) = self.ahead.remove(&next) {
            ready.push(group);
            next += 1;
        }
        ready
    }
}

/// What happened to a source that is on its way.
enum News {
    Found(Result<Found, Fault>),
    /// The same, in the place of one that is silent.
    Instead(Result<Found, Fault>),
    Joined(Joining, Result<Box<Joined>, Fault>),
}

/// The sources of a transfer.
struct Crew<'a> {
    means: Means<'a>,
    order: &'a Order,
    spread: Spread,
    growth: Growth,
    live: Vec<Source>,
    /// Sources whose sessions are being opened.
    joining: Vec<(Id, NodeName)>,
    /// Nodes that are not to be asked again, whatever they did.
    out: Vec<NodeName>,
    news: FuturesUnordered<BoxFuture<'a, News>>,
    batches: mpsc::Sender<Batch>,
    /// The seat that the resume machine chose, and what became of it.
    first: Id,
    end: Option<End>,
    /// It knows nothing of further ranges.
    whole: bool,
    terms: Terms,
    /// Another source is sought in the place of those that fell silent, and when to do so again if there is none.
    seeking: bool,
    seek_from: Instant,
    patience: Backoff,
}

impl Run<'_> {
    /// Whether the rest of the title may come from several nodes at once.
    pub(super) fn spreads(&self) -> bool {
        let Some(ongoing) = self.ongoing.as_ref().filter(|ongoing| !ongoing.whole) else { return false };
        let left = tree::groups(ongoing.about.range.end).saturating_sub(ongoing.assembler.next());
        let enough = match self.order.sources {
            Some(0 | 1) => return false,
            Some(_) => left > 1,
            None => left >= FROM,
        };
        ongoing.about.content.is_some() && (enough || ongoing.spread.is_some())
    }

    /// Fetches the rest from this seat and others, until all is there or all are gone.
    pub(super) async fn spread<S: Sink>(
        &mut self,
        seat: usize,
        sink: &mut S,
        rng: &mut SmallRng,
    ) -> Result<ContentId, End> {
        let lost = || End::There(Fault::new(Code::Internal, "no such seat"));
        let sent_by = self.sent_by.take();
        let answer = self.answer.as_ref().ok_or_else(lost)?;
        let at = answer.seats.get(seat).cloned().ok_or_else(lost)?;
        let ongoing = self.ongoing.as_mut().ok_or_else(lost)?;
        let content = ongoing.about.content.ok_or_else(lost)?;
        if ongoing.assembler.ask().is_none() {
            return Ok(content);
        }
        let wanted = ongoing.assembler.next()..tree::groups(ongoing.about.range.end);
        let spread = ongoing.spread.take().unwrap_or_else(|| Spread {
            sources: Sources::new(wanted),
            ahead: BTreeMap::new(),
            next: 0,
        });
        let (send, mut batches) = mpsc::channel(WAITING);
        let mut crew = Crew {
            means: self.means,
            order: self.order,
            growth: Growth::new(clock::now(), self.order.sources, spread.sources.kept() * GROUP),
            first: spread.next,
            spread,
            live: Vec::new(),
            joining: Vec::new(),
            out: Vec::new(),
            news: FuturesUnordered::new(),
            batches: send,
            end: None,
            whole: false,
            terms: Terms::new(self.order.purpose, answer.rate),
            seeking: false,
            seek_from: clock::now() + LATE,
            patience: Backoff::new(LATE, LONGEST_WAIT),
        };
        let why = reason(sent_by, seat, answer);
        crew.spread.sources.expect(self.order.sources.unwrap_or(1));
        let found = Found { at, request_id: answer.request_id.clone(), reason: why, moves: 0, wished: false };
        crew.begin(found, ongoing);
        let result = loop {
            if let Some(first) = crew.live.first().filter(|_| self.node.is_none() || crew.live.len() == 1) {
                self.node = Some(first.at.node.clone());
                self.reason.clone_from(&first.reason);
            }
            crew.ask(ongoing);
            if crew.spread.sources.is_done() {
                break Ok(content);
            }
            if crew.live.is_empty() && crew.news.is_empty() {
                break Err(crew.end.take().unwrap_or_else(lost));
            }
            crew.grow(ongoing);
            crew.make_good(ongoing);
            tokio::select! {
                Some(batch) = batches.recv() => match crew.take(batch, ongoing, sink).await {
                    Ok(true) => drop(self.resume.handle(clock::now(), Event::Progress, rng)),
                    Ok(false) => {}
                    Err(end) => break Err(end),
                },
                Some(news) = crew.news.next() => crew.hear(news, ongoing),
                () = tokio::time::sleep(TICK) => {}
            }
        };
        if result.is_ok() {
            let farewell = crew.farewell(&mut batches);
            // Not waiting for a node that does not answer: every byte is there.
            drop(tokio::time::timeout(GOODBYE, farewell).await);
        } else {
            crew.disband();
            ongoing.whole = crew.whole;
            ongoing.spread = Some(crew.spread).filter(|_| !crew.whole);
        }
        result
    }
}

impl<'a> Crew<'a> {
    /// Opens a session at a seat, for the first run that is free.
    fn begin(&mut self, found: Found, ongoing: &Ongoing) {
        let (id, now) = (self.spread.next, clock::now());
        self.spread.next += 1;
        self.spread.sources.add(id);
        let Some(groups) = self.spread.sources.assign(now, id) else {
            self.spread.sources.lost(id);
            // Everything that is left is being sent.
            self.alone();
            return;
        };
        let joining = Joining { id, found, groups };
        self.joining.push((id, joining.found.at.node.clone()));
        let opening = joining.open(self.means.way(), &ongoing.about, self.order.timeout);
        self.news.push(Box::pin(async move {
            let joined = opening.await.map(Box::new);
            News::Joined(joining, joined)
        }));
    }

    /// Asks every source for what it is to send next.
    fn ask(&mut self, ongoing: &Ongoing) {
        let mut failed = Vec::new();
        for source in &mut self.live {
            while let Some(groups) = self.spread.sources.assign(clock::now(), source.id) {
                if let Err(fault) = source.ask(groups, &ongoing.about) {
                    failed.push((source.id, End::There(fault)));
                    break;
                }
            }
        }
        failed.into_iter().for_each(|(id, end)| self.lose(id, end));
    }

    /// Gets or drops a source, where that helps.
    fn grow(&mut self, ongoing: &Ongoing) {
        if self.live.is_empty() {
            return;
        }
        let (came, left) = (self.spread.sources.kept() * GROUP, self.spread.sources.missing() * GROUP);
        match self.growth.handle(clock::now(), came, left, self.spread.sources.count()) {
            Wish::Stay => {}
            Wish::Add => {
                let exclude = self.in_use().chain(&self.out).cloned().collect();
                let find = more::find(self.means, self.order, ongoing.about.clone(), exclude, &[]);
                self.news.push(Box::pin(async move { News::Found(find.await) }));
            }
            Wish::DropLast => {
                if let Some(source) = self.live.pop() {
                    tracing::debug!(node = %source.at.node, "another source did not help");
                    self.spread.sources.lost(source.id);
                    self.tell();
                }
            }
        }
    }

    /// Seeks another source where all that there are have fallen silent, or none has answered yet.
    fn make_good(&mut self, ongoing: &Ongoing) {
        let now = clock::now();
        let silent = self.live.iter().all(|source| self.spread.sources.is_doubted(source.id));
        let owed = !self.live.is_empty() || !self.joining.is_empty();
        if !silent || !owed || self.seeking || now < self.seek_from {
            return;
        }
        for (id, _) in &self.joining {
            self.spread.sources.doubt(*id);
        }
        let failed = self.in_use().map(|node| Failed { node: node.clone(), code: Code::Timeout }).collect::<Vec<_>>();
        let exclude = self.in_use().cloned().collect();
        let (means, order, about) = (self.means, self.order, ongoing.about.clone());
        self.seeking = true;
        self.news.push(Box::pin(async move {
            let found = more::find(means, order, about, exclude, &failed).await;
            News::Instead(found.map(|found| Found { wished: false, ..found }))
        }));
    }

    /// A source has fallen silent. Where others send, they do it all; else it is kept until there is another.
    fn alarmed(&mut self, id: Id, alarm: Alarm) {
        let Some(source) = self.live.iter().find(|source| source.id == id) else { return };
        if alarm.silent {
            self.means.pool.doubt(self.means.master.address(), &source.at.node, &source.connection);
        }
        let others = self.live.iter().any(|one| one.id != id && !self.spread.sources.is_doubted(one.id));
        if others {
            return self.lose(id, End::There(alarm.fault));
        }
        if !self.spread.sources.is_doubted(id) {
            (self.means.observer)(&Progress::Lost(alarm.fault));
            self.patience.reset();
            self.seek_from = clock::now();
        }
        self.spread.sources.doubt(id);
    }

    /// A source's node sends the session on: it finishes what it is sending, and the next seat is opened at once.
    fn sent_on(&mut self, id: Id, moved: Moved, ongoing: &Ongoing) {
        let Some(source) = self.live.iter().find(|source| source.id == id) else { return };
        let (at, moves) = (source.at.clone(), source.moves + 1);
        self.spread.sources.leave(id, tree::groups(moved.until));
        match seat_of(&at, moved) {
            Ok(to) if moves <= MOVES && self.is_free(&to.node) => {
                let reason = format!("moved there by {}", at.node);
                if id == self.first {
                    self.first = self.spread.next;
                }
                self.begin(Found { at: to, request_id: String::new(), reason, moves, wished: false }, ongoing);
            }
            // The others go on with what it leaves.
            Ok(_) => {}
            Err(fault) => self.end = Some(End::There(fault)),
        }
    }

    fn hear(&mut self, news: News, ongoing: &Ongoing) {
        match news {
            News::Instead(found) => {
                self.seeking = false;
                self.seek_from = clock::now() + self.patience.wait(&mut rand::rng()).max(LATE);
                match found {
                    Ok(found) => self.begin(found, ongoing),
                    Err(fault) => tracing::debug!(%fault, "there is no other source yet"),
                }
            }
            News::Found(Ok(found)) => self.begin(found, ongoing),
            News::Found(Err(fault)) => {
                tracing::debug!(%fault, "there is no other source");
                self.alone();
            }
            News::Joined(joining, joined) => {
                self.joining.retain(|(id, _)| *id != joining.id);
                let (id, at, wished) = (joining.id, joining.found.at.clone(), joining.found.wished);
                let source = joined.and_then(|joined| {
                    let batches = self.batches.clone();
                    joining.into_source(*joined, &self.means.way(), self.terms, self.order.timeout, batches)
                });
                match source {
                    Ok(source) => {
                        self.drop_silent();
                        let first = self.live.is_empty();
                        let (node, reason) = (source.at.node.clone(), source.reason.clone());
                        self.live.push(source);
                        if first {
                            let about = ongoing.about.clone();
                            (self.means.observer)(&Progress::Seated { node, reason, about });
                        } else {
                            self.tell();
                        }
                        if wished {
                            self.growth.added(clock::now(), self.spread.sources.kept() * GROUP);
                        }
                    }
                    Err(fault) => {
                        if wished {
                            self.alone();
                        }
                        self.gone(id, at.node, End::There(fault));
                    }
                }
            }
        }
    }

    /// Takes what a source sent, and hands the sink those groups whose turn it is; whether there were any. Everything that
    /// this needs goes to the thread that writes, and comes back.
    async fn take<S: Sink>(&mut self, batch: Batch, ongoing: &mut Ongoing, sink: &mut S) -> Result<bool, End> {
        let id = batch.stream;
        let Some(source) = self.live.iter_mut().find(|source| source.id == id) else { return Ok(false) };
        let Some(mut verifier) = source.verifier.take() else { return Ok(false) };
        let mut spread = std::mem::take(&mut self.spread);
        let mut assembler = std::mem::take(&mut ongoing.assembler);
        let make = move || {
            let Passed { groups, moved, alarm, last } = check(&mut verifier, batch);
            let (pieces, wrong) = assembler.take_all(spread.in_turn(id, groups, assembler.next()));
            let bytes: u64 = pieces.iter().map(|piece| piece.data.len() as u64).sum();
            (pieces, (verifier, spread, assembler, bytes, wrong, (moved, alarm, last)))
        };
        let (verifier, spread, assembler, bytes, wrong, news) = sink.write(make).await.map_err(End::Here)?;
        let (moved, alarm, last) = news;
        (self.spread, ongoing.assembler) = (spread, assembler);
        ongoing.received += bytes;
        let Some(source) = self.live.iter_mut().find(|source| source.id == id) else { return Ok(false) };
        source.verifier = Some(verifier);
        if bytes > 0 {
            report(self.means, ongoing);
        }
        if let Some(error) = wrong {
            return Err(End::There(error.into()));
        }
        if let Some(moved) = moved {
            self.sent_on(id, moved, ongoing);
        }
        if let Some(alarm) = alarm {
            self.alarmed(id, alarm);
        }
        if let Some(last) = last {
            self.ended(id, last);
        }
        Ok(bytes > 0)
    }

    /// A source's stream ended.
    fn ended(&mut self, id: Id, last: Last) {
        let Some(source) = self.live.iter().find(|source| source.id == id) else { return };
        let at = source.at.clone();
        self.whole |= id == self.first && matches!(last, Last::OneRange);
        if !self.spread.sources.is_leaving(id) || !matches!(last, Last::Early(_)) {
            return self.lose(id, End::There(failure(&at, last)));
        }
        // It did as it said.
        self.leave(|source| source.id == id);
        self.end.get_or_insert_with(|| End::There(nowhere(&at)));
        self.tell();
    }

    /// Another source is there in the place of those that are silent.
    fn drop_silent(&mut self) {
        let ids = self.live.iter().map(|source| source.id);
        let silent: Vec<Id> = ids.filter(|id| self.spread.sources.is_doubted(*id)).collect();
        if !silent.is_empty() {
            self.leave(|source| silent.contains(&source.id));
        }
    }

    /// Nothing more is expected of these sources: what they were asked for goes back.
    fn leave(&mut self, these: impl Fn(&Source) -> bool) {
        for source in self.live.extract_if(.., |source| these(source)) {
            tracing::debug!(node = %source.at.node, "a source is left");
            self.spread.sources.lost(source.id);
        }
        self.growth.lost(clock::now(), self.spread.sources.kept() * GROUP);
    }

    /// A live source ended.
    fn lose(&mut self, id: Id, end: End) {
        let Some(at) = self.live.iter().position(|source| source.id == id) else { return };
        let source = self.live.remove(at);
        self.gone(id, source.at.node.clone(), end);
        self.growth.lost(clock::now(), self.spread.sources.kept() * GROUP);
        self.tell();
    }

    /// What a source was asked for goes back.
    fn gone(&mut self, id: Id, node: NodeName, end: End) {
        self.spread.sources.lost(id);
        let others = !self.live.is_empty() || !self.news.is_empty();
        if let End::There(fault) = &end
            && others
        {
            tracing::debug!(%node, %fault, "a source is lost");
            (self.means.observer)(&Progress::Lost(fault.clone()));
        }
        self.out.push(node);
        // The resume machine knows the first source only; the others are made good here.
        if id == self.first || self.end.is_none() {
            self.end = Some(end);
        }
    }

    /// There is no other source.
    fn alone(&mut self) {
        self.growth.refused();
        self.spread.sources.expect(1);
    }

    fn in_use(&self) -> impl Iterator<Item = &NodeName> {
        self.live.iter().map(|source| &source.at.node).chain(self.joining.iter().map(|(_, node)| node))
    }

    fn is_free(&self, node: &NodeName) -> bool {
        !self.out.contains(node) && self.in_use().all(|one| one != node)
    }

    /// Says which nodes send.
    fn tell(&self) {
        let nodes = self.live.iter().map(|source| source.at.node.clone()).collect();
        (self.means.observer)(&Progress::Shared(nodes));
    }

    /// Every byte is there: sources that owe nothing are told so, and end their sessions well.
    async fn farewell(&mut self, batches: &mut mpsc::Receiver<Batch>) {
        let sources = &self.spread.sources;
        self.live.retain(|source| sources.is_idle(source.id));
        self.live.iter_mut().for_each(Source::finish);
        while !self.live.is_empty() {
            // Nothing but Finish is due; what it says was verified with the bytes.
            let Some(batch) = batches.recv().await else { return };
            if !batch.frames.is_empty() || batch.end.is_some() {
                self.live.retain(|source| source.id != batch.stream);
            }
        }
    }

    /// Everything that was asked for and did not come goes back.
    fn disband(&mut self) {
        self.news.clear();
        self.joining.clear();
        self.live.clear();
        (self.first..self.spread.next).for_each(|id| self.spread.sources.lost(id));
    }
}
