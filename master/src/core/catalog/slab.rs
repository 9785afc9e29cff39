//! A growing table with numbered, reusable slots. Grows by an eighth, since doubling would leave a third of a large
//! catalog's memory unused on average.

use std::ops::{Index, IndexMut};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

pub(super) struct Slab<T> {
    slots: Vec<T>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Stores a value and returns its slot number. Callers check [`Self::is_nearly_full`] first.
    pub(super) fn push(&mut self, value: T) -> u32 {
        if let Some(at) = self.free.pop() {
            self[at] = value;
            return at;
        }
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(self.slots.len() / 8 + 64);
        }
        self.slots.push(value);
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    /// Frees a slot; its value stays until the slot is reused.
    pub(super) fn free(&mut self, at: u32) {
        self.free.push(at);
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
