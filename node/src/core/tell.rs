//! What the master is to hear of sessions as they come and go: batched, in order, bounded. While no master listens
//! nothing is kept, since the next one is told the whole list anyway. Knows no channel and no clock.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use usher_proto::{
    SessionId,
    model::{Begun, MAX_SETTLED, Sessions, Turned},
};

/// Least time between two messages, and so the most that a change waits.
const PACE: Duration = Duration::from_millis(200);

/// Sessions that begin in one message at most: with the longest titles 1.1 MB, far below gRPC's limit of 4 MiB.
const BEGUN: usize = 1000;

/// Changes that wait at most, where the channel is slow: from here on the whole list is the shorter story.
const WAITING: usize = 4 * MAX_SETTLED;

/// The outbox of one node.
#[derive(Debug, Default)]
pub struct Tell {
    /// A master is attached.
    listening: bool,
    /// The whole list is to be told. It is made when it is sent, so who comes and goes until then is in it.
    restart: bool,
    /// The rest of a whole list that is being told; what changes meanwhile follows it.
    list: VecDeque<Begun>,
    begun: VecDeque<Begun>,
    ended: VecDeque<SessionId>,
    turned: VecDeque<Turned>,
    /// When all was told last.
    last: Option<Instant>,
}

/// Takes from the front what one message still has room for.
fn take<T>(from: &mut VecDeque<T>, room: &mut usize) -> Vec<T> {
    let count = from.len().min(*room);
    *room -= count;
    from.drain(..count).collect()
}

impl Tell {
    /// A master attached: it is told the whole list first.
    pub fn listen(&mut self) {
        *self = Self { listening: true, restart: true, ..Self::default() };
    }

    /// The master is gone.
    pub fn away(&mut self) {
        *self = Self::default();
    }

    /// A session began.
    pub fn begun(&mut self, begun: Begun) {
        if self.follows() {
            self.begun.push_back(begun);
        }
    }

    /// A session ended.
    pub fn ended(&mut self, session: SessionId) {
        if self.follows() {
            self.ended.push_back(session);
        }
    }

    /// A session was refused. No list would have it, so it is kept even when one is due.
    pub fn turned(&mut self, turned: Turned) {
        if self.listening {
            self.bound();
            self.turned.push_back(turned);
        }
    }

    /// Whether changes are to be kept; sees to it that there is room for one.
    fn follows(&mut self) -> bool {
        self.bound();
        self.listening && !self.restart
    }

    /// Gives up the changes when there are too many of them. What was refused is forgotten too: the master's promise
    /// runs out by itself.
    fn bound(&mut self) {
        if self.begun.len() + self.ended.len() + self.turned.len() >= WAITING {
            let last = self.last;
            *self = Self { listening: self.listening, restart: true, last, ..Self::default() };
        }
    }

    fn waiting(&self) -> bool {
        let changes = !(self.begun.is_empty() && self.ended.is_empty() && self.turned.is_empty());
        self.listening && (self.restart || changes || !self.list.is_empty())
    }

