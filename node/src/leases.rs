//! Until when sessions may run, as their tickets say and renewals extend it. Owns that, and whether there is a master to
//! renew at; what follows from it is decided in `core::lease`.

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time};
use usher_proto::{Code, Fault, SessionId, Title, ticket::Ticket};

use crate::{
    context::unix_now,
    core::lease::{self, Tie},
};

/// For ever, where a number must say it.
const EVER: u64 = u64::MAX;

/// The sessions that run, and the tie to a master.
pub(crate) struct Leases {
    running: Mutex<HashMap<SessionId, Arc<Lease>>>,
    tie: watch::Sender<Tie>,
}

struct Lease {
    title: Title,
    /// Unix seconds, or [`EVER`]. Only grows.
    until: AtomicU64,
}

impl Default for Leases {
    fn default() -> Self {
        Self { running: Mutex::default(), tie: watch::Sender::new(Tie::Alone) }
    }
}

impl Leases {
    /// A session runs on this ticket, until what is returned drops.
    pub(crate) fn enter(self: &Arc<Self>, ticket: &Ticket) -> RunningLease {
        let until = AtomicU64::new(ticket.until.unwrap_or(EVER));
        let lease = Arc::new(Lease { title: ticket.title.clone(), until });
        self.running().insert(ticket.session, lease.clone());
        RunningLease { leases: self.clone(), id: ticket.session, lease }
    }

    /// Lets a session run until this ticket's end, or its own if that is later. Returns the seconds from now; 0 for ever.
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
        let until = ticket.until.unwrap_or(EVER);
        let until = lease.until.fetch_max(until, Ordering::Relaxed).max(until);
        Ok(if until == EVER { 0 } else { until.saturating_sub(unix_now()).max(1) })
    }

    /// A master took the node in at this Unix second; it has it until what is returned drops.
    pub(crate) fn tie(self: &Arc<Self>, since: u64) -> Tied {
        self.tie.send_replace(Tie::Attached { since });
        Tied(self.clone())
    }

    /// RunningLease for one call of the map, so a panic elsewhere cannot have left it half changed.
    fn running(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Lease>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The node has a master.
pub(crate) struct Tied(Arc<Leases>);

impl Drop for Tied {
    fn drop(&mut self) {
        self.0.tie.send_replace(Tie::Alone);
    }
}

/// A session that runs on a ticket.
pub(crate) struct RunningLease {
    leases: Arc<Leases>,
    id: SessionId,
    lease: Arc<Lease>,
}

impl RunningLease {
    /// Waits until the session is over, where nobody can renew a ticket by the `grace` later.
    pub(crate) async fn expired(&self, grace: Duration) {
        let mut tie = self.leases.tie.subscribe();
        loop {
            let until = self.lease.until.load(Ordering::Relaxed);
            let end = lease::end((until < EVER).then_some(until), *tie.borrow_and_update(), grace.as_secs());
            // What has no end gets none.
            let Some(end) = end else { return pending().await };
            let left = end.saturating_sub(unix_now());
            if left == 0 {
                return;
            }
            tokio::select! {
                () = time::sleep(Duration::from_secs(left)) => {}
                // The sender lives as long as this.
                _ = tie.changed() => {}
            }
        }
    }
}

impl Drop for RunningLease {
    fn drop(&mut self) {
        self.leases.running().remove(&self.id);
    }
}
