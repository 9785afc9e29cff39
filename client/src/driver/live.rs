//! A feed, wherever it is to be had: resolve, watch, prove, hand out, and after a loss on from the first group that is not
//! whole. While another seat is opened the present one goes on; whoever brings a group first has the session, and
//! `core::playout` sees to it that nothing comes twice. Decides nothing else: what to try next is `core::resume`'s.

mod seat;

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{sync::mpsc, task::JoinSet, time};
use usher_proto::{Code, Fault, NodeName, Title, feed::Piece, model::SeatAddress};

use self::seat::{Joined, Joining, Session};
use super::{
    Order, renewal,
    session::{answered, until},
    words::{blame, refusal, seat_of},
};
use crate::{
    clock,
    core::{
        playout::{Out, Playout},
        resume::{Action, Event, Resume},
    },
    master::{Answer, Master},
    quic::{Heard, News, Pool},
};

/// News that wait; what is not taken is not read, and the node sees a slow viewer.
const NEWS: usize = 256;

/// Where a viewer begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the last whole group.
    #[default]
    LastWhole,
    /// With the group that is being made.
    Newest,
    /// So long ago.
    Back(Duration),
}

/// What is wanted of a feed.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) title: Title,
    /// The request.
    pub(crate) order: Order,
    pub(crate) start: Start,
    /// How far to fall behind before groups are dropped.
    pub(crate) latency: Duration,
    /// How much of it; `None` for all.
    pub(crate) duration: Option<Duration>,
}

/// Where a feed's media goes.
pub trait Drain: Send {
    /// Takes what comes next, proven and in order.
    ///
    /// # Errors
    /// A [`Fault`] ends the feed for this viewer.
    fn write(&mut self, media: Vec<Bytes>) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// What an observer is told.
#[derive(Clone, Debug)]
pub enum Sight {
    /// Groups come from this node.
    Seated {
        /// The node.
        node: NodeName,
        /// Why: the master's reason, after which node's failure, or which node sent the session there.
        reason: String,
    },
    /// Where it stands.
    Moved(Tally),
    /// A seat or the master failed; something else is tried.
    Lost(Fault),
}

/// What came of a feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Groups that were handed out whole.
    pub groups: u64,
    /// Groups that were not, though others after them were.
    pub dropped: u64,
    /// Media handed out.
    pub bytes: u64,
    /// The same until the end of the last whole group.
    pub whole: u64,
}

/// What a feed is watched with.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) master: &'a Arc<Master>,
    pub(crate) pool: &'a Arc<Pool>,
    pub(crate) observer: &'a (dyn Fn(&Sight) + Send + Sync),
}

/// Watches a feed until it is over, or enough came of it.
pub(crate) async fn watch<D: Drain>(view: View<'_>, watch: &Watch, drain: &mut D) -> Result<Tally, Fault> {
    let (tell, news) = mpsc::channel(NEWS);
    let mut live = Live {
        view,
        watch,
        resume: Resume::new(watch.order.timeout),
        playout: None,
        answer: None,
        sent_by: None,
        sessions: Vec::new(),
        current: None,
        joins: JoinSet::new(),
        latest: None,
        asking: None,
        verdict: None,
        from: None,
        begun: 0,
        tell,
        news,
        bytes: 0,
    };
    live.drive(drain, &mut SmallRng::seed_from_u64(rand::random())).await
}

struct Live<'a> {
    view: View<'a>,
    watch: &'a Watch,
    resume: Resume,
    playout: Option<Playout>,
    answer: Option<Answer>,
    /// The node that sent the session to the seat that is opened next.
    sent_by: Option<NodeName>,
    sessions: Vec<Session>,
    /// The session that brought something last.
    current: Option<u64>,
    joins: JoinSet<(Joining, Result<Joined, Fault>)>,
    /// The seat that was begun to be opened last, and when it is late.
    latest: Option<(u64, time::Instant)>,
    asking: Option<BoxFuture<'a, Result<Answer, Fault>>>,
    /// What to fail with once nobody answers late either.
    verdict: Option<Fault>,
    /// The group from which on the next seat is to send, where a node said so.
    from: Option<u64>,
    begun: u64,
    tell: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    bytes: u64,
}

