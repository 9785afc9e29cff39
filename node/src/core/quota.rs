//! The disk space for copies that the master orders. Arithmetic of bytes; knows no disk.

use usher_proto::tree;

/// Default quota: a few films, or hundreds of clips.
pub const DEFAULT: u64 = 10_000_000_000;

/// The default takes at most one part in this many of the free space: the disk is the operator's.
pub const FREE_DIVISOR: u64 = 10;

/// Bytes that set-up information takes beside the hashes: one block of the disk.
const SETUP: u64 = 4096;

/// The quota where the operator sets none: [`DEFAULT`], but at most a tenth of the free space. The `held` bytes of
/// existing copies count as free, so that a restart gives the same.
pub fn default_quota(free: u64, held: u64) -> u64 {
    DEFAULT.min(free.saturating_add(held) / FREE_DIVISOR)
}

/// Bytes of disk that a copy of `size` bytes takes, with its hashes and set-up information.
pub fn disk_bytes(size: u64) -> u64 {
    size.saturating_add(hash_values(size) * size_of::<tree::Value>() as u64).saturating_add(SETUP)
}

/// Number of hash values stored for a title of `size` bytes: those of its pages, then those of its groups.
pub fn hash_values(size: u64) -> u64 {
    page_values(size) + if tree::groups(size) > 1 { tree::groups(size) } else { 0 }
}

/// Number of page values among them.
pub fn page_values(size: u64) -> u64 {
    if tree::pages(size) > 1 { tree::pages(size) } else { 0 }
}

#[cfg(test)]
mod tests {
    use usher_proto::tree::{GROUP, PAGE};

    use super::*;

    #[test]
    fn the_default_is_the_lesser_of_both() {
        for (free, held, expected) in [
            (0, 0, 0),
            (50_000_000_000, 0, 5_000_000_000),
            (45_000_000_000, 5_000_000_000, 5_000_000_000),
            (u64::MAX, 1, DEFAULT),
        ] {
            assert_eq!(default_quota(free, held), expected, "{free} free, {held} held");
        }
    }

    #[test]
    fn hashes_take_space_too() {
        assert_eq!((disk_bytes(1), hash_values(1)), (4097, 0));
        assert_eq!((hash_values(GROUP), hash_values(GROUP + 1), hash_values(PAGE)), (0, 2, 256));
        assert_eq!((hash_values(PAGE + 1), page_values(PAGE + 1)), (259, 2));
        assert_eq!(disk_bytes(PAGE + 1), PAGE + 1 + 259 * 32 + 4096);
        assert!(disk_bytes(tree::MAX_SIZE) < u64::MAX / 2);
    }
}
