//! Gets a feed from another node, for as long as somebody here wants it: dials the upstream that the master names, takes
//! its groups in as a publisher's, and goes on at the next upstream from the first group that is not whole. Refuses to
//! know who watches.

use std::{sync::Arc, time::Duration};

use quinn::{IdleTimeout, TransportConfig, VarInt};
use tokio::{
    sync::watch as signal,
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use usher_proto::{
    Code, Fault,
    backoff::Backoff,
    model::{Failed, FeedSetupInfo, MAX_FAILED, Medium, Relay, SeatAddress},
    pb::wire::{FeedStart, Open},
    wire::{self, Decoder, Frame, Kind},
};
use usher_transport::{Connection, RecvStream, SendStream};

use super::{
    feed::{FeedOrigin, LiveFeed},
    feeds::Feeds,
    groups,
};
use crate::replica::source;

/// How long an upstream goes on after its last viewer has left: another may come, or the same one again.
const LINGER: Duration = Duration::from_secs(5);

/// How long a master may take to name an upstream before it is asked again.
const ANSWER: Duration = Duration::from_secs(2);

/// How long an upstream may take for its first word.
const SETUP: Duration = Duration::from_secs(3);

/// Between two tries, at least and at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How often a connection on which nothing comes is asked for a sign of life, and looked at.
const KEEP_ALIVE: Duration = Duration::from_millis(300);

/// Looks in a row without a datagram after which an upstream is gone: three signs of life, and a busy machine's delay.
const LOOKS: u32 = 3;

/// Groups that an upstream may have on their way.
const STREAMS: u32 = 32;

/// Bytes that one group may have in flight or unread.
const WINDOW: u32 = 2 << 20;

/// Why nothing comes from an upstream any more.
enum Lost {
    /// The feed is over, after the groups before this one.
    Over(u64),
    /// It goes on from this seat.
    Moved(Box<SeatAddress>),
    /// It failed.
    Failed(Fault),
}

/// Gets the feed until nobody wants it any more, it is over, or `cancel`.
pub(super) async fn run(
    live: Arc<Feeds>,
    feed: Arc<LiveFeed>,
    mut upstreams: signal::Receiver<Option<Relay>>,
    cancel: CancellationToken,
) {
    let work = async {
        tokio::select! {
            end = get(&live, &feed, &mut upstreams) => Some(end),
            () = unused(&feed) => None,
        }
    };
    let Some(ended) = cancel.run_until_cancelled(work).await else { return };
    match ended {
        Some(end) => live.end_feed(&feed, end),
        None => {
            // Under the lock under which viewers come in.
            let end = feed.lock().cache.newest() + 1;
            debug!(title = %feed.title, "nobody watches the feed any more");
            live.end_feed(&feed, end);
        }
    }
}

/// Waits until nobody has wanted the feed for a while.
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

/// Gets the feed from one upstream after the other. Returns one past the last group once it is over.
async fn get(live: &Arc<Feeds>, feed: &Arc<LiveFeed>, upstreams: &mut signal::Receiver<Option<Relay>>) -> u64 {
    let mut backoff = Backoff::new(WAITS.0, WAITS.1);
    let mut failed: Vec<Failed> = Vec::new();
    // What was said before anyone came is news too.
    upstreams.mark_changed();
    loop {
        let relay = named(live, feed, upstreams, &failed).await;
        let seats = match relay.seats {
            Ok(seats) => seats,
            Err(fault) if fault.code == Code::NotFound => {
                info!(title = %feed.title, %fault, "the feed is not on the air any more");
                return feed.lock().cache.newest() + 1;
            }
            Err(fault) => {
                debug!(title = %feed.title, %fault, "no upstream yet");
                failed.clear();
                let wait = backoff.wait(&mut rand::rng()).max(fault.retry_after.unwrap_or_default());
                time::sleep(wait).await;
                continue;
            }
        };
        let mut seats: std::collections::VecDeque<SeatAddress> = seats.into();
        while let Some(seat) = seats.pop_front() {
            let before = feed.lock().cache.newest();
            match pull(live, feed, &seat, &relay.request_id).await {
                Lost::Over(end) => return end,
                Lost::Moved(to) => {
                    debug!(title = %feed.title, from = %seat.node, to = %to.node, "the upstream sends on");
                    seats.push_front(*to);
                }
                Lost::Failed(fault) => {
                    warn!(title = %feed.title, upstream = %seat.node, reason = fault.code.reason(), %fault, "upstream lost");
                    if failed.len() >= MAX_FAILED {
                        failed.remove(0);
                    }
                    failed.retain(|one| one.node != seat.node);
                    failed.push(Failed { node: seat.node, code: fault.code });
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

/// What the master says of upstreams: what was not heard yet, or what it answers now.
async fn named(
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
            // It is asked again.
            Err(_) => {}
            Ok(Err(_)) => std::future::pending().await,
        }
    }
}

/// Takes in what an upstream sends, until it ends.
async fn pull(live: &Arc<Feeds>, feed: &Arc<LiveFeed>, seat: &SeatAddress, request_id: &str) -> Lost {
    let opened = match open(feed, seat, request_id).await {
        Ok(opened) => opened,
        Err(fault) => return Lost::Failed(fault),
    };
    let Opened { connection, send, mut control, setup } = opened;
    {
        let mut inner = feed.lock();
        if !matches!(inner.origin, FeedOrigin::None) || inner.ended.is_some() {
            return Lost::Failed(Fault::new(Code::Cancelled, "the feed is sent here now"));
        }
        inner.origin = FeedOrigin::Upstream(seat.node.clone());
        inner.medium = Some(Medium { media_type: setup.media_type, tracks: control.tracks.clone() });
    }
    feed.changed.send_replace(());
    live.updates.notify_one();
    info!(title = %feed.title, upstream = %seat.node, "feed comes from another node");
    let lost = take(live, feed, &connection, &mut control).await;
    connection.close(VarInt::from_u32(Code::Cancelled.quic()), b"done");
    // Until here: dropped, it tells the upstream that this session is over.
    drop(send);
    lost
}

/// An open session at an upstream.
struct Opened {
    connection: Connection,
    send: SendStream,
    control: Control,
    setup: FeedSetupInfo,
}

/// What an upstream says besides its groups.
struct Control {
    receive: RecvStream,
    decoder: Decoder,
    tracks: Vec<usher_proto::pb::v1::Track>,
}

impl Control {
    /// The next frame; `None` at the end. Loses nothing when it is dropped.
    async fn next(&mut self) -> Result<Option<Frame>, Fault> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => return Err(Fault::new(Code::Internal, error.to_string())),
            }
            match self.receive.read_chunk(4096, true).await {
                Ok(Some(chunk)) => self.decoder.push_chunk(chunk.bytes),
                Ok(None) => return Ok(None),
                Err(error) => return Err(Fault::new(Code::Network, format!("the session broke: {error}"))),
            }
        }
    }
}

async fn open(feed: &LiveFeed, seat: &SeatAddress, request_id: &str) -> Result<Opened, Fault> {
    // The first viewer's beginning is the node's, while nothing has come.
    let (from_group, back_ms) = (feed.lock().cache.resume_from(), feed.back_ms());
    let watch = Some(FeedStart { from_group, back_ms, ..FeedStart::default() });
    let (ticket, request_id) = (seat.ticket.clone(), request_id.to_owned());
    let open = wire::message(Kind::Open, &Open { ticket, request_id, watch, ..Open::default() })
        .ok_or_else(|| Fault::new(Code::BadRequest, "the ticket is longer than usher/1 allows"))?;
    let mut config = source::client_config(seat)?;
    config.transport_config(Arc::new(transport()));
    let connection = source::dial(seat, &config).await?;
    let (mut send, receive) = connection.open_bi().await.map_err(|error| source::lost(&error))?;
    // A node that refuses at once may stop our side of the stream; its answer says why, and is read either way.
    drop(send.write_chunk(open).await);
    let mut control = Control { receive, decoder: Decoder::default(), tracks: Vec::new() };
    let first = time::timeout(SETUP, control.next()).await;
    let silent = |_| Fault::new(Code::Timeout, "it does not answer");
    let setup = match first.map_err(silent)?? {
        Some(Frame::Setup(setup)) => {
            control.tracks = setup.tracks.iter().take(64).cloned().collect();
            FeedSetupInfo::try_from(setup).map_err(|error| Fault::new(Code::Internal, error.to_string()))?
        }
        Some(Frame::Refused(no)) => return Err(Fault::from_parts(&no.reason, &no.message, no.retry_after_ms)),
        _ => return Err(Fault::new(Code::Internal, "it does not answer as usher/1 says")),
    };
    if setup.title != feed.title {
        return Err(Fault::new(Code::Internal, format!("it sends `{}`", setup.title)));
    }
    Ok(Opened { connection, send, control, setup })
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(Duration::from_secs(8)).ok())
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS));
    transport
}

