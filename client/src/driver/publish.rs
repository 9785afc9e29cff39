//! A feed to whichever node takes it: cut, signed, sent group by group, and after a loss elsewhere, from the oldest group on
//! that has not arrived whole. The input is read on whatever happens.
//!
//! Decides little: where groups begin is `usher_media::cut`'s, what waits `core::outbox`'s, what to try next `core::resume`'s, when
//! to worry `core::vigil`'s. Refuses to know where the input comes from.

mod input;
mod search;
mod seat;
mod streams;

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{sync::mpsc, time};
use usher_media::cut::{Cut, Cutter, Format};
use usher_proto::{
    Bitrate, Code, Fault, NodeName, Title,
    id::PublisherId,
    model::{Medium, Published, SeatAddress},
    wire::Frame,
};

pub(crate) use self::input::Input;
use self::seat::{Joined, Session};
use super::join::Way;
use crate::{
    clock,
    core::{
        outbox::{MOST, Outbox},
        resume::{Event, Resume},
        vigil::LOOK,
    },
    master::Master,
    quic::Pool,
};

/// A session that lives so long is a success, whatever comes then.
const STEADY: Duration = Duration::from_secs(2);

/// How long the input may be held up by a node that takes it slowly, before what waits is given up.
const HOLD: Duration = Duration::from_secs(2);

/// After a request to stop, what writes the input may write its last for so long.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a node may take to take note of the end.
const GOODBYE: Duration = Duration::from_secs(2);

/// Between two words about how it goes.
const EVERY: Duration = Duration::from_secs(1);

/// What is published.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    /// `live/NAME`.
    pub(crate) title: Title,
    /// This run.
    pub(crate) publisher: PublisherId,
    /// What is expected of it; 0 if not known.
    pub(crate) rate: Bitrate,
    /// The publisher's zone, empty if unknown.
    pub(crate) zone: String,
    /// It ends another publisher.
    pub(crate) take_over: bool,
    /// The node keeps it as a title.
    pub(crate) record: bool,
    /// Without a node for so long, it fails.
    pub(crate) timeout: Duration,
    /// The container; `None` to find out.
    pub(crate) format: Option<Format>,
}

/// What who watches is told.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// It is known what the input consists of.
    Medium(Medium),
    /// A node takes the feed.
    Seated {
        node: NodeName,
        /// Why: the master's reason, or which node sent it there.
        reason: String,
    },
    /// A seat or the master failed; something else is tried.
    Lost(Fault),
    /// Something is odd, or was lost.
    Warning(String),
    /// How it goes.
    Status(Status),
}

/// How a feed goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// Where it is sent, if anywhere.
    pub(crate) node: Option<NodeName>,
    /// What came in since the last word.
    pub(crate) rate: Bitrate,
    /// Media that came in, in bytes.
    pub(crate) bytes: u64,
    /// Groups that were begun.
    pub(crate) groups: u64,
    /// Groups that were given up.
    pub(crate) given_up: u64,
    /// Media that has not arrived, in bytes.
    pub(crate) waiting: u64,
    /// Since the beginning.
    pub(crate) elapsed: Duration,
}

/// Publishes until the input ends, or a message asks to stop; a second one ends it at once.
///
/// # Errors
/// What was wrong with the input, or what no node and no patience helped against.
pub(crate) async fn run(
    (master, pool): (&Arc<Master>, &Arc<Pool>),
    feed: &Feed,
    input: Input,
    stop: &mut mpsc::Receiver<()>,
    observer: &(dyn Fn(&Told) + Send + Sync),
) -> Result<Status, Fault> {
    let now = clock::now();
    let started_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    let way = Way { master: Arc::clone(master), pool: Arc::clone(pool), throttle: None };
    let mut run = Run {
        way,
        feed,
        observer,
        input,
        cutter: Cutter::new(feed.format),
        outbox: Outbox::new(feed.title.clone()),
        medium: None,
        started: now,
        started_ms: u64::try_from(started_ms).unwrap_or(0),
        paced: None,
        resume: Resume::new(feed.timeout),
        rng: SmallRng::seed_from_u64(rand::random()),
        answer: None,
        sent_by: None,
        vain: 0,
        seek: None,
        session: None,
        seated: false,
        input_ended: false,
        failure: None,
        stopping: None,
        held: None,
        bytes: 0,
        said: (now, 0),
    };
    run.drive(stop).await
}

