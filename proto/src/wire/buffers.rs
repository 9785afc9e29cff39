//! Room for the bodies of groups, used again and again: what a fast transfer would otherwise ask of the allocator, and of
//! the kernel behind it, sixteen times a MiB. Refuses to know what is in them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::tree::GROUP;

/// Buffers of one group each. Clones share them.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Shelf>);

#[derive(Debug)]
struct Shelf {
    keep: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Shelf {
    /// Held for a push or a pop only, so a panic elsewhere cannot have left it half changed.
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffers {
    /// Keeps at most so many that are not in use, 64 KiB each.
    pub fn new(keep: usize) -> Self {
        Self(Arc::new(Shelf { keep, free: Mutex::default() }))
    }

    /// An empty buffer with room for a group.
    pub(super) fn room(&self) -> Vec<u8> {
        self.0.free().pop().unwrap_or_else(|| Vec::with_capacity(GROUP as usize))
    }

    /// The bytes of a filled buffer, which comes back when nobody holds them any more.
    pub(super) fn lend(&self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { bytes, shelf: Arc::clone(&self.0) })
    }
}

struct Lent {
    bytes: Vec<u8>,
    shelf: Arc<Shelf>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut free = self.shelf.free();
        if free.len() < self.shelf.keep {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_last_holder() {
        let buffers = Buffers::new(1);
        let mut room = buffers.room();
        let place = room.as_ptr();
        room.extend_from_slice(b"abc");
        let (bytes, other) = (buffers.lend(room), buffers.lend(buffers.room()));
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!(buffers.0.free().len(), 0, "a part is still held");
        assert_eq!(&part[..], b"bc");
        drop(part);
        drop(other);
        assert_eq!(buffers.0.free().len(), 1, "no more than are to be kept");
        let again = buffers.room();
        assert!(again.is_empty() && again.as_ptr() == place && again.capacity() >= GROUP as usize);
    }
}
