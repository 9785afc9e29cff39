//! Carries out the master's orders of copies: at most six are received at a time, each from one seat of another node;
//! and evictions. Owns the running pulls; the library stores the copies, and `core::pull` verifies them.

mod order;
mod pull;
pub(crate) mod source;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, info, info_span, warn};
use usher_proto::{
    Code, ContentId, Fault, Title,
    pb::v1::{Evict, Replicate},
    units,
};

use self::order::PullOrder;
use crate::{context, media::ReplicaStore, sync::lock};

/// Most copies received at a time: as many as a master orders of one node; more would only share the same disk and
/// link.
const MAX_PULLS: usize = 6;

/// How long a source may send nothing.
pub(crate) const STALL: Duration = Duration::from_secs(10);

/// When to order again after a refusal for too many copies.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The result of a pull; `None` while it runs.
type PullOutcome = watch::Receiver<Option<Result<(), Fault>>>;

/// A running pull.
struct PullTask {
    content: ContentId,
    cancel: CancellationToken,
    outcome: PullOutcome,
}

/// The pulls of one node.
pub(crate) struct Puller {
    replicas: Option<Arc<ReplicaStore>>,
    /// How long a source may send nothing.
    stall: Duration,
    running: Mutex<HashMap<Title, PullTask>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    draining: AtomicBool,
    /// A task is refreshing the free bytes.
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
        lock(&self.running)
    }

    /// Most bytes that copies may take.
    pub(crate) fn quota(&self) -> u64 {
        self.replicas.as_ref().map_or(0, |replicas| replicas.quota())
    }

    /// Free bytes of the quota, as of a moment ago: a report does not wait for a disk.
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

    /// Refuses new orders: a draining node may be about to stop.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Accepts orders again.
    pub(crate) fn undrain(&self) {
        self.draining.store(false, Ordering::Relaxed);
    }

    /// Carries out an order and returns when the copy is complete. A repeated order waits for the same pull. Dropping
    /// the future does not stop the pull.
    ///
    /// # Errors
    /// `BAD_REQUEST` for an invalid order, `DRAINING`, `NO_CAPACITY` when six pulls are running, `DISK` when space is
    /// short, `EXISTS` when the title is here with other content, and the source's errors.
    pub(crate) async fn order(self: &Arc<Self>, order: Replicate) -> Result<(), Fault> {
        let mut outcome = self.begin(order.try_into()?)?;
        let ended = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        ended.unwrap_or_else(|| Err(Fault::new(Code::Internal, "the task of the copy panicked")))
    }

    fn begin(self: &Arc<Self>, order: PullOrder) -> Result<PullOutcome, Fault> {
        let Some(replicas) = self.replicas.clone() else {
            return Err(Fault::new(Code::Disk, "this node accepts no copies: its quota is 0 B"));
        };
        if self.draining.load(Ordering::Relaxed) {
            return Err(Fault::new(Code::Draining, "this node is draining and accepts no copies"));
        }
        let title = order.wanted.title.clone();
        let mut running = self.running();
        if let Some(same) = running.get(&title) {
            if same.content == order.wanted.content {
                return Ok(same.outcome.clone());
            }
            let what = format!("a copy of `{title}` with content {} is being received: evict it first", same.content);
            return Err(Fault::new(Code::Exists, what));
        }
        if running.len() >= MAX_PULLS {
            let what = format!("{MAX_PULLS} copies are being received already");
            return Err(Fault::new(Code::NoCapacity, what).after(RETRY_AFTER));
        }
        let (ended, outcome) = watch::channel(None);
        let cancel = self.stop.child_token();
        let content = order.wanted.content;
        running.insert(title.clone(), PullTask { content, cancel: cancel.clone(), outcome: outcome.clone() });
        drop(running);
        let (puller, span) = (self.clone(), info_span!("copy", request_id = context::request_id(&order.request_id)));
        let copy = async move {
            let began = Instant::now();
            let result = pull::run(&replicas, &order, puller.stall, &cancel).await;
            log(&order, &result, began);
            puller.running().remove(&order.wanted.title);
            ended.send_replace(Some(result.map(drop)));
        };
        self.tasks.spawn(copy.instrument(span));
        Ok(outcome)
    }

    /// Deletes a copy, or stops receiving it. Never touches an operator's file.
    pub(crate) async fn evict(&self, evict: Evict) {
        let named = Title::parse(&evict.title).ok().zip(ContentId::try_from(evict.content_id.as_slice()).ok());
        let (Some((title, content)), Some(replicas)) = (named, self.replicas.clone()) else {
            return debug!(title = ?evict.title, "invalid eviction ignored");
        };
        let under_way = self.running().get(&title).filter(|running| running.content == content).map(|running| {
            running.cancel.cancel();
            running.outcome.clone()
        });
        if let Some(mut outcome) = under_way {
            // Fails only when the task ended, and the pull with it.
            drop(outcome.wait_for(Option::is_some).await);
        }
        let name = title.clone();
        match context::blocking(move || replicas.evict(&name, content)).await {
            Ok(true) => info!(%title, "copy evicted"),
            Ok(false) => debug!(%title, "no copy to evict"),
            Err(fault) => warn!(%title, error = %fault, "cannot evict a copy"),
        }
    }

    /// Stops all pulls; they can be resumed after a restart.
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
            info!(%title, %node, bytes, seconds = format!("{seconds:.3}"), "copy complete");
        }
        Err(fault) => warn!(%title, %node, reason = fault.code.reason(), error = %fault, "copy failed"),
    }
}
