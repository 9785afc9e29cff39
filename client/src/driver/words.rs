//! What a node says besides media, its set-up, its no and where it sends a session, as the driver takes it. Refuses to
//! know what comes of it.

use std::{ops::Range, time::Duration};

use usher_proto::{
    Code, Fault,
    model::{SeatAddress, SetupInfo},
    pb::wire::{Moved, Refused},
    wire::Frame,
};

use super::{TransferInfo, fetch::StreamEnd};
use crate::quic::Incoming;

/// Takes the set-up information, or the refusal.
pub(super) async fn begin(
    incoming: &mut Incoming,
    at: &SeatAddress,
    timeout: Duration,
    about: &TransferInfo,
    wide: Range<u64>,
) -> Result<SetupInfo, Fault> {
    let setup = match incoming.next(timeout).await? {
        Some(Frame::Setup(setup)) => SetupInfo::try_from(setup)
            .map_err(|error| blame(at, Fault::new(Code::Internal, format!("set-up information: {error}"))))?,
        Some(Frame::Refused(refused)) => return Err(refusal(at, &refused)),
        Some(_) => return Err(blame(at, Fault::new(Code::Internal, "media came before the set-up information"))),
        None => return Err(blame(at, Fault::new(Code::Network, "the stream ended before the set-up information"))),
    };
    if setup.size != about.size {
        let text = format!("has {} bytes of {}, not {}", setup.size, about.title, about.size);
        return Err(blame(at, Fault::new(Code::ContentChanged, text)));
    }
    if setup.range != wide {
        let text = format!("sends bytes {:?} where {wide:?} were asked for", setup.range);
        return Err(blame(at, Fault::new(Code::Internal, text)));
    }
    Ok(setup)
}

pub(super) fn blame(at: &SeatAddress, fault: Fault) -> Fault {
    Fault { message: format!("node {}: {}", at.node, fault.message), ..fault }
}

/// Where a node sends the session; one that cannot be used is the node's failure.
pub(super) fn seat_of(at: &SeatAddress, moved: Moved) -> Result<SeatAddress, Fault> {
    SeatAddress::try_from(moved.seat.unwrap_or_default()).map_err(|error| {
        let text = format!("sends the session to a seat that cannot be used: {error}");
        blame(at, Fault::new(Code::Internal, text))
    })
}

/// What became of a session that its node sent on in vain.
pub(super) fn nowhere(at: &SeatAddress) -> Fault {
    Fault::new(Code::Draining, format!("node {} sent the session on, and no other serves it", at.node))
}

pub(super) fn refusal(at: &SeatAddress, refused: &Refused) -> Fault {
    let fault = Fault::from_parts(&refused.reason, &refused.message, refused.retry_after_ms);
    Fault { message: format!("node {} refused: {}", at.node, fault.message), ..fault }
}

/// The failure that an end is.
pub(super) fn failure(at: &SeatAddress, last: StreamEnd) -> Fault {
    match last {
        StreamEnd::Refused(refused) => refusal(at, &refused),
        StreamEnd::Wrong(error) => blame(at, error.into()),
        StreamEnd::Lost(fault) => fault,
        StreamEnd::Early(wanted) => {
            Fault::new(Code::Network, format!("node {} ended the stream where {wanted} should be", at.node))
        }
        // Its ticket is used up, and it will serve the rest in one range under another.
        StreamEnd::OneRange => Fault::new(Code::TicketReplayed, format!("node {} sends one range a session", at.node)),
        StreamEnd::Done(_) => Fault::new(Code::Network, format!("node {} ended the session early", at.node)),
    }
}
