//! Publishes one feed: its input is cut into groups, signed, and sent group by group to a node; after a failure to another,
//! from the oldest group on that no node has acknowledged. The input is read all the while.
//!
//! Where groups begin is decided in `usher_media::cut`, what waits in `core::outbox`, when a node is silent in `usher_session::core::stall`. Leaves
//! the source of the input to [`MediaInput`].

mod input;
mod interface;
mod seats;
mod session;
mod streams;

use std::{
    future::pending,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::mpsc, time};
use usher_media::cut::{Cut, Cutter};
use usher_proto::{
    Bitrate, Code, Fault,
    model::{Medium, Published},
    units,
    wire::Frame,
};
use usher_session::core::stall::CHECK_INTERVAL;

use self::session::{IngestSession, OpenIngest};
pub use self::{
    input::MediaInput,
    interface::{Publication, PublishEvent, PublishStats},
};
use super::Connector;
use crate::{
    clock,
    core::outbox::{MAX_BYTES, Outbox},
    failover::{Failover, Update},
};

/// Age from which on a session counts as progress, whatever becomes of it later.
const STEADY: Duration = Duration::from_secs(2);

/// Time that a slow node may delay the input, before the oldest groups are given up.
const MAX_INPUT_DELAY: Duration = Duration::from_secs(2);

/// Time that the input's writer has to end by itself after a request to stop.
const LAST_INPUT: Duration = Duration::from_millis(500);

/// Time that a node has to acknowledge the end of the feed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval of statistics.
const STATS: Duration = Duration::from_secs(1);

/// Publishes until the input ends, or a message asks to stop; a second one ends it at once.
///
/// # Errors
/// The failure of the input, or the one that ended the feed after the timeout.
pub(crate) async fn publish(
    connector: &Connector,
    feed: &Publication,
    input: MediaInput,
    stop: &mut mpsc::Receiver<()>,
    observer: &(dyn Fn(&PublishEvent) + Send + Sync),
) -> Result<PublishStats, Fault> {
    let now = clock::now();
    let report = move |fault: &Fault| observer(&PublishEvent::SeatFailed(fault.clone()));
    let mut publisher = Publisher {
        connector: connector.unlimited(),
        feed,
        observer,
        input,
        cutter: Cutter::new(feed.format),
        outbox: Outbox::new(feed.title.clone()),
        medium: None,
        started: now,
        started_ms: units::millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        paced: None,
        failover: Failover::new(feed.timeout, report).without_hedging(),
        answer: None,
        failures: 0,
        session: None,
        seated: false,
        input_ended: false,
        failure: None,
        stopping: None,
        held: None,
        bytes: 0,
        reported: (now, 0),
    };
    publisher.drive(stop).await
}

struct Publisher<'a> {
    connector: Connector,
    feed: &'a Publication,
    observer: &'a (dyn Fn(&PublishEvent) + Send + Sync),
    input: MediaInput,
    cutter: Cutter,
    outbox: Outbox,
    medium: Option<Medium>,
    started: Instant,
    /// The same in Unix milliseconds.
    started_ms: u64,
    /// When the media of a file began to be sent.
    paced: Option<Instant>,
    failover: Failover<'a, Published, OpenIngest>,
    answer: Option<Published>,
    /// Seats in a row that failed to open.
    failures: u32,
    session: Option<IngestSession>,
    /// Whether a node ever received the feed.
    seated: bool,
    input_ended: bool,
    /// The failure of the input; media before it is still sent.
    failure: Option<Fault>,
    /// Until when the input may end by itself.
    stopping: Option<time::Instant>,
    /// Since when the input is delayed.
    held: Option<Instant>,
    bytes: u64,
    /// Time and bytes of the last statistics.
    reported: (Instant, u64),
}

enum Wakeup {
    Read(Result<Option<bytes::Bytes>, Fault>),
    Seat(Box<Update<Published, OpenIngest>>),
    Control(Result<Option<Frame>, Fault>),
    Stream(streams::StreamEnded),
    Stop,
    Tick,
}

