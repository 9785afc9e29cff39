//! A copy on its way in: what the frames of its source must be, and what of them may be kept. Everything that leaves
//! here is verified against the content id. Knows no stream and no file.

use bytes::Bytes;
use usher_proto::{
    Code, ContentId, Fault, Title,
    model::SetupInfo,
    pb::v1::{ByteRange, Setup},
    tree::{self, GROUP, PAGE_GROUPS, Value},
    verify::{Step, Verifier},
    wire::Frame,
};

/// What is to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub title: Title,
    /// Its content.
    pub content: ContentId,
    /// Bytes, at least 1.
    pub size: u64,
}

/// What a frame brought, verified; in the order in which it has to be kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// The set-up information, as it is kept: of the whole title.
    Setup(Box<Setup>),
    /// The values of all pages.
    Pages(Vec<Value>),
    /// The values of the groups of a page.
    Hashes(u64, Vec<Value>),
    /// A group: its number and its bytes.
    Group(u64, Bytes),
    /// Everything came.
    Whole,
}

/// One copy, from a group on.
#[derive(Debug)]
pub struct Pull {
    wanted: Wanted,
    from: u64,
    /// After the set-up information came.
    verifier: Option<Verifier>,
    /// The page whose group values come next.
    page: u64,
}

impl Pull {
    /// A copy whose groups before `from` are here already; `from` is below the title's number of groups.
    pub fn new(wanted: Wanted, from: u64) -> Self {
        Self { wanted, from, verifier: None, page: from / PAGE_GROUPS }
    }

    /// What to ask the source for; `None` for the whole title.
    pub fn range(&self) -> Option<ByteRange> {
        (self.from > 0).then_some(ByteRange { start: self.from * GROUP, end: 0 })
    }

    /// What should come next, in words.
    pub fn awaited(&self) -> String {
        self.verifier.as_ref().map_or_else(|| "the set-up information".to_owned(), Verifier::wanted)
    }

    /// Takes the next frame. After an error the stream is of no use; what left before is good.
    ///
    /// # Errors
    /// The source's own when it refuses; `CONTENT_CHANGED` when it has something else, `VERIFICATION_FAILED` when
    /// it lies, `UNAVAILABLE` when it sends to another seat.
    pub fn take(&mut self, frame: Frame) -> Result<Option<Piece>, Fault> {
        let piece = match &frame {
            Frame::Refused(refused) => {
                return Err(Fault::from_parts(&refused.reason, &refused.message, refused.retry_after_ms));
            }
            Frame::Moved(_) => return Err(Fault::new(Code::Unavailable, "the source gives up its sessions")),
            Frame::Pages(values) => Some(Piece::Pages(values.clone())),
            Frame::Hashes(values) => Some(Piece::Hashes(self.page, values.clone())),
            _ => None,
        };
        let Some(verifier) = &mut self.verifier else { return self.set_up(frame).map(Some) };
        match verifier.take(frame)? {
            Step::More => {
                self.page += u64::from(matches!(piece, Some(Piece::Hashes(..))));
                Ok(piece)
            }
            Step::Group(group) => Ok(Some(Piece::Group(group.index, group.data))),
            Step::Done(_) => Ok(Some(Piece::Whole)),
        }
    }

    fn set_up(&mut self, frame: Frame) -> Result<Piece, Fault> {
        let Frame::Setup(setup) = frame else {
            return Err(Fault::new(Code::VerificationFailed, "something came before the set-up information"));
        };
        let lie = |what: String| Fault::new(Code::VerificationFailed, format!("set-up information: {what}"));
        let info = SetupInfo::try_from(setup.clone()).map_err(|error| lie(error.to_string()))?;
        if (&info.title, info.size) != (&self.wanted.title, self.wanted.size) {
            let what = format!(
                "`{}` of {} bytes where `{}` of {} was asked for",
                info.title, info.size, self.wanted.title, self.wanted.size
            );
            return Err(Fault::new(Code::ContentChanged, what));
        }
        let expected = self.from * GROUP..info.size;
        if info.range != expected {
            return Err(lie(format!("bytes {:?} where {expected:?} were asked for", info.range)));
        }
        self.verifier = Some(Verifier::new(&info, Some(self.wanted.content))?);
        let range = Some(ByteRange { start: 0, end: info.size });
        Ok(Piece::Setup(Box::new(Setup { range, ..setup })))
    }
}

/// Groups of the title.
impl Wanted {
    /// How many groups it has.
    pub fn groups(&self) -> u64 {
        tree::groups(self.size)
    }
}

#[cfg(test)]
pub(crate) mod tests;
