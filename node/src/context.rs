//! State that all parts of one node share: name, library, ticket keys, counters, and whether the node drains. Owns the
//! locks, each short and never held across an await. Does not know QUIC, gRPC, feeds or ordered copies; those parts are
//! in `services`.

mod opened;
mod session;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, watch},
    time,
};
use tracing::debug;
use usher_budget::Prefix;
use usher_proto::{
    Bitrate, Code, Fault, NodeName, SessionId,
    buffers::Buffers,
    pb::v1::ByteRange,
    text::printable_within,
    ticket::{Key, Ticket},
};

pub(crate) use self::{
    opened::OpenedTitle,
    session::{ActiveSession, SessionStream},
};
use crate::{
    core::{admission::AdmissionControl, keyring::Keyring, meter::Meter, replay::ReplayFilter, schedule::MAX_QUANTUM},
    media::Library,
    scheduler::Scheduler,
    sync::lock,
};

/// Unused read buffers that are kept for reuse, each of one scheduler quantum: 32 MiB in all.
const SPARE_BUFFERS: usize = 128;

/// Interval at which the readers of all sessions are looked at.
const FOLLOW: Duration = Duration::from_millis(500);

/// Shared state of one node.
pub(crate) struct NodeContext {
    pub(crate) name: NodeName,
    pub(crate) library: Library,
    keys: ArcSwap<Keyring>,
    replay: Mutex<ReplayFilter>,
    meter: Mutex<Meter>,
    /// Buffers for groups that fetches read.
    pub(crate) buffers: Buffers,
    /// Number of paced viewers of titles.
    pub(crate) viewers: Arc<AtomicUsize>,
    /// Decides which session sends next.
    pub(crate) scheduler: Arc<Scheduler>,
    draining: AtomicBool,
    /// Number of active sessions.
    sessions: watch::Sender<usize>,
    /// Notified each time all present connections are to end.
    disconnects: watch::Sender<()>,
    /// Wakes the task that reports session events to the master.
    session_events: Notify,
}

/// Current time in Unix seconds.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A request id from a peer, made safe for logs.
pub(crate) fn request_id(text: &str) -> String {
    printable_within(text, 64)
}

/// Runs `work`, which may wait for a disk, on a blocking thread.
///
/// # Errors
/// `INTERNAL` when it panics, or the runtime shuts down.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Fault::new(Code::Internal, format!("read media: {error}")))
}

impl NodeContext {
    /// State of a node that has no ticket keys and no sessions yet.
    pub(crate) fn new(name: NodeName, library: Library, admission: AdmissionControl) -> Arc<Self> {
        Arc::new(Self {
            name,
            library,
            keys: ArcSwap::default(),
            replay: Mutex::default(),
            meter: Mutex::new(Meter::new(Instant::now(), admission)),
            buffers: Buffers::new(MAX_QUANTUM, SPARE_BUFFERS),
            viewers: Arc::default(),
            scheduler: Scheduler::new(admission.capacity),
            draining: AtomicBool::new(false),
            sessions: watch::Sender::new(0),
            disconnects: watch::Sender::new(()),
            session_events: Notify::new(),
        })
    }

    /// Locks the meter.
    pub(crate) fn meter(&self) -> MutexGuard<'_, Meter> {
        lock(&self.meter)
    }

    /// Accepts tickets signed with these keys, the latest from the master.
    pub(crate) fn accept_keys(&self, keys: &[Key]) {
        let now = Instant::now();
        self.keys.rcu(|ring| ring.welcome(now, keys.to_vec()));
    }

    /// Sets whether new sessions are refused.
    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Checks that new sessions are accepted.
    ///
    /// # Errors
    /// `DRAINING`.
    pub(crate) fn ensure_serving(&self) -> Result<(), Fault> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Fault::new(Code::Draining, format!("node `{}` is draining; resolve again", self.name)));
        }
        Ok(())
    }

    /// Ends all present connections with their sessions; clients continue at other nodes.
    pub(crate) fn disconnect_all(&self) {
        self.disconnects.send_replace(());
    }

    /// Waits until all connections that are present now are to end.
    pub(crate) fn disconnected(&self) -> impl Future<Output = ()> + use<> {
        let mut disconnects = self.disconnects.subscribe();
        async move {
            if disconnects.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until a session has started, ended or been refused since the last call. For one caller.
    pub(crate) async fn session_event(&self) {
        self.session_events.notified().await;
    }

    /// Watches the number of active sessions.
    pub(crate) fn sessions(&self) -> watch::Receiver<usize> {
        self.sessions.subscribe()
    }

    /// Waits until no session is active.
    pub(crate) async fn idle(&self) {
        // Fails only when the sender is gone, which is in `self`.
        drop(self.sessions().wait_for(|count| *count == 0).await);
    }

    /// Gives back the rates that readers do not take, and reserves them again, for as long as the node runs. For one
    /// caller.
    pub(crate) async fn follow_readers(&self) {
        let mut ticks = time::interval(FOLLOW);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let changes = self.meter().poll_rates(Instant::now());
            for change in &changes {
                debug!(session = %change.session, rate = %change.rate, "reserved rate changed by its reader");
                self.scheduler.reserve(change.session, change.rate);
            }
            if !changes.is_empty() {
                self.session_events.notify_one();
            }
        }
    }

    /// Verifies a ticket without redeeming it.
    ///
    /// # Errors
    /// The codes of [`usher_proto::ticket::TicketError`].
    pub(crate) fn verify(&self, token: &str) -> Result<Ticket, Fault> {
        let ring = self.keys.load();
        ring.verify(Instant::now(), unix_now(), &self.name, token).map_err(|error| Fault::from(&error))
    }

    /// Verifies a ticket that renews a session.
    ///
    /// # Errors
    /// The codes of [`usher_proto::ticket::TicketError`].
    pub(crate) fn verify_renewal(&self, token: &str) -> Result<Ticket, Fault> {
        let ring = self.keys.load();
        ring.verify_renewal(Instant::now(), unix_now(), &self.name, token).map_err(|error| Fault::from(&error))
    }

    /// Redeems a ticket, once.
    ///
    /// # Errors
    /// As [`ReplayFilter::redeem`].
    pub(crate) fn redeem(&self, ticket: &Ticket) -> Result<(), Fault> {
        lock(&self.replay).redeem(unix_now(), ticket.session, ticket.forget_at)
    }

    /// Opens the title of a valid ticket on a blocking thread, since a disk may be slow. `holder` is the network of the
    /// client that opens it now.
    ///
    /// # Errors
    /// `DRAINING`, `CONTENT_CHANGED`, `UNAVAILABLE`, those of [`crate::core::session::Session::opened`], and those of
    /// admission control, which is asked first: a full node does not touch its disk.
    pub(crate) async fn open(
        &self,
        ticket: Ticket,
        wanted: Option<ByteRange>,
        more: bool,
        holder: Option<Prefix>,
    ) -> Result<OpenedTitle, Fault> {
        self.ensure_serving()?;
        let loads = {
            let meter = self.meter();
            meter.check(Bitrate(ticket.rate), ticket.burst, holder)?;
            meter.volumes().clone()
        };
        let library = self.library.clone();
        blocking(move || opened::open(&library, &loads, ticket, wanted, more)).await?
    }

    /// Records a refused session for the master, except a replay: its first use was recorded already.
    pub(crate) fn record_refusal(&self, session: SessionId, burst: bool, fault: &Fault) {
        if fault.code != Code::TicketReplayed {
            self.meter().handle_refusal(session, fault.code, burst);
            self.session_events.notify_one();
        }
    }
}
