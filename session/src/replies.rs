//! The replies of a node besides media: set-up information, refusals, and the seat to which a session moves. Their
//! consequences are left to the caller.

use std::{ops::Range, time::Duration};

use usher_proto::{
    Code, Fault, Title,
    model::{FeedSetupInfo, SeatAddress, SetupInfo},
    pb::{
        v1,
        wire::{Moved, Refused},
    },
    wire::Frame,
};

use crate::frames::FrameReader;

/// Takes the set-up information of a title of `size` bytes, of which `range` was requested.
///
/// # Errors
/// The node's refusal; `CONTENT_CHANGED` for another size; the failure of the stream.
pub async fn title_setup(
    frames: &mut FrameReader,
    at: &SeatAddress,
    timeout: Duration,
    (title, size): (&Title, u64),
    range: Range<u64>,
) -> Result<SetupInfo, Fault> {
    let setup = SetupInfo::try_from(setup(frames, at, timeout).await?)
        .map_err(|error| with_node(at, Fault::new(Code::Internal, format!("set-up information: {error}"))))?;
    if setup.size != size {
        let text = format!("has {} bytes of {title}, not {size}", setup.size);
        return Err(with_node(at, Fault::new(Code::ContentChanged, text)));
    }
    if setup.range != range {
        let text = format!("sends bytes {:?} where {range:?} were requested", setup.range);
        return Err(with_node(at, Fault::new(Code::Internal, text)));
    }
    Ok(setup)
}

/// Takes the set-up information of the feed `title`, and the tracks beside it.
///
/// # Errors
/// The node's refusal, or the failure of the stream.
pub async fn feed_setup(
    frames: &mut FrameReader,
    at: &SeatAddress,
    timeout: Duration,
    title: &Title,
) -> Result<(FeedSetupInfo, Vec<v1::Track>), Fault> {
    let wrong = |text: String| with_node(at, Fault::new(Code::Internal, text));
    let mut setup = setup(frames, at, timeout).await?;
    let tracks = std::mem::take(&mut setup.tracks);
    let setup = FeedSetupInfo::try_from(setup).map_err(|error| wrong(format!("set-up information: {error}")))?;
    if setup.title != *title {
        return Err(wrong(format!("serves `{}` where `{title}` was requested", setup.title)));
    }
    Ok((setup, tracks))
}

async fn setup(frames: &mut FrameReader, at: &SeatAddress, timeout: Duration) -> Result<v1::Setup, Fault> {
    let (code, text) = match frames.next(timeout).await? {
        Some(Frame::Setup(setup)) => return Ok(setup),
        Some(Frame::Refused(refused)) => return Err(refusal(at, &refused)),
        Some(_) => (Code::Internal, "another frame came before the set-up information"),
        None => (Code::Network, "the stream ended before the set-up information"),
    };
    Err(with_node(at, Fault::new(code, text)))
}

/// The fault with the node's name before it.
pub fn with_node(at: &SeatAddress, fault: Fault) -> Fault {
    Fault { message: format!("node {}: {}", at.node, fault.message), ..fault }
}

/// The refusal as a fault.
pub fn refusal(at: &SeatAddress, refused: &Refused) -> Fault {
    let fault = Fault::from(refused);
    Fault { message: format!("node {} refused: {}", at.node, fault.message), ..fault }
}

/// The seat to which a session moves.
///
/// # Errors
/// `INTERNAL` for a seat that cannot be used.
pub fn moved_seat(at: &SeatAddress, moved: Moved) -> Result<SeatAddress, Fault> {
    SeatAddress::try_from(moved.seat.unwrap_or_default()).map_err(|error| {
        let text = format!("moves the session to a seat that cannot be used: {error}");
        with_node(at, Fault::new(Code::Internal, text))
    })
}
