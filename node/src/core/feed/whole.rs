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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A feed of groups: number, what goes before (0 for nothing), and whether it is whole.
    fn feed(window: u64, groups: &[(u64, u8, bool)]) -> Feed {
        let mut feed = Feed::new(Duration::from_secs(window));
        for (sequence, previous, whole) in groups {
            let at_ms = sequence * 1000;
            let head = GroupHead { sequence: *sequence, at_ms, previous: [*previous; 32], head: Bytes::new() };
            let own = u8::try_from(*sequence).expect("small");
            feed.begin(Instant::now(), head, [100 + own; 32]).expect("taken");
            feed.piece(*sequence, 0, Bytes::from_static(b"x"), 1, [own; 32], *whole).expect("taken");
            feed.trim();
        }
        feed
    }

    #[test]
    fn what_is_next_and_what_is_waited_for() {
        let run: Vec<_> = (1..=20).map(|i| (i, u8::try_from(i - 1).expect("small"), i != 3)).collect();
        for (what, groups, from, last, end, next) in [
            ("the first", &run[..2], 0, None, None, Some((1, 0))),
            ("the next", &run[..2], 2, Some(1), None, Some((2, 0))),
            ("all is written", &run[..2], 3, Some(2), None, None),
            ("it may become whole", &run[..8], 3, Some(2), None, None),
            ("it is given up", &run[..12], 3, Some(2), None, Some((4, 1))),
            ("nothing more comes", &run[..4], 3, Some(2), Some(u64::MAX), Some((4, 1))),
            ("the end", &run[..6], 5, Some(4), Some(5), None),
            ("it did not begin yet", &[run[0], run[4]], 2, Some(1), None, None),
            ("numbers leap, the chain does not", &[run[0], (9, 1, true)], 2, Some(1), None, Some((9, 0))),
            ("another publisher", &[run[0], run[2], (9, 0, true)], 2, Some(1), None, Some((9, 1))),
            ("its first is not whole", &[run[0], (9, 0, false), (10, 9, true)], 2, Some(1), None, None),
        ] {
            let whole = feed(60, groups).whole(from, last.map(|link: u8| [link; 32]), end);
            assert_eq!(whole.as_ref().map(|whole| (whole.head.sequence, whole.missing)), next, "{what}");
            let Some(whole) = whole else { continue };
            assert_eq!(whole.link, [u8::try_from(whole.head.sequence).expect("small"); 32], "{what}");
        }
        // What left the window is not waited for, however few are in it.
        let whole = feed(3, &run).whole(3, Some([2; 32]), None).expect("the oldest");
        assert_eq!((whole.head.sequence, whole.missing), (17, 14));
    }
}
