//! Bounded queue of updates from nodes. One worker applies them in batches, so that a decision waits for one short lock
//! and not for hundreds of nodes. A full queue drops reports, which the next one replaces, and nothing else.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};
use tracing::error;
use usher_proto::model::Report;

use crate::{
    core::roster::AttachmentId,
    metrics::Level,
    state::{NodeUpdate, SharedState},
};

/// Capacity in messages: two seconds of a thousand nodes.
pub(crate) const LENGTH: usize = 4096;

/// Messages taken from the queue at a time.
const BATCH: usize = 64;

/// Entries after which the lock is released: about half a millisecond. Only the complete session list of a node is
/// longer.
const ENTRIES: usize = 1024;

/// The sending end, held by the channels of nodes.
#[derive(Clone)]
pub(crate) struct UpdateQueue {
    sender: mpsc::Sender<NodeUpdate>,
    waiting: Level,
}

impl UpdateQueue {
    /// A queue of `length` messages whose fill level is shown in `waiting`, and the receiving end for its worker.
    pub(crate) fn new(length: usize, waiting: Level) -> (Self, mpsc::Receiver<NodeUpdate>) {
        let (sender, receiver) = mpsc::channel(length);
        (Self { sender, waiting }, receiver)
    }

    /// Queues a report; returns false if the queue is full.
    pub(crate) fn report(&self, attachment: AttachmentId, report: Report) -> bool {
        let taken = self.sender.try_send(NodeUpdate::Report(attachment, report)).is_ok();
        self.show();
        taken
    }

    /// Queues an update that must not be lost. Waits for space, which stops reading from the node's channel.
    pub(crate) async fn push(&self, updates: NodeUpdate) {
        // Without a worker the master is ending.
        let _ending = self.sender.send(updates).await;
        self.show();
    }

    /// Waits until all earlier updates have been applied.
    pub(crate) async fn settled(&self) {
        let (sender, applied) = oneshot::channel();
        self.push(NodeUpdate::Fence(sender)).await;
        // Without a worker there is nothing to wait for.
        let _ending = applied.await;
    }

    fn show(&self) {
        self.waiting.set((self.sender.max_capacity() - self.sender.capacity()) as u64);
    }
}

/// Applies updates until every sender is gone.
pub(crate) async fn work(state: Arc<SharedState>, mut updates: mpsc::Receiver<NodeUpdate>) {
    let mut batch = Vec::with_capacity(BATCH);
    while updates.recv_many(&mut batch, BATCH).await > 0 {
        state.metrics().load_queue.set(updates.len() as u64);
        let mut rest = batch.drain(..).peekable();
        while rest.peek().is_some() {
            let mut entries = 0;
            let part = std::iter::from_fn(|| {
                let one = rest.next_if(|_| entries < ENTRIES)?;
                entries += one.entries();
                Some(one)
            });
            if catch_unwind(AssertUnwindSafe(|| state.apply(part))).is_err() {
                // The panic was logged where it happened. One bad message must not stop the worker.
                error!("updates of some nodes lost after a panic; their next reports replace them");
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use usher_proto::{
        Bitrate, BootId, NodeName,
        model::{Hello, Presence, Sessions},
    };

    use super::*;
    use crate::core::{Now, roster::Roster};

    fn attachment(now: Now) -> AttachmentId {
        let presence = Presence {
            drain_left: std::time::Duration::ZERO,
            addresses: vec![([127, 0, 0, 1], 9).into()],
            certificates: vec![[7; 32]],
            draining: false,
        };
        let hello = Hello {
            node: NodeName::parse("node-1").expect("a name"),
            boot: BootId(1),
            version: String::new(),
            zone: String::new(),
            capacity: Bitrate(1000),
            presence,
            attachment: 1,
            equipment: usher_proto::model::Equipment::default(),
            replica_bytes: 0,
        };
        Roster::default().handle_attach(now, hello).expect("attached").0
    }

    #[tokio::test]
    async fn a_full_queue_drops_only_reports() {
        let waiting = Level::default();
        let (queue, mut updates) = UpdateQueue::new(2, waiting.clone());
        let attachment = attachment(crate::state::now());
        assert!(queue.report(attachment, Report::default()) && queue.report(attachment, Report::default()));
        assert!(!queue.report(attachment, Report::default()), "full");
        assert_eq!(waiting.get(), 2);
        let sessions = queue.push(NodeUpdate::Sessions(attachment, Sessions::default()));
        let mut sessions = std::pin::pin!(sessions);
        assert!(sessions.as_mut().now_or_never().is_none(), "it waits for a place");
        assert!(matches!(updates.recv().await, Some(NodeUpdate::Report(..))));
        sessions.await;
        assert!(!queue.report(attachment, Report::default()), "full again");
        assert!(matches!(updates.recv().await, Some(NodeUpdate::Report(..))));
        assert!(matches!(updates.recv().await, Some(NodeUpdate::Sessions(..))), "in their order");
    }
}
