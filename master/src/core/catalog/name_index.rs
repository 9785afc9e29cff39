//! The numbers of names, by hash: a request looks at one place where a tree of a hundred thousand names has it look at
//! seventeen, each a step through memory. Five to ten bytes a name, since the name itself is elsewhere.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

#[derive(Default)]
pub(super) struct NameIndex {
    table: HashTable<u32>,
    /// Seeded, so that nobody can choose names that collide.
    hasher: RandomState,
}

impl NameIndex {
    pub(super) fn find(&self, name: &str, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.table.find(self.hasher.hash_one(name), |number| is(*number)).copied()
    }

    /// Adds a name that is not there; `name_of` tells the others when the table grows.
    pub(super) fn insert<'a>(&mut self, name: &str, number: u32, name_of: impl Fn(u32) -> &'a str) {
        let hash = self.hasher.hash_one(name);
        self.table.insert_unique(hash, number, |other| self.hasher.hash_one(name_of(*other)));
    }

    pub(super) fn remove(&mut self, name: &str, number: u32) {
        if let Ok(found) = self.table.find_entry(self.hasher.hash_one(name), |other| *other == number) {
            found.remove();
        }
    }
}