async fn take(live: &Arc<Feeds>, feed: &Arc<LiveFeed>, connection: &Connection, control: &mut Control) -> Lost {
    let mut taking: JoinSet<Result<(), Fault>> = JoinSet::new();
    let mut over: Option<(u64, Instant)> = None;
    let (mut heard, mut silent) = (0, 0);
    let mut look = time::interval(KEEP_ALIVE);
    look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    let (live, feed) = (Arc::clone(live), Arc::clone(feed));
                    taking.spawn(async move {
                        match groups::head(stream).await {
                            Some((_, arrived)) => groups::take(&live, &feed, arrived).await,
                            None => Ok(()),
                        }
                    });
                }
                Err(error) => return Lost::Failed(source::lost(&error)),
            },
            Some(taken) = taking.join_next(), if !taking.is_empty() => match taken {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => return Lost::Failed(Fault { code: Code::VerificationFailed, ..fault }),
                Err(_) => return Lost::Failed(Fault::new(Code::Internal, "a task that takes a group in died")),
            },
            said = control.next(), if over.is_none() => match said {
                Ok(Some(Frame::Finish(finish))) => over = Some((finish.end_group, Instant::now() + SETUP)),
                // From the first group that is not whole on: what it still sends may never come to its end.
                Ok(Some(Frame::Moved(told))) => match SeatAddress::try_from(told.seat.unwrap_or_default()) {
                    Ok(to) => return Lost::Moved(Box::new(to)),
                    Err(error) => return Lost::Failed(Fault::new(Code::Internal, error.to_string())),
                },
                // What the upstream gave up for this node is missing for all of its viewers.
                Ok(Some(Frame::Skipped(skipped))) => {
                    debug!(title = %feed.title, first = skipped.first, end = skipped.end, "groups were skipped");
                }
                Ok(Some(Frame::Refused(no))) => {
                    return Lost::Failed(Fault::from_parts(&no.reason, &no.message, no.retry_after_ms));
                }
                Ok(Some(_)) => return Lost::Failed(Fault::new(Code::Internal, "it does not speak as usher/1 says")),
                Ok(None) => return Lost::Failed(Fault::new(Code::Network, "it ended the session")),
                Err(fault) => return Lost::Failed(fault),
            },
            _ = look.tick() => {
                let datagrams = connection.stats().udp_rx.datagrams;
                silent = if datagrams == heard { silent + 1 } else { 0 };
                heard = datagrams;
                if silent >= LOOKS {
                    return Lost::Failed(Fault::new(Code::Timeout, "nothing comes from it"));
                }
                if let Some((end, until)) = over
                    && Instant::now() >= until
                {
                    return Lost::Over(end);
                }
            }
        }
        if let Some((end, _)) = over
            && feed.lock().cache.resume_from() >= end
        {
            return Lost::Over(end);
        }
    }
}
