//! Which bytes of the wanted range are verified, which are written, and which to ask for next.
//!
//! A node sends whole groups; the first and the last one are cut to the wanted bytes here. Only verified bytes are progress.
//! A new session begins at the first group that is not verified: groups that were written before they could be verified are
//! received again, must be the same, and are not written again.
//! Leaves verification and the destination of bytes to the driver.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;
use thiserror::Error;
use usher_proto::{
    Code, Fault,
    tree::{self, GROUP, Value},
    verify::Group,
};

/// Why a group does not fit the groups before it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AssembleError {
    /// A group that was written unverified now has other bytes.
    #[error("group {0} changed while the title was being hashed; start again")]
    Changed(u64),
    /// Not the group that was asked for.
    #[error("got group {got} where group {expected} should be")]
    Order {
        /// Number of the received group.
        got: u64,
        /// Number of the group that was asked for.
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
pub struct Chunk {
    /// The number of the group in the wanted range, from 0.
    pub number: u64,
    /// Offset of the bytes in the title.
    pub offset: u64,
    /// 1 to 65536 bytes.
    pub data: Bytes,
    /// [`tree::group_value`] of exactly these bytes.
    pub value: Value,
    /// The bytes are verified once the whole title is.
    pub pending: bool,
}

/// Progress of the wanted range of one title. By default, no byte is wanted.
#[derive(Debug, Default)]
pub struct Assembler {
    size: u64,
    want: Range<u64>,
    /// The first group that is not verified.
    verified: u64,
    /// The first group that is not written.
    written: u64,
    /// The next group of this session.
    next: u64,
    /// Values of the groups from `verified` to `written`.
    pending: VecDeque<Value>,
}

impl Assembler {
    /// An assembler for the range `want` of a title of `size` bytes, whose first `groups` groups are written and verified.
    pub fn new(size: u64, want: Range<u64>, groups: u64) -> Self {
        let want = want.start.min(want.end).min(size)..want.end.min(size);
        let first = (want.start / GROUP).saturating_add(groups).min(tree::groups(want.end));
        Self { size, want, verified: first, written: first, next: first, pending: VecDeque::new() }
    }

    /// Begins a session: returns the bytes to ask for, from the first group that is not verified, or `None` when all are.
    pub fn start_session(&mut self) -> Option<Range<u64>> {
        self.next = self.verified;
        self.wanted(self.next)
    }

    /// The bytes that the session sends: the same, widened to whole groups.
    pub fn session_bytes(&self) -> Range<u64> {
        self.wide(self.next)
    }

    /// The wanted bytes from this byte on, and the same widened to whole groups; `None` if there are none. The running
    /// session is not affected.
    pub fn missing_from(&self, from: u64) -> Option<(Range<u64>, Range<u64>)> {
        let group = tree::groups(from.min(self.size));
        self.wanted(group).map(|wanted| (wanted, self.wide(group)))
    }

    fn wanted(&self, from: u64) -> Option<Range<u64>> {
        let start = (from * GROUP).max(self.want.start);
        (start < self.want.end).then_some(start..self.want.end)
    }

    fn wide(&self, from: u64) -> Range<u64> {
        from * GROUP..tree::groups(self.want.end).saturating_mul(GROUP).min(self.size)
    }

    /// The next group of this session.
    pub fn next_group(&self) -> u64 {
        self.next
    }

    /// The session sent a group; returns its wanted bytes, unless they were written before.
    pub fn handle_group(&mut self, group: Group) -> Result<Option<Chunk>, AssembleError> {
        let Group { index, data, value, pending } = group;
        if index != self.next || index >= tree::groups(self.want.end) {
            return Err(AssembleError::Order { got: index, expected: self.next });
        }
        self.next += 1;
        let again = index < self.written;
        let seen = usize::try_from(index - self.verified).ok().and_then(|at| self.pending.get(at));
        if again && seen != Some(&value) {
            return Err(AssembleError::Changed(index));
        }
        if pending && !again {
            self.pending.push_back(value);
        }
        if !pending {
            // Verified groups are received in order from `verified` on, so this one is the first pending one, if any is.
            self.pending.pop_front();
            self.verified = index + 1;
        }
        if again {
            return Ok(None);
        }
        self.written = index + 1;
        let start = index * GROUP;
        let cut = self.want.start.saturating_sub(start)..self.want.end.saturating_sub(start);
        let from = usize::try_from(cut.start).unwrap_or(usize::MAX).min(data.len());
        let to = usize::try_from(cut.end).unwrap_or(usize::MAX).min(data.len());
        let whole = from == 0 && to == data.len();
        let data = data.slice(from..to.max(from));
        let value = if whole { value } else { tree::group_value(index, &data) };
        let number = index - self.want.start / GROUP;
        Ok(Some(Chunk { number, offset: start + from as u64, data, value, pending }))
    }

    /// The session sent these groups; returns their wanted bytes, up to the first group that does not fit.
    pub fn handle_groups(&mut self, groups: Vec<Group>) -> (Vec<Chunk>, Option<AssembleError>) {
        let mut chunks = Vec::with_capacity(groups.len());
        for group in groups {
            match self.handle_group(group) {
                Ok(chunk) => chunks.extend(chunk),
                Err(error) => return (chunks, Some(error)),
            }
        }
        (chunks, None)
    }

    /// The session verified the whole title: pending groups are verified.
    pub fn handle_confirmed(&mut self) {
        self.verified = self.written;
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
