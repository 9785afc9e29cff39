//! Sessions that the master sends to other seats: an order waits here until its session has finished what it is sending.
//! Owns which sessions can be moved. Refuses to know why they are, and what a seat is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::{debug, info};
use usher_proto::{Code, Fault, NodeName, SessionId, model, pb::v1};

use crate::house::House;

/// The sessions that can be moved.
#[derive(Default)]
pub(crate) struct Moves {
    running: Mutex<HashMap<SessionId, oneshot::Sender<Order>>>,
}

/// Where a session goes.
pub(crate) struct Order {
    /// The node of the new seat.
    pub(crate) to: NodeName,
    /// What tells the client, encoded.
    pub(crate) frame: Bytes,
    /// Learns that the client was told; it is dropped when the session ended before.
    pub(crate) told: oneshot::Sender<()>,
}

impl Moves {
    /// From here on the session can be moved, once, until what is returned drops.
    pub(crate) fn enrol(self: &Arc<Self>, id: SessionId) -> Enrolled {
        let (sender, order) = oneshot::channel();
        self.running().insert(id, sender);
        Enrolled { moves: Arc::clone(self), id, order }
    }

    /// Leaves an order for a session; `false` when it cannot be moved.
    fn order(&self, id: SessionId, order: Order) -> bool {
        self.running().remove(&id).is_some_and(|session| session.send(order).is_ok())
    }

    /// Held for one call of the map, so a panic elsewhere cannot have left it half changed.
    fn running(&self) -> MutexGuard<'_, HashMap<SessionId, oneshot::Sender<Order>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that can be moved.
pub(crate) struct Enrolled {
    moves: Arc<Moves>,
    id: SessionId,
    order: oneshot::Receiver<Order>,
}

impl Enrolled {
    /// The order, if one came.
    pub(crate) fn order(&mut self) -> Option<Order> {
        self.order.try_recv().ok()
    }

    /// Waits for the order; for ever when none can come any more.
    pub(crate) async fn ordered(&mut self) -> Order {
        match (&mut self.order).await {
            Ok(order) => order,
            Err(_) => std::future::pending().await,
        }
    }

    /// Nothing is left to be sent elsewhere.
    pub(crate) fn close(&mut self) {
        self.moves.running().remove(&self.id);
        self.order.close();
        // An order that came just before is dropped here, which refuses it.
        drop(self.order.try_recv());
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.moves.running().remove(&self.id);
    }
}

/// Does what the master orders, and answers once the client was told. The session's rate is given back at once: what it
/// still sends is its last.
pub(crate) async fn carry_out(house: Arc<House>, order: v1::Move) -> v1::Moved {
    let id = order.id;
    let refusal = match move_on(&house, order).await {
        Ok(()) => None,
        Err(fault) => {
            debug!(reason = fault.code.reason(), %fault, "session not moved");
            Some(refusal(fault))
        }
    };
    v1::Moved { id, refusal }
}

async fn move_on(house: &House, order: v1::Move) -> Result<(), Fault> {
    let bad = |error: model::Invalid| Fault::new(Code::BadRequest, error.to_string());
    let order = model::Move::try_from(order).map_err(bad)?;
    let (session, to, frame) = (order.session, order.to.clone(), order.frame(0));
    let gone = || Fault::new(Code::NotFound, format!("session {session} does not run here, or has all that it wants"));
    let (told, heard) = oneshot::channel();
    if !house.moves.order(session, Order { to: to.clone(), frame, told }) {
        return Err(gone());
    }
    house.meter().leaving(session);
    heard.await.map_err(|_| gone())?;
    info!(%session, %to, "session moved");
    Ok(())
}

/// A node's no, as a message.
pub(crate) fn refusal(fault: Fault) -> v1::Refusal {
    v1::Refusal {
        reason: fault.code.reason().to_owned(),
        retry_after_ms: fault.retry_after_ms(),
        message: fault.message,
    }
}
