//! The newest groups of a feed, within a window of time and memory, as frames that all viewers share. Owns the group a
//! viewer starts with, the groups a slow viewer skips, and the check that a group sent again is the same. Knows no
//! publishers and viewers; callers verify the pieces.

mod complete;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use usher_proto::{
    Bitrate, Code, Fault,
    feed::{GroupHead, Link},
    pb::wire::FeedStart,
};

pub use complete::CompleteGroup;

/// The bitrate is measured over this much of the feed, or its last two groups.
const BITRATE_SPAN: Duration = Duration::from_secs(10);

/// Groups kept regardless of the bounds: the one in progress, and the last complete one.
const MIN_GROUPS: usize = 2;

/// One group of a feed.
#[derive(Debug)]
pub struct Group {
    /// Number, time and head.
    pub head: GroupHead,
    /// Milliseconds of the publisher's clock; never decreases from group to group.
    at_ms: u64,
    began: Instant,
    /// The link before the first piece, and after each piece.
    links: Vec<Link>,
    /// Pieces in their wire form.
    frames: Vec<Bytes>,
    bytes: u64,
    complete: bool,
    /// Its stream ended before it was complete.
    truncated: bool,
}

/// Whether a group's pieces are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupStatus {
    /// All pieces, or the missing ones, are needed.
    Wanted,
    /// The group is complete, or too old.
    Known,
}

/// Next thing to send to a viewer of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextPiece {
    /// This piece.
    Piece(Bytes),
    /// Nothing: the group is complete.
    Complete,
    /// Nothing yet.
    Wait,
    /// The group is no longer cached.
    Gone,
}

/// The cached groups of one feed.
#[derive(Debug)]
pub struct FeedCache {
    window: Duration,
    groups: VecDeque<Group>,
    bytes: u64,
    /// Number of the newest evicted group; 0 for none.
    evicted: u64,
    /// Number of the newest group so far.
    newest: u64,
    newest_ms: u64,
}

impl FeedCache {
    /// An empty cache that keeps groups for `window`.
    pub fn new(window: Duration) -> Self {
        Self { window, groups: VecDeque::new(), bytes: 0, evicted: 0, newest: 0, newest_ms: 0 }
    }

    /// Number of the newest group; 0 for none.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Bytes of cached media.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first group to request when the feed resumes: the newest one if it is incomplete, else the one after it; 0
    /// for an empty cache.
    pub fn resume_from(&self) -> u64 {
        match self.groups.back() {
            Some(group) if !group.complete => group.head.sequence,
            _ if self.newest > 0 => self.newest + 1,
            _ => 0,
        }
    }

    /// Handles the start of a group; `link` is the one before its first piece.
    ///
    /// # Errors
    /// `BAD_REQUEST` when another group with its number is cached.
    pub fn handle_group(&mut self, now: Instant, head: GroupHead, link: Link) -> Result<GroupStatus, Fault> {
        let sequence = head.sequence;
        if let Some(group) = self.group_mut(sequence) {
            group.truncated = false;
            if group.links.first() != Some(&link) {
                return Err(mismatch(sequence));
            }
            return Ok(if group.complete { GroupStatus::Known } else { GroupStatus::Wanted });
        }
        // Groups may overtake one another, as streams do.
        if sequence <= self.evicted {
            return Ok(GroupStatus::Known);
        }
        let place = self.groups.partition_point(|group| group.head.sequence < sequence);
        if sequence > self.newest {
            self.newest = sequence;
            self.newest_ms = self.newest_ms.max(head.at_ms);
        }
        let before = place.checked_sub(1).and_then(|before| self.groups.get(before));
        let at_ms = before.map_or(head.at_ms, |group| head.at_ms.max(group.at_ms)).min(self.newest_ms);
        let (links, frames) = (vec![link], Vec::new());
        self.groups.insert(
            place,
            Group { head, at_ms, began: now, links, frames, bytes: 0, complete: false, truncated: false },
        );
        Ok(GroupStatus::Wanted)
    }

    /// Handles a verified piece: its position in the group, its frame, the bytes of its media, the link after it, and
    /// whether it is the last. Returns whether it is new.
    ///
    /// # Errors
    /// `BAD_REQUEST` when another piece is at its position.
    pub fn handle_piece(
        &mut self,
        sequence: u64,
        number: usize,
        frame: Bytes,
        media: u64,
        link: Link,
        last: bool,
    ) -> Result<bool, Fault> {
        // Evicted: the piece arrived too late.
        let Some(group) = self.group_mut(sequence) else { return Ok(false) };
        match group.links.get(number + 1) {
            Some(known) if *known == link => return Ok(false),
            Some(_) => return Err(mismatch(sequence)),
            None if number != group.frames.len() || group.complete => return Err(mismatch(sequence)),
            None => {}
        }
        group.frames.push(frame);
        group.links.push(link);
        group.bytes += media;
        group.complete = last;
        self.bytes += media;
        Ok(true)
    }

