//! A bounded set of members by owner. A newcomer to a full set displaces a member of the owner with the most, so that no
//! owner keeps others out, and an owner that is alone may have the whole. Knows no connection and no time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// Members by owner and number.
#[derive(Debug)]
pub struct FairSet<K, V> {
    /// Limit of members.
    most: usize,
    members: usize,
    /// No owner is without a member. Lower numbers are older.
    owners: HashMap<K, BTreeMap<u64, V>>,
    /// Number of the last member.
    last: u64,
}

/// Answer to a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<V> {
    /// It is a member.
    Member {
        /// Its number.
        id: u64,
        /// The member that had to leave for it.
        displaced: Option<V>,
    },
    /// The set is full, and its owner has as many as any other, all of them in use.
    Refused,
}

impl<K: Hash + Eq + Clone, V> FairSet<K, V> {
    /// A set of at most `most` members.
    pub fn new(most: usize) -> Self {
        Self { most, members: 0, owners: HashMap::new(), last: 0 }
    }

    /// Takes a newcomer. In a full set, an owner that will still have as many has to give up a member: the oldest that is not
    /// in use, else its oldest. Without such an owner, the newcomer's own has to give up one that is not in use, and an
    /// owner's first member displaces any that is not in use. Of equal owners, the one with the oldest member counts as
    /// the heaviest.
    pub fn enter(&mut self, owner: K, newcomer: V, in_use: impl Fn(&V) -> bool) -> Entry<V> {
        let mut displaced = None;
        if self.members >= self.most {
            let own = self.owners.get(&owner).map_or(0, BTreeMap::len) + 1;
            let weight = |members: &BTreeMap<u64, V>| (members.len(), Reverse(members.keys().next().copied()));
            let heaviest = self.owners.iter().max_by_key(|(_, members)| weight(members));
            let is_heavier = heaviest.is_some_and(|(_, members)| members.len() > own);
            let from = heaviest.filter(|_| is_heavier || own == 1).map_or(&owner, |(key, _)| key).clone();
            let Some(members) = self.owners.get(&from) else { return Entry::Refused };
            let idle = members.iter().find(|(_, member)| !in_use(member)).map(|(id, _)| *id);
            let oldest = members.keys().next().copied().filter(|_| is_heavier);
            let Some(id) = idle.or(oldest) else { return Entry::Refused };
            displaced = self.remove(&from, id);
        }
        self.last += 1;
        self.members += 1;
        self.owners.entry(owner).or_default().insert(self.last, newcomer);
        Entry::Member { id: self.last, displaced }
    }

    /// Removes a member, unless it was displaced before.
    pub fn leave(&mut self, owner: &K, id: u64) {
        drop(self.remove(owner, id));
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.members
    }

    fn remove(&mut self, owner: &K, id: u64) -> Option<V> {
        let members = self.owners.get_mut(owner)?;
        let removed = members.remove(&id)?;
        self.members -= 1;
        if members.is_empty() {
            self.owners.remove(owner);
        }
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Members are in use when their name is upper case.
    fn enter(set: &mut FairSet<u8, char>, owner: u8, name: char) -> Entry<char> {
        set.enter(owner, name, |member| member.is_uppercase())
    }

    #[test]
    fn the_heaviest_owner_makes_room() {
        let mut set = FairSet::new(3);
        for (owner, name, expected) in [
            (1, 'A', Some(None)),
            (1, 'b', Some(None)),
            (1, 'c', Some(None)),
            // Alone, an owner displaces its own: the oldest that is not in use.
            (1, 'D', Some(Some('b'))),
            (1, 'E', Some(Some('c'))),
            (1, 'F', None),
            // A newcomer displaces even what is in use.
            (2, 'g', Some(Some('A'))),
            // Another one would only turn the tables.
            (2, 'h', Some(Some('g'))),
            (1, 'K', None),
            (3, 'i', Some(Some('D'))),
            // All have one, and one of them is not in use.
            (4, 'l', None),
            (3, 'm', Some(Some('i'))),
        ] {
            let entry = enter(&mut set, owner, name);
            let displaced = match entry {
                Entry::Member { displaced, .. } => Some(displaced),
                Entry::Refused => None,
            };
            assert_eq!(displaced, expected, "{name} of {owner}");
        }
        assert_eq!(set.members(), 3);
    }

    #[test]
    fn among_equals_the_oldest_leaves() {
        let mut set = FairSet::new(3);
        for owner in 0..3 {
            assert!(matches!(enter(&mut set, owner, 'a'), Entry::Member { displaced: None, .. }));
        }
        let Entry::Member { id, displaced } = enter(&mut set, 9, 'z') else { panic!("refused") };
        assert_eq!((displaced, set.owners.contains_key(&0)), (Some('a'), false));
        set.leave(&9, id);
        set.leave(&9, id);
        assert_eq!(set.members(), 2);
    }

    proptest! {
        #[test]
        fn a_newcomer_always_gets_in(
            most in 1_usize..12, steps in prop::collection::vec((0_u8..6, any::<bool>(), any::<bool>()), 0..200),
        ) {
            let mut set = FairSet::new(most);
            let mut ids: Vec<(u8, u64)> = Vec::new();
            for (owner, leave, in_use) in steps {
                if leave {
                    if let Some(at) = ids.iter().position(|(one, _)| *one == owner) {
                        let (owner, id) = ids.remove(at);
                        set.leave(&owner, id);
                    }
                } else {
                    let own = set.owners.get(&owner).map_or(0, BTreeMap::len);
                    match set.enter(owner, in_use, |in_use| *in_use) {
                        Entry::Member { id, .. } => ids.push((owner, id)),
                        Entry::Refused => {
                            prop_assert_eq!(set.members(), most);
                            prop_assert!(set.owners.values().all(|members| members.len() <= own + 1));
                        }
                    }
                }
                prop_assert!(set.members() <= most);
                prop_assert_eq!(set.members(), set.owners.values().map(BTreeMap::len).sum::<usize>());
                prop_assert!(set.owners.values().all(|members| !members.is_empty()));
            }
        }
    }
}