impl<'a> Live<'a> {
    async fn drive<D: Drain>(&mut self, drain: &mut D, rng: &mut SmallRng) -> Result<Tally, Fault> {
        let action = self.resume.handle(clock::now(), Event::Start, rng);
        self.act(action, rng)?;
        let mut heard = Vec::with_capacity(NEWS);
        loop {
            let deadline = self.playout.as_ref().and_then(Playout::deadline);
            tokio::select! {
                _count = self.news.recv_many(&mut heard, NEWS) => self.hear(heard.drain(..), rng)?,
                Some(joined) = self.joins.join_next(), if !self.joins.is_empty() => match joined {
                    Ok((joining, Ok(joined))) => self.joined(joining, joined, rng)?,
                    Ok((joining, Err(fault))) => self.not_joined(&joining, &fault, rng)?,
                    Err(_) => return Err(Fault::new(Code::Internal, "a task that opens a seat died")),
                },
                answer = answered(&mut self.asking) => {
                    self.asking = None;
                    self.answered(answer, rng)?;
                }
                () = until(self.latest.map(|(_, late)| late)) => self.late(rng)?,
                () = until(deadline.map(Into::into)) => {}
            }
            if self.hand_out(drain).await? {
                return Ok(self.tally());
            }
        }
    }

    /// Writes what can be written. True when that was all.
    async fn hand_out<D: Drain>(&mut self, drain: &mut D) -> Result<bool, Fault> {
        let Some(playout) = &mut self.playout else { return Ok(false) };
        while let Some(Out { media }) = playout.next(clock::now()) {
            self.bytes += media.iter().map(|media| media.len() as u64).sum::<u64>();
            drain.write(media).await?;
            let (groups, dropped, whole) = (playout.played(), playout.dropped(), playout.whole());
            let tally = Tally { groups, dropped, bytes: self.bytes, whole };
            (self.view.observer)(&Sight::Moved(tally));
        }
        Ok(playout.is_over(clock::now()))
    }

    fn tally(&self) -> Tally {
        let playout = self.playout.as_ref();
        let counts = |playout: &Playout| (playout.played(), playout.dropped(), playout.whole());
        let (groups, dropped, whole) = playout.map_or((0, 0, 0), counts);
        Tally { groups, dropped, bytes: self.bytes, whole }
    }

    /// Does what the resume machine wants, or begins to.
    fn act(&mut self, action: Action, _rng: &mut SmallRng) -> Result<(), Fault> {
        match action {
            Action::Fail(fault) if !self.joins.is_empty() => self.verdict = Some(fault),
            // What is here may yet come to life; but nothing else is tried.
            Action::Fail(_) if !self.sessions.is_empty() => {}
            Action::Fail(fault) => return Err(fault),
            Action::Resolve { after, exclude, failed } => {
                let (master, request) = (self.view.master, self.watch.order.request(None, &exclude, &failed));
                self.latest = None;
                self.asking = Some(Box::pin(async move {
                    time::sleep(after).await;
                    master.resolve(request).await
                }));
            }
            Action::Open(seat) => self.open(seat)?,
            // Only news that needs nothing done is answered so.
            Action::Continue => {}
        }
        Ok(())
    }

    fn after(&mut self, event: Event<'_>, fault: &Fault, rng: &mut SmallRng) -> Result<(), Fault> {
        let action = self.resume.handle(clock::now(), event, rng);
        tracing::debug!(reason = fault.code.reason(), %fault, ?action, "lost");
        if !matches!(action, Action::Fail(_)) {
            (self.view.observer)(&Sight::Lost(fault.clone()));
        }
        self.act(action, rng)
    }

    fn answered(&mut self, answer: Result<Answer, Fault>, rng: &mut SmallRng) -> Result<(), Fault> {
        let answer = match answer.and_then(|answer| self.usable(answer)) {
            Ok(answer) => answer,
            Err(fault) => return self.after(Event::Refused(&fault), &fault, rng),
        };
        let nodes: Vec<NodeName> = answer.seats.iter().map(|seat| seat.node.clone()).collect();
        self.answer = Some(answer);
        let action = self.resume.handle(clock::now(), Event::Resolved(&nodes), rng);
        self.act(action, rng)
    }

