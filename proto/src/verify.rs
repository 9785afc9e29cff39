//! Verifies received frames against the content id, group by group, before any other code uses them.
//!
//! Owns the order of frames after `Setup`, also of further ranges, and the hashes that are still needed. Independent of
//! the bytes' source and destination. Memory: 32 bytes a page and one page's groups; for a title that its node has
//! not hashed yet, 32 bytes a group of the range.

use std::{collections::VecDeque, ops::Range};

use crate::{
    Code, ContentId, Fault,
    model::SetupInfo,
    tree::{self, GROUP, PAGE_GROUPS, Value},
    wire::Frame,
};
use bytes::Bytes;
use thiserror::Error;

/// Why a stream failed verification.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// A frame that does not belong here.
    #[error("got {got} where {expected} should be")]
    Order {
        /// The received frame.
        got: &'static str,
        /// The expected frame.
        expected: String,
    },
    /// Hashes or media of another length than the title's size demands.
    #[error("{what} has {got} {unit}, not {expected}")]
    Length {
        /// Of what.
        what: String,
        /// How many came.
        got: u64,
        /// How many there should be.
        expected: u64,
        /// Of which unit.
        unit: &'static str,
    },
    /// A group that does not hash to its value.
    #[error("group {index} of {groups} does not hash to its value")]
    Group {
        /// Counted from 0.
        index: u64,
        /// Groups of the title.
        groups: u64,
    },
    /// Page values that do not hash to the content id.
    #[error("the page values do not hash to the content id")]
    Pages,
    /// Group values that do not hash to their page's value, or to the content id.
    #[error("the group values of page {0} do not hash to the page")]
    Page(u64),
    /// Another content than was asked for or announced.
    #[error("the node has content {got}, not {expected}")]
    Content {
        /// The requested or announced content.
        expected: ContentId,
        /// The node's content id; empty if it has none.
        got: String,
    },
}

impl From<VerifyError> for Fault {
    fn from(error: VerifyError) -> Self {
        let code = match error {
            VerifyError::Content { .. } => Code::ContentChanged,
            _ => Code::VerificationFailed,
        };
        Self::new(code, error.to_string())
    }
}

/// Why a stream cannot bring a further range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExtendError {
    /// A range without a byte of the title, or beyond its end.
    #[error("a further range lies within the title and is not empty")]
    Outside,
    /// No content id that it could be held against.
    #[error("a title that is not hashed yet is sent in one range")]
    NotHashed,
    /// The end of the stream came.
    #[error("the session has ended")]
    Ended,
}

/// One group as it leaves here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number in the title, from 0.
    pub index: u64,
    /// Its bytes.
    pub data: Bytes,
    /// Its chaining value.
    pub value: Value,
    /// Not verified: the node has not hashed the title yet. [`Step::Done`] confirms it.
    pub pending: bool,
}

/// Result of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to hand out.
    More,
    /// A group.
    Group(Group),
    /// The end: everything handed out is verified to be of this content.
    Done(ContentId),
}

/// Frames that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Pages,
    Hashes(u64),
    Group(u64),
    Finish,
    Nothing,
}

/// The checker of one session's stream.
#[derive(Debug)]
pub struct Verifier {
    size: u64,
    /// Groups of the range that comes now.
    range: Range<u64>,
    /// Whether a frame of this range was received, or the range is that of the Open message.
    begun: bool,
    /// Groups of the ranges that come after it.
    further: VecDeque<Range<u64>>,
    content: Option<ContentId>,
    expect: Expect,
    /// Page values; empty before they came, and for a title of one page.
    pages: Vec<Value>,
    /// Values of the current page's groups.
    values: Vec<Value>,
    /// Values of the groups handed out unverified, from the range's first.
    pending: Vec<Value>,
    /// The content id that late hashes lead to.
    root: Option<ContentId>,
}

