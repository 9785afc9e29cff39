//! A feed's session on the side that receives the groups: a viewer, or a node that relays. Joins the control frames, the
//! groups' streams and the health of the connection. Does not verify pieces.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{self, Interval},
};
use usher_proto::{
    Code, Fault,
    feed::{GroupHead, Piece},
    pb::wire::{Moved, Refused},
    wire::Frame,
};
use usher_transport::{Connection, SendStream};

use crate::{
    clock,
    core::stall::{CHECK_INTERVAL, Expectation, Health, StallDetector},
    fault::silent,
    frames::FrameReader,
    router::{GroupEnd, GroupStream, Registration},
};

/// Numbers the groups' streams of a process.
static STREAM: AtomicU64 = AtomicU64::new(0);

/// A control frame of a feed's session, or the state of its connection.
#[derive(Debug)]
pub enum FeedSignal {
    /// The node dropped the groups from the first to before the second.
    Skipped(u64, u64),
    /// The session moves to another seat.
    Moved(Box<Moved>),
    /// The feed is over, after the groups before this one. No control frame follows; open groups may still arrive.
    Finish(u64),
    /// The node refused the session. This is the last signal.
    Refused(Box<Refused>),
    /// Nothing arrives on the connection; it may recover.
    Silent(Fault),
    /// The session ended or failed. This is the last signal.
    Lost(Fault),
}

impl FeedSignal {
    fn is_last(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Lost(_))
    }
}

/// Input from a feed's session.
pub enum FeedInput {
    /// A group that begins.
    Group(GroupStream),
    /// Anything else.
    Signal(FeedSignal),
}

/// An open session of a feed. Dropping it stops the streams, which ends the session at the node.
pub struct FeedSession {
    frames: FrameReader,
    groups: mpsc::Receiver<GroupStream>,
    detector: StallDetector,
    checks: Interval,
    /// Datagrams of the connection, and when that count last changed.
    datagrams: (u64, Instant),
    finished: bool,
    _send: SendStream,
    _registration: Registration,
}

impl FeedSession {
    pub(crate) fn new(
        frames: FrameReader,
        send: SendStream,
        (registration, groups): (Registration, mpsc::Receiver<GroupStream>),
        expected: Expectation,
    ) -> Self {
        let now = clock::now();
        let mut checks = time::interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        Self {
            frames,
            groups,
            detector: StallDetector::new(now, expected),
            checks,
            datagrams: (0, now),
            finished: false,
            _send: send,
            _registration: registration,
        }
    }

    /// The session's connection.
    pub fn connection(&self) -> &Connection {
        self.frames.connection()
    }

    /// The next input. Dropping the future loses nothing.
    pub async fn next(&mut self) -> FeedInput {
        loop {
            let signal = tokio::select! {
                Some(group) = self.groups.recv() => return FeedInput::Group(group),
                signal = control(&mut self.frames), if !self.finished => signal,
                _ = self.checks.tick() => match self.check() {
                    Some(fault) => FeedSignal::Silent(fault),
                    None => continue,
                },
            };
            self.finished |= matches!(signal, FeedSignal::Finish(_));
            return FeedInput::Signal(signal);
        }
    }

    /// The silence of the connection, if it lasts too long.
    fn check(&mut self) -> Option<Fault> {
        let (now, datagrams) = (clock::now(), self.frames.datagrams());
        if datagrams != self.datagrams.0 {
            self.datagrams = (datagrams, now);
        }
        let silence = now.saturating_duration_since(self.datagrams.1);
        let health = self.detector.poll_health(now, datagrams, self.frames.connection().rtt());
        (health == Health::Silent).then(|| silent(self.frames.node(), silence))
    }
}

/// The next control frame. The connection's health is checked elsewhere, so that this may take any time.
async fn control(frames: &mut FrameReader) -> FeedSignal {
    let next = frames.next(Duration::MAX).await;
    let node = frames.node();
    match next {
        Ok(Some(Frame::Skipped(skipped))) => FeedSignal::Skipped(skipped.first, skipped.end),
        Ok(Some(Frame::Moved(moved))) => FeedSignal::Moved(Box::new(moved)),
        Ok(Some(Frame::Finish(finish))) => FeedSignal::Finish(finish.end_group),
        Ok(Some(Frame::Refused(refused))) => FeedSignal::Refused(Box::new(refused)),
        Ok(Some(_)) => {
            let text = format!("node {node} sent a frame that a feed's session does not have");
            FeedSignal::Lost(Fault::new(Code::Internal, text))
        }
        Ok(None) => FeedSignal::Lost(Fault::new(Code::Network, format!("node {node} ended the session"))),
        Err(fault) => FeedSignal::Lost(fault),
    }
}

/// An event of the session with this number.
#[derive(Debug)]
pub struct SessionEvent {
    /// The number that the caller gave the session.
    pub session: u64,
    /// The event on the group's stream.
    pub event: StreamEvent,
}

/// An event of a feed's session, with its groups taken apart.
#[derive(Debug)]
pub enum StreamEvent {
    /// The stream with this number brings this group.
    Group(u64, GroupHead),
    /// The stream with this number brings a piece.
    Piece(u64, Piece),
    /// The stream with this number ended; `true` when the node dropped its group.
    End(u64, bool),
    /// Anything else.
    Signal(FeedSignal),
}

/// Sends the events of one session into a channel.
#[derive(Clone)]
pub(crate) struct Forwarder {
    pub(crate) session: u64,
    pub(crate) events: mpsc::Sender<SessionEvent>,
}

impl Forwarder {
    /// False when the channel is closed.
    async fn send(&self, event: StreamEvent) -> bool {
        self.events.send(SessionEvent { session: self.session, event }).await.is_ok()
    }

    /// Runs until the session's last signal, or until the channel is closed.
    pub(crate) async fn run(self, mut session: FeedSession) {
        let mut groups = JoinSet::new();
        loop {
            let input = tokio::select! {
                input = session.next() => input,
                Some(_ended) = groups.join_next(), if !groups.is_empty() => continue,
            };
            match input {
                FeedInput::Group(group) => drop(groups.spawn(self.clone().group(group))),
                FeedInput::Signal(signal) => {
                    let last = signal.is_last();
                    if !self.send(StreamEvent::Signal(signal)).await || last {
                        return;
                    }
                }
            }
        }
    }

    async fn group(self, mut group: GroupStream) {
        let number = STREAM.fetch_add(1, Ordering::Relaxed);
        if !self.send(StreamEvent::Group(number, group.head.clone())).await {
            return;
        }
        let end = loop {
            match group.next_pieces().await {
                Ok(pieces) => {
                    for piece in pieces {
                        if !self.send(StreamEvent::Piece(number, piece)).await {
                            return;
                        }
                    }
                }
                Err(end) => break end,
            }
        };
        // Nothing that follows malformed bytes could be verified.
        let given_up = matches!(end, GroupEnd::Reset | GroupEnd::Malformed(_));
        self.send(StreamEvent::End(number, given_up)).await;
    }
}
