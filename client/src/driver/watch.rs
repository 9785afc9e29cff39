//! Watches one feed: resolve, open, verify, write to the sink, and after a failure again from the first incomplete group.
//!
//! While another seat is opened the current one continues; whichever brings a group first keeps the session, and
//! `core::playout` drops what is received twice. Leaves the destination of media to the [`FeedSink`].

mod events;
mod interface;
mod session;

use tokio::sync::mpsc;
use usher_proto::{Code, Fault, model::SeatAddress};
use usher_session::{SessionEvent, replies::with_node};

pub(crate) use self::interface::WatchOrder;
pub use self::interface::{FeedEvent, FeedSink, FeedStats, StartAt};
use self::session::{OpenFeed, WatchSession};
use super::Connector;
use crate::{
    clock,
    core::playout::Playout,
    failover::{Attempt, Failover, Next, Query, Update},
    master::Answer,
};

/// Events that wait; while the queue is full nothing is read, and the node sees a slow viewer.
const QUEUE: usize = 256;

/// Watches a feed until it is over, or its wanted duration was received.
pub(crate) async fn watch<S: FeedSink>(
    connector: &Connector,
    order: &WatchOrder,
    sink: &mut S,
    observer: &(dyn Fn(&FeedEvent) + Send + Sync),
) -> Result<FeedStats, Fault> {
    let (sender, events) = mpsc::channel(QUEUE);
    let report = move |fault: &Fault| observer(&FeedEvent::SeatFailed(fault.clone()));
    let mut watcher = Watcher {
        connector: connector.unlimited(),
        observer,
        order,
        failover: Failover::new(order.order.timeout, report),
        playout: None,
        answer: None,
        sessions: Vec::new(),
        current: None,
        sender,
        events,
        bytes: 0,
    };
    watcher.drive(sink).await
}

struct Watcher<'a> {
    connector: Connector,
    observer: &'a (dyn Fn(&FeedEvent) + Send + Sync),
    order: &'a WatchOrder,
    failover: Failover<'a, Answer, OpenFeed>,
    playout: Option<Playout>,
    answer: Option<Answer>,
    sessions: Vec<WatchSession>,
    /// Number of the session that brought something last.
    current: Option<u64>,
    sender: mpsc::Sender<SessionEvent>,
    events: mpsc::Receiver<SessionEvent>,
    /// Media written, in bytes.
    bytes: u64,
}

