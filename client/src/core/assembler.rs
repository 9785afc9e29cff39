//! Which bytes of the wanted range are verified, which are handed out, and which to ask for next.
//!
//! A node sends whole groups; this cuts the first and the last to what was asked for. Only verified bytes are progress.
//! After a loss, asking begins at the first group that is not verified: groups that were handed out before they could be
//! verified come a second time, must be the same, and are not handed out again.
//! Refuses to know where bytes go and how groups are verified.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;
use thiserror::Error;
use usher_proto::{
    Code, Fault,
    tree::{self, GROUP, Value},
    verify::Group,
};

/// Why a group does not fit what is there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AssembleError {
    /// A group that was handed out unverified now has other bytes.
    #[error("group {0} changed while the title was being hashed; start again")]
    Changed(u64),
    /// Not the group that was asked for.
    #[error("got group {got} where group {expected} should be")]
    Order {
        /// What came.
        got: u64,
        /// What was asked for.
        expected: u64,
    },
}

impl From<AssembleError> for Fault {
    fn from(error: AssembleError) -> Self {
        Self::new(Code::VerificationFailed, error.to_string())
    }
}

/// The wanted bytes of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The number of the group in the wanted range, from 0.
    pub number: u64,
    /// Where the bytes lie in the title.
    pub offset: u64,
    /// 1 to 65536 bytes.
    pub data: Bytes,
    /// [`tree::group_value`] of exactly these bytes.
    pub value: Value,
    /// Verified only when the whole is.
    pub pending: bool,
}

/// The wanted range of one title; by default, none.
#[derive(Debug, Default)]
pub struct Assembler {
    size: u64,
    want: Range<u64>,
    /// The first group that is not verified.
    verified: u64,
    /// The first group that is not handed out.
    handed: u64,
    /// The group that comes next in this session.
    next: u64,
    /// Values of the groups from `verified` to `handed`.
    pending: VecDeque<Value>,
}

impl Assembler {
    /// Wants the bytes `want` of a title of `size` bytes, of which the first `groups` groups are there and verified.
    pub fn new(size: u64, want: Range<u64>, groups: u64) -> Self {
        let want = want.start.min(want.end).min(size)..want.end.min(size);
        let first = (want.start / GROUP).saturating_add(groups).min(tree::groups(want.end));
        Self { size, want, verified: first, handed: first, next: first, pending: VecDeque::new() }
    }

    /// The bytes to ask for, from the first group that is not verified; `None` when all are. What comes next is taken to
    /// be the answer.
    pub fn ask(&mut self) -> Option<Range<u64>> {
        self.next = self.verified;
        self.wanted(self.next)
    }

    /// The same, widened to the whole groups that a node sends.
    pub fn widened(&self) -> Range<u64> {
        self.wide(self.next)
    }

    /// The bytes to ask for from this byte on, and the same widened to whole groups; `None` when nothing of that is wanted.
    /// What comes next stays what it is.
    pub fn rest(&self, from: u64) -> Option<(Range<u64>, Range<u64>)> {
        let group = tree::groups(from);
        self.wanted(group).map(|wanted| (wanted, self.wide(group)))
    }

    fn wanted(&self, from: u64) -> Option<Range<u64>> {
        let start = (from * GROUP).max(self.want.start);
        (start < self.want.end).then_some(start..self.want.end)
    }

    fn wide(&self, from: u64) -> Range<u64> {
        from * GROUP..tree::groups(self.want.end).saturating_mul(GROUP).min(self.size)
    }

    /// The group that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes the next group; gives what of it is wanted and was not handed out before.
    pub fn take(&mut self, group: Group) -> Result<Option<Piece>, AssembleError> {
        let Group { index, data, value, pending } = group;
        if index != self.next || index >= tree::groups(self.want.end) {
            return Err(AssembleError::Order { got: index, expected: self.next });
        }
        self.next += 1;
        let again = index < self.handed;
        let seen = usize::try_from(index - self.verified).ok().and_then(|at| self.pending.get(at));
        if again && seen != Some(&value) {
            return Err(AssembleError::Changed(index));
        }
        if pending && !again {
            self.pending.push_back(value);
        }
        if !pending {
            // Verified groups come in order from `verified` on, so this one is the first that waits, if any does.
            self.pending.pop_front();
            self.verified = index + 1;
        }
        if again {
            return Ok(None);
        }
        self.handed = index + 1;
        let start = index * GROUP;
        let cut = self.want.start.saturating_sub(start)..self.want.end.saturating_sub(start);
        let from = usize::try_from(cut.start).unwrap_or(usize::MAX).min(data.len());
        let to = usize::try_from(cut.end).unwrap_or(usize::MAX).min(data.len());
        let whole = from == 0 && to == data.len();
        let data = data.slice(from..to.max(from));
        let value = if whole { value } else { tree::group_value(index, &data) };
        let number = index - self.want.start / GROUP;
        Ok(Some(Piece { number, offset: start + from as u64, data, value, pending }))
    }

    /// Takes the next groups, up to the first that is wrong.
    pub fn take_all(&mut self, groups: Vec<Group>) -> (Vec<Piece>, Option<AssembleError>) {
        let mut pieces = Vec::with_capacity(groups.len());
        for group in groups {
            match self.take(group) {
                Ok(piece) => pieces.extend(piece),
                Err(error) => return (pieces, Some(error)),
            }
        }
        (pieces, None)
    }

    /// The session ended well: what waited is verified.
    pub fn confirm(&mut self) {
        self.verified = self.handed;
        self.pending.clear();
    }

    /// Whether every wanted byte is verified.
    pub fn is_complete(&self) -> bool {
        self.verified >= tree::groups(self.want.end)
    }

    /// Verified bytes of the wanted range.
    pub fn progress(&self) -> u64 {
        (self.verified * GROUP).clamp(self.want.start, self.want.end) - self.want.start
    }

    /// Bytes of the wanted range.
    pub fn total(&self) -> u64 {
        self.want.end - self.want.start
    }
}

#[cfg(test)]
mod tests;
