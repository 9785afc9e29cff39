//! Buffers between disk and network, used again and again: a fresh one costs the kernel a fault for every page. A buffer
//! comes back by itself when the last byte that was sent from it is acknowledged.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Buffers that are kept for later: 16 MiB of a quarter of a mebibyte.
const SPARE: usize = 64;

/// Where buffers of one size wait.
#[derive(Debug)]
pub(crate) struct Buffers {
    size: usize,
    /// The one that came back last goes first: it may still be in the processor's cache.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// A buffer in use.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Bytes of it that count.
    len: usize,
    home: Arc<Buffers>,
}

impl Buffers {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, spare: Mutex::default() })
    }

    /// Held for one call of the list.
    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of the first `len` bytes, which hold anything.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let spare = if len <= self.size { self.spare().pop() } else { None };
        let bytes = spare.unwrap_or_else(|| vec![0; len.max(self.size)]);
        Buffer { bytes, len, home: self.clone() }
    }
}

impl Buffer {
    /// What counts.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// To be sent.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = self.home.spare();
        if self.bytes.len() == self.home.size && spare.len() < SPARE {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_nothing_of_it_is_used() {
        let home = Buffers::new(8);
        let mut buffer = home.take(3);
        buffer.bytes_mut().copy_from_slice(b"abc");
        let (sent, part) = (buffer.freeze(), Bytes::new());
        assert_eq!(&sent[..], b"abc");
        let part = if part.is_empty() { sent.slice(1..2) } else { part };
        drop(sent);
        assert_eq!((&part[..], home.spare().len()), (&b"b"[..], 0));
        drop(part);
        assert_eq!(home.spare().len(), 1);
        assert_eq!(home.take(8).as_ref(), b"abc\0\0\0\0\0");
        // A larger one is made, and not kept.
        drop(home.take(9));
        let many: Vec<Buffer> = (0..SPARE + 5).map(|_| home.take(1)).collect();
        drop(many);
        assert_eq!(home.spare().len(), SPARE);
    }
}
