//! The standing channel to a master: Hello and Welcome, the catalog and its changes, sessions as they start and end, a
//! report each second, and the orders of the master. Keeps one channel up for as long as the node runs.

mod catalog;
mod orders;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use futures::{
    FutureExt as _,
    future::{try_join, try_join5},
};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::debug;
use usher_proto::{
    Bitrate, BootId,
    backoff::Backoff,
    model::{self, Equipment, FeedState},
    pb::v1::{
        self, AttachRequest, attach_request::Body, attach_response::Body as Order, registry_client::RegistryClient,
    },
    ticket::Key,
};

use crate::{
    attach::{AttachError, AttachLog, Dialer},
    context::{NodeContext, unix_now},
    drain::Drain,
    interface::Interface,
    presence::Presence,
    services::Services,
};

/// Maximum of the first wait between two attempts to attach.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Maximum wait for a master that is not there: a restarted one knows nothing until its nodes are back. A thousand nodes
/// then try about once a second each, scattered over the two.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Messages that wait to be sent: a report must not wait behind many pages of the catalog.
const QUEUE: usize = 4;

/// Maximum time that the list of sessions waits for the catalog: a master that knows their titles can do more with it,
/// but must not take the node for empty.
const CATALOG_WAIT: Duration = Duration::from_secs(1);

/// Time that the master has for its Welcome.
const WELCOME: Duration = Duration::from_secs(10);

/// Bounds of the report interval that a master may set, in milliseconds.
const INTERVAL: std::ops::RangeInclusive<u64> = 50..=60_000;

/// Minimum time between two messages about feeds.
const FEED_INTERVAL: Duration = Duration::from_millis(50);

/// Interval at which counters of feeds are reported.
const FEED_COUNTERS: Duration = Duration::from_secs(1);

type Outbox = mpsc::Sender<AttachRequest>;

/// Keeps the node attached and reports to the master.
pub(crate) struct Reporter {
    pub(crate) services: Arc<Services>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) drain: Arc<Drain>,
    pub(crate) dialer: Dialer,
    pub(crate) boot: BootId,
    pub(crate) zone: String,
    pub(crate) capacity: Bitrate,
    pub(crate) equipment: Equipment,
    /// Interface whose other traffic is reported, if any.
    pub(crate) interface: Option<Interface>,
    /// True while a master has this node's whole catalog.
    pub(crate) attached: watch::Sender<bool>,
}

impl Reporter {
    /// Keeps the node attached to one of its masters, tried in turn, forever.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(FIRST_WAIT, MAX_WAIT);
        let mut log = AttachLog::default();
        for attachment in 1.. {
            // The list is not empty: the configuration is checked for that.
            let turn = usize::try_from(attachment - 1).unwrap_or(0) % self.dialer.masters.len().max(1);
            let Some(master) = self.dialer.masters.get(turn) else { return };
            let welcomed = || {
                backoff.reset();
                log.attached(master, attachment);
            };
            let error = match self.dialer.dial(master).await {
                Ok(channel) => match attach(&self, channel, attachment, welcomed).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.attached.send_replace(false);
            self.services.context.meter().handle_detached();
            let wait = log.lost(master, &error).unwrap_or_else(|| backoff.wait(&mut rand::rng()));
            time::sleep(wait).await;
        }
    }
}

/// Attaches, calls `welcomed`, and reports until the channel is lost.
async fn attach(
    reporter: &Reporter,
    channel: Channel,
    attachment: u64,
    welcomed: impl FnOnce(),
) -> Result<Infallible, AttachError> {
    let (outbox, requests) = mpsc::channel(QUEUE);
    let mut presence = reporter.presence.subscribe();
    let hello = v1::Hello {
        node: reporter.services.context.name.to_string(),
        boot_id: reporter.boot.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        zone: reporter.zone.clone(),
        capacity_bps: reporter.capacity.0,
        presence: Some(reporter.presence.to_pb(&presence.borrow_and_update())),
        attachment,
        equipment: Some(reporter.equipment.to_pb()),
        replica_bytes: reporter.services.puller.quota(),
    };
    // The master answers the call only after the first message.
    post(&outbox, Body::Hello(hello)).await?;
    let mut client = RegistryClient::new(channel);
    let opening = async {
        let mut orders = client.attach(ReceiverStream::new(requests)).await?.into_inner();
        let first = orders.message().await?;
        Ok::<_, AttachError>((orders, first))
    };
    let opened = time::timeout(WELCOME, opening).await;
    let (orders, first) = opened.map_err(|_| anyhow!("the master sent no Welcome in {} s", WELCOME.as_secs()))??;
    let Some(Order::Welcome(welcome)) = first.and_then(|answer| answer.body) else {
        return Err(anyhow!("the master did not begin with Welcome; is it a master of this version?").into());
    };
    let interval = accept_welcome(&reporter.services.context, &welcome)?;
    welcomed();
    let _attached = reporter.services.leases.attach(unix_now());
    try_join5(
        catalog::send(reporter, &outbox),
        sessions(reporter, &outbox),
        reports(reporter, &outbox, interval),
        try_join(follow(reporter, presence, &outbox), feeds(reporter, &outbox)),
        orders::answer(reporter, &outbox, orders),
    )
    .await
    .map(|(never, ..)| never)
}