    /// The answer, if it is about this feed, and the feed is the one that was watched so far.
    fn usable(&mut self, answer: Answer) -> Result<Answer, Fault> {
        let Watch { title, latency, duration, .. } = self.watch;
        let wrong = |what: &str| Fault::new(Code::Internal, format!("the master's answer cannot be used: {what}"));
        let live = answer.live.as_ref().ok_or_else(|| wrong("it says nothing of a feed"))?;
        if answer.title != *title {
            return Err(wrong("it is about another title than asked for"));
        }
        match &self.playout {
            Some(playout) if *playout.key() != live.key => {
                Err(Fault::new(Code::ContentChanged, format!("`{title}` is another feed now; watch it anew")))
            }
            Some(_) => Ok(answer),
            None => {
                self.playout = Some(Playout::new(title.clone(), live.key, *latency, *duration));
                Ok(answer)
            }
        }
    }

    /// A seat is open: its groups are listened to, beside those of the seat that is here.
    fn joined(&mut self, joining: Joining, joined: Joined, rng: &mut SmallRng) -> Result<(), Fault> {
        let Joining { number, at, why } = joining;
        let Joined { incoming, send, setup } = joined;
        let connection = incoming.connection().clone();
        if let Some(playout) = &mut self.playout {
            playout.expect(setup.first);
        }
        let tell = self.tell.clone();
        let reader = self.view.pool.listen(incoming, send, setup.subscription, number, tell)?;
        let renewal = renewal::keep(&self.way(), &connection, &at);
        self.is_at(&at, rng);
        let (node, reason) = (at.node.clone(), why.clone());
        let told = self.current.is_none();
        if told {
            self.current = Some(number);
            (self.view.observer)(&Sight::Seated { node, reason });
        }
        self.sessions.push(Session {
            number,
            at,
            why,
            connection,
            streams: HashSet::new(),
            silent: false,
            leaving: None,
            told,
            _reader: reader,
            _renewal: renewal,
        });
        Ok(())
    }

    /// The session is at this seat, and nothing else that was begun is of use: the resume machine learns of it.
    fn is_at(&mut self, at: &SeatAddress, rng: &mut SmallRng) {
        self.joins = JoinSet::new();
        (self.asking, self.latest, self.verdict, self.from) = (None, None, None, None);
        self.resume.handle(clock::now(), Event::Seated(&at.node), rng);
        if let Some(answer) = &mut self.answer
            && !answer.seats.iter().any(|seat| seat.node == at.node)
        {
            answer.seats.push(at.clone());
        }
    }

    /// Takes what was heard, pieces of one stream together.
    fn hear(&mut self, news: impl Iterator<Item = News>, rng: &mut SmallRng) -> Result<(), Fault> {
        let mut pieces: Option<(u64, u64, Vec<Piece>)> = None;
        for News { session, heard } in news {
            if let Heard::Piece(stream, piece) = heard {
                match &mut pieces {
                    Some((_, of, more)) if *of == stream => more.push(piece),
                    other => {
                        if let Some((session, stream, pieces)) = other.replace((session, stream, vec![piece])) {
                            self.pieces(session, stream, pieces, rng)?;
                        }
                    }
                }
                continue;
            }
            if let Some((session, stream, pieces)) = pieces.take() {
                self.pieces(session, stream, pieces, rng)?;
            }
            self.heard(session, heard, rng)?;
        }
        match pieces {
            Some((session, stream, pieces)) => self.pieces(session, stream, pieces, rng),
            None => Ok(()),
        }
    }

    fn pieces(&mut self, number: u64, stream: u64, pieces: Vec<Piece>, rng: &mut SmallRng) -> Result<(), Fault> {
        let known = self.sessions.iter().any(|session| session.number == number);
        let Some(playout) = self.playout.as_mut().filter(|_| known) else { return Ok(()) };
        match playout.pieces(clock::now(), stream, pieces) {
            Ok(Some(sequence)) => self.brings(number, sequence, rng),
            Ok(None) => {}
            Err(fault) => self.lost(number, &fault, rng)?,
        }
        Ok(())
    }

    /// A session brings what is proven of a group: it has what is to come, and others are done with, but for one that leaves
    /// and brings what is before that.
    fn brings(&mut self, number: u64, sequence: u64, rng: &mut SmallRng) {
        self.resume.handle(clock::now(), Event::Progress, rng);
        let Some(session) = self.sessions.iter_mut().find(|session| session.number == number) else { return };
        if session.leaving.is_some() || self.current == Some(number) && !session.silent {
            return;
        }
        let (at, why, back) = (session.at.clone(), session.why.clone(), std::mem::take(&mut session.silent));
        let told = std::mem::replace(&mut session.told, true);
        if back && self.current == Some(number) {
            tracing::debug!(node = %at.node, "it goes on after all");
            self.is_at(&at, rng);
        } else if !told {
            (self.view.observer)(&Sight::Seated { node: at.node, reason: why });
        }
        self.current = Some(number);
        let done = |one: &Session| one.number != number && one.leaving.is_none_or(|until| sequence >= until);
        let (gone, stay) = std::mem::take(&mut self.sessions).into_iter().partition(done);
        self.sessions = stay;
        self.forget(gone);
    }