impl Verifier {
    /// Checks the stream that follows `setup`. `expected` is the content that was asked for, or that the master named;
    /// the node must then have exactly that.
    pub fn new(setup: &SetupInfo, expected: Option<ContentId>) -> Result<Self, VerifyError> {
        if let Some(expected) = expected
            && setup.content != Some(expected)
        {
            let got = setup.content.map_or_else(|| "that is not hashed yet".to_owned(), |got| got.to_string());
            return Err(VerifyError::Content { expected, got });
        }
        let range = setup.range.start / GROUP..tree::groups(setup.range.end);
        let mut verifier = Self {
            size: setup.size,
            expect: Expect::Group(range.start),
            range,
            begun: true,
            further: VecDeque::new(),
            content: setup.content,
            pages: Vec::new(),
            values: Vec::new(),
            pending: Vec::new(),
            root: None,
        };
        if verifier.content.is_some() {
            verifier.expect = verifier.first_hashes().unwrap_or(verifier.expect);
        }
        Ok(verifier)
    }

    /// The client asked for these bytes too: they come, in whole groups, after all that was asked for before.
    ///
    /// # Errors
    /// When no such range can come; nothing has changed then.
    pub fn extend(&mut self, range: Range<u64>) -> Result<(), ExtendError> {
        if self.content.is_none() {
            return Err(ExtendError::NotHashed);
        }
        if range.start >= range.end || range.end > self.size {
            return Err(ExtendError::Outside);
        }
        if self.expect == Expect::Nothing {
            return Err(ExtendError::Ended);
        }
        self.further.push_back(range.start / GROUP..tree::groups(range.end));
        if self.expect == Expect::Finish {
            self.expect = self.further();
        }
        Ok(())
    }

    /// The first frame of the next range, or the end.
    fn further(&mut self) -> Expect {
        let Some(range) = self.further.pop_front() else { return Expect::Finish };
        (self.range, self.begun) = (range, false);
        let (first, single) = (self.range.start, tree::groups(self.size) == 1);
        if single { Expect::Group(first) } else { Expect::Hashes(first / PAGE_GROUPS) }
    }

    /// Whether a further range is due of which nothing came. A node that ends the session then does not know of further
    /// ranges, as those of before did not; what it sent is good.
    pub fn awaits_range(&self) -> bool {
        !self.begun && self.expect != Expect::Finish
    }

    /// The first frame of hashes; none for a title of one group.
    fn first_hashes(&self) -> Option<Expect> {
        if tree::groups(self.size) == 1 {
            None
        } else if tree::pages(self.size) > 1 {
            Some(Expect::Pages)
        } else {
            Some(Expect::Hashes(0))
        }
    }

    /// Takes the next frame. After an error the stream is of no use.
    pub fn take(&mut self, frame: Frame) -> Result<Step, VerifyError> {
        match (self.expect, frame) {
            (Expect::Pages, Frame::Pages(values)) => self.pages(values),
            (Expect::Hashes(page), Frame::Hashes(values)) => self.hashes(page, values),
            (Expect::Group(index), Frame::Group(data)) => self.group(index, data),
            (Expect::Finish, Frame::Finish(finish)) => self.finish(&finish.content_id),
            (_, frame) => Err(VerifyError::Order { got: name(&frame), expected: self.wanted() }),
        }
    }

    /// Describes the expected next frame, for the error of a stream that ends too early.
    pub fn wanted(&self) -> String {
        match self.expect {
            Expect::Pages => "the page values".to_owned(),
            Expect::Hashes(page) => format!("the group values of page {page}"),
            Expect::Group(index) => format!("group {index} of {}", tree::groups(self.size)),
            Expect::Finish => "the end".to_owned(),
            Expect::Nothing => "nothing more".to_owned(),
        }
    }

    fn pages(&mut self, values: Vec<Value>) -> Result<Step, VerifyError> {
        length(|| "the list of page values".to_owned(), values.len(), tree::pages(self.size), "values")?;
        let root = tree::root(&values).ok_or(VerifyError::Pages)?;
        self.check_root(root).then_some(()).ok_or(VerifyError::Pages)?;
        self.pages = values;
        self.expect = Expect::Hashes(self.range.start / PAGE_GROUPS);
        Ok(Step::More)
    }

