//! A growing table with numbered, reusable slots. Grows by an eighth, since doubling would leave a third of a large
//! catalog's memory unused on average. The lowest free slot is used first, so that the end of the table empties and its
//! memory can be returned.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    ops::{Index, IndexMut},
};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

pub(super) struct Slab<T> {
    slots: Vec<T>,
    /// Free slots; numbers past the end are of slots that were returned.
    free: BinaryHeap<Reverse<u32>>,
}

/// A value that shows whether its slot is free.
pub(super) trait Reusable {
    /// Whether its slot is free.
    fn is_free(&self) -> bool;
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: BinaryHeap::new() }
    }
}

impl<T> Slab<T> {
    /// Stores a value and returns its slot number. Callers check [`Self::is_nearly_full`] first.
    pub(super) fn push(&mut self, value: T) -> u32 {
        if let Some(Reverse(at)) = self.free.pop().filter(|Reverse(at)| (*at as usize) < self.slots.len()) {
            self[at] = value;
            return at;
        }
        // The lowest number is past the end, so all are.
        self.free.clear();
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(self.slots.len() / 8 + 64);
        }
        self.slots.push(value);
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    /// Frees a slot; its value stays until the slot is reused.
    pub(super) fn free(&mut self, at: u32) {
        self.free.push(Reverse(at));
    }

    /// Number of slots, free ones included.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether `more` values might exceed 32-bit slot numbers.
    pub(super) fn is_nearly_full(&self, more: usize) -> bool {
        self.slots.len().saturating_add(more) >= NONE as usize
    }

    /// The value of a slot; `None` past the end, so a list ends at `NONE`.
    pub(super) fn slot(&self, at: u32) -> Option<&T> {
        self.slots.get(at as usize)
    }

    /// Bytes allocated.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<T>() + self.free.capacity() * size_of::<u32>()
    }
}

impl<T: Reusable> Slab<T> {
    /// Returns the free slots at the end, if most of the memory is unused.
    pub(super) fn trim(&mut self) {
        while self.slots.last().is_some_and(Reusable::is_free) {
            self.slots.pop();
        }
        if self.slots.capacity() / 2 > self.slots.len() {
            self.slots.shrink_to_fit();
            let end = self.slots.len();
            self.free.retain(|Reverse(at)| (*at as usize) < end);
            self.free.shrink_to_fit();
        }
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        &self.slots[at as usize]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.slots[at as usize]
    }
}
