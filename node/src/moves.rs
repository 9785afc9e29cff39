//! Sessions that the master moves to other seats: an order waits here until its session is between two groups. Knows
//! which sessions can be moved, not why.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::oneshot;
use tracing::{debug, info};
use usher_proto::{Code, Fault, NodeName, SessionId, model, pb::v1};

use crate::{context::NodeContext, sync::lock};

/// The sessions that can be moved.
#[derive(Default)]
pub(crate) struct Moves {
    running: Mutex<HashMap<SessionId, oneshot::Sender<MoveOrder>>>,
}

/// An order to move a session.
pub(crate) struct MoveOrder {
    pub(crate) order: model::Move,
    /// Notified when the client has the order; dropped when the session ended before, or stays.
    done: oneshot::Sender<()>,
}

impl Moves {
    /// Makes a session movable, once, until the returned value drops.
    pub(crate) fn register(self: &Arc<Self>, id: SessionId) -> Movable {
        let (sender, order) = oneshot::channel();
        self.running().insert(id, sender);
        Movable { moves: Arc::clone(self), id, order: Some(order), moving: None }
    }

    /// Passes an order to a session; `false` when it cannot be moved.
    fn order(&self, id: SessionId, order: MoveOrder) -> bool {
        self.running().remove(&id).is_some_and(|session| session.send(order).is_ok())
    }

    /// Held for one call of the map, so a panicking holder cannot have left it half changed.
    fn running(&self) -> MutexGuard<'_, HashMap<SessionId, oneshot::Sender<MoveOrder>>> {
        lock(&self.running)
    }
}

/// A session that can be moved.
pub(crate) struct Movable {
    moves: Arc<Moves>,
    id: SessionId,
    /// `None` when no order can come any more.
    order: Option<oneshot::Receiver<MoveOrder>>,
    /// The order that was sent to the client.
    moving: Option<MoveOrder>,
}

impl Movable {
    /// Waits for an order; forever when none can come any more.
    pub(crate) async fn ordered(&mut self) -> MoveOrder {
        let order = match &mut self.order {
            Some(order) => order.await,
            None => pending().await,
        };
        self.order = None;
        match order {
            Ok(order) => order,
            Err(_) => pending().await,
        }
    }

    /// The order is being sent to the client.
    pub(crate) fn start_move(&mut self, order: MoveOrder) {
        self.moving = Some(order);
    }

    /// Whether the client was sent an order.
    pub(crate) fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    /// Answers the order of a session that is over here, and whose client knows its new seat. Returns the node of that
    /// seat; `None` when the session was not moving.
    pub(crate) fn complete_move(&mut self) -> Option<NodeName> {
        let MoveOrder { order, done } = self.moving.take()?;
        // The receiver is gone when the channel to the master was lost meanwhile.
        let _unheard = done.send(());
        Some(order.to)
    }

    /// The session has nothing left that could be sent elsewhere.
    pub(crate) fn withdraw(&mut self) {
        self.moves.running().remove(&self.id);
        // Dropping an order that came just before refuses it.
        self.order = None;
    }
}

impl Drop for Movable {
    fn drop(&mut self) {
        self.moves.running().remove(&self.id);
    }
}

impl Moves {
    /// Moves a session as the master orders, and answers once the client has the order and the session is over here.
    /// Gives its rate back at once, since it sends only a few last groups.
    pub(crate) async fn carry_out(self: Arc<Self>, context: Arc<NodeContext>, order: v1::Move) -> v1::Moved {
        let id = order.id;
        let refusal = match self.move_session(&context, order).await {
            Ok(()) => None,
            Err(fault) => {
                debug!(reason = fault.code.reason(), error = %fault, "session not moved");
                Some(refusal(fault))
            }
        };
        v1::Moved { id, refusal }
    }

    async fn move_session(&self, context: &NodeContext, order: v1::Move) -> Result<(), Fault> {
        let bad = |error: model::Invalid| Fault::new(Code::BadRequest, error.to_string());
        let order = model::Move::try_from(order).map_err(bad)?;
        let (session, to) = (order.session, order.to.clone());
        let gone =
            || Fault::new(Code::NotFound, format!("session {session} does not run here, or has nothing left to send"));
        let (done, moved) = oneshot::channel();
        if !self.order(session, MoveOrder { order, done }) {
            return Err(gone());
        }
        context.meter().handle_move(session);
        moved.await.map_err(|_| gone())?;
        info!(%session, %to, "session moved");
        Ok(())
    }
}

/// A fault as a refusal message.
pub(crate) fn refusal(fault: Fault) -> v1::Refusal {
    v1::Refusal {
        reason: fault.code.reason().to_owned(),
        retry_after_ms: fault.retry_after_ms(),
        message: fault.message,
    }
}