/// What became of a step towards a seat.
enum Step {
    Asked(Result<Published, Fault>),
    Joined(Box<SeatAddress>, Result<Box<Joined>, Fault>),
}

struct Run<'a> {
    way: Way,
    feed: &'a Feed,
    observer: &'a (dyn Fn(&Told) + Send + Sync),
    input: Input,
    cutter: Cutter,
    outbox: Outbox,
    medium: Option<Medium>,
    started: Instant,
    /// The same in Unix milliseconds.
    started_ms: u64,
    /// When the media of a file began to be sent.
    paced: Option<Instant>,
    resume: Resume,
    rng: SmallRng,
    answer: Option<Published>,
    /// The node that sent the feed to the seat that is opened next.
    sent_by: Option<NodeName>,
    /// Seats in a row that did not answer.
    vain: u32,
    /// The next seat on its way.
    seek: Option<BoxFuture<'static, Step>>,
    session: Option<Session>,
    /// Whether a node ever took the feed.
    seated: bool,
    input_ended: bool,
    /// What was wrong with the input; what came before is still sent.
    failure: Option<Fault>,
    /// Until when the input may end by itself.
    stopping: Option<time::Instant>,
    /// Since when the input is held up.
    held: Option<Instant>,
    bytes: u64,
    said: (Instant, u64),
}

/// What happened.
enum News {
    Read(Result<Option<bytes::Bytes>, Fault>),
    Step(Step),
    Control(Result<Option<Frame>, Fault>),
    Stream(streams::Ended),
    Stop,
    Time,
}

