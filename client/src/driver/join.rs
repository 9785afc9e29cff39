//! From a seat to a stream whose groups can be verified. Refuses to know what is asked for next.

use std::{ops::Range, time::Duration};

use usher_proto::{
    Fault,
    model::{SeatAddress, SetupInfo},
    pb::{v1::ByteRange, wire::Open},
    verify::Verifier,
};
use usher_session::{
    FrameReader,
    replies::{blame, title_setup},
};
use usher_transport::SendStream;

use super::{Connector, TransferInfo};

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
    pub(super) incoming: FrameReader,
    /// Our side of the stream, where further ranges follow.
    pub(super) send: Option<SendStream>,
    pub(super) setup: SetupInfo,
    pub(super) verifier: Verifier,
}

/// Opens a session and takes its set-up information.
pub(super) async fn join(
    connector: &Connector,
    at: &SeatAddress,
    ask: Ask,
    about: &TransferInfo,
    timeout: Duration,
) -> Result<Joined, Fault> {
    let Ask { range, wide, request_id, more } = ask;
    let range = Some(ByteRange { start: range.start, end: range.end });
    let open = Open { ticket: at.ticket.clone(), range, request_id, more, ..Open::default() };
    let (mut incoming, send) = connector.open(at, &open, timeout).await?;
    let setup = title_setup(&mut incoming, at, timeout, (&about.title, about.size), wide).await?;
    let verifier = Verifier::new(&setup, about.content).map_err(|error| blame(at, error.into()))?;
    Ok(Joined { incoming, send, setup, verifier })
}
