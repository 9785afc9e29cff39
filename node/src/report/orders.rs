//! Carries out the orders of the master, and sends the answers.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::anyhow;
use tokio::task::JoinSet;
use tonic::Streaming;
use tracing::{debug, warn};
use usher_proto::{
    Code, ContentId, Fault, Title,
    model::{EndPublisher, EndSession, Relay},
    pb::v1::{self, AttachResponse, attach_request::Body, attach_response::Body as Order, prepared::Result as Outcome},
};

use super::{Outbox, Reporter, accept_welcome, post};
use crate::{attach::AttachError, context::NodeContext, moves::refusal};

/// Maximum number of Prepares at a time; each may wait for a disk.
const PREPARES: usize = 64;

/// Maximum number of moves at a time; each may wait for its reader. A draining node receives 60 a second.
const MOVES: usize = 1024;

/// Maximum number of ordered copies that are waited for; few of them run, and others may name the same copies.
const COPIES: usize = 64;

/// Carries out orders until the channel is lost.
pub(super) async fn answer(
    reporter: &Reporter,
    outbox: &Outbox,
    mut orders: Streaming<AttachResponse>,
) -> Result<Infallible, AttachError> {
    let services = &reporter.services;
    let (context, live, puller) = (&services.context, &services.live, &services.puller);
    let (mut prepares, mut moves, mut copies) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    loop {
        let message = tokio::select! {
            message = orders.message() => message?,
            Some(done) = prepares.join_next() => {
                if let Ok(prepared) = done {
                    post(outbox, Body::Prepared(prepared)).await?;
                }
                continue;
            }
            Some(done) = moves.join_next() => {
                if let Ok(moved) = done {
                    post(outbox, Body::Moved(moved)).await?;
                }
                continue;
            }
            Some(done) = copies.join_next() => {
                if let Ok(replicated) = done {
                    post(outbox, Body::Replicated(replicated)).await?;
                }
                continue;
            }
        };
        match message.ok_or_else(|| anyhow!("the master closed the channel"))?.body {
            Some(Order::Welcome(welcome)) => {
                accept_welcome(context, &welcome)?;
            }
            Some(Order::Prepare(request)) if prepares.len() < PREPARES => {
                prepares.spawn(prepare(Arc::clone(context), request));
            }
            Some(Order::Prepare(request)) => {
                warn!(request_id = request.request_id, "too many sessions are being prepared");
                let fault = busy(Code::Unavailable, "too many sessions are being prepared", 1);
                post(outbox, Body::Prepared(prepared(request.id, Err(fault)))).await?;
            }
            Some(Order::Probe(probe)) => post(outbox, Body::Probed(v1::Probed { id: probe.id })).await?,
            Some(Order::Move(order)) if moves.len() < MOVES => {
                moves.spawn(Arc::clone(&services.moves).carry_out(Arc::clone(context), order));
            }
            Some(Order::Move(order)) => {
                let refusal = Some(refusal(busy(Code::Unavailable, "too many sessions are being moved", 1)));
                post(outbox, Body::Moved(v1::Moved { id: order.id, refusal })).await?;
            }
            Some(Order::Replicate(order)) if copies.len() < COPIES => {
                let (id, puller) = (order.id, puller.clone());
                copies.spawn(async move { replicated(id, puller.order(order).await) });
            }
            Some(Order::Replicate(order)) => {
                let fault = busy(Code::NoCapacity, "too many copies are ordered", 5);
                post(outbox, Body::Replicated(replicated(order.id, Err(fault)))).await?;
            }
            // Awaited in order, so that the next order finds the space.
            Some(Order::Evict(evict)) => puller.evict(evict).await,
            Some(Order::Recheck(order)) => recheck(context, &order),
            Some(Order::Drain(order)) => reporter.drain.order(Duration::from_millis(order.deadline_ms)),
            Some(Order::Undrain(_)) => reporter.drain.undo(),
            Some(Order::Relay(order)) => match Relay::try_from(order) {
                Ok(relay) => live.handle_relay_order(relay),
                Err(error) => warn!(%error, "an order for a feed was ignored"),
            },
            Some(Order::EndPublisher(order)) => match EndPublisher::try_from(order) {
                Ok(EndPublisher { title, publisher }) => live.end_publisher(&title, publisher),
                Err(error) => warn!(%error, "an order to end a publisher was ignored"),
            },
            Some(Order::EndSession(order)) => match EndSession::try_from(order) {
                Ok(EndSession { session, why }) => {
                    let reason = why.code.reason();
                    let ended = services.leases.end(session, why);
                    debug!(%session, reason, ended, "the master ended a session");
                }
                Err(error) => warn!(%error, "an order to end a session was ignored"),
            },
            Some(Order::CatalogRefused(refused)) => {
                let v1::CatalogRefused { copies, title, reason } = refused;
                warn!(?title, copies, ?reason, "titles are not listed by the master");
            }
            None => debug!("a message of a newer master was ignored"),
        }
    }
}

/// The refusal of an order beyond the limit.
fn busy(code: Code, text: &str, retry_after_s: u64) -> Fault {
    Fault::new(code, text).after(Duration::from_secs(retry_after_s))
}

/// Hashes the copies again of which a client received wrong bytes.
fn recheck(context: &NodeContext, order: &v1::Recheck) {
    let named = Title::parse(&order.title).ok().zip(ContentId::try_from(order.content_id.as_slice()).ok());
    let Some((title, content)) = named else {
        return debug!(title = ?order.title, "an invalid order to recheck was ignored");
    };
    let copies = context.library.recheck(&title, content);
    debug!(%title, copies, "rechecking: a client received wrong bytes");
}

/// Opens the title of a session that is about to start, so that its set-up information is certain. Does not redeem the
/// ticket.
async fn prepare(context: Arc<NodeContext>, request: v1::Prepare) -> v1::Prepared {
    let result = async {
        let ticket = context.verify(&request.ticket)?;
        Ok(context.open(ticket, None, false, None).await?.setup)
    };
    let result: Result<v1::Setup, Fault> = result.await;
    match &result {
        Ok(setup) => debug!(request_id = request.request_id, title = setup.title, "session prepared"),
        Err(fault) => {
            debug!(request_id = request.request_id, reason = fault.code.reason(), error = %fault, "session not prepared");
        }
    }
    prepared(request.id, result)
}

fn prepared(id: u64, result: Result<v1::Setup, Fault>) -> v1::Prepared {
    let outcome = match result {
        Ok(setup) => Outcome::Setup(setup),
        Err(fault) => Outcome::Refusal(refusal(fault)),
    };
    v1::Prepared { id, result: Some(outcome) }
}

fn replicated(id: u64, result: Result<(), Fault>) -> v1::Replicated {
    v1::Replicated { id, refusal: result.err().map(refusal) }
}
