//! Updates about sessions for the master: batched, in order, bounded. Keeps nothing while no master is attached, since
//! the next one receives the whole list. Knows no channel and no clock.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use usher_proto::{
    Bitrate, SessionId,
    model::{Begun, MAX_SETTLED, RateChange, Sessions, Turned},
};

/// Minimum time between two messages, and the longest that a change waits.
const PACE: Duration = Duration::from_millis(200);

/// Maximum number of started sessions in one message: with the longest titles 1.1 MB, far below gRPC's limit of 4 MiB.
const BEGUN: usize = 1000;

/// Maximum number of waiting changes on a slow channel: beyond it the whole list is shorter.
const WAITING: usize = 4 * MAX_SETTLED;

/// An active session with its whole rate, and the rate that is reserved for it now.
type ListedSession = (Begun, Bitrate);

/// Pending updates of one node.
#[derive(Debug, Default)]
pub struct SessionUpdates {
    /// A master is attached.
    listening: bool,
    /// The whole list is due. It is made when it is sent, and includes all changes until then.
    restart: bool,
    /// Rest of a whole list that is being sent; changes follow it.
    list: VecDeque<ListedSession>,
    begun: VecDeque<Begun>,
    rates: VecDeque<RateChange>,
    ended: VecDeque<SessionId>,
    turned: VecDeque<Turned>,
    /// Time when everything was sent last.
    last: Option<Instant>,
}

/// Takes from the front as many as fit into the rest of a message.
fn take<T>(from: &mut VecDeque<T>, room: &mut usize) -> Vec<T> {
    let count = from.len().min(*room);
    *room -= count;
    from.drain(..count).collect()
}

impl SessionUpdates {
    /// A master has attached: it receives the whole list first.
    pub fn handle_attached(&mut self) {
        *self = Self { listening: true, restart: true, ..Self::default() };
    }

    /// The master is gone.
    pub fn handle_detached(&mut self) {
        *self = Self::default();
    }

    /// A session has started.
    pub fn handle_begun(&mut self, begun: Begun) {
        if self.make_room() {
            self.begun.push_back(begun);
        }
    }

    /// The reserved rate of a session has changed.
    pub fn handle_rate(&mut self, change: RateChange) {
        if self.make_room() {
            self.rates.push_back(change);
        }
    }

    /// A session has ended.
    pub fn handle_ended(&mut self, session: SessionId) {
        if self.make_room() {
            self.ended.push_back(session);
        }
    }

    /// A session was refused. Kept even when the whole list is due, which does not contain it.
    pub fn handle_refused(&mut self, turned: Turned) {
        if self.listening {
            self.bound();
            self.turned.push_back(turned);
        }
    }

    /// Makes room for a change; returns whether changes are kept.
    fn make_room(&mut self) -> bool {
        self.bound();
        self.listening && !self.restart
    }

    /// Replaces too many changes by the whole list. Refusals are dropped too: the reservation at the master expires.
    fn bound(&mut self) {
        if self.begun.len() + self.rates.len() + self.ended.len() + self.turned.len() >= WAITING {
            let last = self.last;
            *self = Self { listening: self.listening, restart: true, last, ..Self::default() };
        }
    }

    fn waiting(&self) -> bool {
        let changes =
            !(self.begun.is_empty() && self.rates.is_empty() && self.ended.is_empty() && self.turned.is_empty());
        self.listening && (self.restart || changes || !self.list.is_empty())
    }

