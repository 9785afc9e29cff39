//! A publisher's session: receives its groups until the feed is over, or the publisher leaves or is moved elsewhere. Does
//! not know how it was admitted.

use std::{sync::Arc, time::Duration};

use quinn::VarInt;
use tokio::{task::JoinSet, time};
use tracing::debug;
use usher_proto::{
    Code, Fault,
    wire::{Decoder, Frame},
};
use usher_session::{
    GroupRouter, clock,
    core::stall::{CHECK_INTERVAL, Expectation, Health, StallDetector},
};
use usher_transport::{Connection, RecvStream};

use super::{feeds::Feeds, groups, publisher::PublisherGuard};

/// Groups that a publisher may send at once.
const STREAMS: u32 = 16;

/// Bytes that a publisher may have in flight or unread: 250 Mbit/s at 250 ms.
const WINDOW: u32 = 8 << 20;

/// How long open groups may take to complete once the feed is over.
const LAST_GROUPS: Duration = Duration::from_secs(5);

/// Silence after which a publisher is gone: it gives a sign of life each 0.3 s.
const GONE: Duration = Duration::from_secs(2);

/// How a publisher's session ended.
pub(crate) enum Ended {
    /// The feed is over.
    Finished,
    /// The publisher left; it may come back.
    Left,
    /// The node refuses it, for this reason.
    Refused(Fault),
}

/// Accepts a publisher's groups on its connection.
pub(crate) fn open(connection: &Connection) {
    connection.set_receive_window(VarInt::from_u32(WINDOW));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(STREAMS));
}

/// Receives a publisher's groups and control frames.
pub(crate) async fn run(
    live: &Arc<Feeds>,
    publisher: &mut PublisherGuard,
    connection: &Connection,
    (router, subscription): (&GroupRouter, u64),
    (receive, decoder): (&mut RecvStream, Decoder),
) -> Ended {
    let (_registration, mut arriving) = router.register(subscription, STREAMS as usize);
    let mut receiving = JoinSet::new();
    let mut control = Control { receive, decoder };
    let mut last = None;
    let feed = Arc::clone(&publisher.feed);
    let mut detector = StallDetector::new(clock::now(), Expectation::feed_within(GONE));
    let mut checks = time::interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(group) = arriving.recv() => {
                let (live, feed) = (Arc::clone(live), Arc::clone(&feed));
                receiving.spawn(async move { groups::receive(&live, &feed, group).await });
            }
            Some(received) = receiving.join_next(), if !receiving.is_empty() => match received {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => return Ended::Refused(fault),
                Err(_) => return Ended::Refused(Fault::new(Code::Internal, "the task that receives a group panicked")),
            },
            end = control.next(), if last.is_none() => match end {
                Ok(Some(end)) => last = Some((end, clock::now() + LAST_GROUPS)),
                Ok(None) => return Ended::Left,
                Err(fault) => return Ended::Refused(fault),
            },
            fault = publisher.ended() => return Ended::Refused(fault),
            _ = checks.tick() => {
                let datagrams = connection.stats().udp_rx.datagrams;
                if detector.poll_health(clock::now(), datagrams, connection.rtt()) == Health::Silent {
                    // A killed publisher sends no close; its next process need not wait for the idle timeout.
                    return Ended::Left;
                }
            }
            () = clock::sleep_until(last.map(|(_, until)| until)) => {
                debug!(title = %feed.title, "the last groups of the feed did not arrive");
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

/// The control frames of a publisher.
struct Control<'a> {
    receive: &'a mut RecvStream,
    decoder: Decoder,
}

impl Control<'_> {
    /// The group after the last one, once the feed is over; `None` when the publisher leaves. Dropping the future loses
    /// nothing.
    async fn next(&mut self) -> Result<Option<u64>, Fault> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(Frame::Finish(finish))) => return Ok(Some(finish.end_group)),
                Ok(Some(_)) => {
                    return Err(Fault::new(Code::BadRequest, "a publisher sends no control frame but Finish"));
                }
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