    fn hashes(&mut self, page: u64, values: Vec<Value>) -> Result<Step, VerifyError> {
        let groups = tree::page_groups(self.size, page);
        length(
            || format!("the list of group values of page {page}"),
            values.len(),
            groups.end - groups.start,
            "values",
        )?;
        let good = if self.pages.is_empty() {
            tree::root(&values).is_some_and(|root| self.check_root(root))
        } else {
            let expected = usize::try_from(page).ok().and_then(|page| self.pages.get(page));
            expected == Some(&tree::page_value(&values))
        };
        good.then_some(()).ok_or(VerifyError::Page(page))?;
        let first = groups.start.max(self.range.start);
        let last = groups.end.min(self.range.end);
        if self.content.is_some() {
            self.values = values;
            self.expect = Expect::Group(first);
            self.begun = true;
            return Ok(Step::More);
        }
        // Late hashes: the groups were handed out already.
        for index in first..last {
            let value = usize::try_from(index - groups.start).ok().and_then(|at| values.get(at));
            let seen = usize::try_from(index - self.range.start).ok().and_then(|at| self.pending.get(at));
            if value.is_none() || value != seen {
                return Err(VerifyError::Group { index, groups: tree::groups(self.size) });
            }
        }
        self.expect = if last < self.range.end { Expect::Hashes(page + 1) } else { Expect::Finish };
        Ok(Step::More)
    }

    fn group(&mut self, index: u64, data: Bytes) -> Result<Step, VerifyError> {
        length(|| format!("group {index}"), data.len(), tree::group_len(self.size, index), "bytes")?;
        let groups = tree::groups(self.size);
        let value = tree::group_value(index, &data);
        let good = if groups == 1 {
            self.check_root(tree::single(&data))
        } else if self.content.is_none() {
            true
        } else {
            let expected = usize::try_from(index % PAGE_GROUPS).ok().and_then(|at| self.values.get(at));
            expected == Some(&value)
        };
        good.then_some(()).ok_or(VerifyError::Group { index, groups })?;
        self.begun = true;
        let pending = self.content.is_none();
        if pending {
            self.pending.push(value);
        }
        let next = index + 1;
        self.expect = if next == self.range.end {
            if pending { self.first_hashes().unwrap_or(Expect::Finish) } else { self.further() }
        } else if !pending && next.is_multiple_of(PAGE_GROUPS) {
            Expect::Hashes(next / PAGE_GROUPS)
        } else {
            Expect::Group(next)
        };
        Ok(Step::Group(Group { index, data, value, pending }))
    }

    fn finish(&mut self, content: &[u8]) -> Result<Step, VerifyError> {
        let expected = self.content.or(self.root).ok_or(VerifyError::Pages)?;
        if content != expected.0 {
            return Err(VerifyError::Content { expected, got: hex::encode(content) });
        }
        self.expect = Expect::Nothing;
        Ok(Step::Done(expected))
    }

    /// Whether `root` is the expected content id; remembers it when `Setup` named none, for the comparison with
    /// `Finish`.
    fn check_root(&mut self, root: ContentId) -> bool {
        match self.content {
            Some(content) => content == root,
            None => {
                self.root = Some(root);
                true
            }
        }
    }
}

fn length(what: impl FnOnce() -> String, got: usize, expected: u64, unit: &'static str) -> Result<(), VerifyError> {
    let got = got as u64;
    if got == expected { Ok(()) } else { Err(VerifyError::Length { what: what(), got, expected, unit }) }
}

fn name(frame: &Frame) -> &'static str {
    match frame {
        Frame::Open(_) => "Open",
        Frame::Setup(_) => "Setup",
        Frame::Refused(_) => "Refused",
        Frame::Pages(_) => "page values",
        Frame::Hashes(_) => "group values",
        Frame::Group(_) => "a group",
        Frame::Finish(_) => "Finish",
        Frame::Moved(_) => "Moved",
        Frame::Range(_) => "Range",
        Frame::Renew(_) => "Renew",
        Frame::Renewed(_) => "Renewed",
        Frame::FeedGroup(_) => "FeedGroup",
        Frame::Piece(_) => "a piece of a feed",
        Frame::Skipped(_) => "Skipped",
    }
}

#[cfg(test)]
mod tests;
