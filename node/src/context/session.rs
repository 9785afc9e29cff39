//! An active session: counted by the meter, scheduled, and reported to the master until it drops.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use usher_budget::Prefix;
use usher_proto::{
    Bitrate, ContentId, Fault, SessionId,
    model::Begun,
    ticket::{Purpose, Ticket},
};

use super::{NodeContext, OpenedTitle};
use crate::{core::schedule::Terms, scheduler::Slot};

/// The meter's volume number of feeds, which are read from memory.
const NO_VOLUME: u16 = u16::MAX - 1;

/// The stream that a session runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionStream {
    /// Identifies the connection.
    pub(crate) connection: u64,
    /// Network of the client; `None` for a node.
    pub(crate) holder: Option<Prefix>,
    /// Priority among the streams of the connection; higher goes first.
    pub(crate) priority: i32,
}

/// A session that is counted as active until it drops.
pub(crate) struct ActiveSession {
    context: Arc<NodeContext>,
    id: SessionId,
    slot: Slot,
    began: Instant,
    bytes: u64,
}

impl NodeContext {
    /// Starts a session for a title, if admission control still allows it.
    ///
    /// # Errors
    /// `NO_CAPACITY`, `BUDGET_EXCEEDED`, `UNEQUIPPED` for a rate above the limit of one session, `TICKET_REPLAYED` for an active session,
    /// `DRAINING` when a drain began while the title was opened.
    pub(crate) fn begin(self: &Arc<Self>, opened: &OpenedTitle, stream: SessionStream) -> Result<ActiveSession, Fault> {
        let ticket = opened.session.ticket();
        let SessionStream { connection, holder, priority } = stream;
        let (purpose, rate) = (ticket.purpose, Bitrate(ticket.rate));
        let terms = Terms { purpose, rate, connection, priority, live: false };
        self.activate(ticket, (opened.media.content(), opened.volume), terms, holder)
    }

    /// Starts a session that watches or relays a feed.
    ///
    /// # Errors
    /// As [`NodeContext::begin`].
    pub(crate) fn begin_feed(self: &Arc<Self>, ticket: &Ticket, stream: SessionStream) -> Result<ActiveSession, Fault> {
        let SessionStream { connection, holder, priority } = stream;
        let terms = Terms { purpose: Purpose::Play, rate: Bitrate(ticket.rate), connection, priority, live: true };
        self.activate(ticket, (None, NO_VOLUME), terms, holder)
    }

    fn activate(
        self: &Arc<Self>,
        ticket: &Ticket,
        (content, volume): (Option<ContentId>, u16),
        terms: Terms,
        holder: Option<Prefix>,
    ) -> Result<ActiveSession, Fault> {
        self.ensure_serving()?;
        let Terms { rate, purpose, .. } = terms;
        let (now, session) = (Instant::now(), ticket.session);
        let begun = Begun { session, title: ticket.title.clone(), content, rate, purpose };
        self.meter().handle_begin(now, begun, volume, ticket.burst, holder)?;
        self.session_events.notify_one();
        self.sessions.send_modify(|count| *count += 1);
        let slot = self.scheduler.join(session, terms);
        Ok(ActiveSession { context: self.clone(), id: session, slot, began: now, bytes: 0 })
    }
}

impl ActiveSession {
    /// Bytes to send at a time.
    pub(crate) fn quantum(&self) -> u64 {
        self.slot.quantum()
    }

    /// Whether the scheduler limits it to its rate in the long run.
    pub(crate) fn paced(&self) -> bool {
        self.slot.paced()
    }

    /// Waits until `bytes` may be sent, at most [`ActiveSession::quantum`].
    pub(crate) async fn turn(&self, bytes: u64) {
        self.slot.turn(bytes).await;
    }

    /// Marks that only the reader limits the session from here until [`ActiveSession::sent`].
    pub(crate) fn await_reader(&self) {
        self.context.meter().handle_waiting_for_reader(Instant::now(), self.id);
    }

    /// Marks that the session waits for data from elsewhere, until the next mark.
    pub(crate) fn await_source(&self) {
        self.context.meter().handle_waiting_for_source(Instant::now(), self.id);
    }

    /// Counts written bytes.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.sent_and_taken(bytes, bytes);
    }

    /// Counts written bytes where a reset may discard some of them: the reader has `taken` so many of all that was
    /// written.
    pub(crate) fn sent_and_taken(&mut self, bytes: u64, taken: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.context.meter().handle_sent(Instant::now(), self.id, bytes, taken);
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Time since the session started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for ActiveSession {
    fn drop(&mut self) {
        self.context.meter().handle_end(Instant::now(), self.id);
        self.context.session_events.notify_one();
        self.context.sessions.send_modify(|count| *count = count.saturating_sub(1));
    }
}
