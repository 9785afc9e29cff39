//! The parts of a node that serve sessions, over one [`NodeContext`]: moves, leases, ordered copies and feeds. The QUIC
//! server, drains and the channel to the master use these; nothing below knows this file.

use std::sync::Arc;

use usher_proto::Fault;

use crate::{
    budgets::Budgets,
    context::NodeContext,
    leases::Leases,
    live::{FeedSettings, Feeds},
    moves::Moves,
    replica::{self, Puller},
};

/// The services of one node.
pub(crate) struct Services {
    pub(crate) context: Arc<NodeContext>,
    pub(crate) budgets: Budgets,
    pub(crate) moves: Arc<Moves>,
    pub(crate) leases: Arc<Leases>,
    /// Copies that the master orders.
    pub(crate) puller: Arc<Puller>,
    /// Feeds.
    pub(crate) live: Arc<Feeds>,
}

impl Services {
    pub(crate) fn new(context: Arc<NodeContext>, feeds: FeedSettings, budgets: Budgets) -> Arc<Self> {
        let puller = Puller::new(context.library.replicas().cloned(), replica::STALL);
        let (moves, leases) = (Arc::default(), Arc::default());
        Arc::new(Self { context, budgets, moves, leases, puller, live: Feeds::new(feeds) })
    }

    /// Refuses new sessions, copies and publishers.
    pub(crate) fn drain(&self) {
        self.context.set_draining(true);
        self.puller.drain();
        self.live.drain();
    }

    /// Accepts new sessions again.
    pub(crate) fn undrain(&self) {
        self.puller.undrain();
        self.context.set_draining(false);
    }

    /// Extends a session to the end of its new ticket. Returns the seconds from now; 0 for no end.
    ///
    /// # Errors
    /// The codes of [`usher_proto::ticket::TicketError`]; as [`Leases::renew`].
    pub(crate) fn renew(&self, token: &str) -> Result<u64, Fault> {
        self.leases.renew(&self.context.verify_renewal(token)?)
    }
}