impl Run<'_> {
    async fn drive(&mut self, stop: &mut mpsc::Receiver<()>) -> Result<Status, Fault> {
        let mut ticks = time::interval(LOOK);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let may_read = self.may_read();
            let news = tokio::select! {
                read = self.input.next(), if may_read => News::Read(read),
                news = session_news(&mut self.session) => news,
                step = step(&mut self.seek) => News::Step(step),
                Some(()) = stop.recv() => News::Stop,
                _ = ticks.tick() => News::Time,
            };
            match news {
                News::Read(read) => self.read(read)?,
                News::Step(step) => {
                    self.seek = None;
                    self.stepped(step)?;
                }
                News::Control(frame) => self.told(frame)?,
                News::Stream(ended) => self.stream_ended(ended),
                News::Stop if self.stopping.is_some() => return Err(Fault::new(Code::Interrupted, "interrupted")),
                News::Stop => self.stop(),
                News::Time => self.time()?,
            }
            self.send();
            if self.input_ended && self.outbox.is_empty() {
                return self.finish(stop).await;
            }
        }
    }

    /// Whether the next bytes are to be read. What a node takes slowly is not piled up for a while, for who reads from a
    /// pipe may well be faster than any network; but what is live does not wait.
    fn may_read(&mut self) -> bool {
        if self.input_ended {
            return false;
        }
        if self.outbox.bytes() <= MOST / 2 || self.session.is_none() {
            self.held = None;
            return true;
        }
        let now = clock::now();
        now.saturating_duration_since(*self.held.get_or_insert(now)) >= HOLD
    }

    fn read(&mut self, read: Result<Option<bytes::Bytes>, Fault>) -> Result<(), Fault> {
        let now = clock::now();
        let cut = match read {
            Ok(Some(bytes)) => {
                self.bytes += bytes.len() as u64;
                let cut = self.cutter.push(now, &bytes);
                self.pace(now);
                cut.map_err(|error| Fault::new(Code::BadRequest, error.to_string()))
            }
            Ok(None) => {
                self.input_ended = true;
                self.cutter.finish().map_err(|error| Fault::new(Code::BadRequest, error.to_string()))
            }
            Err(fault) => Err(fault),
        };
        if let Err(fault) = cut {
            if self.outbox.made() == 0 {
                let interrupted = || Fault::new(Code::Interrupted, "interrupted before there was anything to send");
                return Err(if self.stopping.is_some() { interrupted() } else { fault });
            }
            // What came before is good.
            (self.input_ended, self.failure) = (true, Some(fault));
            self.cutter.flush();
        }
        self.cuts(now)?;
        if self.input_ended {
            self.outbox.end(now)?;
        }
        self.bound(now);
        Ok(())
    }

    /// A file is sent as fast as its pictures are shown.
    fn pace(&mut self, now: Instant) {
        if !self.input.is_paced() {
            return self.cutter.flush();
        }
        let begun = *self.paced.get_or_insert(now);
        if self.input.wait_until(now, begun + self.cutter.clock()) {
            self.cutter.flush();
        }
    }

    fn cuts(&mut self, now: Instant) -> Result<(), Fault> {
        while let Some(cut) = self.cutter.next_cut() {
            match cut {
                Cut::Medium(medium) => {
                    (self.observer)(&Told::Medium(medium.clone()));
                    self.medium = Some(medium);
                    let action = self.resume.handle(now, Event::Start, &mut self.rng);
                    self.act(action)?;
                }
                Cut::Group(head) => {
                    let elapsed = now.saturating_duration_since(self.started).as_millis();
                    let at_ms = self.started_ms.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX));
                    self.outbox.begin(now, at_ms, head)?;
                }
                Cut::Piece { media, whole } => self.outbox.piece(media, whole)?,
                Cut::Warning(warning) => (self.observer)(&Told::Warning(warning.to_string())),
            }
        }
        Ok(())
    }

    /// Keeps what waits within its bounds.
    fn bound(&mut self, now: Instant) {
        let given_up = self.outbox.give_up(now);
        if given_up > 0 {
            let total = self.outbox.given_up();
            let text = format!("no node takes the feed fast enough; groups given up: {given_up} ({total} in all)");
            (self.observer)(&Told::Warning(text));
        }
    }

    /// Hands what is new to the session's streams.
    fn send(&mut self) {
        if let Some(session) = &mut self.session {
            session.streams.send(&mut self.outbox);
        }
    }

    fn stream_ended(&mut self, ended: streams::Ended) {
        let Some(session) = &mut self.session else { return };
        if session.streams.ended(&ended) {
            self.vain = 0;
            self.resume.handle(clock::now(), Event::Progress, &mut self.rng);
        }
    }

    fn stop(&mut self) {
        let now = time::Instant::now();
        let patience = if self.input.is_paced() { Duration::ZERO } else { LAST_WORDS };
        self.stopping = Some(now + patience);
    }

    fn time(&mut self) -> Result<(), Fault> {
        let now = clock::now();
        if self.stopping.is_some_and(|until| time::Instant::now() >= until) && !self.input_ended {
            self.read(Ok(None))?;
        }
        self.bound(now);
        self.look(now)?;
        let (said, before) = self.said;
        let since = now.saturating_duration_since(said);
        if since >= EVERY {
            self.said = (now, self.bytes);
            let rate = Bitrate::over(self.bytes - before, since);
            (self.observer)(&Told::Status(Status { rate, ..self.status() }));
            let steady = |session: &Session| !session.silent && now.saturating_duration_since(session.since) >= STEADY;
            if self.session.as_ref().is_some_and(steady) {
                self.vain = 0;
                self.resume.handle(now, Event::Progress, &mut self.rng);
            }
        }
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            node: self.session.as_ref().map(|session| session.at.node.clone()),
            rate: Bitrate::over(self.bytes, self.started.elapsed()),
            bytes: self.bytes,
            groups: self.outbox.made(),
            given_up: self.outbox.given_up(),
            waiting: self.outbox.bytes(),
            elapsed: self.started.elapsed(),
        }
    }

    /// All has arrived: says so, and waits a moment for the node to take note.
    async fn finish(&mut self, stop: &mut mpsc::Receiver<()>) -> Result<Status, Fault> {
        let status = self.status();
        if let Some(session) = self.session.take() {
            tokio::select! {
                () = session.finish(GOODBYE) => {}
                Some(()) = stop.recv(), if self.stopping.is_some() => {}
            }
        }
        match self.failure.take() {
            Some(fault) => Err(fault),
            None => Ok(status),
        }
    }
}

async fn step(seek: &mut Option<BoxFuture<'static, Step>>) -> Step {
    match seek {
        Some(seek) => seek.await,
        None => pending().await,
    }
}

async fn session_news(session: &mut Option<Session>) -> News {
    let Some(session) = session else { return pending().await };
    tokio::select! {
        ended = session.streams.next() => News::Stream(ended),
        frame = session.incoming.next(Duration::MAX) => News::Control(frame),
    }
}