impl Watcher<'_> {
    async fn drive<S: FeedSink>(&mut self, sink: &mut S) -> Result<FeedStats, Fault> {
        let next = self.failover.start();
        self.act(next)?;
        let mut events = Vec::with_capacity(QUEUE);
        loop {
            let deadline = self.playout.as_ref().and_then(Playout::next_timeout);
            tokio::select! {
                _count = self.events.recv_many(&mut events, QUEUE) => self.handle_all(events.drain(..))?,
                update = self.failover.next() => match update? {
                    Update::Answer(answer) => self.answered(answer)?,
                    Update::Opened(attempt, open) => self.opened(attempt, open)?,
                    Update::NotOpened(attempt, fault) => {
                        let next = self.failover.not_opened(&attempt, &fault);
                        self.act(next)?;
                    }
                    Update::Late(next) => self.act(next)?,
                },
                () = clock::sleep_until(deadline) => {}
            }
            if self.write(sink).await? {
                return Ok(self.stats());
            }
        }
    }

    /// Writes what can be played; returns whether the feed is over.
    async fn write<S: FeedSink>(&mut self, sink: &mut S) -> Result<bool, Fault> {
        loop {
            let Some(playout) = &mut self.playout else { return Ok(false) };
            let Some(media) = playout.poll_media(clock::now()) else { return Ok(playout.is_over(clock::now())) };
            self.bytes += media.iter().map(|media| media.len() as u64).sum::<u64>();
            sink.write(media).await?;
            (self.observer)(&FeedEvent::Progress(self.stats()));
        }
    }

    fn stats(&self) -> FeedStats {
        let counts = |playout: &Playout| (playout.played(), playout.dropped(), playout.complete_bytes());
        let (groups, dropped, whole) = self.playout.as_ref().map_or((0, 0, 0), counts);
        FeedStats { groups, dropped, bytes: self.bytes, whole }
    }

    fn act(&mut self, next: Next) -> Result<(), Fault> {
        match next {
            Next::Wait => Ok(()),
            // An open session may recover.
            Next::Fail(_) if !self.sessions.is_empty() => Ok(()),
            Next::Fail(fault) => Err(fault),
            Next::Resolve(Query { after, exclude, failed }) => {
                let (master, request) =
                    (self.connector.master.clone(), self.order.order.request(None, &exclude, &failed));
                self.failover.resolve(after, async move { master.resolve(request).await });
                Ok(())
            }
            Next::Open(attempt) => self.open(attempt),
        }
    }

    fn answered(&mut self, answer: Result<Answer, Fault>) -> Result<(), Fault> {
        let next = match answer.and_then(|answer| self.usable(answer)) {
            Ok(mut answer) => {
                let (seats, reason) = (std::mem::take(&mut answer.seats), answer.reason.clone());
                self.answer = Some(answer);
                self.failover.resolved(seats, &reason)
            }
            Err(fault) => self.failover.refused(&fault),
        };
        self.act(next)
    }

    /// The answer, if it is about this feed, and the feed is the one that was watched so far.
    fn usable(&mut self, answer: Answer) -> Result<Answer, Fault> {
        let WatchOrder { title, latency, duration, .. } = self.order;
        let wrong = |what: &str| Fault::new(Code::Internal, format!("the master's answer cannot be used: {what}"));
        let live = answer.live.as_ref().ok_or_else(|| wrong("it describes no feed"))?;
        if answer.title != *title {
            return Err(wrong("it is about another title than asked for"));
        }
        match &self.playout {
            Some(playout) if *playout.key() != live.key => {
                return Err(Fault::new(Code::ContentChanged, format!("`{title}` is another feed now; watch it anew")));
            }
            Some(_) => {}
            None => self.playout = Some(Playout::new(title.clone(), live.key, *latency, *duration)),
        }
        Ok(answer)
    }

    /// A seat is open: its groups are received beside those of the current one.
    fn opened(&mut self, attempt: Attempt, open: OpenFeed) -> Result<(), Fault> {
        if let Some(playout) = &mut self.playout {
            playout.handle_setup(open.setup.first);
        }
        let mut session = WatchSession::new(&self.connector, attempt, open, self.sender.clone())?;
        self.failover.seated(&session.at);
        session.reported = self.current.is_none();
        if session.reported {
            self.current = Some(session.number);
            self.report_seat(session.at.clone(), session.reason.clone());
        }
        self.sessions.push(session);
        Ok(())
    }

    fn report_seat(&self, at: SeatAddress, reason: String) {
        (self.observer)(&FeedEvent::Seated { node: at.node, reason });
    }

    /// A session failed.
    fn lost(&mut self, number: u64, fault: &Fault) -> Result<(), Fault> {
        let gone: Vec<WatchSession> = self.sessions.extract_if(.., |session| session.number == number).collect();
        let Some(at) = gone.first().map(|session| session.at.clone()) else { return Ok(()) };
        self.end_streams(&gone);
        if self.current == Some(number) {
            self.current = None;
        }
        let over = self.playout.as_ref().is_some_and(Playout::is_finished);
        let elsewhere = self.sessions.iter().any(|session| session.leaving.is_none() && !session.silent);
        let forged = fault.code == Code::VerificationFailed;
        // A node that sent wrong bytes is reported as such, whatever is pending.
        if over || elsewhere || self.failover.is_pending() && !forged {
            tracing::debug!(node = %at.node, error = %fault, "session failed; the feed continues elsewhere");
            return Ok(());
        }
        self.failover.seated(&at);
        let next = if forged { self.failover.lost(&with_node(&at, fault.clone())) } else { self.failover.lost(fault) };
        self.act(next)
    }

    /// Streams of these sessions bring nothing more.
    fn end_streams(&mut self, sessions: &[WatchSession]) {
        let Some(playout) = &mut self.playout else { return };
        for stream in sessions.iter().flat_map(|session| &session.streams) {
            playout.handle_stream_end(*stream, false);
        }
    }
}
