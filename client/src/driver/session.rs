//! The session of one title, wherever it is served: at most one stream brings bytes, while another seat is sought and
//! opened beside it. So a session that its node sends on, or that falls silent, is made elsewhere before it is broken here.
//! Decides nothing: what to do is `core::resume`'s, when to worry `core::vigil`'s.

use std::{future::pending, time::Duration};

use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use tokio::{task::JoinSet, time};
use usher_proto::{Code, ContentId, Fault, NodeName, model::SeatAddress, tree::GROUP};

use super::{
    End, Progress, Run, Sink,
    join::{Ask, Joined, join},
    report,
    stream::{Ended, Stream},
    words::nowhere,
};
use crate::{
    clock,
    core::{
        resume::{Action, Event},
        vigil::Terms,
    },
    master::Answer,
    quic::{Alarm, Batch, silent},
};

/// How long a seat may take to answer before the next is tried beside it: a dial and an Open are two round trips, and a
/// disk may be slow.
pub(super) const LATE: Duration = Duration::from_millis(700);

/// What is under way beside, or in the place of, the stream that brings bytes.
#[derive(Default)]
pub(super) struct Abroad<'a> {
    why: Option<Why>,
    asking: Option<BoxFuture<'a, Result<Answer, Fault>>>,
    joins: JoinSet<(Joining, Result<Joined, Fault>)>,
    /// The join that was begun last, and when it is late.
    latest: Option<(u64, time::Instant)>,
    begun: u64,
    /// What to fail with once nobody answers late either.
    verdict: Option<Fault>,
}

/// Why another seat is sought while a stream is there.
#[derive(Clone, Copy)]
enum Why {
    /// The stream is silent, or else slow.
    Alarm { silent: bool },
    /// Its node sends the session on, and stops at this byte.
    Moved { until: u64 },
}

/// A seat that is being opened.
struct Joining {
    number: u64,
    at: SeatAddress,
    why: String,
}

/// What to do next, or that all is done.
pub(super) enum Next {
    Act(Action),
    Wait,
    Done(ContentId),
}

impl Abroad<'_> {
    /// Nothing of it is needed any more.
    fn drop_all(&mut self) {
        self.joins = JoinSet::new();
        (self.why, self.asking, self.latest, self.verdict) = (None, None, None, None);
    }

    /// Whether something may yet come of it.
    fn is_under_way(&self) -> bool {
        self.asking.is_some() || !self.joins.is_empty()
    }
}

impl<'a> Run<'a> {
    /// Does what the resume machine wants, or begins to.
    pub(super) async fn act<S: Sink>(
        &mut self,
        action: Action,
        sink: &mut S,
        rng: &mut SmallRng,
    ) -> Result<Next, Fault> {
        match action {
            Action::Fail(fault) if !self.abroad.joins.is_empty() => self.abroad.verdict = Some(fault),
            // What is here may yet come to life; it has a patience of its own.
            Action::Fail(_) if self.current.is_some() => self.abroad.drop_all(),
            Action::Fail(fault) => return Err(fault),
            Action::Resolve { after, exclude, failed } => {
                let (master, first) = (self.means.master, self.first.take());
                let known = self.ongoing.as_ref().and_then(|ongoing| ongoing.about.content);
                let request = self.order.request(known, &exclude, &failed);
                self.abroad.latest = None;
                self.abroad.asking = Some(Box::pin(async move {
                    time::sleep(after).await;
                    match first {
                        Some(first) => first,
                        None => master.resolve(request).await,
                    }
                }));
            }
            Action::Open(seat) if self.current.is_none() && self.spreads() => {
                // No seat is being opened for a single stream then: each that was begun would send what is asked of others.
                self.abroad.drop_all();
                return match Box::pin(self.spread(seat, sink, rng)).await {
                    Ok(content) => Ok(Next::Done(content)),
                    Err(End::Here(fault)) => Err(fault),
                    Err(End::There(fault)) => Ok(Next::Act(self.after(Event::Lost(&fault), &fault, rng))),
                };
            }
            Action::Open(seat) => return self.open(seat),
            // Only news that needs nothing done is answered so.
            Action::Continue => {}
        }
        if self.current.is_none() && !self.abroad.is_under_way() {
            return Err(Fault::new(Code::Internal, "the session lost its thread"));
        }
        Ok(Next::Wait)
    }

    /// Waits for what comes first, and takes it.
    pub(super) async fn wait<S: Sink>(&mut self, sink: &mut S, rng: &mut SmallRng) -> Result<Next, Fault> {
        let late = self.abroad.latest.map(|(_, late)| late);
        tokio::select! {
            batch = brought(&mut self.current) => self.take(batch, sink, rng).await,
            Some(joined) = self.abroad.joins.join_next(), if !self.abroad.joins.is_empty() => match joined {
                Ok((joining, Ok(joined))) => self.joined(joining, joined, rng),
                Ok((joining, Err(fault))) => self.not_joined(&joining, &fault, rng),
                Err(_) => Err(Fault::new(Code::Internal, "a task that opens a seat died")),
            },
            answer = answered(&mut self.abroad.asking) => {
                self.abroad.asking = None;
                self.heard(answer, sink, rng).await
            }
            () = until(late) => Ok(Next::Act(self.late(rng))),
        }
    }

