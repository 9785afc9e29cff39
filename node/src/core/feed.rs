//! A feed as a node keeps it: its newest groups, within a window of time and memory, as frames that all of its viewers
//! share. Owns where a viewer begins, what is given up for one who is slow, and what a group that is sent again must be.
//! Refuses to know who sends and who watches; that pieces are proven is its callers' part.

mod whole;

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

pub use whole::Whole;

/// The rate is measured over so much of the feed, or the last two groups.
const MEASURED: Duration = Duration::from_secs(10);

/// Groups that are kept whatever the bounds are: the one that is made, and the last whole one.
const LEAST: usize = 2;

/// One group.
#[derive(Debug)]
pub struct Group {
    /// What it is.
    pub head: GroupHead,
    /// Milliseconds of the publisher's clock that never go back.
    at_ms: u64,
    began: Instant,
    /// The link before the first piece, and after each.
    links: Vec<Link>,
    /// Pieces as they are sent.
    frames: Vec<Bytes>,
    bytes: u64,
    whole: bool,
    /// Its stream ended before it was whole.
    cut: bool,
}

/// What a group that comes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is wanted, all of it or what is not here yet.
    Wanted,
    /// It is here, or too old.
    Known,
}

/// What a viewer is to be sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// This piece of its group.
    Piece(Bytes),
    /// Its group is whole, and was sent.
    Whole,
    /// Nothing yet.
    Wait,
    /// Its group is not here any more.
    Gone,
}

/// See the module.
#[derive(Debug)]
pub struct Feed {
    window: Duration,
    groups: VecDeque<Group>,
    bytes: u64,
    /// The newest group that was forgotten; 0 for none.
    gone: u64,
    /// Of the newest group there ever was.
    newest: u64,
    newest_ms: u64,
}

impl Feed {
    /// Nothing has come; so much of it is kept.
    pub fn new(window: Duration) -> Self {
        Self { window, groups: VecDeque::new(), bytes: 0, gone: 0, newest: 0, newest_ms: 0 }
    }

    /// The number of the newest group that has begun; 0 when none has.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Media that is kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first group to ask for where the feed goes on from: the newest if it is not whole, or the one after it; 0 when
    /// none has come.
    pub fn resume_from(&self) -> u64 {
        match self.groups.back() {
            Some(group) if !group.whole => group.head.sequence,
            _ if self.newest > 0 => self.newest + 1,
            _ => 0,
        }
    }

    /// A group comes; `link` is the one before its first piece.
    ///
    /// # Errors
    /// `BAD_REQUEST` when another group of its number is here.
    pub fn begin(&mut self, now: Instant, head: GroupHead, link: Link) -> Result<Begun, Fault> {
        let sequence = head.sequence;
        if let Some(at) = self.place(sequence)
            && let Some(group) = self.groups.get_mut(at)
        {
            group.cut = false;
            if group.links.first() != Some(&link) {
                return Err(other(sequence));
            }
            return Ok(if group.whole { Begun::Known } else { Begun::Wanted });
        }
        // Groups may overtake one another, as streams do.
        if sequence <= self.gone {
            return Ok(Begun::Known);
        }
        let place = self.groups.partition_point(|group| group.head.sequence < sequence);
        if sequence > self.newest {
            self.newest = sequence;
            self.newest_ms = self.newest_ms.max(head.at_ms);
        }
        let before = place.checked_sub(1).and_then(|before| self.groups.get(before));
        let at_ms = before.map_or(head.at_ms, |group| head.at_ms.max(group.at_ms)).min(self.newest_ms);
        let (links, frames) = (vec![link], Vec::new());
        self.groups.insert(place, Group { head, at_ms, began: now, links, frames, bytes: 0, whole: false, cut: false });
        Ok(Begun::Wanted)
    }

    /// A proven piece of a group comes, the one of this number: its frame, its media's length, the link after it, and
    /// whether it is the last. Whether it is new.
    ///
    /// # Errors
    /// `BAD_REQUEST` when another piece is at its place.
    pub fn piece(
        &mut self,
        sequence: u64,
        number: usize,
        frame: Bytes,
        media: u64,
        link: Link,
        last: bool,
    ) -> Result<bool, Fault> {
        // Not here any more: it came too slowly.
        let Some(at) = self.place(sequence) else { return Ok(false) };
        let Some(group) = self.groups.get_mut(at) else { return Ok(false) };
        match group.links.get(number + 1) {
            Some(known) if *known == link => return Ok(false),
            Some(_) => return Err(other(sequence)),
            None if number != group.frames.len() || group.whole => return Err(other(sequence)),
            None => {}
        }
        group.frames.push(frame);
        group.links.push(link);
        group.bytes += media;
        group.whole = last;
        self.bytes += media;
        Ok(true)
    }

