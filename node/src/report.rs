//! One attachment: Hello and Welcome, the catalog and its changes, sessions as they come and go, a report each second,
//! the master's Prepares.
//! Refuses to know who is dialled and when.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use futures::{
    FutureExt as _,
    future::{try_join, try_join5},
};
use tokio::{sync::mpsc, task::JoinSet, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use tracing::{debug, info, warn};
use usher_proto::{
    Code, ContentId, Fault, Title,
    model::{self, CatalogCopy, EndPublisher, FeedState, Relay},
    pb::v1::{
        self, AttachRequest, AttachResponse, attach_request::Body, attach_response::Body as Answer,
        prepared::Result as Outcome, registry_client::RegistryClient,
    },
    ticket::Key,
};

use crate::{
    attach::{Link, Lost},
    house::{self, House},
    media::{Changes, Key as CopyKey},
    moves,
};

/// Messages that wait to be sent: a page of the catalog must not make a report wait behind many of its kind.
const QUEUE: usize = 4;

/// Entries of one page of the catalog: about 100 kB, far below gRPC's limit of 4 MiB.
const PAGE: usize = 1000;

/// Least time between two pages of changes: a title is hashed in a moment, a library not.
const CHANGES: Duration = Duration::from_millis(100);

/// How long the list of sessions waits for the catalog at most: a master that knows their titles can do more with it,
/// but must not take the node for empty.
const CATALOG: Duration = Duration::from_secs(1);

/// How long the master may take for its Welcome.
const WELCOME: Duration = Duration::from_secs(10);

/// Prepares that are worked on at a time; each may wait for a disk.
const PREPARES: usize = 64;

/// Sessions that are being moved at a time; each may wait for its reader. A node that drains is told of 60 a second.
const MOVES: usize = 1024;
/// Orders of copies that are waited for at a time; few of them run, and others may name the same copies.
const COPIES: usize = 64;

/// Bounds of the report interval that a master may set.
const INTERVAL: std::ops::RangeInclusive<u64> = 50..=60_000;

/// The least time between two messages about feeds, and the time after which numbers that only grow are told.
const FEEDS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

type Outbox = mpsc::Sender<AttachRequest>;

/// Attaches, calls `welcomed`, and reports until the channel is lost.
pub(crate) async fn attach(
    link: &Link,
    channel: Channel,
    attachment: u64,
    welcomed: impl FnOnce(),
) -> Result<Infallible, Lost> {
    let (outbox, requests) = mpsc::channel(QUEUE);
    let mut presence = link.presence.subscribe();
    let hello = v1::Hello {
        node: link.house.name.to_string(),
        boot_id: link.boot.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        zone: link.zone.clone(),
        capacity_bps: link.capacity.0,
        presence: Some(link.presence.to_pb(&presence.borrow_and_update())),
        attachment,
        equipment: Some(link.equipment.to_pb()),
        replica_bytes: link.house.puller.quota(),
    };
    // The server answers the call only once it has seen the first message.
    post(&outbox, Body::Hello(hello)).await?;
    let mut client = RegistryClient::new(channel);
    let opening = async {
        let mut answers = client.attach(ReceiverStream::new(requests)).await?.into_inner();
        let first = answers.message().await?;
        Ok::<_, Lost>((answers, first))
    };
    let opened = time::timeout(WELCOME, opening).await;
    let (answers, first) = opened.map_err(|_| anyhow!("the master sent no Welcome in {} s", WELCOME.as_secs()))??;
    let Some(Answer::Welcome(welcome)) = first.and_then(|answer| answer.body) else {
        return Err(anyhow!("the master did not begin with Welcome; is it a master of this version?").into());
    };
    let interval = take_welcome(&link.house, &welcome)?;
    welcomed();
    let _tied = link.house.leases.tie(house::unix_now());
    try_join5(
        catalog(link, &outbox),
        sessions(link, &outbox),
        reports(link, &outbox, interval),
        try_join(follow(link, presence, &outbox), feeds(link, &outbox)),
        answer(link, &outbox, answers),
    )
    .await
    .map(|(never, ..)| never)
}

async fn post(outbox: &Outbox, body: Body) -> Result<(), Lost> {
    let sent = outbox.send(AttachRequest { body: Some(body) }).await;
    sent.map_err(|_| anyhow!("the channel to the master broke").into())
}

/// Takes the keys, and returns the report interval.
fn take_welcome(house: &House, welcome: &v1::Welcome) -> Result<Duration, Lost> {
    let secrets = welcome.keys.iter().map(|key| <[u8; 32]>::try_from(key.secret.as_slice()).map(Key::new));
    let keys: Vec<Key> = secrets.collect::<Result<_, _>>().unwrap_or_default();
    if keys.is_empty() {
        return Err(anyhow!("the master sent no ticket key that can be used").into());
    }
    house.welcome(&keys);
    let interval = welcome.report_interval_ms.clamp(*INTERVAL.start(), *INTERVAL.end());
    Ok(Duration::from_millis(interval))
}

/// Sends the whole catalog, then its changes as they come.
async fn catalog(link: &Link, outbox: &Outbox) -> Result<Infallible, Lost> {
    let library = &link.house.library;
    // Half a catalog would make the master forget the other half.
    library.scanned().await;
    let mut subscription = library.subscribe();
    loop {
        let bad = Bad { rejected: subscription.rejected_files(), damaged: subscription.damaged_files() };
        let mut count = 0;
        for page in whole(bad, |after| subscription.page(after, PAGE)) {
            count += page.copies.len();
            post(outbox, Body::Catalog(page)).await?;
        }
        info!(copies = count, "catalog sent");
        link.attached.send_replace(true);
        loop {
            let changes = subscription.changed().await;
            if changes.resync {
                break;
            }
            debug!(copies = changes.copies.len(), removals = changes.removals.len(), "catalog changed");
            for page in pages(changes) {
                post(outbox, Body::Catalog(page)).await?;
            }
            time::sleep(CHANGES).await;
        }
    }
}

/// Files that are not offered, and those of them that are damaged.
#[derive(Clone, Copy)]
struct Bad {
    rejected: u32,
    damaged: u32,
}

/// The pages of a whole catalog, at least one; `next` gives the copies behind the one named, [`PAGE`] unless they are
/// the last.
fn whole(
    bad: Bad,
    mut next: impl FnMut(Option<&CopyKey>) -> Vec<CatalogCopy>,
) -> impl Iterator<Item = v1::CatalogPage> {
    let (mut after, mut complete) = (None, false);
    std::iter::from_fn(move || {
        if complete {
            return None;
        }
        let copies = next(after.as_ref());
        let restart = after.is_none();
        complete = copies.len() < PAGE;
        after = copies.last().map(|copy| (copy.title.clone(), copy.volume));
        Some(v1::CatalogPage {
            restart,
            complete,
            copies: copies.iter().map(CatalogCopy::to_pb).collect(),
            removals: Vec::new(),
            rejected_files: bad.rejected,
            damaged_files: bad.damaged,
        })
    })
}

/// Cuts changes into pages; at least one.
fn pages(changes: Changes) -> impl Iterator<Item = v1::CatalogPage> {
    let Changes { copies, removals, rejected_files, damaged_files, .. } = changes;
    let count = copies.len().div_ceil(PAGE).max(removals.len().div_ceil(PAGE)).max(1);
    let (mut copies, mut removals) = (copies.into_iter(), removals.into_iter());
    (0..count).map(move |_| v1::CatalogPage {
        restart: false,
        complete: true,
        copies: copies.by_ref().take(PAGE).map(|copy| copy.to_pb()).collect(),
        removals: removals
            .by_ref()
            .take(PAGE)
            .map(|(title, volume)| v1::CatalogRemoval { title: title.to_string(), volume: volume.into() })
            .collect(),
        rejected_files,
        damaged_files,
    })
}

/// Tells of all sessions, and then of each that begins, ends or is refused.
async fn sessions(link: &Link, outbox: &Outbox) -> Result<Infallible, Lost> {
    let house = &link.house;
    house.meter().listen();
    // A scan may take long, and who waits for it has no sessions to tell of.
    if house.library.scanned().now_or_never().is_some() {
        let mut attached = link.attached.subscribe();
        drop(time::timeout(CATALOG, attached.wait_for(|attached| *attached)).await);
    }
    loop {
        let due = house.meter().due(Instant::now());
        let Some(due) = due else {
            house.happens().await;
            continue;
        };
        time::sleep_until(due.into()).await;
        // What happens while the channel is full is told together.
        let place = outbox.reserve().await.map_err(|_| anyhow!("the channel to the master broke"))?;
        let told = house.meter().tell(Instant::now());
        if let Some(told) = told {
            place.send(AttachRequest { body: Some(Body::Sessions(told.to_pb())) });
        }
    }
}

/// Reports what was sent, at each interval.
async fn reports(link: &Link, outbox: &Outbox, interval: Duration) -> Result<Infallible, Lost> {
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let place = outbox.reserve().await.map_err(|_| anyhow!("the channel to the master broke"))?;
        let sent = link.interface.as_ref().and_then(|interface| match interface.sent() {
            Ok(sent) => Some(sent),
            Err(error) => {
                debug!(%error, "the network interface is gone; the last that was seen of others' traffic stays");
                None
            }
        });
        let now = Instant::now();
        let report = {
            let mut meter = link.house.meter();
            sent.into_iter().for_each(|bytes| meter.link(now, bytes));
            meter.report(now)
        };
        let report = model::Report { replica_free: link.house.puller.free(), ..report };
        place.send(AttachRequest { body: Some(Body::Report(to_pb(&report))) });
    }
}