    /// Begins to open a seat, beside those that do not answer.
    fn open(&mut self, seat: usize) -> Result<Next, Fault> {
        let lost = || Fault::new(Code::Internal, "no such seat");
        let sent_by = self.sent_by.take();
        let answer = self.answer.as_ref().ok_or_else(lost)?;
        let at = answer.seats.get(seat).cloned().ok_or_else(lost)?;
        let ongoing = self.ongoing.as_mut().ok_or_else(lost)?;
        let rest = match self.abroad.why {
            // What lies behind where it stands is nothing that it would send.
            Some(Why::Moved { until }) => ongoing.assembler.rest(until.max(ongoing.assembler.next() * GROUP)),
            _ => ongoing.assembler.ask().map(|range| (range, ongoing.assembler.widened())),
        };
        let Some((range, wide)) = rest else {
            if self.current.is_some() {
                // What is left comes from there.
                self.abroad.drop_all();
                return Ok(Next::Wait);
            }
            return ongoing.about.content.map(Next::Done).ok_or_else(lost);
        };
        let (way, about, timeout) = (self.means.way(), ongoing.about.clone(), self.order.timeout);
        let ask = Ask { range, wide, request_id: answer.request_id.clone(), more: false };
        self.abroad.begun += 1;
        let number = self.abroad.begun;
        let joining = Joining { number, why: reason(sent_by, seat, answer), at };
        self.abroad.latest = Some((number, time::Instant::now() + LATE));
        self.abroad.joins.spawn(async move {
            let joined = join(&way, &joining.at, ask, &about, timeout).await;
            (joining, joined)
        });
        Ok(Next::Wait)
    }

    /// The seat that was opened last has not answered yet: the next is tried beside it.
    fn late(&mut self, rng: &mut SmallRng) -> Action {
        self.abroad.latest = None;
        let fault = match self.resume.seat() {
            Some(node) => silent(node, LATE),
            None => Fault::new(Code::Timeout, "a node does not answer"),
        };
        tracing::debug!(%fault, "the next seat is tried beside it");
        self.resume.handle(clock::now(), Event::Lost(&fault), rng)
    }

    fn not_joined(&mut self, joining: &Joining, fault: &Fault, rng: &mut SmallRng) -> Result<Next, Fault> {
        let latest = self.abroad.latest.is_some_and(|(number, _)| number == joining.number);
        if latest {
            self.abroad.latest = None;
            return Ok(Next::Act(self.after(Event::Lost(fault), fault, rng)));
        }
        // Others were begun since, or the last word is spoken.
        match self.abroad.verdict.take() {
            Some(verdict) => Ok(Next::Act(Action::Fail(verdict))),
            None => Ok(Next::Wait),
        }
    }

    /// A seat is open: the session goes on there, at once or where the stream that is here stops.
    fn joined(&mut self, joining: Joining, joined: Joined, rng: &mut SmallRng) -> Result<Next, Fault> {
        let Joining { at, why, .. } = joining;
        let moved = matches!(self.abroad.why, Some(Why::Moved { .. }));
        self.is_at(&at, rng);
        let rate = self.answer.as_ref().map(|answer| answer.rate).unwrap_or_default();
        let terms = Terms::new(self.order.purpose, rate);
        let stream = Stream::new(&self.means.way(), at, why, joined, terms, self.order.timeout)?;
        if moved && self.current.is_some() {
            self.next = Some(stream);
        } else {
            self.go_on_with(stream);
        }
        Ok(Next::Wait)
    }

    fn go_on_with(&mut self, stream: Stream) {
        self.node = Some(stream.at.node.clone());
        self.reason.clone_from(&stream.why);
        if let Some(ongoing) = &self.ongoing {
            let (node, reason, about) = (stream.at.node.clone(), stream.why.clone(), ongoing.about.clone());
            (self.means.observer)(&Progress::Seated { node, reason, about });
            report(self.means, ongoing);
        }
        self.current = Some(stream);
    }

    /// The session is at this seat, and nothing that was begun beside it is of use: the resume machine learns of it.
    fn is_at(&mut self, at: &SeatAddress, rng: &mut SmallRng) {
        self.next = None;
        self.abroad.drop_all();
        self.resume.handle(clock::now(), Event::Seated(&at.node), rng);
        if let Some(answer) = &mut self.answer
            && !answer.seats.iter().any(|seat| seat.node == at.node)
        {
            answer.seats.push(at.clone());
        }
    }

