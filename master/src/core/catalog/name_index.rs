//! Hash index from names to numbers. A look-up visits one place, where a tree of a hundred thousand names visits
//! seventeen. Costs five to ten bytes per name, since names are stored elsewhere.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

#[derive(Default)]
pub(super) struct NameIndex {
    table: HashTable<u32>,
    /// Randomly seeded, so that nobody can choose colliding names.
    hasher: RandomState,
}

impl NameIndex {
    pub(super) fn find(&self, name: &str, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.table.find(self.hasher.hash_one(name), |number| is(*number)).copied()
    }

    /// Adds a name that is not present; `name_of` returns the name of an existing number when the table grows.
    pub(super) fn insert<'a>(&mut self, name: &str, number: u32, name_of: impl Fn(u32) -> &'a str) {
        let hash = self.hasher.hash_one(name);
        self.table.insert_unique(hash, number, |other| self.hasher.hash_one(name_of(*other)));
    }

    /// Returns memory if most of it is unused.
    pub(super) fn trim<'a>(&mut self, name_of: impl Fn(u32) -> &'a str) {
        if self.table.capacity() / 4 > self.table.len() {
            self.table.shrink_to_fit(|other| self.hasher.hash_one(name_of(*other)));
        }
    }

    pub(super) fn remove(&mut self, name: &str, number: u32) {
        if let Ok(found) = self.table.find_entry(self.hasher.hash_one(name), |other| *other == number) {
            found.remove();
        }
    }
}
