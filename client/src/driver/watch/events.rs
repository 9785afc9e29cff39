//! Reactions to the events of a watched feed's sessions: what they send, and how they move, fall silent and end.

use usher_proto::{Fault, feed::Piece};
use usher_session::{
    FeedSignal, SessionEvent, StreamEvent,
    replies::{moved_seat, refusal},
};

use super::{WatchSession, Watcher};
use crate::{clock, failover::PendingSwitch};

impl Watcher<'_> {
    /// Handles events, pieces of one stream together.
    pub(super) fn handle_all(&mut self, events: impl Iterator<Item = SessionEvent>) -> Result<(), Fault> {
        let mut pieces: Option<(u64, u64, Vec<Piece>)> = None;
        for SessionEvent { session, event } in events {
            if let StreamEvent::Piece(stream, piece) = event {
                match &mut pieces {
                    Some((_, of, more)) if *of == stream => more.push(piece),
                    other => {
                        if let Some((session, stream, pieces)) = other.replace((session, stream, vec![piece])) {
                            self.pieces(session, stream, pieces)?;
                        }
                    }
                }
                continue;
            }
            if let Some((session, stream, pieces)) = pieces.take() {
                self.pieces(session, stream, pieces)?;
            }
            self.handle(session, event)?;
        }
        match pieces {
            Some((session, stream, pieces)) => self.pieces(session, stream, pieces),
            None => Ok(()),
        }
    }

    fn pieces(&mut self, number: u64, stream: u64, pieces: Vec<Piece>) -> Result<(), Fault> {
        let known = self.sessions.iter().any(|session| session.number == number);
        let Some(playout) = self.playout.as_mut().filter(|_| known) else { return Ok(()) };
        match playout.handle_pieces(clock::now(), stream, pieces) {
            Ok(Some(sequence)) => self.delivered(number, sequence),
            Ok(None) => {}
            Err(fault) => self.lost(number, &fault)?,
        }
        Ok(())
    }

    /// A session brought a verified part of a group: it keeps the feed from there on. The other sessions end, except one
    /// that leaves and still brings the groups before.
    fn delivered(&mut self, number: u64, sequence: u64) {
        self.failover.progress();
        let Some(session) = self.sessions.iter_mut().find(|session| session.number == number) else { return };
        let current = self.current == Some(number);
        if session.leaving.is_some() || current && !session.silent {
            return;
        }
        let (at, reason, back) = (session.at.clone(), session.reason.clone(), std::mem::take(&mut session.silent));
        let reported = std::mem::replace(&mut session.reported, true);
        if back && current {
            tracing::debug!(node = %at.node, "silent session delivers again");
            self.failover.seated(&at);
        } else if !reported {
            self.report_seat(at, reason);
        }
        self.current = Some(number);
        let done = |one: &mut WatchSession| one.number != number && one.leaving.is_none_or(|until| sequence >= until);
        let gone: Vec<WatchSession> = self.sessions.extract_if(.., done).collect();
        self.end_streams(&gone);
    }

    fn handle(&mut self, number: u64, event: StreamEvent) -> Result<(), Fault> {
        let Some(session) = self.sessions.iter_mut().find(|session| session.number == number) else { return Ok(()) };
        let Some(playout) = &mut self.playout else { return Ok(()) };
        let at = session.at.clone();
        let signal = match event {
            StreamEvent::Group(stream, head) => match playout.handle_group(stream, head) {
                Ok(begun) => {
                    if begun {
                        session.streams.insert(stream);
                    }
                    return Ok(());
                }
                Err(fault) => return self.lost(number, &fault),
            },
            // Handled together with others.
            StreamEvent::Piece(..) => return Ok(()),
            StreamEvent::End(stream, given_up) => {
                session.streams.remove(&stream);
                playout.handle_stream_end(stream, given_up);
                return Ok(());
            }
            StreamEvent::Signal(signal) => signal,
        };
        match signal {
            FeedSignal::Skipped(first, end) => playout.handle_skipped(first, end),
            FeedSignal::Finish(end) => playout.handle_finish(clock::now(), end),
            FeedSignal::Moved(moved) => {
                let until = moved.until;
                session.leaving = Some(until);
                self.failover.seated(&at);
                self.failover.set_switch(Some(PendingSwitch::Move { until }));
                let next = self.failover.moved(moved_seat(&at, *moved));
                return self.act(next);
            }
            FeedSignal::Silent(fault) => {
                session.silent = true;
                self.connector.retire(&at, &session.connection);
                if self.current == Some(number) && !self.failover.is_pending() {
                    self.failover.seated(&at);
                    let next = self.failover.lost(&fault);
                    return self.act(next);
                }
            }
            FeedSignal::Refused(refused) => return self.lost(number, &refusal(&at, &refused)),
            FeedSignal::Lost(fault) => return self.lost(number, &fault),
        }
        Ok(())
    }
}
