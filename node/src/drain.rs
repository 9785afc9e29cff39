//! Drains the node when the master or a signal orders it. Owns the deadline and ends remaining sessions at it; the
//! master moves sessions away meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::watch, time};
use tracing::{info, warn};

use crate::{presence::Presence, services::Services};

/// Maximum time of a drain: a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// State of the drain.
pub(crate) struct Drain {
    services: Arc<Services>,
    presence: Arc<Presence>,
    /// Deadline of the drain; `None` when there is none, or it has passed.
    ends: watch::Sender<Option<Instant>>,
    /// The process is about to end, which no order takes back.
    ending: AtomicBool,
}

impl Drain {
    /// The drain of a serving node.
    pub(crate) fn new(services: Arc<Services>, presence: Arc<Presence>) -> Self {
        Self { services, presence, ends: watch::Sender::new(None), ending: AtomicBool::new(false) }
    }

    /// Drains the node for an operator: refuses new sessions, and ends active ones after `left`. Another call sets a
    /// new deadline.
    pub(crate) fn order(&self, left: Duration) {
        if self.ending.load(Ordering::Relaxed) {
            info!("order to drain ignored: the node is about to end");
        } else {
            self.begin(left);
        }
    }

    /// Drains the node before the process ends, after `left` at the latest.
    pub(crate) fn end(&self, left: Duration) {
        self.ending.store(true, Ordering::Relaxed);
        self.begin(left);
    }

    /// Drains the node before the process ends now, together with the remaining sessions.
    pub(crate) fn end_now(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.services.drain();
        self.presence.drained();
    }

    fn begin(&self, left: Duration) {
        let ends = Instant::now() + left.min(LONGEST);
        info!(sessions = self.services.context.meter().sessions(), seconds = left.as_secs(), "draining");
        self.services.drain();
        self.presence.drain(ends);
        self.ends.send_replace(Some(ends));
    }

    /// Accepts sessions again.
    pub(crate) fn undo(&self) {
        if self.ending.load(Ordering::Relaxed) {
            return info!("order to end the drain ignored: the node is about to end");
        }
        info!("drain ended: accepting sessions again");
        self.ends.send_replace(None);
        self.services.undrain();
        self.presence.undrain();
    }

    /// Waits until the deadline has passed.
    pub(crate) async fn over(&self) {
        // Fails only when the sender is gone, which is in `self`.
        drop(self.ends.subscribe().wait_for(Option::is_none).await);
    }

    /// Ends the remaining sessions at each deadline; forever.
    pub(crate) async fn keep(&self) {
        let mut changes = self.ends.subscribe();
        loop {
            let ends = *changes.borrow_and_update();
            let due = async {
                match ends {
                    Some(ends) => time::sleep_until(ends.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = due => self.end_remaining(ends),
            }
        }
    }

    fn end_remaining(&self, due: Option<Instant>) {
        let sessions = self.services.context.meter().sessions();
        // Not when another deadline was set just now.
        let over = self.ends.send_if_modified(|ends| {
            let over = *ends == due;
            if over {
                *ends = None;
            }
            over
        });
        if over {
            if sessions > 0 {
                warn!(sessions, "drain deadline passed: ending the remaining sessions");
            }
            self.presence.drained();
            self.services.context.disconnect_all();
        }
    }
}

#[cfg(test)]
mod tests;
