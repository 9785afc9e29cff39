//! One title over any number of seats: resolve, open, verify, hand out, and after a loss again.
//!
//! Owns the loop between the machines of the core and the shells around it. Refuses to know where bytes go ([`Sink`])
//! and who watches ([`Progress`]).

mod check;
mod join;
mod live;
mod order;
pub(crate) mod publish;
mod renewal;
mod session;
mod spread;
mod stream;
mod words;

use std::{
    future::Future,
    ops,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, rngs::SmallRng};
use usher_proto::{
    Code, ContentId, Fault, NodeName, Title,
    model::{SeatAddress, What},
};

pub use self::live::{Drain, Sight, Start, Tally};
use self::{
    join::Way,
    session::{Abroad, Next},
    spread::Spread,
    stream::Stream,
};
pub(crate) use self::{
    live::{View, Watch, watch},
    order::Order,
};
use crate::{
    clock,
    core::{
        assembler::{Assembler, Piece},
        resume::{Action, Event, Resume},
    },
    master::{Answer, Master},
    quic::{Pool, Throttle},
};

/// What is about to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The title.
    pub title: Title,
    /// Its content; `None` while no node has hashed it.
    pub content: Option<ContentId>,
    /// Bytes of the whole title.
    pub size: u64,
    /// The wanted bytes of it.
    pub range: ops::Range<u64>,
}

/// Where verified bytes go.
pub trait Sink: Send {
    /// Learns what is coming. Answers how many groups of the wanted range it has already, verified by an earlier run
    /// under the same content id; 0 if that is not known.
    fn begin(&mut self, about: &About) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Takes the next bytes, in order and without gaps: those that `make` gives, which is called where it may take a
    /// while, and best on the thread that writes. Answers what else it gives.
    fn write<T: Send + 'static>(
        &mut self,
        make: impl FnOnce() -> (Vec<Piece>, T) + Send + 'static,
    ) -> impl Future<Output = Result<T, Fault>> + Send;

    /// Every byte of the range is there and verified.
    fn finish(&mut self, content: ContentId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// There will be no more for now: keeps what a later run can use.
    fn pause(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// What an observer is told.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Bytes come from this node.
    Seated {
        /// The node.
        node: NodeName,
        /// Why: the master's reason, after which node's failure, or which node sent the session there.
        reason: String,
        /// What comes.
        about: About,
    },
    /// Bytes come from all of these nodes at once, or again from one.
    Shared(Vec<NodeName>),
    /// Where the transfer stands.
    Moved {
        /// Verified bytes of the wanted range.
        verified: u64,
        /// Bytes handed out, of which some may not be verified yet.
        received: u64,
        /// Bytes of the wanted range.
        total: u64,
    },
    /// A seat or the master failed; something else is tried.
    Lost(Fault),
}

/// A finished transfer.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The title.
    pub title: Title,
    /// Its content: what every byte was verified against.
    pub content: ContentId,
    /// Bytes of the wanted range.
    pub bytes: u64,
    /// Bytes of them that were there already.
    pub resumed: u64,
    /// The node that sent the last of them; `None` if all were there.
    pub node: Option<NodeName>,
    /// Why that node: the master's reason, after which node's failure, or which node sent the session there.
    pub reason: String,
    /// The request that the last answer was to, as `usher explain --request` takes it; empty if none was needed.
    pub request_id: String,
    /// How long it took.
    pub elapsed: Duration,
}

/// What an order runs with.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) master: &'a Arc<Master>,
    pub(crate) pool: &'a Arc<Pool>,
    pub(crate) throttle: Option<&'a Throttle>,
    pub(crate) observer: &'a (dyn Fn(&Progress) + Send + Sync),
}

impl Means<'_> {
    fn way(self) -> Way {
        Way { master: Arc::clone(self.master), pool: Arc::clone(self.pool), throttle: self.throttle.cloned() }
    }
}

/// Why several sources ended before the end.
enum End {
    /// The node or the way to it.
    There(Fault),
    /// The sink: no other seat helps.
    Here(Fault),
}

/// Runs an order to its end. `first` is the master's answer if it was asked already.
pub(crate) async fn run<S: Sink>(
    means: Means<'_>,
    order: &Order,
    sink: &mut S,
    first: Option<Result<Answer, Fault>>,
) -> Result<Outcome, Fault> {
    let mut rng = SmallRng::seed_from_u64(rand::random());
    let mut run = Run {
        means,
        order,
        resume: Resume::new(order.timeout),
        ongoing: None,
        answer: None,
        first,
        reason: String::new(),
        node: None,
        sent_by: None,
        current: None,
        next: None,
        abroad: Abroad::default(),
        started: clock::now(),
    };
    let result = run.drive(sink, &mut rng).await;
    if result.is_err() {
        sink.pause().await?;
    }
    result
}

/// A title of which something is known.
struct Ongoing {
    about: About,
    assembler: Assembler,
    resumed: u64,
    received: u64,
    /// Once several nodes may send it.
    spread: Option<Spread>,
    /// A node knows nothing of further ranges: each session brings all that is left.
    whole: bool,
}

struct Run<'a> {
    means: Means<'a>,
    order: &'a Order,
    resume: Resume,
    ongoing: Option<Ongoing>,
    answer: Option<Answer>,
    first: Option<Result<Answer, Fault>>,
    reason: String,
    node: Option<NodeName>,
    /// The node that sent the session to the seat that is opened next.
    sent_by: Option<NodeName>,
    /// What brings bytes.
    current: Option<Stream>,
    /// What goes on where that stops.
    next: Option<Stream>,
    /// What is under way beside.
    abroad: Abroad<'a>,
    started: Instant,
}

