//! Until when sessions may run, as their tickets say and renewals extend it. Tracks whether there is a master to renew
//! at; `core::lease` decides when a session ends. The master may also order the end of one.

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time,
};
use usher_proto::{Code, Fault, SessionId, Title, ticket::Ticket};

use crate::{
    context::unix_now,
    core::lease::{self, MasterState},
    sync::lock,
};

/// No end, where a number is needed.
const NO_END: u64 = u64::MAX;

/// Leases of the active sessions, and the state of the master.
pub(crate) struct Leases {
    running: Mutex<HashMap<SessionId, Arc<Lease>>>,
    master: watch::Sender<MasterState>,
}

struct Lease {
    title: Title,
    /// Unix seconds, or [`NO_END`]. Only grows.
    until: AtomicU64,
    /// Set once the master orders the end.
    ended: OnceLock<Box<Fault>>,
    end: Notify,
}

impl Default for Leases {
    fn default() -> Self {
        Self { running: Mutex::default(), master: watch::Sender::new(MasterState::Absent) }
    }
}

impl Leases {
    /// Starts the lease of a session, until the returned value drops.
    pub(crate) fn enter(self: &Arc<Self>, ticket: &Ticket) -> RunningLease {
        let until = AtomicU64::new(ticket.until.unwrap_or(NO_END));
        let lease = Lease { title: ticket.title.clone(), until, ended: OnceLock::new(), end: Notify::new() };
        let lease = Arc::new(lease);
        self.running().insert(ticket.session, lease.clone());
        RunningLease { leases: self.clone(), id: ticket.session, lease }
    }

    /// Extends a session to the end of this ticket, or its own if that is later. Returns the seconds from now; 0 for no
    /// end.
    ///
    /// # Errors
    /// `NOT_FOUND` when it does not run here, `TICKET_MISMATCH` when the ticket is for another title.
    pub(crate) fn renew(&self, ticket: &Ticket) -> Result<u64, Fault> {
        let id = ticket.session;
        let lease = self.running().get(&id).cloned();
        let gone = || Fault::new(Code::NotFound, format!("session {id} does not run here; resolve again"));
        let lease = lease.ok_or_else(gone)?;
        if lease.title != ticket.title {
            return Err(Fault::new(Code::TicketMismatch, format!("session {id} is one of `{}`", lease.title)));
        }
        let until = ticket.until.unwrap_or(NO_END);
        let until = lease.until.fetch_max(until, Ordering::Relaxed).max(until);
        Ok(if until == NO_END { 0 } else { until.saturating_sub(unix_now()).max(1) })
    }

    /// Ends a session as the master orders. Returns whether it runs here.
    pub(crate) fn end(&self, session: SessionId, why: Fault) -> bool {
        let lease = self.running().get(&session).cloned();
        lease.is_some_and(|lease| {
            let first = lease.ended.set(Box::new(why)).is_ok();
            lease.end.notify_one();
            first
        })
    }

    /// The node is attached to a master since this Unix second, until the returned value drops.
    pub(crate) fn attach(self: &Arc<Self>, since: u64) -> AttachedGuard {
        self.master.send_replace(MasterState::Attached { since });
        AttachedGuard(self.clone())
    }

    /// Held for one call of the map, so a panicking holder cannot have left it half changed.
    fn running(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Lease>>> {
        lock(&self.running)
    }
}

/// An attachment to a master.
pub(crate) struct AttachedGuard(Arc<Leases>);

impl Drop for AttachedGuard {
    fn drop(&mut self) {
        self.0.master.send_replace(MasterState::Absent);
    }
}

/// The lease of an active session.
pub(crate) struct RunningLease {
    leases: Arc<Leases>,
    id: SessionId,
    lease: Arc<Lease>,
}

impl RunningLease {
    /// Waits until the session must end. Without a master its lease extends by `grace`. Returns the master's reason if it
    /// ordered the end.
    pub(crate) async fn expired(&self, grace: Duration) -> Option<Fault> {
        let mut master = self.leases.master.subscribe();
        loop {
            if let Some(why) = self.lease.ended.get() {
                return Some(Fault::clone(why));
            }
            let until = self.lease.until.load(Ordering::Relaxed);
            let end = lease::end((until < NO_END).then_some(until), *master.borrow_and_update(), grace.as_secs());
            // A lease without an end never expires.
            let left = end.map(|end| end.saturating_sub(unix_now()));
            if left == Some(0) {
                return None;
            }
            let over = async {
                match left {
                    Some(left) => time::sleep(Duration::from_secs(left)).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                () = self.lease.end.notified() => {}
                // The sender lives as long as this.
                _ = master.changed() => {}
            }
        }
    }
}

impl Drop for RunningLease {
    fn drop(&mut self) {
        self.leases.running().remove(&self.id);
    }
}