fn to_pb(report: &model::Report) -> v1::Report {
    v1::Report {
        sequence: report.sequence,
        uptime_ms: report.uptime_ms,
        sent_bytes: report.sent_bytes,
        egress_bps: report.egress.0,
        elastic_bps: report.elastic.0,
        committed_bps: report.committed.0,
        sessions: report.sessions,
        // Sessions are told by themselves, and at once.
        background_bps: report.background.0,
        demand_bps: report.demand.0,
        delivered_bps: report.delivered.0,
        replica_free_bytes: report.replica_free,
    }
}

/// Tells changes of the presence.
async fn follow(
    link: &Link,
    mut presence: tokio::sync::watch::Receiver<model::Presence>,
    outbox: &Outbox,
) -> Result<Infallible, Lost> {
    loop {
        presence.changed().await.map_err(|_| anyhow!("the node is shutting down"))?;
        let now = link.presence.to_pb(&presence.borrow_and_update());
        post(outbox, Body::Presence(now)).await?;
    }
}

/// Tells of all feeds, and then of each change: at once, or, where only numbers grow, each second.
async fn feeds(link: &Link, outbox: &Outbox) -> Result<Infallible, Lost> {
    let live = &link.house.live;
    let mut told: Option<v1::Feeds> = None;
    let mut ticks = time::interval(FEEDS.1);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = live.tells() => {}
            _ = ticks.tick() => {}
        }
        let now = v1::Feeds { feeds: live.states().iter().map(FeedState::to_pb).collect() };
        // A master that hears nothing knows of none.
        if told.as_ref() != Some(&now) && !(told.is_none() && now.feeds.is_empty()) {
            post(outbox, Body::Feeds(now.clone())).await?;
            told = Some(now);
        }
        for wanted in live.take_wanted() {
            post(outbox, Body::RelayWanted(wanted)).await?;
        }
        time::sleep(FEEDS.0).await;
    }
}

