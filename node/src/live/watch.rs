//! Sends a feed to a viewer or a relaying node: each group on a stream of its own, each piece as soon as it arrives. A
//! viewer over its latency budget skips to the newest complete group and is sent a notice; other viewers are
//! unaffected.

use std::time::Duration;

use bytes::Bytes;
use quinn::{VarInt, WriteError};
use tokio::{
    sync::watch as signal,
    time::{self, Instant},
};
use usher_proto::{
    Code, Fault,
    feed::GroupHead,
    pb::wire::{Finish, Skipped},
    wire::{self, Kind},
};
use usher_transport::{Connection, SendStream};

use super::subscriber::SubscriberGuard;
use crate::{
    context::ActiveSession,
    core::feed::NextPiece,
    moves::{Movable, MoveOrder},
    send_window::WindowShare,
};

/// How long to wait for groups that belong into a gap of the numbers: streams overtake one another.
const GAP: Duration = Duration::from_millis(300);

/// Why a session ended early.
#[derive(Debug)]
pub(crate) enum WatchError {
    /// The client or the connection is gone.
    Gone,
    /// The session failed, or the client must not continue.
    Fault(Fault),
}

/// One session.
pub(crate) struct WatchSession<'a> {
    pub(crate) subscriber: &'a SubscriberGuard,
    pub(crate) connection: &'a Connection,
    /// The session's control stream.
    pub(crate) control: &'a mut SendStream,
    pub(crate) active: &'a mut ActiveSession,
    pub(crate) share: &'a WindowShare<'a>,
    pub(crate) movable: &'a mut Movable,
    pub(crate) subscription: u64,
    /// The first group to send.
    pub(crate) first: u64,
    /// How far behind the newest group the session may fall.
    pub(crate) latency: Duration,
    /// How long its reader may read nothing.
    pub(crate) stall: Duration,
}

/// Bytes of one group.
#[derive(Clone, Copy, Default)]
struct GroupBytes {
    written: u64,
    /// Bytes that its viewer has certainly taken, and that were counted. The rest is discarded when the group is
    /// abandoned.
    taken: u64,
}

impl GroupBytes {
    /// Counts written bytes, of which up to `in_flight` may not have arrived. Returns those that the viewer has taken
    /// since the last call.
    fn write(&mut self, bytes: u64, in_flight: u64) -> u64 {
        self.written += bytes;
        let taken = self.written.saturating_sub(in_flight).saturating_sub(self.taken);
        self.taken += taken;
        taken
    }
}

/// The outcome of sending a group.
enum GroupOutcome {
    /// All of it was written, or the rest will not arrive.
    Whole,
    /// The viewer stopped the stream.
    Unwanted,
    /// The group was abandoned for this one.
    Skip(u64),
}

