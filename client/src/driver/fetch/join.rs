//! Opens a session for a title: from a seat to a stream whose groups can be verified.

use std::{ops::Range, time::Duration};

use usher_proto::{
    Fault,
    model::{SeatAddress, SetupInfo},
    pb::{v1::ByteRange, wire::Open},
    verify::Verifier,
};
use usher_session::{
    FrameReader,
    replies::{title_setup, with_node},
};
use usher_transport::SendStream;

use super::interface::TransferInfo;
use crate::driver::Connector;

/// The first request of a session.
pub(super) struct SessionRequest {
    /// The wanted bytes.
    pub(super) range: Range<u64>,
    /// The same, widened to the whole groups that a node sends.
    pub(super) wide: Range<u64>,
    pub(super) request_id: String,
    /// Further ranges follow.
    pub(super) more: bool,
}

/// An open session, before its groups are received.
pub(super) struct OpenTransfer {
    pub(super) frames: FrameReader,
    /// Our side of the stream, if further ranges follow.
    pub(super) send: Option<SendStream>,
    pub(super) setup: SetupInfo,
    pub(super) verifier: Verifier,
}

/// Opens a session and reads its set-up information.
///
/// # Errors
/// The node's refusal, set-up information of another content, or the failure of the connection.
pub(super) async fn join(
    connector: &Connector,
    at: &SeatAddress,
    request: SessionRequest,
    info: &TransferInfo,
    timeout: Duration,
) -> Result<OpenTransfer, Fault> {
    let SessionRequest { range, wide, request_id, more } = request;
    let range = Some(ByteRange { start: range.start, end: range.end });
    let open = Open { ticket: at.ticket.clone(), range, request_id, more, ..Open::default() };
    let (mut frames, send) = connector.open(at, &open, timeout).await?;
    let setup = title_setup(&mut frames, at, timeout, (&info.title, info.size), wide).await?;
    let verifier = Verifier::new(&setup, info.content).map_err(|error| with_node(at, error.into()))?;
    Ok(OpenTransfer { frames, send, setup, verifier })
}