    /// What these sessions were sending does not come any more.
    fn forget(&mut self, sessions: Vec<Session>) {
        for stream in sessions.iter().flat_map(|session| &session.streams) {
            if let Some(playout) = &mut self.playout {
                playout.end(*stream, false);
            }
        }
    }

    fn heard(&mut self, number: u64, heard: Heard, rng: &mut SmallRng) -> Result<(), Fault> {
        let Some(session) = self.sessions.iter_mut().find(|session| session.number == number) else { return Ok(()) };
        let Some(playout) = &mut self.playout else { return Ok(()) };
        let at = session.at.clone();
        match heard {
            Heard::Group(stream, head) => match playout.begin(stream, head) {
                Ok(true) => drop(session.streams.insert(stream)),
                Ok(false) => {}
                Err(fault) => return self.lost(number, &fault, rng),
            },
            // Taken together with others.
            Heard::Piece(..) => {}
            Heard::End(stream, given_up) => {
                session.streams.remove(&stream);
                playout.end(stream, given_up);
            }
            Heard::Skipped(first, end) => playout.skipped(first, end),
            Heard::Finish(end) => playout.finish(clock::now(), end),
            Heard::Moved(moved) => {
                let from = moved.until;
                session.leaving = Some(from);
                self.is_at(&at, rng);
                self.from = Some(from);
                match seat_of(&at, *moved) {
                    Ok(to) => return self.moved(to, rng),
                    Err(fault) => return self.after(Event::Lost(&fault), &fault, rng),
                }
            }
            Heard::Silent(fault) => {
                session.silent = true;
                self.view.pool.doubt(self.view.master.address(), &at.node, &session.connection);
                if self.current == Some(number) && self.joins.is_empty() && self.asking.is_none() {
                    self.is_at(&at, rng);
                    return self.after(Event::Lost(&fault), &fault, rng);
                }
            }
            Heard::Refused(refused) => return self.lost(number, &refusal(&at, &refused), rng),
            Heard::Lost(fault) => return self.lost(number, &fault, rng),
        }
        Ok(())
    }

    /// Takes the seat that a node sent the session to in the place of its own. That is no failure, unless it never ends.
    fn moved(&mut self, to: SeatAddress, rng: &mut SmallRng) -> Result<(), Fault> {
        let action = self.resume.handle(clock::now(), Event::Moved(&to.node), rng);
        tracing::debug!(to = %to.node, ?action, "moved");
        if let (Action::Open(seat), Some(answer)) = (&action, self.answer.as_mut())
            && self.resume.was_sent_there()
            && let Some(place) = answer.seats.get_mut(*seat)
        {
            self.sent_by = Some(std::mem::replace(place, to).node);
        }
        self.act(action, rng)
    }

    /// A session is over, too early.
    fn lost(&mut self, number: u64, fault: &Fault, rng: &mut SmallRng) -> Result<(), Fault> {
        let (gone, stay): (Vec<_>, _) =
            std::mem::take(&mut self.sessions).into_iter().partition(|session| session.number == number);
        self.sessions = stay;
        let Some(at) = gone.first().map(|session| session.at.clone()) else { return Ok(()) };
        self.forget(gone);
        if self.current == Some(number) {
            self.current = None;
        }
        let over = self.playout.as_ref().is_some_and(Playout::is_finished);
        let elsewhere = self.sessions.iter().any(|session| session.leaving.is_none() && !session.silent);
        let sought = !self.joins.is_empty() || self.asking.is_some();
        // A liar is told of as one, whatever else is under way.
        if over || elsewhere || sought && fault.code != Code::VerificationFailed {
            tracing::debug!(%fault, "lost for good");
            return Ok(());
        }
        self.is_at(&at, rng);
        let fault = if fault.code == Code::VerificationFailed { blame(&at, fault.clone()) } else { fault.clone() };
        self.after(Event::Lost(&fault), &fault, rng)
    }
}
