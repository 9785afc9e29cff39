//! The groups of a feed for one who wants each of them whole, once and in order, and can wait: a recording. Owns what is
//! waited for, and what is given up.

use bytes::Bytes;
use usher_proto::feed::{GroupHead, Link};

use super::Feed;

/// Whole groups that are here already, after which one that is not is not waited for any more.
const AHEAD: usize = 8;

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// What it is.
    pub head: GroupHead,
    /// The link after its last piece.
    pub link: Link,
    /// Its pieces, as they are sent.
    pub frames: Vec<Bytes>,
    /// Groups before it that were given up, as far as can be told.
    pub missing: u64,
}

impl Whole {
    /// Whether a publisher begins with it.
    pub fn begins(&self) -> bool {
        self.head.previous == [0; 32]
    }
}

impl Feed {
    /// The next group from this number on (0 for the first there is), for one who has all before it, until the link
    /// `last`. `None` while it has to be waited for. With `end` nothing more comes, and the groups before it are all.
    pub fn whole(&self, from: u64, last: Option<Link>, end: Option<u64>) -> Option<Whole> {
        let at = self.groups.partition_point(|group| group.head.sequence < from);
        let here = || self.groups.range(at..).take_while(|group| end.is_none_or(|end| group.head.sequence < end));
        let group = here().find(|group| group.whole)?;
        let (sequence, previous) = (group.head.sequence, group.head.previous);
        let given_up = here().take_while(|other| other.head.sequence < sequence).count() as u64;
        // What another publisher did not finish does not come any more.
        let begins = previous == [0; 32];
        let follows = given_up == 0 && (sequence == from || last == Some(previous));
        let forgotten = from > 0 && self.gone >= from;
        let ahead = || here().filter(|group| group.whole).count() > AHEAD;
        if !(begins || follows || forgotten || end.is_some() || ahead()) {
            return None;
        }
        let missing = match from {
            0 => given_up,
            _ if begins => given_up.max(u64::from(forgotten)),
            _ if follows => 0,
            from => sequence - from,
        };
        let link = *group.links.last()?;
        Some(Whole { head: group.head.clone(), link, frames: group.frames.clone(), missing })
    }
}
