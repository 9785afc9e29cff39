//! Relays a feed from another node for as long as it has subscribers here: dials the upstream that the master names,
//! receives its groups like a publisher's, and continues at the next upstream from the first incomplete group. Does not
//! know who watches.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::VarInt;
use tokio::{sync::watch as signal, task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use usher_proto::{
    Code, Fault,
    backoff::Backoff,
    model::{Failed, MAX_FAILED, Medium, Relay, SeatAddress},
    pb::wire::{FeedStart, Open},
};
use usher_session::{
    ConnectionSettings, FeedInput, FeedSession, FeedSignal, Pool, clock,
    core::stall::Expectation,
    fault::connection_lost,
    replies::{feed_setup, moved_seat, refusal},
};

use super::{
    feed::{FeedOrigin, LiveFeed},
    feeds::Feeds,
    groups,
};
use crate::replica::source::DIAL_TIMEOUT;

/// How long a relay continues after its last subscriber has left: another may arrive, or the same one again.
const LINGER: Duration = Duration::from_secs(5);

/// How long a master may take to name an upstream before it is asked again.
const ANSWER: Duration = Duration::from_secs(2);

/// How long an upstream may take for its set-up information, and for the last groups once the feed is over.
const SETUP: Duration = Duration::from_secs(3);

/// Waits between two tries, at least and at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Silence after which an upstream is lost: three keep-alive intervals.
const GONE: Duration = Duration::from_millis(900);

/// Groups that an upstream may send at once.
const STREAMS: u32 = 32;

/// Tracks of a feed that are passed on.
const TRACKS_MAX: usize = 64;

/// How an upstream ended.
enum UpstreamEnd {
    /// The feed is over, after the groups before this one.
    Over(u64),
    /// The feed moves to this seat.
    Moved(Box<SeatAddress>),
    /// The upstream failed.
    Failed(Fault),
}

/// Relays the feed until it has no subscribers, is over, or `cancel` is cancelled.
pub(super) async fn run(
    live: Arc<Feeds>,
    feed: Arc<LiveFeed>,
    mut upstreams: signal::Receiver<Option<Relay>>,
    cancel: CancellationToken,
) {
    let work = async {
        tokio::select! {
            end = follow_upstreams(&live, &feed, &mut upstreams) => Some(end),
            () = unused(&feed) => None,
        }
    };
    let Some(ended) = cancel.run_until_cancelled(work).await else { return };
    match ended {
        Some(end) => live.end_feed(&feed, end),
        None => {
            // Viewers subscribe under the same lock.
            let end = feed.lock().cache.newest() + 1;
            debug!(title = %feed.title, "relay ended: no subscribers");
            live.end_feed(&feed, end);
        }
    }
}

/// Waits until the feed has had no subscribers for [`LINGER`].
async fn unused(feed: &LiveFeed) {
    let mut changed = feed.changed.subscribe();
    loop {
        changed.borrow_and_update();
        if feed.has_subscribers() {
            drop(changed.changed().await);
            continue;
        }
        let used = async {
            while !feed.has_subscribers() {
                drop(changed.changed().await);
            }
        };
        if time::timeout(LINGER, used).await.is_err() {
            return;
        }
    }
}

/// Receives the feed from one upstream after the other. Returns one past the last group once the feed is over.
async fn follow_upstreams(
    live: &Arc<Feeds>,
    feed: &Arc<LiveFeed>,
    upstreams: &mut signal::Receiver<Option<Relay>>,
) -> u64 {
    let mut backoff = Backoff::new(WAITS.0, WAITS.1);
    let mut failed: Vec<Failed> = Vec::new();
    // Upstreams named before the first subscriber count too.
    upstreams.mark_changed();
    loop {
        let relay = next_upstreams(live, feed, upstreams, &failed).await;
        let seats = match relay.seats {
            Ok(seats) => seats,
            Err(fault) if fault.code == Code::NotFound => {
                info!(title = %feed.title, error = %fault, "feed is over");
                return feed.lock().cache.newest() + 1;
            }
            Err(fault) => {
                debug!(title = %feed.title, error = %fault, "no upstream yet");
                failed.clear();
                let wait = backoff.wait(&mut rand::rng()).max(fault.retry_after.unwrap_or_default());
                time::sleep(wait).await;
                continue;
            }
        };
        let mut seats: std::collections::VecDeque<SeatAddress> = seats.into();
        while let Some(seat) = seats.pop_front() {
            let before = feed.lock().cache.newest();
            match relay_from(live, feed, &seat, &relay.request_id).await {
                UpstreamEnd::Over(end) => return end,
                UpstreamEnd::Moved(to) => {
                    debug!(title = %feed.title, from = %seat.node, to = %to.node, "feed moved to another upstream");
                    seats.push_front(*to);
                }
                UpstreamEnd::Failed(fault) => {
                    warn!(title = %feed.title, upstream = %seat.node, reason = fault.code.reason(), error = %fault, "upstream lost");
                    if failed.len() >= MAX_FAILED {
                        failed.remove(0);
                    }
                    failed.retain(|one| one.node != seat.node);
                    failed.push(Failed::new(seat.node, fault.code));
                }
            }
            {
                let mut inner = feed.lock();
                if matches!(inner.origin, FeedOrigin::Upstream(_)) {
                    inner.origin = FeedOrigin::None;
                }
                if inner.cache.newest() > before {
                    backoff.reset();
                }
            }
            live.updates.notify_one();
        }
    }
}

/// The upstreams that the master names: unread ones, or those of its next answer.
async fn next_upstreams(
    live: &Feeds,
    feed: &LiveFeed,
    upstreams: &mut signal::Receiver<Option<Relay>>,
    failed: &[Failed],
) -> Relay {
    loop {
        if upstreams.has_changed().unwrap_or(false)
            && let Some(relay) = upstreams.borrow_and_update().clone()
        {
            return relay;
        }
        live.request_upstream(&feed.title, failed);
        match time::timeout(ANSWER, upstreams.changed()).await {
            Ok(Ok(())) => upstreams.mark_changed(),
            // The master is asked again.
            Err(_) => {}
            Ok(Err(_)) => std::future::pending().await,
        }
    }
}

/// Receives the feed from one upstream until that ends.
async fn relay_from(live: &Arc<Feeds>, feed: &Arc<LiveFeed>, seat: &SeatAddress, request_id: &str) -> UpstreamEnd {
    let (mut upstream, medium) = match Upstream::open(feed, seat, request_id).await {
        Ok(opened) => opened,
        Err(fault) => return UpstreamEnd::Failed(fault),
    };
    {
        let mut inner = feed.lock();
        if !matches!(inner.origin, FeedOrigin::None) || inner.ended.is_some() {
            return UpstreamEnd::Failed(Fault::new(Code::Cancelled, "the feed has another source by now"));
        }
        inner.origin = FeedOrigin::Upstream(seat.node.clone());
        inner.medium = Some(medium);
    }
    feed.changed.send_replace(());
    live.updates.notify_one();
    info!(title = %feed.title, upstream = %seat.node, "feed relayed from another node");
    upstream.receive(live, feed, seat).await
}

/// An open session at an upstream. Dropped, it closes the connection.
struct Upstream(FeedSession);

impl Drop for Upstream {
    fn drop(&mut self) {
        self.0.connection().close(VarInt::from_u32(Code::Cancelled.quic()), b"done");
    }
}

impl Upstream {
    async fn open(feed: &LiveFeed, seat: &SeatAddress, request_id: &str) -> Result<(Self, Medium), Fault> {
        // The first viewer's beginning is the node's, while nothing has arrived.
        let (from_group, back_ms) = (feed.lock().cache.resume_from(), feed.back_ms());
        let watch = Some(FeedStart { from_group, back_ms, ..FeedStart::default() });
        let (ticket, request_id) = (seat.ticket.clone(), request_id.to_owned());
        let open = Open { ticket, request_id, watch, ..Open::default() };
        let settings = ConnectionSettings {
            dial_timeout: DIAL_TIMEOUT,
            group_streams: STREAMS,
            unpinned: Code::Network,
            ..ConnectionSettings::default()
        };
        // A connection for each upstream: the session's end is the connection's.
        let pool = Arc::new(Pool::in_runtime(settings));
        let (mut frames, send) = pool.open(&feed.title, seat, &open, None).await?;
        let send = send.ok_or_else(|| Fault::new(Code::Internal, "the stream's sending side is closed"))?;
        let (setup, mut tracks) = feed_setup(&mut frames, seat, SETUP, &feed.title).await?;
        tracks.truncate(TRACKS_MAX);
        let session = pool.feed(frames, send, setup.subscription, Expectation::feed_within(GONE))?;
        Ok((Self(session), Medium { media_type: setup.media_type, tracks }))
    }

    async fn receive(&mut self, live: &Arc<Feeds>, feed: &Arc<LiveFeed>, seat: &SeatAddress) -> UpstreamEnd {
        let connection = self.0.connection().clone();
        let mut receiving: JoinSet<Result<(), Fault>> = JoinSet::new();
        let mut over: Option<(u64, Instant)> = None;
        loop {
            let deadline = over.map(|(_, until)| until);
            tokio::select! {
                input = self.0.next() => match input {
                    FeedInput::Group(group) => {
                        let (live, feed) = (Arc::clone(live), Arc::clone(feed));
                        receiving.spawn(async move { groups::receive(&live, &feed, group).await });
                    }
                    FeedInput::Signal(FeedSignal::Finish(end)) => over = Some((end, clock::now() + SETUP)),
                    // From the first incomplete group on: the upstream may never complete it.
                    FeedInput::Signal(FeedSignal::Moved(moved)) => match moved_seat(seat, *moved) {
                        Ok(to) => return UpstreamEnd::Moved(Box::new(to)),
                        Err(fault) => return UpstreamEnd::Failed(fault),
                    },
                    // Groups that the upstream gave up for this node are missing for all of its viewers.
                    FeedInput::Signal(FeedSignal::Skipped(first, end)) => {
                        debug!(title = %feed.title, first, end, "groups were skipped");
                    }
                    FeedInput::Signal(FeedSignal::Refused(refused)) => return UpstreamEnd::Failed(refusal(seat, &refused)),
                    FeedInput::Signal(FeedSignal::Silent(fault) | FeedSignal::Lost(fault)) => return UpstreamEnd::Failed(fault),
                },
                Some(received) = receiving.join_next(), if !receiving.is_empty() => match received {
                    Ok(Ok(())) => {}
                    Ok(Err(fault)) => return UpstreamEnd::Failed(Fault { code: Code::VerificationFailed, ..fault }),
                    Err(_) => {
                        return UpstreamEnd::Failed(Fault::new(Code::Internal, "the task that receives a group panicked"));
                    }
                },
                // The control frames have ended, and report no loss any more.
                error = connection.closed(), if over.is_some() => return UpstreamEnd::Failed(connection_lost(&seat.node, &error)),
                () = clock::sleep_until(deadline) => return UpstreamEnd::Over(over.map_or(0, |(end, _)| end)),
            }
            if let Some((end, _)) = over
                && feed.lock().cache.resume_from() >= end
            {
                return UpstreamEnd::Over(end);
            }
        }
    }
}
