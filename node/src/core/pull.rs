//! Verifies the frames of a copy that is being received: each frame that leaves here belongs to the content id. Knows
//! no stream and no file.

use bytes::Bytes;
use usher_proto::{
    Code, ContentId, Fault, Title,
    model::SetupInfo,
    pb::v1::{ByteRange, Setup},
    tree::{self, GROUP, PAGE_GROUPS, Value},
    verify::{Step, Verifier},
    wire::Frame,
};

/// The copy to receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSpec {
    /// Its title.
    pub title: Title,
    /// Its content.
    pub content: ContentId,
    /// Bytes, at least 1.
    pub size: u64,
}

/// A verified frame, in the order in which it must be stored.
#[derive(Clone, Debug, PartialEq)]
pub enum VerifiedFrame {
    /// The set-up information of the whole title.
    Setup(Box<Setup>),
    /// The values of all pages.
    Pages(Vec<Value>),
    /// The values of the groups of a page.
    Hashes(u64, Vec<Value>),
    /// A group: its number and bytes.
    Group(u64, Bytes),
    /// The copy is complete.
    Finish,
}

/// The verification of one copy, from a group on.
#[derive(Debug)]
pub struct Pull {
    wanted: ReplicaSpec,
    from: u64,
    /// Set after the set-up information.
    verifier: Option<Verifier>,
    /// The page whose group values come next.
    page: u64,
}

impl Pull {
    /// Starts at group `from`, which must be below the title's number of groups; the groups before it are stored
    /// already.
    pub fn new(wanted: ReplicaSpec, from: u64) -> Self {
        Self { wanted, from, verifier: None, page: from / PAGE_GROUPS }
    }

    /// The range to request from the source; `None` for the whole title.
    pub fn range(&self) -> Option<ByteRange> {
        (self.from > 0).then_some(ByteRange { start: self.from * GROUP, end: 0 })
    }

    /// The next expected frame, for error messages.
    pub fn expected(&self) -> String {
        self.verifier.as_ref().map_or_else(|| "the set-up information".to_owned(), Verifier::wanted)
    }

    /// Handles the next frame. After an error the stream must be dropped; frames returned before stay valid.
    ///
    /// # Errors
    /// The source's own when it refuses; `CONTENT_CHANGED` when it has another content, `VERIFICATION_FAILED` when a
    /// frame is not of this content, `UNAVAILABLE` when the source moves the session to another seat.
    pub fn handle_frame(&mut self, frame: Frame) -> Result<Option<VerifiedFrame>, Fault> {
        let piece = match &frame {
            Frame::Refused(refused) => {
                return Err(Fault::from(refused));
            }
            Frame::Moved(_) => {
                return Err(Fault::new(Code::Unavailable, "the source moves its sessions to other nodes"));
            }
            Frame::Pages(values) => Some(VerifiedFrame::Pages(values.clone())),
            Frame::Hashes(values) => Some(VerifiedFrame::Hashes(self.page, values.clone())),
            _ => None,
        };
        let Some(verifier) = &mut self.verifier else { return self.set_up(frame).map(Some) };
        match verifier.take(frame)? {
            Step::More => {
                self.page += u64::from(matches!(piece, Some(VerifiedFrame::Hashes(..))));
                Ok(piece)
            }
            Step::Group(group) => Ok(Some(VerifiedFrame::Group(group.index, group.data))),
            Step::Done(_) => Ok(Some(VerifiedFrame::Finish)),
        }
    }

    fn set_up(&mut self, frame: Frame) -> Result<VerifiedFrame, Fault> {
        let Frame::Setup(setup) = frame else {
            return Err(Fault::new(Code::VerificationFailed, "a frame came before the set-up information"));
        };
        let invalid = |what: String| Fault::new(Code::VerificationFailed, format!("set-up information: {what}"));
        let info = SetupInfo::try_from(setup.clone()).map_err(|error| invalid(error.to_string()))?;
        if (&info.title, info.size) != (&self.wanted.title, self.wanted.size) {
            let what = format!(
                "`{}` of {} bytes instead of `{}` of {}",
                info.title, info.size, self.wanted.title, self.wanted.size
            );
            return Err(Fault::new(Code::ContentChanged, what));
        }
        let expected = self.from * GROUP..info.size;
        if info.range != expected {
            return Err(invalid(format!("bytes {:?} instead of {expected:?}", info.range)));
        }
        self.verifier = Some(Verifier::new(&info, Some(self.wanted.content))?);
        let range = Some(ByteRange { start: 0, end: info.size });
        Ok(VerifiedFrame::Setup(Box::new(Setup { range, ..setup })))
    }
}

impl ReplicaSpec {
    /// Number of groups.
    pub fn groups(&self) -> u64 {
        tree::groups(self.size)
    }
}

#[cfg(test)]
pub(crate) mod tests;
