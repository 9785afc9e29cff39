//! The faults of sessions as the driver reports them. Does not know what follows from them.

use usher_proto::{Code, Fault, model::SeatAddress};
use usher_session::replies::{blame, refusal};

use super::fetch::StreamEnd;

/// A session was moved to another node that does not serve it.
pub(super) fn nowhere(at: &SeatAddress) -> Fault {
    Fault::new(Code::Draining, format!("node {} moved the session, and no other node serves it", at.node))
}

/// The end of a stream as a failure.
pub(super) fn failure(at: &SeatAddress, end: StreamEnd) -> Fault {
    match end {
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
