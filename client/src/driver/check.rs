//! Holds what was gathered against the content id, on a thread that does not read the network. Refuses to know where
//! groups go.

use usher_proto::{
    ContentId, Fault,
    pb::wire::{Moved, Refused},
    verify::{Group, Step, Verifier, VerifyError},
    wire::Frame,
};

use crate::quic::Batch;

/// Why no more groups come.
#[derive(Debug)]
pub(super) enum Last {
    /// All are there, and of this content.
    Done(ContentId),
    /// The session goes on elsewhere.
    Moved(Moved),
    /// The node does not want to.
    Refused(Refused),
    /// The node sent something wrong.
    Wrong(VerifyError),
    /// The node, or the way to it, is lost.
    Lost(Fault),
    /// The stream ended where this should be.
    Early(String),
    /// The node knows nothing of further ranges.
    OneRange,
}

/// Good groups in the order in which they were asked for, and why no more come.
pub(super) type Passed = (Vec<Group>, Option<Last>);

/// Checks what was gathered. To be called where it holds up nobody: a batch takes a tenth of a millisecond.
pub(super) fn check(verifier: &mut Verifier, batch: Batch) -> Passed {
    let mut groups = Vec::with_capacity(batch.frames.len());
    for frame in batch.frames {
        let last = match frame {
            Frame::Refused(refused) => Last::Refused(refused),
            Frame::Moved(moved) => Last::Moved(moved),
            Frame::Finish(_) if verifier.awaits_range() => Last::OneRange,
            frame => match verifier.take(frame) {
                Ok(Step::More) => continue,
                Ok(Step::Group(group)) => {
                    groups.push(group);
                    continue;
                }
                Ok(Step::Done(content)) => Last::Done(content),
                Err(error) => Last::Wrong(error),
            },
        };
        return (groups, Some(last));
    }
    let last = batch.end.map(|end| match end {
        Ok(()) => Last::Early(verifier.wanted()),
        Err(fault) => Last::Lost(fault),
    });
    (groups, last)
}
