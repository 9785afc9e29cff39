//! Keeps a session's right alive: a new ticket from the master, shown to the node on the session's own connection, well
//! before the old one has run out. A master that is down is asked again; what the node does without it is the node's.

use std::time::Duration;

use tokio::task::AbortHandle;
use usher_proto::{Fault, backoff::Backoff, model::SeatAddress};
use usher_transport::Connection;

use super::join::Way;
use crate::quic;

/// The part of a lifetime after which the ticket is renewed: a third is left for a master that is being restarted.
const DUE: (u32, u32) = (2, 3);

/// Waits between tries.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest of them.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Renews until it is dropped.
pub(super) struct Renewal(AbortHandle);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to renew the right to a seat, if that runs out.
pub(super) fn keep(way: &Way, connection: &Connection, at: &SeatAddress) -> Option<Renewal> {
    let lifetime = at.lifetime?;
    let task = tokio::spawn(run(way.clone(), connection.clone(), at.clone(), lifetime));
    Some(Renewal(task.abort_handle()))
}

async fn run(way: Way, connection: Connection, mut at: SeatAddress, mut lifetime: Duration) {
    loop {
        tokio::time::sleep(lifetime * DUE.0 / DUE.1).await;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        lifetime = loop {
            match renew(&way, &connection, &mut at).await {
                Ok(lifetime) if lifetime.is_zero() => return,
                Ok(lifetime) => break lifetime,
                Err(fault) => {
                    let wait = backoff.wait(&mut rand::rng()).max(fault.retry_after.unwrap_or_default());
                    tracing::debug!(node = %at.node, %fault, ?wait, "the ticket was not renewed");
                    tokio::time::sleep(wait).await;
                }
            }
        };
        tracing::debug!(node = %at.node, ?lifetime, "the ticket was renewed");
    }
}

async fn renew(way: &Way, connection: &Connection, at: &mut SeatAddress) -> Result<Duration, Fault> {
    let (ticket, _) = way.master.renew(&at.node, at.ticket.clone()).await?;
    let lifetime = quic::renew(connection, &at.node, ticket.clone()).await?;
    at.ticket = ticket;
    Ok(lifetime)
}
