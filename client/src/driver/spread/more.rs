//! Another source: the master is asked for a node that is not in use. Its answer's alternates share one reservation, so
//! they are tried one after the other and never used beside one another.

use usher_proto::{
    Code, Fault, NodeName,
    model::{Failed, MAX_EXCLUDE, SeatAddress},
};

use super::super::{About, Means, Order};

/// A seat that was reached.
pub(super) struct Found {
    pub(super) at: SeatAddress,
    pub(super) request_id: String,
    /// Why this one.
    pub(super) reason: String,
    /// How often its session was moved.
    pub(super) moves: u32,
    /// Somebody waits to hear what it brings.
    pub(super) wished: bool,
}

/// Finds a node that holds the same content and is none of these, and dials it. The master is told of those that failed.
pub(super) async fn find(
    means: Means<'_>,
    order: &Order,
    about: About,
    exclude: Vec<NodeName>,
    failed: &[Failed],
) -> Result<Found, Fault> {
    if exclude.len() > MAX_EXCLUDE {
        return Err(Fault::new(Code::Unavailable, "too many nodes were tried"));
    }
    let answer = means.master.resolve(order.request(about.content, &exclude, failed)).await?;
    if answer.content != about.content || answer.size != about.size {
        return Err(Fault::new(Code::ContentChanged, format!("{} is another content elsewhere", about.title)));
    }
    let mut last = Fault::new(Code::Unavailable, "the master named no other node");
    for at in answer.seats {
        if exclude.contains(&at.node) {
            continue;
        }
        match means.pool.reach(means.master.address(), &at).await {
            Ok(()) => {
                let (request_id, reason) = (answer.request_id, answer.reason);
                return Ok(Found { at, request_id, reason, moves: 0, wished: true });
            }
            Err(fault) => last = fault,
        }
    }
    Err(last)
}