    /// Handles the end of a group's stream. An incomplete group is truncated until it is sent again.
    pub fn handle_stream_end(&mut self, sequence: u64) {
        if let Some(group) = self.group_mut(sequence) {
            group.truncated = !group.complete;
        }
    }

    /// Whether a group will stay incomplete: its stream ended, and newer groups started.
    pub fn is_truncated(&self, sequence: u64) -> bool {
        sequence < self.newest && self.group(sequence).is_some_and(|group| group.truncated)
    }

    /// Evicts the groups outside the window. Returns the bytes of media evicted.
    pub fn trim(&mut self) -> u64 {
        let mut evicted = 0;
        while self.groups.len() > MIN_GROUPS
            && let Some(front) = self.groups.front()
            && u128::from(self.newest_ms.saturating_sub(front.at_ms)) > self.window.as_millis()
        {
            evicted += self.evict_oldest();
        }
        evicted
    }

    /// Evicts the oldest group, unless it must be kept. Returns the bytes of media evicted.
    pub fn evict_oldest(&mut self) -> u64 {
        if self.groups.len() <= MIN_GROUPS {
            return 0;
        }
        let Some(group) = self.groups.pop_front() else { return 0 };
        self.evicted = group.head.sequence;
        self.bytes -= group.bytes;
        group.bytes
    }

    /// When the oldest group started, if it may be evicted.
    pub fn oldest(&self) -> Option<Instant> {
        self.groups.front().filter(|_| self.groups.len() > MIN_GROUPS).map(|group| group.began)
    }

    /// The group a viewer starts with; the next one when none is cached.
    pub fn start_group(&self, start: &FeedStart) -> u64 {
        let first = |groups: &mut dyn Iterator<Item = &Group>| groups.next().map(|group| group.head.sequence);
        if start.from_group > 0 {
            let after = first(&mut self.groups.iter().filter(|group| group.head.sequence >= start.from_group));
            return after.unwrap_or_else(|| start.from_group.max(self.newest + 1));
        }
        let found = if start.back_ms > 0 {
            let then = self.newest_ms.saturating_sub(start.back_ms);
            // The group in progress at that time, or the oldest one.
            let at = self.groups.partition_point(|group| group.at_ms <= then);
            self.groups.get(at.saturating_sub(1))
        } else if start.newest {
            self.groups.back()
        } else {
            self.groups.iter().rev().find(|group| group.complete).or_else(|| self.groups.back())
        };
        found.map_or(self.newest + 1, |group| group.head.sequence)
    }

    /// The first cached group from this number on.
    pub fn first_from(&self, sequence: u64) -> Option<&GroupHead> {
        let at = self.groups.partition_point(|group| group.head.sequence < sequence);
        self.groups.get(at).map(|group| &group.head)
    }

    /// Next thing to send to a viewer that received `sent` pieces of a group.
    pub fn next_piece(&self, sequence: u64, sent: usize) -> NextPiece {
        match self.group(sequence) {
            None => NextPiece::Gone,
            Some(group) => match group.frames.get(sent) {
                Some(frame) => NextPiece::Piece(frame.clone()),
                None if group.complete => NextPiece::Complete,
                None => NextPiece::Wait,
            },
        }
    }

    /// The group to which a viewer of `sequence` skips when it is farther behind than `latency`: the last complete one.
    /// `None` while it may continue.
    pub fn skip_target(&self, sequence: u64, latency: Duration) -> Option<u64> {
        let last = self.groups.iter().rev().find(|group| group.complete)?;
        if last.head.sequence <= sequence {
            return None;
        }
        let at = self.groups.partition_point(|group| group.head.sequence < sequence);
        let behind = self.newest_ms.saturating_sub(self.groups.get(at)?.at_ms);
        (u128::from(behind) > latency.as_millis()).then_some(last.head.sequence)
    }

    /// Bitrate over the last seconds; 0 while unknown.
    pub fn bitrate(&self) -> Bitrate {
        let Some(last) = self.groups.back() else { return Bitrate(0) };
        let (mut bytes, mut since) = (0, last.at_ms);
        for group in self.groups.iter().rev().skip(1) {
            if u128::from(last.at_ms.saturating_sub(since)) >= BITRATE_SPAN.as_millis() {
                break;
            }
            bytes += group.bytes;
            since = group.at_ms;
        }
        Bitrate::over(bytes, Duration::from_millis(last.at_ms.saturating_sub(since)))
    }

    fn position(&self, sequence: u64) -> Option<usize> {
        self.groups.binary_search_by_key(&sequence, |group| group.head.sequence).ok()
    }

    fn group(&self, sequence: u64) -> Option<&Group> {
        self.groups.get(self.position(sequence)?)
    }

    fn group_mut(&mut self, sequence: u64) -> Option<&mut Group> {
        let at = self.position(sequence)?;
        self.groups.get_mut(at)
    }
}

fn mismatch(sequence: u64) -> Fault {
    Fault::new(
        Code::BadRequest,
        format!("another group {sequence} of the feed, or another piece of it, is here already"),
    )
}

#[cfg(test)]
mod tests;