    /// Takes what the stream brought.
    async fn take<S: Sink>(&mut self, batch: Batch, sink: &mut S, rng: &mut SmallRng) -> Result<Next, Fault> {
        let lost = || Fault::new(Code::Internal, "a session without a stream");
        let (stream, ongoing) = self.current.as_mut().zip(self.ongoing.as_mut()).ok_or_else(lost)?;
        let taken = stream.take(batch, ongoing, sink).await?;
        if taken.progress {
            report(self.means, ongoing);
            if matches!(self.abroad.why, Some(Why::Alarm { silent: true })) {
                let at = stream.at.clone();
                tracing::debug!(node = %at.node, "it goes on after all");
                self.is_at(&at, rng);
            }
            self.resume.handle(clock::now(), Event::Progress, rng);
        }
        if let Some(end) = taken.end {
            // Where to was told in the same breath, and the stream has nothing more to bring.
            return Ok(match (end, taken.moved) {
                (Ended::SentOn, Some((to, _))) => self.sent_on(to, None, rng),
                (end, _) => self.ended(end, rng),
            });
        }
        if let Some((to, until)) = taken.moved {
            return Ok(self.sent_on(to, Some(until), rng));
        }
        Ok(taken.alarm.map_or(Next::Wait, |alarm| self.alarmed(alarm, rng)))
    }

    /// The stream's node sends the session on, and goes on until that byte; without one, it has stopped.
    fn sent_on(&mut self, to: Result<SeatAddress, Fault>, until: Option<u64>, rng: &mut SmallRng) -> Next {
        let Some(stream) = &self.current else { return Next::Wait };
        let (at, hashed) = (stream.at.clone(), stream.is_hashed());
        self.is_at(&at, rng);
        // Nothing of what is not hashed is verified yet, and all of it is asked for again.
        match until.filter(|_| hashed) {
            Some(until) => self.abroad.why = Some(Why::Moved { until }),
            None => self.current = None,
        }
        Next::Act(match to {
            Ok(to) => self.moved(to, rng),
            Err(fault) => self.after(Event::Lost(&fault), &fault, rng),
        })
    }

    /// The stream has fallen silent, or is slow: another seat is opened, and the first of the two that brings something
    /// has the session.
    fn alarmed(&mut self, alarm: Alarm, rng: &mut SmallRng) -> Next {
        let Some(stream) = &self.current else { return Next::Wait };
        if let Some(Why::Alarm { .. }) = self.abroad.why
            && self.abroad.is_under_way()
        {
            return Next::Wait;
        }
        let (at, hashed) = (stream.at.clone(), stream.is_hashed());
        if alarm.silent {
            self.means.pool.doubt(self.means.master.address(), &at.node, &stream.connection);
        }
        // Nor is a seat that waits for the byte where this one stops: that byte may never come.
        self.is_at(&at, rng);
        if hashed {
            self.abroad.why = Some(Why::Alarm { silent: alarm.silent });
        } else {
            self.current = None;
        }
        Next::Act(self.after(Event::Lost(&alarm.fault), &alarm.fault, rng))
    }

    fn ended(&mut self, end: Ended, rng: &mut SmallRng) -> Next {
        let Some(stream) = self.current.take() else { return Next::Wait };
        let whole = self.complete();
        let why = self.abroad.why.take();
        match (end, whole) {
            (Ended::Done(content), _) | (Ended::SentOn, Some(content)) => Next::Done(content),
            (Ended::SentOn, None) => match self.next.take() {
                Some(next) => {
                    self.go_on_with(next);
                    Next::Wait
                }
                // What is being opened begins at the very byte.
                None if self.abroad.is_under_way() => Next::Wait,
                None => self.lost(&stream.at, &nowhere(&stream.at), rng),
            },
            // Told of already.
            (Ended::Lost(fault), _) if matches!(why, Some(Why::Alarm { .. })) && self.abroad.is_under_way() => {
                tracing::debug!(%fault, "lost for good");
                Next::Wait
            }
            (Ended::Lost(fault), _) => self.lost(&stream.at, &fault, rng),
        }
    }

    /// The stream from this seat is gone.
    fn lost(&mut self, at: &SeatAddress, fault: &Fault, rng: &mut SmallRng) -> Next {
        self.is_at(at, rng);
        Next::Act(self.after(Event::Lost(fault), fault, rng))
    }
}

async fn brought(current: &mut Option<Stream>) -> Batch {
    match current {
        Some(stream) => stream.next().await,
        None => pending().await,
    }
}

pub(super) async fn answered(asking: &mut Option<BoxFuture<'_, Result<Answer, Fault>>>) -> Result<Answer, Fault> {
    match asking {
        Some(asking) => asking.await,
        None => pending().await,
    }
}

pub(super) async fn until(late: Option<time::Instant>) {
    match late {
        Some(late) => time::sleep_until(late).await,
        None => pending().await,
    }
}

/// Why this seat: the master's reason, after which node's failure, or which node sent the session there.
pub(super) fn reason(sent_by: Option<NodeName>, seat: usize, answer: &Answer) -> String {
    let before = seat.checked_sub(1).and_then(|before| answer.seats.get(before));
    match (sent_by, before) {
        (Some(from), _) => format!("moved there by {from}"),
        (None, Some(failed)) => format!("alternate after {} failed", failed.node),
        (None, None) => answer.reason.clone(),
    }
}
