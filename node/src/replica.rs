//! Carries out what the master orders of copies: at most six come in at a time, each from one seat of another node, and
//! evictions. Owns the copies under way; what is kept of them is the library's, what may be kept is `core::pull`'s.

mod pull;
pub(crate) mod source;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, info, info_span, warn};
use usher_proto::{
    Bitrate, Code, ContentId, Fault, Title,
    model::SeatAddress,
    pb::v1::{Evict, Replicate},
    tree, units,
};

use crate::{context, core::pull::ReplicaSpec, media::ReplicaStore};

/// Copies that come in at a time: as many as a master sends to one node; more would only share the same disk and link.
const MAX_PULLS: usize = 6;

/// How long a source may send nothing.
pub(crate) const STALL: Duration = Duration::from_secs(10);

/// When to order again where too many copies come in.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How a copy ended; `None` while it comes in.
type PullOutcome = watch::Receiver<Option<Result<(), Fault>>>;

/// A copy under way.
struct PullTask {
    content: ContentId,
    cancel: CancellationToken,
    outcome: PullOutcome,
}

/// What the master ordered, checked.
struct PullOrder {
    wanted: ReplicaSpec,
    seat: SeatAddress,
    /// At most this; 0 for no limit.
    rate: Bitrate,
    request_id: String,
}

impl TryFrom<Replicate> for PullOrder {
    type Error = Fault;

    fn try_from(order: Replicate) -> Result<Self, Fault> {
        let bad = |what: String| Fault::new(Code::BadRequest, format!("order of a copy: {what}"));
        let title = Title::parse(&order.title).map_err(|error| bad(error.to_string()))?;
        let content =
            ContentId::try_from(order.content_id.as_slice()).map_err(|_| bad("it names no content".into()))?;
        if !(1..=tree::MAX_SIZE).contains(&order.size) {
            return Err(bad(format!("a title has 1 to {} bytes, not {}", tree::MAX_SIZE, order.size)));
        }
        let seat = SeatAddress::try_from(order.source.unwrap_or_default()).map_err(|error| bad(error.to_string()))?;
        let wanted = ReplicaSpec { title, content, size: order.size };
        Ok(Self { wanted, seat, rate: Bitrate(order.rate_bps), request_id: order.request_id })
    }
}

/// The copies of one node that come in.
pub(crate) struct Puller {
    replicas: Option<Arc<ReplicaStore>>,
    /// How long a source may send nothing.
    stall: Duration,
    running: Mutex<HashMap<Title, PullTask>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    draining: AtomicBool,
    /// Somebody looks how much room is left.
    looking: AtomicBool,
}

impl Puller {
    pub(crate) fn new(replicas: Option<Arc<ReplicaStore>>, stall: Duration) -> Arc<Self> {
        Arc::new(Self {
            replicas,
            stall,
            running: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            draining: AtomicBool::new(false),
            looking: AtomicBool::new(false),
        })
    }

    /// Each lock is held for a look-up only.
    fn running(&self) -> MutexGuard<'_, HashMap<Title, PullTask>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that copies may take.
    pub(crate) fn quota(&self) -> u64 {
        self.replicas.as_ref().map_or(0, |replicas| replicas.quota())
    }

    /// Bytes of them that were free a moment ago: a report does not wait for a disk.
    pub(crate) fn free(self: &Arc<Self>) -> u64 {
        let Some(replicas) = &self.replicas else { return 0 };
        if !self.looking.swap(true, Ordering::AcqRel) {
            let puller = self.clone();
            self.tasks.spawn_blocking(move || {
                puller.replicas.iter().for_each(|replicas| replicas.refresh_free());
                puller.looking.store(false, Ordering::Release);
            });
        }
        replicas.last_free()
    }

    /// Takes no more orders: a node that drains may be about to end.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Takes orders again.
    pub(crate) fn undrain(&self) {
        self.draining.store(false, Ordering::Relaxed);
    }

