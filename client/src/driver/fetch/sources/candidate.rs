//! Finds another source: a node that is not in use, named by the master and dialled. The alternates of one answer share a
//! reservation, so they are tried one after the other and never used beside one another.

use usher_proto::{
    Code, Fault, NodeName,
    model::{Failed, MAX_EXCLUDE, SeatAddress},
};

use crate::driver::{Connector, Order, TransferInfo};

/// A seat for another source.
pub(super) struct Candidate {
    pub(super) at: SeatAddress,
    pub(super) request_id: String,
    /// Why this one.
    pub(super) reason: String,
    /// Number of moves that led there.
    pub(super) moves: u32,
    /// `core::sources::Growth` waits for it.
    pub(super) requested: bool,
}

/// Finds and dials a node that holds the same content and is not excluded. The master learns which seats failed.
///
/// # Errors
/// [`Code::Unavailable`] when there is none, [`Code::ContentChanged`], or the failure of the last one tried.
pub(super) async fn find(
    connector: Connector,
    order: Order,
    info: TransferInfo,
    exclude: Vec<NodeName>,
    failed: Vec<Failed>,
) -> Result<Candidate, Fault> {
    if exclude.len() > MAX_EXCLUDE {
        return Err(Fault::new(Code::Unavailable, "too many nodes were tried"));
    }
    let answer = connector.master.resolve(order.request(info.content, &exclude, &failed)).await?;
    if answer.content != info.content || answer.size != info.size {
        return Err(Fault::new(Code::ContentChanged, format!("{} is another content elsewhere", info.title)));
    }
    let mut last = Fault::new(Code::Unavailable, "the master named no other node");
    for at in answer.seats {
        if exclude.contains(&at.node) {
            continue;
        }
        match connector.reach(&at).await {
            Ok(()) => {
                let (request_id, reason) = (answer.request_id, answer.reason);
                return Ok(Candidate { at, request_id, reason, moves: 0, requested: true });
            }
            Err(fault) => last = fault,
        }
    }
    Err(last)
}