    /// When to tell, at the earliest; `None` while there is nothing.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.waiting().then(|| self.last.map_or(now, |last| last + PACE))
    }

    /// The next message, a bounded part of what is to be told; the rest is due at once. `running` tells
    /// all sessions that run. Time and committed rate are the caller's to fill in.
    pub fn next(&mut self, now: Instant, running: impl FnOnce() -> VecDeque<Begun>) -> Option<Sessions> {
        if !self.waiting() {
            return None;
        }
        let restart = std::mem::take(&mut self.restart);
        if restart {
            self.list = running();
        }
        let mut room = BEGUN;
        let told = if restart || !self.list.is_empty() {
            let begun = take(&mut self.list, &mut room);
            Sessions { restart, complete: self.list.is_empty(), begun, ..Sessions::default() }
        } else {
            // In this order a short session is not over before it began, wherever the message is cut.
            let begun = take(&mut self.begun, &mut room);
            room = if self.begun.is_empty() { MAX_SETTLED - begun.len() } else { 0 };
            let ended = take(&mut self.ended, &mut room);
            let turned = take(&mut self.turned, &mut room);
            Sessions { complete: true, begun, ended, turned, ..Sessions::default() }
        };
        if !self.waiting() {
            self.last = Some(now);
        }
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use usher_proto::{Bitrate, Code, Title, ticket::Purpose};

    use super::*;

    fn begun(id: u128) -> Begun {
        let title = Title::parse("a.mp4").expect("a title");
        Begun { session: SessionId(id), title, content: None, rate: Bitrate(1), purpose: Purpose::Play }
    }

    fn turned(id: u128) -> Turned {
        Turned { session: SessionId(id), code: Code::NoCapacity, limit: None }
    }

    fn ids(begun: &[Begun]) -> Vec<u128> {
        begun.iter().map(|begun| begun.session.0).collect()
    }

    #[test]
    fn a_change_is_told_at_once_and_the_next_ones_together() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut tell = Tell::default();
        tell.begun(begun(0));
        assert_eq!((tell.due(start), tell.next(start, VecDeque::new)), (None, None), "nobody listens");
        tell.listen();
        tell.begun(begun(1));
        tell.turned(turned(2));
        assert_eq!(tell.due(start), Some(start));
        let list = tell.next(start, || [begun(0), begun(1)].into()).expect("the list");
        assert_eq!((list.restart, list.complete, ids(&list.begun)), (true, true, vec![0, 1]));
        let after = tell.next(start, VecDeque::new).expect("what is in no list");
        assert_eq!((after.restart, after.complete, after.turned), (false, true, vec![turned(2)]));
        assert_eq!(tell.due(at(1)), None);

        tell.begun(begun(3));
        tell.ended(SessionId(1));
        assert_eq!(tell.due(at(1)), Some(at(200)));
        tell.ended(SessionId(3));
        let told = tell.next(at(200), VecDeque::new).expect("changes");
        assert_eq!((ids(&told.begun), told.ended), (vec![3], vec![SessionId(1), SessionId(3)]));
        tell.ended(SessionId(0));
        assert!(tell.due(at(1000)).is_some_and(|due| due <= at(1000)), "the last is long ago");
        tell.away();
        assert_eq!(tell.next(at(1000), VecDeque::new), None);
    }

    #[test]
    fn a_long_list_is_cut_and_what_changes_meanwhile_follows_it() {
        let now = Instant::now();
        let mut tell = Tell::default();
        tell.listen();
        let all: VecDeque<_> = (0..2 * BEGUN as u128 + 1).map(begun).collect();
        let first = tell.next(now, || all).expect("a part");
        tell.ended(SessionId(7));
        let rest: Vec<_> = std::iter::from_fn(|| tell.next(now, VecDeque::new)).collect();
        let parts: Vec<_> = std::iter::once(&first).chain(&rest).collect();
        let shape: Vec<_> = parts.iter().map(|p| (p.restart, p.complete, p.begun.len(), p.ended.len())).collect();
        assert_eq!(
            shape,
            [(true, false, BEGUN, 0), (false, false, BEGUN, 0), (false, true, 1, 0), (false, true, 0, 1)]
        );
        // A burst of changes too: who ended comes after all who began.
        for id in 0..BEGUN as u128 + 1 {
            tell.begun(begun(id));
            (0..10).for_each(|_| tell.ended(SessionId(id)));
        }
        let parts: Vec<_> = std::iter::from_fn(|| tell.next(now, VecDeque::new)).collect();
        let shape: Vec<_> = parts.iter().map(|part| (part.begun.len(), part.ended.len())).collect();
        assert_eq!(shape, [(BEGUN, 0), (1, MAX_SETTLED - 1), (0, 11)]);
    }

    #[test]
    fn what_piles_up_is_replaced_by_the_list() {
        let now = Instant::now();
        let mut tell = Tell::default();
        tell.listen();
        assert!(tell.next(now, VecDeque::new).is_some());
        for id in 0..10 * WAITING as u128 {
            tell.begun(begun(id));
            tell.ended(SessionId(id));
            tell.turned(turned(id));
            assert!(tell.begun.len() + tell.ended.len() + tell.turned.len() <= WAITING);
        }
        let told = tell.next(now, || [begun(9)].into()).expect("the list");
        assert_eq!((told.restart, told.complete, ids(&told.begun)), (true, true, vec![9]));
        // An hour without a master costs nothing.
        tell.away();
        (0..WAITING as u128).for_each(|id| tell.begun(begun(id)));
        assert!(tell.begun.is_empty() && tell.due(now).is_none());
    }

    proptest! {
        /// Whatever happens, and however slow the channel is: who follows the messages knows who runs.
        #[test]
        fn who_listens_knows_who_runs(steps in prop::collection::vec((0_u8..8, 0_usize..50), 1..200)) {
            let mut now = Instant::now();
            let (mut tell, mut runs, mut known, mut next) = (Tell::default(), BTreeSet::new(), BTreeSet::new(), 0_u128);
            let hear = |told: Sessions, known: &mut BTreeSet<u128>| {
                if told.restart {
                    known.clear();
                }
                known.extend(ids(&told.begun));
                told.ended.iter().for_each(|id| { known.remove(&id.0); });
            };
            for (step, count) in steps {
                now += Duration::from_millis(count as u64);
                let list = || runs.iter().copied().map(begun).collect();
                match step {
                    0 => tell.away(),
                    1 => tell.listen(),
                    2 | 3 => if let Some(told) = tell.next(now, list) { hear(told, &mut known) },
                    4 | 5 => for _ in 0..count {
                        next += 1;
                        runs.insert(next);
                        tell.begun(begun(next));
                    },
                    _ => for _ in 0..count {
                        if let Some(id) = runs.pop_first() { tell.ended(SessionId(id)); }
                    },
                }
            }
            tell.listen();
            while let Some(told) = tell.next(now, || runs.iter().copied().map(begun).collect()) {
                hear(told, &mut known);
            }
            prop_assert_eq!(&known, &runs);
            runs.insert(0);
            tell.begun(begun(0));
            prop_assert!(tell.due(now).is_some_and(|due| due <= now + PACE));
            let told = tell.next(now, VecDeque::new).expect("a change");
            hear(told, &mut known);
            prop_assert_eq!(known, runs);
        }
    }
}
