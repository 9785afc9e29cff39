//! Holds what was gathered against the content id, on a thread that does not read the network. Refuses to know where
//! groups go.

use usher_proto::{
    ContentId, Fault,
    pb::wire::{Moved, Refused},
    verify::{Group, Step, Verifier, VerifyError},
    wire::Frame,
};

use crate::quic::{Alarm, Batch};

/// Why no more groups come.
#[derive(Debug)]
pub(super) enum Last {
    /// All are there, and of this content.
    Done(ContentId),
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

/// What a batch brought.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Good groups in the order in which they were asked for.
    pub(super) groups: Vec<Group>,
    /// Where the session goes on, after what its node still sends.
    pub(super) moved: Option<Moved>,
    /// The node has fallen silent, or is slow.
    pub(super) alarm: Option<Alarm>,
    /// Why no more come.
    pub(super) last: Option<Last>,
}

/// Checks what was gathered. To be called where it holds up nobody: a batch takes a tenth of a millisecond.
pub(super) fn check(verifier: &mut Verifier, batch: Batch) -> Passed {
    let groups = Vec::with_capacity(batch.frames.len());
    let mut passed = Passed { groups, alarm: batch.alarm, ..Passed::default() };
    for frame in batch.frames {
        let last = match frame {
            Frame::Refused(refused) => Last::Refused(refused),
            Frame::Moved(moved) => {
                passed.moved = Some(moved);
                continue;
            }
            Frame::Finish(_) if verifier.awaits_range() => Last::OneRange,
            frame => match verifier.take(frame) {
                Ok(Step::More) => continue,
                Ok(Step::Group(group)) => {
                    passed.groups.push(group);
                    continue;
                }
                Ok(Step::Done(content)) => Last::Done(content),
                Err(error) => Last::Wrong(error),
            },
        };
        passed.last = Some(last);
        return passed;
    }
    passed.last = batch.end.map(|end| match end {
        Ok(()) => Last::Early(verifier.wanted()),
        Err(fault) => Last::Lost(fault),
    });
    passed
}
