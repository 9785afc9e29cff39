//! Which datagrams may leave in one call. The kernel cuts one buffer into datagrams of equal size (generic segmentation
//! offload), of which only the last may be shorter; all go to one address, from one, with one ECN mark.

use std::net::{IpAddr, SocketAddr};

/// Bytes of one call: what a UDP datagram may hold over IPv4, since the buffer is one until the kernel cuts it.
pub const MAX_BYTES: usize = 65_507;

/// What all datagrams of a batch have in common. `E` is the ECN mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way<E> {
    /// The receiver.
    pub to: SocketAddr,
    /// The local address, where it is not left to the kernel.
    pub from: Option<IpAddr>,
    /// The mark of RFC 3168.
    pub ecn: Option<E>,
}

/// Datagrams that leave together.
#[derive(Debug)]
pub struct Batch<E> {
    way: Option<Way<E>>,
    /// Bytes of each datagram but the last.
    segment: usize,
    /// Whether the last datagram is shorter: nothing may follow it.
    closed: bool,
    bytes: Vec<u8>,
}

impl<E> Default for Batch<E> {
    fn default() -> Self {
        Self { way: None, segment: 0, closed: false, bytes: Vec::new() }
    }
}

impl<E: Copy + PartialEq> Batch<E> {
    /// Bytes to send.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds datagrams of `segment` bytes each, the last of which may be shorter. `false` when they cannot go with what
    /// is there, or would be more than `most` datagrams; then what is there has to leave first.
    pub fn join(&mut self, way: Way<E>, segment: usize, bytes: &[u8], most: usize) -> bool {
        if self.bytes.is_empty() {
            (self.way, self.segment, self.closed) = (Some(way), segment.max(1), false);
        } else {
            let alike = segment == self.segment || bytes.len() <= segment && bytes.len() < self.segment;
            let len = self.bytes.len().saturating_add(bytes.len());
            let fits = len <= MAX_BYTES && len.div_ceil(self.segment) <= most;
            if self.closed || self.way != Some(way) || !alike || !fits {
                return false;
            }
        }
        self.bytes.extend_from_slice(bytes);
        self.closed = !self.bytes.len().is_multiple_of(self.segment);
        true
    }

    /// What leaves: the way, bytes of each datagram but the last, and all bytes. `None` when empty.
    pub fn content(&self) -> Option<(Way<E>, usize, &[u8])> {
        let way = self.way.filter(|_| !self.bytes.is_empty())?;
        Some((way, self.segment, &self.bytes))
    }

    /// It has left; its memory is kept for the next.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn way(port: u16) -> Way<u8> {
        Way { to: ([127, 0, 0, 1], port).into(), from: None, ecn: None }
    }

    #[test]
    fn only_what_the_kernel_can_cut_again_goes_together() {
        let mut batch = Batch::default();
        assert!(batch.is_empty() && batch.content().is_none());
        assert!(batch.join(way(1), 4, b"aaaabbbb", 64));
        assert!(!batch.join(way(2), 4, b"cccc", 64), "another address");
        assert!(!batch.join(Way { ecn: Some(1), ..way(1) }, 4, b"cccc", 64), "another mark");
        assert!(!batch.join(way(1), 5, b"ccccc", 64), "longer");
        assert!(!batch.join(way(1), 2, b"ccdd", 64), "several shorter ones");
        assert!(!batch.join(way(1), 4, b"cccc", 2), "more than may go");
        assert!(batch.join(way(1), 3, b"ccc", 64), "a shorter last one");
        assert!(!batch.join(way(1), 4, b"dddd", 64), "nothing follows a shorter one");
        assert_eq!(batch.content(), Some((way(1), 4, &b"aaaabbbbccc"[..])));
        batch.clear();
        assert!(batch.join(way(2), 1, b"e", 1));
        assert_eq!(batch.content(), Some((way(2), 1, &b"e"[..])));
        assert!(!batch.join(way(2), 1, b"f", 1), "one at a time where the kernel cuts nothing");
    }

    proptest! {
        /// Whatever is joined, cutting the batch as the kernel does gives the same datagrams in the same order.
        #[test]
        fn the_cut_gives_back_what_was_joined(
            sends in prop::collection::vec((0_u16..2, 1_usize..5, 1_usize..9, 1_usize..5), 1..40),
            most in 1_usize..10,
        ) {
            let mut batch = Batch::<u8>::default();
            let (mut sent, mut left) = (Vec::new(), Vec::new());
            let mut leave = |batch: &mut Batch<u8>, most: usize| {
                let Some((way, segment, bytes)) = batch.content() else { return };
                assert!(bytes.len() <= MAX_BYTES && (bytes.len().div_ceil(segment) <= most || most < 5));
                left.extend(bytes.chunks(segment).map(|datagram| (way, datagram.to_vec())));
                batch.clear();
            };
            for (i, (port, count, segment, last)) in sends.into_iter().enumerate() {
                // As quinn gives them: a single datagram has its own length as the segment's.
                let len = if count == 1 { segment } else { (count - 1) * segment + last.min(segment) };
                let bytes: Vec<u8> = (0..len).map(|at| (i * 31 + at) as u8).collect();
                sent.extend(bytes.chunks(segment).map(|datagram| (way(port), datagram.to_vec())));
                if !batch.join(way(port), segment, &bytes, most) {
                    leave(&mut batch, most);
                    prop_assert!(batch.join(way(port), segment, &bytes, most), "an empty batch takes anything");
                }
            }
            leave(&mut batch, most);
            prop_assert_eq!(sent, left);
        }
    }
}
