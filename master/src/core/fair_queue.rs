//! A bounded queue that is fair to its users: they take turns, and a newcomer to a full queue displaces the newest entry of
//! the user with the most. Knows neither requests nor time.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// Requests that run and wait, by user.
#[derive(Debug)]
pub struct FairQueue<K> {
    /// Requests that may start at once.
    free: usize,
    /// Limit of waiting requests.
    most: usize,
    waiting: usize,
    /// Waiting requests of each user, oldest first. No lane is empty.
    lanes: HashMap<K, VecDeque<u64>>,
    /// Each user that waits, once, in the order of their turns.
    turns: VecDeque<K>,
    /// Number of the last request that waited.
    last: u64,
}

/// Answer to the arrival of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It runs.
    Runs,
    /// It waits under this number.
    Waits {
        /// Its number.
        id: u64,
        /// The waiting request that is refused for it.
        displaced: Option<u64>,
    },
    /// The queue is full, and its user has as many requests in it as any other.
    Refused {
        /// Whether other users wait as well.
        shared: bool,
    },
}

impl<K: Hash + Eq + Clone> FairQueue<K> {
    /// A queue of `running` and `waiting` requests at most.
    pub fn new(running: usize, waiting: usize) -> Self {
        let (lanes, turns) = (HashMap::new(), VecDeque::new());
        Self { free: running, most: waiting, waiting: 0, lanes, turns, last: 0 }
    }

    /// Takes a request.
    pub fn handle_arrival(&mut self, user: K) -> Arrival {
        if self.free > 0 {
            self.free -= 1;
            return Arrival::Runs;
        }
        let mut displaced = None;
        if self.waiting >= self.most {
            let own = self.lanes.get(&user).map_or(0, VecDeque::len);
            let heaviest = self.lanes.iter().max_by_key(|(_, lane)| lane.len());
            let Some((heaviest, _)) = heaviest.filter(|(_, lane)| lane.len() > own + 1) else {
                let shared = self.lanes.len() > usize::from(own > 0);
                return Arrival::Refused { shared };
            };
            let heaviest = heaviest.clone();
            displaced = self.lanes.get(&heaviest).and_then(|lane| lane.back().copied());
            if let Some(id) = displaced {
                self.handle_leave(&heaviest, id);
            }
        }
        self.last += 1;
        self.waiting += 1;
        let lane = self.lanes.entry(user.clone()).or_default();
        if lane.is_empty() {
            self.turns.push_back(user);
        }
        lane.push_back(self.last);
        Arrival::Waits { id: self.last, displaced }
    }

    /// Ends a running request. Returns the waiting request that runs in its place.
    pub fn handle_end(&mut self) -> Option<u64> {
        let Some(user) = self.turns.pop_front() else {
            self.free += 1;
            return None;
        };
        let lane = self.lanes.get_mut(&user)?;
        let next = lane.pop_front();
        self.waiting -= 1;
        if lane.is_empty() {
            self.lanes.remove(&user);
        } else {
            self.turns.push_back(user);
        }
        next
    }

    /// Removes a request that waits no longer. Nothing happens when it runs or was displaced.
    pub fn handle_leave(&mut self, user: &K, id: u64) {
        let Some(lane) = self.lanes.get_mut(user) else { return };
        let Some(at) = lane.iter().position(|other| *other == id) else { return };
        lane.remove(at);
        self.waiting -= 1;
        if lane.is_empty() {
            self.lanes.remove(user);
            self.turns.retain(|other| other != user);
        }
    }

    /// Number of waiting requests.
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waits(queue: &mut FairQueue<char>, user: char) -> u64 {
        match queue.handle_arrival(user) {
            Arrival::Waits { id, displaced: None } => id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn users_take_turns() {
        let mut queue = FairQueue::new(1, 10);
        assert_eq!(queue.handle_arrival('a'), Arrival::Runs);
        let order = ['a', 'a', 'a', 'b', 'c', 'b'].map(|user| waits(&mut queue, user));
        queue.handle_leave(&'a', order[1]);
        let next: Vec<_> = std::iter::from_fn(|| queue.handle_end()).collect();
        assert_eq!(next, [order[0], order[3], order[4], order[2], order[5]]);
        assert_eq!((queue.waiting(), queue.handle_arrival('a')), (0, Arrival::Runs));
    }

    #[test]
    fn a_light_user_displaces_a_heavy_one() {
        let mut queue = FairQueue::new(0, 4);
        let heavy: Vec<_> = (0..4).map(|_| waits(&mut queue, 'h')).collect();
        assert_eq!(queue.handle_arrival('h'), Arrival::Refused { shared: false });
        assert_eq!(queue.handle_arrival('a'), Arrival::Waits { id: 5, displaced: Some(heavy[3]) });
        assert_eq!(queue.handle_arrival('a'), Arrival::Waits { id: 6, displaced: Some(heavy[2]) });
        assert_eq!(queue.handle_arrival('a'), Arrival::Refused { shared: true });
        assert_eq!(queue.handle_arrival('h'), Arrival::Refused { shared: true });
        assert!(matches!(queue.handle_arrival('b'), Arrival::Waits { id: 7, displaced: Some(2 | 6) }));
        let next: Vec<_> = std::iter::from_fn(|| queue.handle_end()).collect();
        assert_eq!(next.len(), 4);
    }

    #[test]
    fn a_queue_without_places_refuses() {
        let mut queue = FairQueue::new(1, 0);
        assert_eq!(queue.handle_arrival('a'), Arrival::Runs);
        assert_eq!(queue.handle_arrival('b'), Arrival::Refused { shared: false });
    }

    proptest! {
        #[test]
        fn limits_and_fairness_hold(
            running in 1_usize..4, most in 1_usize..20,
            steps in prop::collection::vec((0_u8..6, 0_u8..3), 0..200),
        ) {
            let mut queue = FairQueue::new(running, most);
            let (mut runs, mut waits) = (0, HashMap::<u64, u8>::new());
            for (user, step) in steps {
                match step {
                    0 => if runs > 0 {
                        match queue.handle_end() {
                            Some(id) => prop_assert!(waits.remove(&id).is_some()),
                            None => runs -= 1,
                        }
                    },
                    1 => if let Some(&id) = waits.iter().find(|(_, one)| **one == user).map(|(id, _)| id) {
                        waits.remove(&id);
                        queue.handle_leave(&user, id);
                    },
                    _ => match queue.handle_arrival(user) {
                        Arrival::Runs => runs += 1,
                        Arrival::Waits { id, displaced } => {
                            if let Some(id) = displaced {
                                prop_assert!(waits.remove(&id).is_some_and(|other| other != user));
                            }
                            waits.insert(id, user);
                        }
                        Arrival::Refused { .. } => {
                            let count = |one: u8| waits.values().filter(|other| **other == one).count();
                            let most_of_one = (0..6).map(count).max().unwrap_or(0);
                            prop_assert_eq!(waits.len(), most);
                            // Nobody has so many more that one of them should have gone.
                            prop_assert!(most_of_one <= count(user) + 1);
                        }
                    },
                }
                prop_assert!(runs <= running && waits.len() <= most);
                prop_assert_eq!(queue.waiting(), waits.len());
                prop_assert_eq!(queue.turns.len(), queue.lanes.len());
                // Nothing waits while something could run.
                prop_assert!(waits.is_empty() || queue.free == 0);
            }
        }
    }
}