impl WatchSession<'_> {
    /// Sends until the feed ends, or the session moves to another seat.
    pub(crate) async fn run(mut self) -> Result<(), WatchError> {
        let mut changed = self.subscriber.follow();
        let (mut at, mut until, mut gap) = (self.first, None, None);
        loop {
            changed.borrow_and_update();
            if until.is_some_and(|until| at >= until) {
                return Ok(());
            }
            let (head, ended, skips) = {
                let inner = self.subscriber.feed.lock();
                let skip = inner.cache.skip_target(at, self.latency).filter(|_| at > self.first);
                (inner.cache.first_from(skip.unwrap_or(at)).cloned(), inner.ended, skip.is_some())
            };
            match (head, ended) {
                // A restarted publisher leaves a gap in the numbers with no groups in it.
                (Some(head), None)
                    if !skips && head.sequence > at && head.previous != [0; 32] && !is_over(&mut gap) =>
                {
                    drop(time::timeout(GAP, self.wait(&mut changed, &mut until)).await);
                }
                (Some(head), _) if until.is_none_or(|until| head.sequence < until) => {
                    gap = None;
                    if head.sequence > at && at > self.first {
                        self.skipped(at, head.sequence).await?;
                    }
                    at = match self.group(&head, &mut changed, &mut until).await? {
                        GroupOutcome::Whole | GroupOutcome::Unwanted => head.sequence + 1,
                        GroupOutcome::Skip(next) => {
                            self.skipped(head.sequence, next).await?;
                            next
                        }
                    };
                }
                (None, Some(end)) => {
                    self.movable.withdraw();
                    let finish = Finish { content_id: Vec::new(), end_group: end };
                    return self.send_control(wire::message(Kind::Finish, &finish)).await;
                }
                // The other seat sends the groups from there on.
                (Some(_), _) => return Ok(()),
                (None, None) => self.wait(&mut changed, &mut until).await?,
            }
        }
    }

    /// Waits for a change of the feed or an order to move.
    async fn wait(&mut self, changed: &mut signal::Receiver<()>, until: &mut Option<u64>) -> Result<(), WatchError> {
        self.active.await_source();
        tokio::select! {
            changed = changed.changed() => drop(changed),
            order = self.movable.ordered(), if until.is_none() => *until = Some(self.leave(order).await?),
        }
        Ok(())
    }

    /// Sends the client its new seat. Returns the first group that the new seat sends.
    async fn leave(&mut self, order: MoveOrder) -> Result<u64, WatchError> {
        // Both seats send the group in progress: this node may not receive its end.
        let until = self.subscriber.feed.lock().cache.resume_from();
        self.send_control(Some(order.order.frame(until))).await?;
        self.movable.start_move(order);
        Ok(until)
    }

    async fn group(
        &mut self,
        head: &GroupHead,
        changed: &mut signal::Receiver<()>,
        until: &mut Option<u64>,
    ) -> Result<GroupOutcome, WatchError> {
        let sequence = head.sequence;
        let opened = time::timeout(self.stall, self.connection.open_uni()).await;
        let Ok(mut stream) = opened.map_err(|_| self.stalled())? else { return Err(WatchError::Gone) };
        // Newer groups have priority.
        let newer = i32::try_from(sequence.saturating_sub(self.first)).unwrap_or(i32::MAX);
        drop(stream.set_priority(newer));
        let frame = wire::message(Kind::FeedGroup, &head.to_pb(self.subscription));
        let mut next =
            NextPiece::Piece(frame.ok_or_else(|| WatchError::Fault(Fault::new(Code::Internal, "a head is too long")))?);
        let (mut sent, mut bytes) = (0, GroupBytes::default());
        loop {
            match next {
                NextPiece::Piece(frame) => match self.write((&mut stream, &mut bytes), frame, sequence, changed).await?
                {
                    GroupOutcome::Whole => {}
                    other => return Ok(other),
                },
                NextPiece::Complete => {
                    // Nothing of a whole group is discarded.
                    self.active.sent_and_taken(0, bytes.write(0, 0));
                    return Ok(finish(&mut stream));
                }
                NextPiece::Wait => self.wait(changed, until).await?,
                NextPiece::Gone => {
                    give_up(&mut stream);
                    let newest = self.subscriber.feed.lock().cache.skip_target(sequence, Duration::ZERO);
                    return Ok(GroupOutcome::Skip(newest.unwrap_or(sequence + 1)));
                }
            }
            changed.borrow_and_update();
            let ended = {
                let inner = self.subscriber.feed.lock();
                next = inner.cache.next_piece(sequence, sent);
                inner.ended.is_some() || inner.cache.is_truncated(sequence)
            };
            match &next {
                NextPiece::Piece(_) => sent += 1,
                // The group will not be completed.
                NextPiece::Wait if ended => {
                    give_up(&mut stream);
                    return Ok(GroupOutcome::Whole);
                }
                _ => {}
            }
        }
    }

    /// Writes a frame of a group. Abandons the group when the viewer is too far behind.
    async fn write(
        &mut self,
        (stream, bytes): (&mut SendStream, &mut GroupBytes),
        frame: Bytes,
        sequence: u64,
        changed: &mut signal::Receiver<()>,
    ) -> Result<GroupOutcome, WatchError> {
        self.active.turn(frame.len() as u64).await;
        let mut chunks = [frame];
        let mut moved = Instant::now();
        while !chunks[0].is_empty() {
            self.active.await_reader();
            tokio::select! {
                biased;
                written = stream.write_chunks(&mut chunks) => match written {
                    // `write_chunks` leaves the unsent rest in each chunk.
                    Ok(written) => {
                        let written = written.bytes as u64;
                        self.active.sent_and_taken(written, bytes.write(written, self.share.in_flight()));
                        self.share.wrote(written);
                        moved = Instant::now();
                    }
                    Err(WriteError::Stopped(_)) => return Ok(GroupOutcome::Unwanted),
                    Err(_) => return Err(WatchError::Gone),
                },
                change = changed.changed() => {
                    let next = self.subscriber.feed.lock().cache.skip_target(sequence, self.latency);
                    if let Some(next) = next {
                        give_up(stream);
                        return Ok(GroupOutcome::Skip(next));
                    }
                    if change.is_err() {
                        return Err(WatchError::Gone);
                    }
                }
                () = time::sleep_until(moved + self.stall) => return Err(self.stalled()),
            }
        }
        Ok(GroupOutcome::Whole)
    }

    fn stalled(&self) -> WatchError {
        WatchError::Fault(Fault::new(Code::Timeout, format!("the client read nothing for {} s", self.stall.as_secs())))
    }

    async fn skipped(&mut self, first: u64, end: u64) -> Result<(), WatchError> {
        self.send_control(wire::message(Kind::Skipped, &Skipped { first, end })).await
    }

    /// Sends a frame on the control stream.
    async fn send_control(&mut self, frame: Option<Bytes>) -> Result<(), WatchError> {
        let frame = frame.ok_or_else(|| WatchError::Fault(Fault::new(Code::Internal, "a frame is too long")))?;
        match time::timeout(self.stall, self.control.write_chunk(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(WatchError::Gone),
            Err(_) => Err(self.stalled()),
        }
    }
}

/// Whether a gap was waited for long enough; the first call starts the wait.
fn is_over(gap: &mut Option<Instant>) -> bool {
    gap.get_or_insert_with(Instant::now).elapsed() >= GAP
}

fn finish(stream: &mut SendStream) -> GroupOutcome {
    if stream.finish().is_ok() { GroupOutcome::Whole } else { GroupOutcome::Unwanted }
}

fn give_up(stream: &mut SendStream) {
    drop(stream.reset(VarInt::from_u32(Code::Timeout.quic())));
}