    /// A group's stream ended. Unless it is whole, the rest of it comes only if it is sent again.
    pub fn cut(&mut self, sequence: u64) {
        if let Some(at) = self.place(sequence)
            && let Some(group) = self.groups.get_mut(at)
        {
            group.cut = !group.whole;
        }
    }

    /// Whether the rest of a group will not come: its stream ended, and newer ones have begun.
    pub fn is_cut(&self, sequence: u64) -> bool {
        sequence < self.newest && self.group(sequence).is_some_and(|group| group.cut)
    }

    /// Forgets the groups that are out of the window. The media that went with them.
    pub fn trim(&mut self) -> u64 {
        let mut gone = 0;
        while self.groups.len() > LEAST
            && let Some(front) = self.groups.front()
            && u128::from(self.newest_ms.saturating_sub(front.at_ms)) > self.window.as_millis()
        {
            gone += self.forget_oldest();
        }
        gone
    }

    /// Forgets the oldest group, if more are here than must be. The media that went with it.
    pub fn forget_oldest(&mut self) -> u64 {
        if self.groups.len() <= LEAST {
            return 0;
        }
        let Some(group) = self.groups.pop_front() else { return 0 };
        self.gone = group.head.sequence;
        self.bytes -= group.bytes;
        group.bytes
    }

    /// When its oldest group began, if it may be forgotten.
    pub fn oldest(&self) -> Option<Instant> {
        self.groups.front().filter(|_| self.groups.len() > LEAST).map(|group| group.began)
    }

    /// The group with which a viewer begins; one that is still to come when there is none.
    pub fn start(&self, start: &FeedStart) -> u64 {
        let first = |groups: &mut dyn Iterator<Item = &Group>| groups.next().map(|group| group.head.sequence);
        if start.from_group > 0 {
            let after = first(&mut self.groups.iter().filter(|group| group.head.sequence >= start.from_group));
            return after.unwrap_or_else(|| start.from_group.max(self.newest + 1));
        }
        let found = if start.back_ms > 0 {
            let then = self.newest_ms.saturating_sub(start.back_ms);
            // The one that was being made then, or the oldest.
            let at = self.groups.partition_point(|group| group.at_ms <= then);
            self.groups.get(at.saturating_sub(1))
        } else if start.newest {
            self.groups.back()
        } else {
            self.groups.iter().rev().find(|group| group.whole).or_else(|| self.groups.back())
        };
        found.map_or(self.newest + 1, |group| group.head.sequence)
    }

    /// The first group from this number on.
    pub fn from(&self, sequence: u64) -> Option<&GroupHead> {
        let at = self.groups.partition_point(|group| group.head.sequence < sequence);
        self.groups.get(at).map(|group| &group.head)
    }

    /// What a viewer that was sent so many pieces of a group gets next.
    pub fn next(&self, sequence: u64, sent: usize) -> Next {
        match self.group(sequence) {
            None => Next::Gone,
            Some(group) => match group.frames.get(sent) {
                Some(frame) => Next::Piece(frame.clone()),
                None if group.whole => Next::Whole,
                None => Next::Wait,
            },
        }
    }

    /// The group that a viewer goes on with that is sending, or about to send, this one, and wants to be no farther
    /// behind than `latency`: the last whole one, if it is that far. `None` when it may go on.
    pub fn skip(&self, sequence: u64, latency: Duration) -> Option<u64> {
        let last = self.groups.iter().rev().find(|group| group.whole)?;
        if last.head.sequence <= sequence {
            return None;
        }
        let at = self.groups.partition_point(|group| group.head.sequence < sequence);
        let behind = self.newest_ms.saturating_sub(self.groups.get(at)?.at_ms);
        (u128::from(behind) > latency.as_millis()).then_some(last.head.sequence)
    }

    /// The rate of the last seconds, as far as it is known.
    pub fn rate(&self) -> Bitrate {
        let Some(last) = self.groups.back() else { return Bitrate(0) };
        let (mut bytes, mut since) = (0, last.at_ms);
        for group in self.groups.iter().rev().skip(1) {
            if u128::from(last.at_ms.saturating_sub(since)) >= MEASURED.as_millis() {
                break;
            }
            bytes += group.bytes;
            since = group.at_ms;
        }
        Bitrate::over(bytes, Duration::from_millis(last.at_ms.saturating_sub(since)))
    }

    fn place(&self, sequence: u64) -> Option<usize> {
        self.groups.binary_search_by_key(&sequence, |group| group.head.sequence).ok()
    }

    fn group(&self, sequence: u64) -> Option<&Group> {
        self.groups.get(self.place(sequence)?)
    }
}

fn other(sequence: u64) -> Fault {
    Fault::new(
        Code::BadRequest,
        format!("another group {sequence} of the feed, or another piece of it, is here already"),
    )
}

#[cfg(test)]
mod tests;
