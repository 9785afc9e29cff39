//! The sessions of a watched feed: how a seat is opened, and what an open one is. Leaves the verification of its groups to
//! `core::playout`.

use std::{collections::HashSet, time::Duration};

use tokio::sync::mpsc;
use usher_proto::{
    Code, Fault, Title,
    model::{FeedSetupInfo, SeatAddress},
    pb::wire::{FeedStart, Open},
    units,
};
use usher_session::{
    FrameReader, ReaderTask, SessionEvent,
    replies::{feed_setup, with_node},
};
use usher_transport::{Connection, SendStream};

use super::{StartAt, Watcher};
use crate::{
    core::playout::Playout,
    driver::{
        Connector,
        renewal::{self, Renewal},
    },
    failover::{Attempt, PendingSwitch},
};

/// An open seat, before its groups are received.
pub(super) struct OpenFeed {
    incoming: FrameReader,
    send: SendStream,
    pub(super) setup: FeedSetupInfo,
}

/// A session whose groups are received.
pub(super) struct WatchSession {
    pub(super) number: u64,
    pub(super) at: SeatAddress,
    /// Why this seat.
    pub(super) reason: String,
    pub(super) connection: Connection,
    /// Streams of its groups that are being received.
    pub(super) streams: HashSet<u64>,
    /// Its connection is silent.
    pub(super) silent: bool,
    /// The session continues elsewhere, from this group on.
    pub(super) leaving: Option<u64>,
    /// The observer knows of it.
    pub(super) reported: bool,
    _reader: ReaderTask,
    _renewal: Option<Renewal>,
}

impl WatchSession {
    /// Begins to receive; events go to `events`, marked with the attempt's number.
    pub(super) fn new(
        connector: &Connector,
        attempt: Attempt,
        open: OpenFeed,
        events: mpsc::Sender<SessionEvent>,
    ) -> Result<Self, Fault> {
        let Attempt { number, at, reason } = attempt;
        let OpenFeed { incoming, send, setup } = open;
        let connection = incoming.connection().clone();
        let reader = connector.pool.read_feed(incoming, send, setup.subscription, number, events)?;
        let renewal = renewal::keep(connector, &connection, &at);
        Ok(Self {
            number,
            at,
            reason,
            connection,
            streams: HashSet::new(),
            silent: false,
            leaving: None,
            reported: false,
            _reader: reader,
            _renewal: renewal,
        })
    }
}

impl Watcher<'_> {
    /// Begins to open a seat.
    pub(super) fn open(&mut self, attempt: Attempt) -> Result<(), Fault> {
        let lost = || Fault::new(Code::Internal, "a seat without an answer");
        let at = attempt.at.clone();
        let open = Open {
            ticket: at.ticket.clone(),
            request_id: self.answer.as_ref().ok_or_else(lost)?.request_id.clone(),
            watch: Some(self.start()),
            ..Open::default()
        };
        let (connector, title) = (self.connector.clone(), self.order.title.clone());
        let timeout = self.order.order.timeout;
        self.failover.open(attempt, async move { join(&connector, &at, &open, &title, timeout).await });
        Ok(())
    }

    /// The group that the next seat begins with.
    fn start(&self) -> FeedStart {
        let start = FeedStart { latency_ms: units::millis(self.order.latency), ..FeedStart::default() };
        let from = self.playout.as_ref().and_then(Playout::resume_from);
        let announced = match self.failover.switch() {
            Some(PendingSwitch::Move { until }) => until,
            _ => 0,
        };
        match (from, self.order.start) {
            (Some(from), _) => FeedStart { from_group: announced.max(from), ..start },
            (None, StartAt::LastWhole) => start,
            (None, StartAt::Newest) => FeedStart { newest: true, ..start },
            (None, StartAt::Back(back)) => FeedStart { back_ms: units::millis(back).max(1), ..start },
        }
    }
}

/// Opens a session and reads its set-up information.
async fn join(
    connector: &Connector,
    at: &SeatAddress,
    open: &Open,
    title: &Title,
    timeout: Duration,
) -> Result<OpenFeed, Fault> {
    let (mut incoming, send) = connector.open(at, open, timeout).await?;
    let send = send.ok_or_else(|| with_node(at, Fault::new(Code::Internal, "the stream's sending side is closed")))?;
    let (setup, _) = feed_setup(&mut incoming, at, timeout, title).await?;
    Ok(OpenFeed { incoming, send, setup })
}
