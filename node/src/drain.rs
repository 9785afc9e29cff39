//! Drains, whoever asks for one: the master, for its operator, or a signal. Owns the deadline, and what is done at it.
//! Refuses to know how sessions are moved away meanwhile, and how they are ended.

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

/// The longest time that a drain may be given: a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// See the module.
pub(crate) struct Drain {
    services: Arc<Services>,
    presence: Arc<Presence>,
    /// When what still runs is ended; `None` when nothing is to be, or it has been.
    ends: watch::Sender<Option<Instant>>,
    /// The process is about to end: nobody takes that back.
    ending: AtomicBool,
}

impl Drain {
    /// Of a node that serves.
    pub(crate) fn new(services: Arc<Services>, presence: Arc<Presence>) -> Self {
        Self { services, presence, ends: watch::Sender::new(None), ending: AtomicBool::new(false) }
    }

    /// The operator wants the node empty: it takes no new sessions, and ends those that run after `left`. Said again, it
    /// sets the deadline anew.
    pub(crate) fn order(&self, left: Duration) {
        if self.ending.load(Ordering::Relaxed) {
            info!("an order to drain was ignored: the node is about to end");
        } else {
            self.begin(left);
        }
    }

    /// The process ends after `left` at the latest.
    pub(crate) fn end(&self, left: Duration) {
        self.ending.store(true, Ordering::Relaxed);
        self.begin(left);
    }

    /// The process ends now. What still runs is ended with it.
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

    /// The node takes sessions again.
    pub(crate) fn undo(&self) {
        if self.ending.load(Ordering::Relaxed) {
            return info!("an order to take sessions again was ignored: the node is about to end");
        }
        info!("draining no more");
        self.ends.send_replace(None);
        self.services.undrain();
        self.presence.undrain();
    }

    /// Waits until the deadline of the present drain has passed.
    pub(crate) async fn over(&self) {
        // Fails only when the sender is gone, which is in `self`.
        drop(self.ends.subscribe().wait_for(Option::is_none).await);
    }

    /// Ends, at each deadline, the sessions that still run; for ever.
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
                () = due => self.cut(ends),
            }
        }
    }

    fn cut(&self, due: Option<Instant>) {
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
                warn!(sessions, "the time to drain is over: ending the sessions that still run");
            }
            self.presence.drained();
            self.services.context.disconnect_all();
        }
    }
}

#[cfg(test)]
mod tests;
