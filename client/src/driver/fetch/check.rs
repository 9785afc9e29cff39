//! Verifies received batches against the content id, on a thread that does not read the network. Leaves the destination of
//! the groups to its caller.

use usher_proto::{
    Code, ContentId, Fault,
    model::SeatAddress,
    pb::wire::{Moved, Refused},
    verify::{Group, Step, Verifier, VerifyError},
    wire::Frame,
};
use usher_session::{
    batch::{Alarm, Batch},
    replies::{refusal, with_node},
};

/// Why a stream brings no more groups.
#[derive(Debug)]
pub(super) enum StreamEnd {
    /// Every byte is verified against this content.
    Done(ContentId),
    /// The node refused.
    Refused(Refused),
    /// The node sent something wrong.
    Wrong(VerifyError),
    /// The node, or the connection to it, failed.
    Lost(Fault),
    /// The stream ended where this should follow.
    Early(String),
    /// The node serves one range a session.
    OneRange,
}

impl StreamEnd {
    /// The end of a stream from this seat as a failure.
    pub(super) fn into_fault(self, at: &SeatAddress) -> Fault {
        let network = |text: String| Fault::new(Code::Network, format!("node {} {text}", at.node));
        match self {
            Self::Refused(refused) => refusal(at, &refused),
            Self::Wrong(error) => with_node(at, error.into()),
            Self::Lost(fault) => fault,
            Self::Early(wanted) => network(format!("ended the stream where {wanted} should be")),
            // The ticket is used up; under another one the node serves the missing bytes in one range.
            Self::OneRange => Fault::new(Code::TicketReplayed, format!("node {} sends one range a session", at.node)),
            Self::Done(_) => network("ended the session early".to_owned()),
        }
    }
}

/// The failure of a seat whose node moved the session to a seat that does not serve it.
pub(super) fn moved_in_vain(at: &SeatAddress) -> Fault {
    Fault::new(Code::Draining, format!("node {} moved the session, and no other node serves it", at.node))
}

/// A verified batch.
#[derive(Debug, Default)]
pub(super) struct CheckedBatch {
    /// Verified groups in the order in which they were asked for.
    pub(super) groups: Vec<Group>,
    /// Where the session continues, after what its node still sends.
    pub(super) moved: Option<Moved>,
    /// The node has fallen silent, or is slow.
    pub(super) alarm: Option<Alarm>,
    /// Why no more groups follow.
    pub(super) last: Option<StreamEnd>,
}

/// Verifies a batch. Takes about 0.1 ms, so it is not called on the thread that reads the network.
pub(super) fn check(verifier: &mut Verifier, batch: Batch) -> CheckedBatch {
    let groups = Vec::with_capacity(batch.frames.len());
    let mut checked = CheckedBatch { groups, alarm: batch.alarm, ..CheckedBatch::default() };
    for frame in batch.frames {
        let last = match frame {
            Frame::Refused(refused) => StreamEnd::Refused(refused),
            Frame::Moved(moved) => {
                checked.moved = Some(moved);
                continue;
            }
            Frame::Finish(_) if verifier.awaits_range() => StreamEnd::OneRange,
            frame => match verifier.take(frame) {
                Ok(Step::More) => continue,
                Ok(Step::Group(group)) => {
                    checked.groups.push(group);
                    continue;
                }
                Ok(Step::Done(content)) => StreamEnd::Done(content),
                Err(error) => StreamEnd::Wrong(error),
            },
        };
        checked.last = Some(last);
        return checked;
    }
    checked.last = batch.end.map(|end| match end {
        Ok(()) => StreamEnd::Early(verifier.wanted()),
        Err(fault) => StreamEnd::Lost(fault),
    });
    checked
}
