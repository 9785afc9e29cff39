//! Reads a feed as complete groups, in order and once each, for a recording. Owns which groups are waited for, and
//! which are given up.

use bytes::Bytes;
use usher_proto::feed::{GroupHead, Link};

use super::FeedCache;

/// An incomplete group is given up after this many complete ones behind it.
const MAX_COMPLETE_AHEAD: usize = 8;

/// A complete group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteGroup {
    /// Number, time and head.
    pub head: GroupHead,
    /// The link after its last piece.
    pub link: Link,
    /// Its pieces in their wire form.
    pub frames: Vec<Bytes>,
    /// Groups given up before it, as far as known.
    pub missing: u64,
}

impl FeedCache {
    /// The next complete group from number `from` on (0 for the oldest), after the one that ended with the link `last`.
    /// `None` while it has to wait. With `end`, groups from that number on are ignored and none is waited for.
    pub fn next_complete(&self, from: u64, last: Option<Link>, end: Option<u64>) -> Option<CompleteGroup> {
        let at = self.groups.partition_point(|group| group.head.sequence < from);
        let here = || self.groups.range(at..).take_while(|group| end.is_none_or(|end| group.head.sequence < end));
        let group = here().find(|group| group.complete)?;
        let (sequence, previous) = (group.head.sequence, group.head.previous);
        let given_up = here().take_while(|other| other.head.sequence < sequence).count() as u64;
        // A group that another publisher left incomplete is not sent again.
        let begins = previous == [0; 32];
        let follows = given_up == 0 && (sequence == from || last == Some(previous));
        let forgotten = from > 0 && self.evicted >= from;
        let ahead = || here().filter(|group| group.complete).count() > MAX_COMPLETE_AHEAD;
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
        Some(CompleteGroup { head: group.head.clone(), link, frames: group.frames.clone(), missing })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A feed of groups: number, previous group (0 for none), and whether it is complete.
    fn feed(window: u64, groups: &[(u64, u8, bool)]) -> FeedCache {
        let mut feed = FeedCache::new(Duration::from_secs(window));
        for (sequence, previous, complete) in groups {
            let at_ms = sequence * 1000;
            let head = GroupHead { sequence: *sequence, at_ms, previous: [*previous; 32], head: Bytes::new() };
            let own = u8::try_from(*sequence).expect("small");
            feed.handle_group(Instant::now(), head, [100 + own; 32]).expect("taken");
            feed.handle_piece(*sequence, 0, Bytes::from_static(b"x"), 1, [own; 32], *complete).expect("taken");
            feed.trim();
        }
        feed
    }

    #[test]
    fn incomplete_groups_are_waited_for_then_given_up() {
        let run: Vec<_> = (1..=20).map(|i| (i, u8::try_from(i - 1).expect("small"), i != 3)).collect();
        for (what, groups, from, last, end, next) in [
            ("the first", &run[..2], 0, None, None, Some((1, 0))),
            ("the next", &run[..2], 2, Some(1), None, Some((2, 0))),
            ("all is written", &run[..2], 3, Some(2), None, None),
            ("it may still complete", &run[..8], 3, Some(2), None, None),
            ("it is given up", &run[..12], 3, Some(2), None, Some((4, 1))),
            ("the feed ended", &run[..4], 3, Some(2), Some(u64::MAX), Some((4, 1))),
            ("the end", &run[..6], 5, Some(4), Some(5), None),
            ("it did not start yet", &[run[0], run[4]], 2, Some(1), None, None),
            ("numbers leap, the chain does not", &[run[0], (9, 1, true)], 2, Some(1), None, Some((9, 0))),
            ("another publisher", &[run[0], run[2], (9, 0, true)], 2, Some(1), None, Some((9, 1))),
            ("its first is incomplete", &[run[0], (9, 0, false), (10, 9, true)], 2, Some(1), None, None),
        ] {
            let complete = feed(60, groups).next_complete(from, last.map(|link: u8| [link; 32]), end);
            assert_eq!(complete.as_ref().map(|group| (group.head.sequence, group.missing)), next, "{what}");
            let Some(complete) = complete else { continue };
            assert_eq!(complete.link, [u8::try_from(complete.head.sequence).expect("small"); 32], "{what}");
        }
        // Evicted groups are not waited for, however few are cached.
        let complete = feed(3, &run).next_complete(3, Some([2; 32]), None).expect("the oldest");
        assert_eq!((complete.head.sequence, complete.missing), (17, 14));
    }
}
