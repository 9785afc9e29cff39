//! From a seat to a stream whose groups can be verified. Refuses to know what is asked for next.

use std::{ops::Range, sync::Arc, time::Duration};

use usher_proto::{
    Fault,
    model::{SeatAddress, SetupInfo},
    pb::{v1::ByteRange, wire::Open},
    verify::Verifier,
};
use usher_transport::SendStream;

use super::{
    About,
    words::{begin, blame},
};
use crate::{
    master::Master,
    quic::{Incoming, Pool, Throttle, silent},
};

/// What leads to nodes. Shared, so that a seat is opened while this side does something else.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) master: Arc<Master>,
    pub(super) pool: Arc<Pool>,
    pub(super) throttle: Option<Throttle>,
}

/// What is asked of a seat first.
pub(super) struct Ask {
    pub(super) range: Range<u64>,
    /// The same, widened to the whole groups that a node sends.
    pub(super) wide: Range<u64>,
    pub(super) request_id: String,
    /// Further ranges follow.
    pub(super) more: bool,
}

/// An open session.
pub(super) struct Joined {
    pub(super) incoming: Incoming,
    /// Our side of the stream, where further ranges follow.
    pub(super) send: Option<SendStream>,
    pub(super) setup: SetupInfo,
    pub(super) verifier: Verifier,
}

/// Opens a session and takes its set-up information.
pub(super) async fn join(
    way: &Way,
    at: &SeatAddress,
    ask: Ask,
    about: &About,
    timeout: Duration,
) -> Result<Joined, Fault> {
    let Ask { range, wide, request_id, more } = ask;
    let range = Some(ByteRange { start: range.start, end: range.end });
    let open = Open { ticket: at.ticket.clone(), range, request_id, more, ..Open::default() };
    let stream = way.pool.open(way.master.address(), at, &open, way.throttle.clone());
    let opened = tokio::time::timeout(timeout, stream).await.unwrap_or_else(|_| Err(silent(&at.node, timeout)));
    let (mut incoming, send) = opened?;
    let setup = begin(&mut incoming, at, timeout, about, wide).await?;
    let verifier = Verifier::new(&setup, about.content).map_err(|error| blame(at, error.into()))?;
    Ok(Joined { incoming, send, setup, verifier })
}
