//! The seats of a watched feed: how one is opened, beside others or after them, and what an open one is. Refuses to know what
//! its groups are worth.

use std::{collections::HashSet, sync::Arc, time::Duration};

use rand::rngs::SmallRng;
use tokio::time;
use usher_proto::{
    Code, Fault, Title,
    model::{FeedSetupInfo, SeatAddress},
    pb::wire::{FeedStart, Open},
    wire::Frame,
};
use usher_transport::{Connection, SendStream};

use super::{
    super::{
        join::Way,
        renewal::Renewal,
        session::{LATE, reason},
        words::{blame, refusal},
    },
    Live, Start,
};
use crate::{
    clock,
    core::{
        playout::Playout,
        resume::{Action, Event},
    },
    quic::{Incoming, Reader, silent},
};

/// A seat that is being opened.
pub(super) struct Joining {
    pub(super) number: u64,
    pub(super) at: SeatAddress,
    pub(super) why: String,
}

/// A seat that is open, before anything is listened to.
pub(super) struct Joined {
    pub(super) incoming: Incoming,
    pub(super) send: SendStream,
    pub(super) setup: FeedSetupInfo,
}

/// An open session.
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) at: SeatAddress,
    pub(super) why: String,
    pub(super) connection: Connection,
    /// Its groups that are on their way.
    pub(super) streams: HashSet<u64>,
    /// Nothing was heard of its node for a while.
    pub(super) silent: bool,
    /// The session goes on elsewhere, from this group on.
    pub(super) leaving: Option<u64>,
    /// It was told of.
    pub(super) told: bool,
    pub(super) _reader: Reader,
    pub(super) _renewal: Option<Renewal>,
}

impl Live<'_> {
    /// Begins to open a seat, beside those that do not answer.
    pub(super) fn open(&mut self, seat: usize) -> Result<(), Fault> {
        let lost = || Fault::new(Code::Internal, "no such seat");
        let sent_by = self.sent_by.take();
        let answer = self.answer.as_ref().ok_or_else(lost)?;
        let at = answer.seats.get(seat).cloned().ok_or_else(lost)?;
        self.begun += 1;
        let joining = Joining { number: self.begun, why: reason(sent_by, seat, answer), at };
        let open = Open {
            ticket: joining.at.ticket.clone(),
            request_id: answer.request_id.clone(),
            watch: Some(self.begin_at()),
            ..Open::default()
        };
        let (way, title, timeout) = (self.way(), self.watch.title.clone(), self.watch.order.timeout);
        self.latest = Some((joining.number, time::Instant::now() + LATE));
        self.joins.spawn(async move {
            let joined = join(&way, &joining.at, &open, &title, timeout).await;
            (joining, joined)
        });
        Ok(())
    }

    pub(super) fn way(&self) -> Way {
        Way { master: Arc::clone(self.view.master), pool: Arc::clone(self.view.pool), throttle: None }
    }

    /// Where the next seat is to begin.
    pub(super) fn begin_at(&self) -> FeedStart {
        let latency_ms = u64::try_from(self.watch.latency.as_millis()).unwrap_or(u64::MAX);
        let start = FeedStart { latency_ms, ..FeedStart::default() };
        let from = self.playout.as_ref().and_then(Playout::resume_from);
        match (from, self.watch.start) {
            (Some(from), _) => FeedStart { from_group: self.from.unwrap_or(from).max(from), ..start },
            (None, Start::LastWhole) => start,
            (None, Start::Newest) => FeedStart { newest: true, ..start },
            (None, Start::Back(back)) => {
                FeedStart { back_ms: u64::try_from(back.as_millis()).unwrap_or(u64::MAX).max(1), ..start }
            }
        }
    }

    /// The seat that was opened last has not answered yet: the next is tried beside it.
    pub(super) fn late(&mut self, rng: &mut SmallRng) -> Result<(), Fault> {
        self.latest = None;
        let fault = match self.resume.seat() {
            Some(node) => silent(node, LATE),
            None => Fault::new(Code::Timeout, "a node does not answer"),
        };
        tracing::debug!(%fault, "the next seat is tried beside it");
        let action = self.resume.handle(clock::now(), Event::Lost(&fault), rng);
        self.act(action, rng)
    }

    pub(super) fn not_joined(&mut self, joining: &Joining, fault: &Fault, rng: &mut SmallRng) -> Result<(), Fault> {
        if self.latest.is_some_and(|(number, _)| number == joining.number) {
            self.latest = None;
            return self.after(Event::Lost(fault), fault, rng);
        }
        // Others were begun since, or the last word is spoken.
        match self.verdict.take() {
            Some(verdict) => self.act(Action::Fail(verdict), rng),
            None => Ok(()),
        }
    }
}

/// Opens a session and takes its set-up information.
async fn join(way: &Way, at: &SeatAddress, open: &Open, title: &Title, timeout: Duration) -> Result<Joined, Fault> {
    let stream = way.pool.open(way.master.address(), at, open, None);
    let opened = time::timeout(timeout, stream).await.unwrap_or_else(|_| Err(silent(&at.node, timeout)));
    let (mut incoming, send) = opened?;
    let wrong = |what: String| blame(at, Fault::new(Code::Internal, what));
    let send = send.ok_or_else(|| wrong("our side of the stream is closed".to_owned()))?;
    let setup = match incoming.next(timeout).await? {
        Some(Frame::Setup(setup)) => FeedSetupInfo::try_from(setup),
        Some(Frame::Refused(refused)) => return Err(refusal(at, &refused)),
        Some(_) => return Err(wrong("media came before the set-up information".to_owned())),
        None => return Err(blame(at, Fault::new(Code::Network, "the stream ended before the set-up information"))),
    };
    let setup = setup.map_err(|error| wrong(format!("set-up information: {error}")))?;
    if setup.title != *title {
        return Err(wrong(format!("sends `{}` where `{title}` was asked for", setup.title)));
    }
    Ok(Joined { incoming, send, setup })
}
