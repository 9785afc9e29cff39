//! The way to the nodes of one master: the master that names them, the connections to them, and the rate limit of all
//! transfers together.

use std::{sync::Arc, time::Duration};

use tokio::time;
use usher_proto::{Fault, model::SeatAddress, pb::wire::Open};
use usher_session::{FrameReader, Pool, RateLimit, fault::silent};
use usher_transport::{Connection, SendStream};

use crate::master::Master;

/// Opens sessions at seats. Clones share the master, the connections and the rate limit.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) master: Arc<Master>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) throttle: Option<RateLimit>,
}

impl Connector {
    /// The same without the rate limit: a feed runs at the publisher's rate.
    pub(super) fn unlimited(&self) -> Self {
        Self { throttle: None, ..self.clone() }
    }

    /// Opens a session. Our side of its stream comes along where `open` keeps it open.
    ///
    /// # Errors
    /// [`usher_proto::Code::Timeout`] after `timeout`, or the failure of the connection.
    pub(super) async fn open(
        &self,
        at: &SeatAddress,
        open: &Open,
        timeout: Duration,
    ) -> Result<(FrameReader, Option<SendStream>), Fault> {
        let opening = self.pool.open(self.master.address(), at, open, self.throttle.clone());
        time::timeout(timeout, opening).await.unwrap_or_else(|_| Err(silent(&at.node, timeout)))
    }

    /// Dials a seat unless it is connected; a session there then takes one round trip.
    pub(super) async fn reach(&self, at: &SeatAddress) -> Result<(), Fault> {
        self.pool.connect(self.master.address(), at).await
    }

    /// Opens no further session on this connection to a seat: it seems to be dead.
    pub(super) fn retire(&self, at: &SeatAddress, connection: &Connection) {
        self.pool.retire(self.master.address(), &at.node, connection);
    }
}