impl Publisher<'_> {
    async fn drive(&mut self, stop: &mut mpsc::Receiver<()>) -> Result<PublishStats, Fault> {
        let mut ticks = time::interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let may_read = self.may_read();
            let wakeup = tokio::select! {
                read = self.input.next(), if may_read => Wakeup::Read(read),
                wakeup = session_event(&mut self.session) => wakeup,
                update = self.failover.next() => Wakeup::Seat(Box::new(update?)),
                Some(()) = stop.recv() => Wakeup::Stop,
                _ = ticks.tick() => Wakeup::Tick,
            };
            match wakeup {
                Wakeup::Read(read) => self.read(read)?,
                Wakeup::Seat(update) => self.seat_update(*update)?,
                Wakeup::Control(frame) => self.control(frame)?,
                Wakeup::Stream(ended) => self.stream_ended(ended),
                Wakeup::Stop if self.stopping.is_some() => return Err(Fault::new(Code::Interrupted, "interrupted")),
                Wakeup::Stop => self.stop(),
                Wakeup::Tick => self.tick()?,
            }
            if let Some(session) = &mut self.session {
                session.streams.send(&mut self.outbox);
            }
            if self.input_ended && self.outbox.is_empty() {
                return self.finish(stop).await;
            }
        }
    }

    /// Whether more input is read. A slow node delays it for a while, since a pipe may be faster than any network; live
    /// media does not wait longer.
    fn may_read(&mut self) -> bool {
        if self.input_ended {
            return false;
        }
        if self.outbox.bytes() <= MAX_BYTES / 2 || self.session.is_none() {
            self.held = None;
            return true;
        }
        let now = clock::now();
        now.saturating_duration_since(*self.held.get_or_insert(now)) >= MAX_INPUT_DELAY
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
            // Media before the fault is good.
            (self.input_ended, self.failure) = (true, Some(fault));
            self.cutter.flush();
        }
        self.cuts(now)?;
        if self.input_ended {
            self.outbox.handle_end(now)?;
        }
        self.give_up(now);
        Ok(())
    }

    /// Sends a file at the speed at which it plays.
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
                    (self.observer)(&PublishEvent::Medium(medium.clone()));
                    self.medium = Some(medium);
                    let next = self.failover.start();
                    self.act(next)?;
                }
                Cut::Group(head) => {
                    let elapsed = units::millis(now.saturating_duration_since(self.started));
                    self.outbox.handle_group(now, self.started_ms.saturating_add(elapsed), head)?;
                }
                Cut::Piece { media, is_boundary } => self.outbox.handle_piece(media, is_boundary)?,
                Cut::Warning(warning) => (self.observer)(&PublishEvent::Warning(warning.to_string())),
            }
        }
        Ok(())
    }

    /// Keeps waiting media within its bounds.
    fn give_up(&mut self, now: Instant) {
        let given_up = self.outbox.handle_timeout(now);
        if given_up > 0 {
            let total = self.outbox.given_up();
            let text = format!("no node receives the feed fast enough; {given_up} groups dropped ({total} in all)");
            (self.observer)(&PublishEvent::Warning(text));
        }
    }

    fn stream_ended(&mut self, ended: streams::StreamEnded) {
        if self.session.as_mut().is_some_and(|session| session.streams.ended(&ended)) {
            self.progress();
        }
    }

    fn progress(&mut self) {
        self.failures = 0;
        self.failover.progress();
    }

    fn stop(&mut self) {
        let wait = if self.input.is_paced() { Duration::ZERO } else { LAST_INPUT };
        self.stopping = Some(time::Instant::now() + wait);
    }

    fn tick(&mut self) -> Result<(), Fault> {
        let now = clock::now();
        if self.stopping.is_some_and(|until| time::Instant::now() >= until) && !self.input_ended {
            self.read(Ok(None))?;
        }
        self.give_up(now);
        self.watch_node(now)?;
        let (reported, before) = self.reported;
        let since = now.saturating_duration_since(reported);
        if since >= STATS {
            self.reported = (now, self.bytes);
            let rate = Bitrate::over(self.bytes - before, since);
            (self.observer)(&PublishEvent::Progress(PublishStats { rate, ..self.stats() }));
            let age = |session: &IngestSession| now.saturating_duration_since(session.since);
            if self.session.as_ref().is_some_and(|session| !session.silent && age(session) >= STEADY) {
                self.progress();
            }
        }
        Ok(())
    }

    fn stats(&self) -> PublishStats {
        PublishStats {
            node: self.session.as_ref().map(|session| session.at.node.clone()),
            rate: Bitrate::over(self.bytes, self.started.elapsed()),
            bytes: self.bytes,
            groups: self.outbox.made(),
            given_up: self.outbox.given_up(),
            waiting: self.outbox.bytes(),
            elapsed: self.started.elapsed(),
        }
    }

    /// Every group was acknowledged: ends the feed, and waits for the node to acknowledge that.
    async fn finish(&mut self, stop: &mut mpsc::Receiver<()>) -> Result<PublishStats, Fault> {
        let stats = self.stats();
        if let Some(session) = self.session.take() {
            tokio::select! {
                () = session.finish(END_TIMEOUT) => {}
                Some(()) = stop.recv(), if self.stopping.is_some() => {}
            }
        }
        match self.failure.take() {
            Some(fault) => Err(fault),
            None => Ok(stats),
        }
    }
}

async fn session_event(session: &mut Option<IngestSession>) -> Wakeup {
    let Some(session) = session else { return pending().await };
    tokio::select! {
        ended = session.streams.next() => Wakeup::Stream(ended),
        frame = session.incoming.next(Duration::MAX) => Wakeup::Control(frame),
    }
}