async fn post(outbox: &Outbox, body: Body) -> Result<(), AttachError> {
    let sent = outbox.send(AttachRequest { body: Some(body) }).await;
    sent.map_err(|_| anyhow!("the channel to the master broke").into())
}

/// Accepts the ticket keys. Returns the report interval.
fn accept_welcome(context: &NodeContext, welcome: &v1::Welcome) -> Result<Duration, AttachError> {
    let secrets = welcome.keys.iter().map(|key| <[u8; 32]>::try_from(key.secret.as_slice()).map(Key::new));
    let keys: Vec<Key> = secrets.collect::<Result<_, _>>().unwrap_or_default();
    if keys.is_empty() {
        return Err(anyhow!("the master sent no ticket key that can be used").into());
    }
    context.accept_keys(&keys);
    let interval = welcome.report_interval_ms.clamp(*INTERVAL.start(), *INTERVAL.end());
    Ok(Duration::from_millis(interval))
}

/// Reports all active sessions, and then each that starts, ends or is refused.
async fn sessions(reporter: &Reporter, outbox: &Outbox) -> Result<Infallible, AttachError> {
    let context = &reporter.services.context;
    context.meter().handle_attached();
    // A node that waits for a long scan has no sessions to report.
    if context.library.scanned().now_or_never().is_some() {
        let mut attached = reporter.attached.subscribe();
        drop(time::timeout(CATALOG_WAIT, attached.wait_for(|attached| *attached)).await);
    }
    loop {
        let due = context.meter().next_timeout(Instant::now());
        let Some(due) = due else {
            context.session_event().await;
            continue;
        };
        time::sleep_until(due.into()).await;
        // Changes that occur while the channel is full are sent together.
        let place = outbox.reserve().await.map_err(|_| anyhow!("the channel to the master broke"))?;
        let updates = context.meter().poll_sessions(Instant::now());
        if let Some(updates) = updates {
            place.send(AttachRequest { body: Some(Body::Sessions(updates.to_pb())) });
        }
    }
}

/// Reports the load at each interval.
async fn reports(reporter: &Reporter, outbox: &Outbox, interval: Duration) -> Result<Infallible, AttachError> {
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let place = outbox.reserve().await.map_err(|_| anyhow!("the channel to the master broke"))?;
        let sent = reporter.interface.as_ref().and_then(|interface| match interface.sent() {
            Ok(sent) => Some(sent),
            Err(error) => {
                debug!(%error, "network interface is gone; the last measured background traffic stays in the reports");
                None
            }
        });
        let now = Instant::now();
        let report = {
            let mut meter = reporter.services.context.meter();
            sent.into_iter().for_each(|bytes| meter.handle_link_bytes(now, bytes));
            meter.poll_report(now)
        };
        let services = &reporter.services;
        let (replica_free, refused) = (services.puller.free(), services.budgets.refusals());
        let report = model::Report { replica_free, refused, ..report };
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
        // Sessions are reported by themselves, and at once.
        background_bps: report.background.0,
        demand_bps: report.demand.0,
        delivered_bps: report.delivered.0,
        replica_free_bytes: report.replica_free,
        refused_by_budget: Some(report.refused.to_pb()),
    }
}

/// Reports changes of the presence.
async fn follow(
    reporter: &Reporter,
    mut presence: tokio::sync::watch::Receiver<model::Presence>,
    outbox: &Outbox,
) -> Result<Infallible, AttachError> {
    loop {
        presence.changed().await.map_err(|_| anyhow!("the node is shutting down"))?;
        let now = reporter.presence.to_pb(&presence.borrow_and_update());
        post(outbox, Body::Presence(now)).await?;
    }
}

/// Reports all feeds, and then each change: at once, or each second where only counters grow.
async fn feeds(reporter: &Reporter, outbox: &Outbox) -> Result<Infallible, AttachError> {
    let live = &reporter.services.live;
    let mut sent: Option<v1::Feeds> = None;
    let mut ticks = time::interval(FEED_COUNTERS);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = live.updated() => {}
            _ = ticks.tick() => {}
        }
        let now = v1::Feeds { feeds: live.states().iter().map(FeedState::to_pb).collect() };
        // A master without a message knows of no feeds.
        if sent.as_ref() != Some(&now) && !(sent.is_none() && now.feeds.is_empty()) {
            post(outbox, Body::Feeds(now.clone())).await?;
            sent = Some(now);
        }
        for wanted in live.take_relay_requests() {
            post(outbox, Body::RelayWanted(wanted)).await?;
        }
        time::sleep(FEED_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests;