/// Does what the master asks.
async fn answer(link: &Link, outbox: &Outbox, mut answers: Streaming<AttachResponse>) -> Result<Infallible, Lost> {
    let house = &link.house;
    let (mut prepares, mut moved, mut copies) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    loop {
        let message = tokio::select! {
            message = answers.message() => message?,
            Some(done) = prepares.join_next() => {
                if let Ok(prepared) = done {
                    post(outbox, Body::Prepared(prepared)).await?;
                }
                continue;
            }
            Some(done) = moved.join_next() => {
                if let Ok(answer) = done {
                    post(outbox, Body::Moved(answer)).await?;
                }
                continue;
            }
            Some(done) = copies.join_next() => {
                if let Ok(replicated) = done {
                    post(outbox, Body::Replicated(replicated)).await?;
                }
                continue;
            }
        };
        match message.ok_or_else(|| anyhow!("the master closed the channel"))?.body {
            Some(Answer::Welcome(welcome)) => {
                take_welcome(house, &welcome)?;
            }
            Some(Answer::Prepare(request)) if prepares.len() < PREPARES => {
                let house = house.clone();
                prepares.spawn(async move { prepare(&house, request).await });
            }
            Some(Answer::Prepare(request)) => {
                warn!(rid = request.request_id, "too many sessions are being prepared");
                let fault = Fault::new(Code::Unavailable, "too many sessions are being prepared");
                let fault = fault.after(Duration::from_secs(1));
                post(outbox, Body::Prepared(prepared(request.id, Err(fault)))).await?;
            }
            Some(Answer::Probe(probe)) => post(outbox, Body::Probed(v1::Probed { id: probe.id })).await?,
            Some(Answer::Move(order)) if moved.len() < MOVES => {
                moved.spawn(moves::carry_out(house.clone(), order));
            }
            Some(Answer::Move(order)) => {
                let fault = Fault::new(Code::Unavailable, "too many sessions are being moved");
                let refusal = Some(moves::refusal(fault.after(Duration::from_secs(1))));
                post(outbox, Body::Moved(v1::Moved { id: order.id, refusal })).await?;
            }
            Some(Answer::Replicate(order)) if copies.len() < COPIES => {
                let (id, copy) = (order.id, house.puller.clone());
                copies.spawn(async move { replicated(id, copy.order(order).await) });
            }
            Some(Answer::Replicate(order)) => {
                let fault = Fault::new(Code::NoCapacity, "too many copies are ordered");
                let fault = fault.after(Duration::from_secs(5));
                post(outbox, Body::Replicated(replicated(order.id, Err(fault)))).await?;
            }
            // In its turn, so that an order after it finds the room.
            Some(Answer::Evict(evict)) => house.puller.evict(evict).await,
            Some(Answer::Recheck(order)) => recheck(house, &order),
            Some(Answer::Drain(order)) => link.drain.order(Duration::from_millis(order.deadline_ms)),
            Some(Answer::Undrain(_)) => link.drain.undo(),
            Some(Answer::Relay(order)) => match Relay::try_from(order) {
                Ok(relay) => house.live.ordered(relay),
                Err(error) => warn!(%error, "an order for a feed was ignored"),
            },
            Some(Answer::EndPublisher(order)) => match EndPublisher::try_from(order) {
                Ok(EndPublisher { title, publisher }) => house.live.end_publisher(&title, publisher),
                Err(error) => warn!(%error, "an order to end a publisher was ignored"),
            },
            None => debug!("a message of a newer master was ignored"),
        }
    }
}