    /// Earliest time of the next message; `None` while there is none.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        self.waiting().then(|| self.last.map_or(now, |last| last + PACE))
    }

    /// The next message, a bounded part of all updates; the rest is due at once. `running` lists all active sessions.
    /// The caller fills in the time and the committed rate.
    pub fn poll_message(
        &mut self,
        now: Instant,
        running: impl FnOnce() -> VecDeque<ListedSession>,
    ) -> Option<Sessions> {
        if !self.waiting() {
            return None;
        }
        let restart = std::mem::take(&mut self.restart);
        if restart {
            self.list = running();
        }
        let mut room = BEGUN;
        let told = if restart || !self.list.is_empty() {
            let listed = take(&mut self.list, &mut room);
            let lowered = listed.iter().filter(|(begun, reserved)| *reserved < begun.rate);
            let rates = lowered.map(|(begun, rate)| RateChange { session: begun.session, rate: *rate }).collect();
            let begun = listed.into_iter().map(|(begun, _)| begun).collect();
            Sessions { restart, complete: self.list.is_empty(), begun, rates, ..Sessions::default() }
        } else {
            // In this order the start of a short session precedes its end, wherever the message is cut.
            let begun = take(&mut self.begun, &mut room);
            room = if self.begun.is_empty() { MAX_SETTLED - begun.len() } else { 0 };
            let rates = take(&mut self.rates, &mut room);
            let ended = take(&mut self.ended, &mut room);
            let turned = take(&mut self.turned, &mut room);
            Sessions { complete: true, begun, rates, ended, turned, ..Sessions::default() }
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

    fn listed(id: u128) -> ListedSession {
        (begun(id), Bitrate(1))
    }

    fn turned(id: u128) -> Turned {
        Turned { session: SessionId(id), code: Code::NoCapacity, limit: None }
    }

    fn rate(id: u128, rate: u64) -> RateChange {
        RateChange { session: SessionId(id), rate: Bitrate(rate) }
    }

    fn ids(begun: &[Begun]) -> Vec<u128> {
        begun.iter().map(|begun| begun.session.0).collect()
    }

    #[test]
    fn the_first_change_is_sent_at_once_and_the_next_ones_together() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut updates = SessionUpdates::default();
        updates.handle_begun(begun(0));
        assert_eq!(
            (updates.next_timeout(start), updates.poll_message(start, VecDeque::new)),
            (None, None),
            "no master is attached"
        );
        updates.handle_attached();
        updates.handle_begun(begun(1));
        updates.handle_refused(turned(2));
        assert_eq!(updates.next_timeout(start), Some(start));
        let list = updates.poll_message(start, || [listed(0), (begun(1), Bitrate(0))].into()).expect("the list");
        assert_eq!((list.restart, list.complete, ids(&list.begun)), (true, true, vec![0, 1]));
        assert_eq!(list.rates, [rate(1, 0)]);
        let after = updates.poll_message(start, VecDeque::new).expect("what is in no list");
        assert_eq!((after.restart, after.complete, after.turned), (false, true, vec![turned(2)]));
        assert_eq!(updates.next_timeout(at(1)), None);

        updates.handle_begun(begun(3));
        updates.handle_rate(rate(1, 1));
        updates.handle_ended(SessionId(1));
        assert_eq!(updates.next_timeout(at(1)), Some(at(200)));
        updates.handle_ended(SessionId(3));
        let told = updates.poll_message(at(200), VecDeque::new).expect("changes");
        assert_eq!(
            (ids(&told.begun), told.rates, told.ended),
            (vec![3], vec![rate(1, 1)], vec![SessionId(1), SessionId(3)])
        );
        updates.handle_ended(SessionId(0));
        assert!(updates.next_timeout(at(1000)).is_some_and(|due| due <= at(1000)), "the last is long ago");
        updates.handle_detached();
        assert_eq!(updates.poll_message(at(1000), VecDeque::new), None);
    }

    #[test]
    fn a_long_list_is_split_and_changes_follow_it() {
        let now = Instant::now();
        let mut updates = SessionUpdates::default();
        updates.handle_attached();
        let all: VecDeque<_> = (0..2 * BEGUN as u128 + 1).map(listed).collect();
        let first = updates.poll_message(now, || all).expect("a part");
        updates.handle_ended(SessionId(7));
        let rest: Vec<_> = std::iter::from_fn(|| updates.poll_message(now, VecDeque::new)).collect();
        let parts: Vec<_> = std::iter::once(&first).chain(&rest).collect();
        let shape: Vec<_> = parts.iter().map(|p| (p.restart, p.complete, p.begun.len(), p.ended.len())).collect();
        assert_eq!(
            shape,
            [(true, false, BEGUN, 0), (false, false, BEGUN, 0), (false, true, 1, 0), (false, true, 0, 1)]
        );
        // In a burst of changes, ends come after all starts.
        for id in 0..BEGUN as u128 + 1 {
            updates.handle_begun(begun(id));
            (0..10).for_each(|_| updates.handle_ended(SessionId(id)));
        }
        let parts: Vec<_> = std::iter::from_fn(|| updates.poll_message(now, VecDeque::new)).collect();
        let shape: Vec<_> = parts.iter().map(|part| (part.begun.len(), part.ended.len())).collect();
        assert_eq!(shape, [(BEGUN, 0), (1, MAX_SETTLED - 1), (0, 11)]);
    }

    #[test]
    fn too_many_changes_are_replaced_by_the_list() {
        let now = Instant::now();
        let mut updates = SessionUpdates::default();
        updates.handle_attached();
        assert!(updates.poll_message(now, VecDeque::new).is_some());
        for id in 0..10 * WAITING as u128 {
            updates.handle_begun(begun(id));
            updates.handle_ended(SessionId(id));
            updates.handle_rate(rate(id, 0));
            updates.handle_refused(turned(id));
            let waiting = updates.begun.len() + updates.rates.len() + updates.ended.len() + updates.turned.len();
            assert!(waiting <= WAITING);
        }
        let told = updates.poll_message(now, || [listed(9)].into()).expect("the list");
        assert_eq!((told.restart, told.complete, ids(&told.begun)), (true, true, vec![9]));
        // An hour without a master costs no memory.
        updates.handle_detached();
        (0..WAITING as u128).for_each(|id| updates.handle_begun(begun(id)));
        assert!(updates.begun.is_empty() && updates.next_timeout(now).is_none());
    }

    proptest! {
        /// For every sequence of events and every speed of the channel, the messages describe the active sessions.
        #[test]
        fn messages_describe_the_active_sessions(steps in prop::collection::vec((0_u8..8, 0_usize..50), 1..200)) {
            let mut now = Instant::now();
            let (mut updates, mut runs, mut known, mut next) = (SessionUpdates::default(), BTreeSet::new(), BTreeSet::new(), 0_u128);
            let hear = |told: Sessions, known: &mut BTreeSet<u128>| {
                if told.restart {
                    known.clear();
                }
                known.extend(ids(&told.begun));
                told.ended.iter().for_each(|id| { known.remove(&id.0); });
            };
            for (step, count) in steps {
                now += Duration::from_millis(count as u64);
                let list = || runs.iter().copied().map(listed).collect();
                match step {
                    0 => updates.handle_detached(),
                    1 => updates.handle_attached(),
                    2 | 3 => if let Some(told) = updates.poll_message(now, list) { hear(told, &mut known) },
                    4 | 5 => for _ in 0..count {
                        next += 1;
                        runs.insert(next);
                        updates.handle_begun(begun(next));
                    },
                    _ => for _ in 0..count {
                        if let Some(id) = runs.pop_first() { updates.handle_ended(SessionId(id)); }
                    },
                }
            }
            updates.handle_attached();
            while let Some(told) = updates.poll_message(now, || runs.iter().copied().map(listed).collect()) {
                hear(told, &mut known);
            }
            prop_assert_eq!(&known, &runs);
            runs.insert(0);
            updates.handle_begun(begun(0));
            prop_assert!(updates.next_timeout(now).is_some_and(|due| due <= now + PACE));
            let told = updates.poll_message(now, VecDeque::new).expect("a change");
            hear(told, &mut known);
            prop_assert_eq!(known, runs);
        }
    }
}
