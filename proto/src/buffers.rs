//! A pool of buffers between disk and network: a new buffer costs the kernel a fault for every page. A buffer returns to the
//! pool with the last reference to its bytes, for example when they are acknowledged. Independent of the content. It is
//! here because the decoder of `wire` reads into it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// A pool of buffers of one size. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<PoolInner>);

#[derive(Debug, Default)]
struct PoolInner {
    size: usize,
    keep: usize,
    /// The last returned buffer is used first: it may still be in the processor's cache.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// A buffer in use.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Number of used bytes.
    len: usize,
    pool: Arc<PoolInner>,
}

impl PoolInner {
    /// Held for one call of the list, so a panic elsewhere cannot have left it half changed.
    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffers {
    /// A pool of buffers of `size` bytes that keeps at most `keep` unused ones.
    pub fn new(size: usize, keep: usize) -> Self {
        Self(Arc::new(PoolInner { size, keep, spare: Mutex::default() }))
    }

    /// A buffer of `len` bytes with unspecified content. A buffer larger than the pool's size is allocated and not kept.
    pub fn take(&self, len: usize) -> Buffer {
        let spare = if len <= self.0.size { self.0.spare().pop() } else { None };
        let bytes = spare.unwrap_or_else(|| vec![0; len.max(self.0.size)]);
        Buffer { bytes, len, pool: Arc::clone(&self.0) }
    }
}

impl Buffer {
    /// The filled bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// The filled bytes, as a shared buffer that returns to its pool with its last reference.
    pub fn freeze(self) -> Bytes {
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
        let mut spare = self.pool.spare();
        if self.bytes.len() == self.pool.size && spare.len() < self.pool.keep {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_nothing_of_it_is_used() {
        let pool = Buffers::new(8, 2);
        let spare = || pool.0.spare().len();
        let mut buffer = pool.take(3);
        buffer.bytes_mut().copy_from_slice(b"abc");
        let sent = buffer.freeze();
        assert_eq!(&sent[..], b"abc");
        let part = sent.slice(1..2);
        drop(sent);
        assert_eq!((&part[..], spare()), (&b"b"[..], 0));
        drop(part);
        assert_eq!(spare(), 1);
        assert_eq!(pool.take(8).as_ref(), b"abc\0\0\0\0\0", "the same one");
        drop(pool.take(9));
        assert_eq!(spare(), 1, "a larger one is not kept");
        drop([pool.take(1), pool.take(1), pool.take(1)]);
        assert_eq!(spare(), 2, "no more than are to be kept");
    }
}