/// Looks again at what a client got wrong bytes of.
fn recheck(house: &House, order: &v1::Recheck) {
    let named = Title::parse(&order.title).ok().zip(ContentId::try_from(order.content_id.as_slice()).ok());
    let Some((title, content)) = named else { return debug!(title = ?order.title, "a recheck of nothing was ignored") };
    let copies = house.library.recheck(&title, content);
    debug!(%title, copies, "a client got wrong bytes; what is here is hashed again");
}

/// Opens the title of a session about to begin, so that its set-up information is sure. The ticket stays good.
async fn prepare(house: &House, request: v1::Prepare) -> v1::Prepared {
    let result = async {
        let ticket = house.verify(&request.ticket)?;
        Ok(house.open(ticket, None, false).await?.setup)
    };
    let result: Result<v1::Setup, Fault> = result.await;
    match &result {
        Ok(setup) => debug!(rid = request.request_id, title = setup.title, "prepared"),
        Err(fault) => debug!(rid = request.request_id, reason = fault.code.reason(), %fault, "not prepared"),
    }
    prepared(request.id, result)
}

fn prepared(id: u64, result: Result<v1::Setup, Fault>) -> v1::Prepared {
    let outcome = match result {
        Ok(setup) => Outcome::Setup(setup),
        Err(fault) => Outcome::Refusal(moves::refusal(fault)),
    };
    v1::Prepared { id, result: Some(outcome) }
}

fn replicated(id: u64, result: Result<(), Fault>) -> v1::Replicated {
    v1::Replicated { id, refusal: result.err().map(moves::refusal) }
}

#[cfg(test)]
mod tests;