    /// Carries out an order; ends with the copy. Whoever orders a copy again that comes in waits for the same.
    /// Dropping the future leaves the copy under way.
    ///
    /// # Errors
    /// `BAD_REQUEST` for an order that makes no sense, `DRAINING`, `NO_CAPACITY` when four are under way, `DISK` when
    /// there is no room, `EXISTS` when the title is here with other content, and what goes wrong with the source.
    pub(crate) async fn order(self: &Arc<Self>, order: Replicate) -> Result<(), Fault> {
        let mut outcome = self.begin(order.try_into()?)?;
        let ended = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        ended.unwrap_or_else(|| Err(Fault::new(Code::Internal, "the copy ended by a bug")))
    }

    fn begin(self: &Arc<Self>, order: PullOrder) -> Result<PullOutcome, Fault> {
        let Some(replicas) = self.replicas.clone() else {
            return Err(Fault::new(Code::Disk, "this node takes no copies: 0 B of 0 B are free"));
        };
        if self.draining.load(Ordering::Relaxed) {
            return Err(Fault::new(Code::Draining, "this node is draining and takes no copies"));
        }
        let title = order.wanted.title.clone();
        let mut running = self.running();
        if let Some(same) = running.get(&title) {
            if same.content == order.wanted.content {
                return Ok(same.outcome.clone());
            }
            let what = format!("a copy of `{title}` with content {} comes in: evict it first", same.content);
            return Err(Fault::new(Code::Exists, what));
        }
        if running.len() >= MAX_PULLS {
            let what = format!("{MAX_PULLS} copies come in already");
            return Err(Fault::new(Code::NoCapacity, what).after(RETRY_AFTER));
        }
        let (tell, outcome) = watch::channel(None);
        let cancel = self.stop.child_token();
        let content = order.wanted.content;
        running.insert(title.clone(), PullTask { content, cancel: cancel.clone(), outcome: outcome.clone() });
        drop(running);
        let (puller, span) = (self.clone(), info_span!("copy", rid = context::request_id(&order.request_id)));
        let copy = async move {
            let began = Instant::now();
            let result = pull::run(&replicas, &order, puller.stall, &cancel).await;
            log(&order, &result, began);
            puller.running().remove(&order.wanted.title);
            tell.send_replace(Some(result.map(drop)));
        };
        self.tasks.spawn(copy.instrument(span));
        Ok(outcome)
    }

    /// Deletes a copy, and ends one that comes in. An operator's file is never touched.
    pub(crate) async fn evict(&self, evict: Evict) {
        let named = Title::parse(&evict.title).ok().zip(ContentId::try_from(evict.content_id.as_slice()).ok());
        let (Some((title, content)), Some(replicas)) = (named, self.replicas.clone()) else {
            return debug!(title = ?evict.title, "an eviction of nothing was ignored");
        };
        let under_way = self.running().get(&title).filter(|running| running.content == content).map(|running| {
            running.cancel.cancel();
            running.outcome.clone()
        });
        if let Some(mut outcome) = under_way {
            // Fails only when the task is gone, and with it the copy.
            drop(outcome.wait_for(Option::is_some).await);
        }
        let name = title.clone();
        match context::blocking(move || replicas.evict(&name, content)).await {
            Ok(true) => info!(%title, "copy evicted"),
            Ok(false) => debug!(%title, "an eviction found no copy"),
            Err(fault) => warn!(%title, %fault, "copy not evicted"),
        }
    }

    /// Ends what is under way; it can be resumed after a restart.
    pub(crate) async fn close(&self) {
        self.drain();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn log(order: &PullOrder, result: &Result<u64, Fault>, began: Instant) {
    let (title, node, seconds) = (&order.wanted.title, &order.seat.node, began.elapsed().as_secs_f64());
    match result {
        Ok(bytes) => {
            let bytes = units::bytes(*bytes);
            info!(%title, %node, bytes, seconds = format!("{seconds:.3}"), "copy is whole");
        }
        Err(fault) => warn!(%title, %node, reason = fault.code.reason(), %fault, "copy is not whole"),
    }
}