impl<'a> Run<'a> {
    async fn drive<S: Sink>(&mut self, sink: &mut S, rng: &mut SmallRng) -> Result<Outcome, Fault> {
        let mut next = Next::Act(self.resume.handle(clock::now(), Event::Start, rng));
        loop {
            next = match next {
                Next::Act(action) => self.act(action, sink, rng).await?,
                Next::Wait => self.wait(sink, rng).await?,
                Next::Done(content) => return self.finish(sink, content).await,
            };
        }
    }

    /// Takes the master's answer.
    async fn heard<S: Sink>(
        &mut self,
        answer: Result<Answer, Fault>,
        sink: &mut S,
        rng: &mut SmallRng,
    ) -> Result<Next, Fault> {
        Ok(match self.resolved(answer, sink).await? {
            Ok(nodes) => match self.complete().filter(|_| self.current.is_none()) {
                Some(content) => Next::Done(content),
                None => Next::Act(self.resume.handle(clock::now(), Event::Resolved(&nodes), rng)),
            },
            Err(fault) => Next::Act(self.after(Event::Refused(&fault), &fault, rng)),
        })
    }

    fn after(&mut self, event: Event<'_>, fault: &Fault, rng: &mut SmallRng) -> Action {
        let action = self.resume.handle(clock::now(), event, rng);
        tracing::debug!(reason = fault.code.reason(), %fault, ?action, "lost");
        self.tell(&action, Some(fault));
        action
    }

    fn tell(&self, action: &Action, fault: Option<&Fault>) {
        if let Some(fault) = fault.filter(|_| !matches!(action, Action::Fail(_))) {
            (self.means.observer)(&Progress::Lost(fault.clone()));
        }
    }

    /// Takes the seat that a node sent the session to in the place of its own. That is no failure, unless it never ends.
    fn moved(&mut self, to: SeatAddress, rng: &mut SmallRng) -> Action {
        let action = self.resume.handle(clock::now(), Event::Moved(&to.node), rng);
        tracing::debug!(to = %to.node, ?action, "moved");
        match (&action, self.answer.as_mut()) {
            (Action::Open(seat), Some(answer)) if self.resume.was_sent_there() => {
                if let Some(place) = answer.seats.get_mut(*seat) {
                    self.sent_by = Some(std::mem::replace(place, to).node);
                }
            }
            _ => self.tell(&action, self.resume.last_loss()),
        }
        action
    }

    /// Takes the master's answer. The outer error is the sink's; the inner one the master's.
    async fn resolved<S: Sink>(
        &mut self,
        answer: Result<Answer, Fault>,
        sink: &mut S,
    ) -> Result<Result<Vec<NodeName>, Fault>, Fault> {
        let known = self.ongoing.as_ref().and_then(|ongoing| ongoing.about.content);
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => return Ok(Err(fault)),
        };
        if let (What::Content(asked), Some(named)) = (&self.order.what, answer.content)
            && *asked != named
        {
            return Ok(Err(Fault::new(
                Code::ContentChanged,
                "the master answered with another content than asked for",
            )));
        }
        if let (What::Title(asked), None) = (&self.order.what, known)
            && *asked != answer.title
        {
            return Ok(Err(Fault::new(Code::Internal, "the master answered with another title than asked for")));
        }
        match &mut self.ongoing {
            Some(ongoing) => {
                let changed = known.is_some() && known != answer.content || ongoing.about.size != answer.size;
                if changed {
                    let text = format!("{} changed while it was fetched; run again to start over", answer.title);
                    return Ok(Err(Fault::new(Code::ContentChanged, text)));
                }
                ongoing.about.content = answer.content;
            }
            None => {
                let size = answer.size;
                let range = self.order.range.within(size).ok_or_else(|| {
                    Fault::new(Code::BadRange, format!("the range lies outside {} of {size} bytes", answer.title))
                })?;
                let content = match self.order.what {
                    What::Content(content) => Some(content),
                    What::Title(_) => answer.content,
                };
                let about = About { title: answer.title.clone(), content, size, range: range.clone() };
                let groups = sink.begin(&about).await?;
                let assembler = Assembler::new(size, range, groups);
                let resumed = assembler.progress();
                self.ongoing =
                    Some(Ongoing { about, assembler, resumed, received: resumed, spread: None, whole: false });
            }
        }
        let nodes = answer.seats.iter().map(|seat| seat.node.clone()).collect();
        self.answer = Some(answer);
        Ok(Ok(nodes))
    }

    /// The content, if every wanted byte of it is there.
    fn complete(&self) -> Option<ContentId> {
        self.ongoing
            .as_ref()
            .filter(|ongoing| ongoing.assembler.is_complete())
            .and_then(|ongoing| ongoing.about.content)
    }

    async fn finish<S: Sink>(&mut self, sink: &mut S, content: ContentId) -> Result<Outcome, Fault> {
        let lost = || Fault::new(Code::Internal, "the session ended before it began");
        let ongoing = self.ongoing.as_ref().ok_or_else(lost)?;
        sink.finish(content).await?;
        Ok(Outcome {
            title: ongoing.about.title.clone(),
            content,
            bytes: ongoing.assembler.total(),
            resumed: ongoing.resumed,
            node: self.node.clone(),
            reason: self.reason.clone(),
            request_id: self.answer.as_ref().map(|answer| answer.request_id.clone()).unwrap_or_default(),
            elapsed: self.started.elapsed(),
        })
    }
}

fn report(means: Means<'_>, ongoing: &Ongoing) {
    let (verified, total) = (ongoing.assembler.progress(), ongoing.assembler.total());
    (means.observer)(&Progress::Moved { verified, received: ongoing.received, total });
}
