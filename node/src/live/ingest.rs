//! A publisher's session: takes its groups in, until it says that the feed is over, leaves, or is sent elsewhere. Refuses
//! to know how it was let in.

use std::{future::pending, sync::Arc, time::Duration};

use quinn::VarInt;
use tokio::{task::JoinSet, time};
use tracing::debug;
use usher_proto::{
    Code, Fault,
    wire::{Decoder, Frame},
};
use usher_transport::{Connection, RecvStream};

use super::{
    feeds::Feeds,
    groups::{self, GroupRouter},
    publisher::PublisherGuard,
};

/// Groups that a publisher may have on their way.
const STREAMS: u32 = 16;

/// Bytes that a publisher may have in flight or unread: 250 Mbit/s at 250 ms.
const WINDOW: u32 = 8 << 20;

/// How long the groups that were begun may take to come to their end once the feed is over.
const LAST: Duration = Duration::from_secs(5);

/// How often a publisher is looked at, which gives a sign of life each 0.3 s.
const LOOK: Duration = Duration::from_millis(500);

/// Looks in a row without a datagram after which a publisher is gone.
const LOOKS: u32 = 4;

/// How a publisher's session ended.
pub(crate) enum Ended {
    /// The feed is over.
    Finished,
    /// The publisher left; it may come back.
    Left,
    /// It has to go, for this reason.
    Refused(Fault),
}

/// Lets a publisher's groups in on its connection.
pub(crate) fn open(connection: &Connection) {
    connection.set_receive_window(VarInt::from_u32(WINDOW));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(STREAMS));
}

/// Takes in what a publisher sends.
pub(crate) async fn run(
    live: &Arc<Feeds>,
    publisher: &mut PublisherGuard,
    connection: &Connection,
    (board, subscription): (&GroupRouter, u64),
    (receive, decoder): (&mut RecvStream, Decoder),
) -> Ended {
    let (_place, mut arrived) = board.sit(subscription, STREAMS as usize);
    let mut taking = JoinSet::new();
    let mut control = Control { receive, decoder };
    let mut last = None;
    let feed = Arc::clone(&publisher.feed);
    let (mut heard, mut silent) = (0, 0);
    let mut look = time::interval(LOOK);
    look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(group) = arrived.recv() => {
                let (live, feed) = (Arc::clone(live), Arc::clone(&feed));
                taking.spawn(async move { groups::take(&live, &feed, group).await });
            }
            Some(taken) = taking.join_next(), if !taking.is_empty() => match taken {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => return Ended::Refused(fault),
                Err(_) => return Ended::Refused(Fault::new(Code::Internal, "a task that takes a group in died")),
            },
            said = control.next(), if last.is_none() => match said {
                Ok(Some(end)) => last = Some((end, time::Instant::now() + LAST)),
                Ok(None) => return Ended::Left,
                Err(fault) => return Ended::Refused(fault),
            },
            fault = publisher.ended() => return Ended::Refused(fault),
            _ = look.tick() => {
                let datagrams = connection.stats().udp_rx.datagrams;
                silent = if datagrams == heard { silent + 1 } else { 0 };
                heard = datagrams;
                if silent >= LOOKS {
                    // One that was killed says nothing; the next process of it need not wait for the idle timeout.
                    return Ended::Left;
                }
            }
            () = until(last.map(|(_, until)| until)) => {
                debug!(title = %feed.title, "the last groups of the feed did not come");
                let end = feed.lock().cache.newest() + 1;
                publisher.finish(end);
                return Ended::Finished;
            }
        }
        let next = feed.lock().cache.resume_from();
        if let Some((end, _)) = last
            && next >= end
        {
            publisher.finish(end);
            return Ended::Finished;
        }
    }
}

async fn until(deadline: Option<time::Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => pending().await,
    }
}

/// What the publisher says besides its groups.
struct Control<'a> {
    receive: &'a mut RecvStream,
    decoder: Decoder,
}

impl Control<'_> {
    /// The group after the last one, once the feed is over; `None` when the publisher leaves. Loses nothing when it is
    /// dropped.
    async fn next(&mut self) -> Result<Option<u64>, Fault> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(Frame::Finish(finish))) => return Ok(Some(finish.end_group)),
                Ok(Some(_)) => return Err(Fault::new(Code::BadRequest, "a publisher says nothing but Finish")),
                Ok(None) => {}
                Err(error) => return Err((&error).into()),
            }
            match self.receive.read_chunk(4096, true).await {
                Ok(Some(chunk)) => self.decoder.push_chunk(chunk.bytes),
                Ok(None) | Err(_) => return Ok(None),
            }
        }
    }
}
