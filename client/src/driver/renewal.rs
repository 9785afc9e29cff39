//! Renews a session's ticket: a new one from the master, shown to the node on the session's own connection well before the
//! old one expires. A master that is down is asked again; the node decides what happens to a session without a ticket.

use std::time::Duration;

use tokio::{task::AbortHandle, time};
use usher_proto::{Fault, backoff::Backoff, model::SeatAddress};
use usher_transport::Connection;

use super::Connector;

/// Part of a lifetime after which the ticket is renewed: a third is left for a master that is being restarted.
const DUE: (u32, u32) = (2, 3);

/// Ceiling of the first wait between tries.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Ceiling of every wait between tries.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Longest lifetime that counts: neither a master nor a node can make a sum of times overflow.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Renews until it is dropped.
pub(super) struct Renewal(AbortHandle);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to renew the ticket of a seat, if it expires.
pub(super) fn keep(connector: &Connector, connection: &Connection, at: &SeatAddress) -> Option<Renewal> {
    let lifetime = at.lifetime?;
    let task = tokio::spawn(run(connector.clone(), connection.clone(), at.clone(), lifetime));
    Some(Renewal(task.abort_handle()))
}

async fn run(connector: Connector, connection: Connection, mut at: SeatAddress, mut lifetime: Duration) {
    loop {
        time::sleep(lifetime.min(LONGEST) * DUE.0 / DUE.1).await;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        lifetime = loop {
            match renew(&connector, &connection, &mut at).await {
                Ok(lifetime) if lifetime.is_zero() => return,
                Ok(lifetime) => break lifetime,
                Err(fault) => {
                    let wait = backoff.wait(&mut rand::rng()).max(fault.retry_after.unwrap_or_default());
                    tracing::debug!(node = %at.node, error = %fault, ?wait, "ticket not renewed");
                    time::sleep(wait).await;
                }
            }
        };
        tracing::debug!(node = %at.node, ?lifetime, "ticket renewed");
    }
}

async fn renew(connector: &Connector, connection: &Connection, at: &mut SeatAddress) -> Result<Duration, Fault> {
    let (ticket, _) = connector.master.renew(&at.node, at.ticket.clone()).await?;
    let lifetime = usher_session::renew(connection, &at.node, ticket.clone()).await?;
    at.ticket = ticket;
    Ok(lifetime)
}
