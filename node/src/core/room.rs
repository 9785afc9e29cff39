//! How much disk copies may take that the master orders. Arithmetic of bytes; knows no disk.

use usher_proto::tree;

/// The default for copies that the master orders: a few films, or hundreds of clips.
pub const DEFAULT: u64 = 10_000_000_000;

/// The default never takes more than this part of what is free: the disk is the operator's.
pub const PART: u64 = 10;

/// What set-up information takes of the disk beside its hashes: one block.
const SETUP: u64 = 4096;

/// Bytes that copies may take where the operator says nothing: [`DEFAULT`], but at most a tenth of what is free, to which
/// the copies of before count as well, so that a restart gives the same.
pub fn allowance(free: u64, held: u64) -> u64 {
    DEFAULT.min(free.saturating_add(held) / PART)
}

/// Bytes of disk that a copy of `size` bytes takes, with its hashes and set-up information.
pub fn cost(size: u64) -> u64 {
    size.saturating_add(values(size) * size_of::<tree::Value>() as u64).saturating_add(SETUP)
}

/// Hash values that are kept of a title of `size` bytes: those of its pages, then those of its groups.
pub fn values(size: u64) -> u64 {
    page_values(size) + if tree::groups(size) > 1 { tree::groups(size) } else { 0 }
}

/// Values of pages among them.
pub fn page_values(size: u64) -> u64 {
    if tree::pages(size) > 1 { tree::pages(size) } else { 0 }
}

#[cfg(test)]
mod tests {
    use usher_proto::tree::{GROUP, PAGE};

    use super::*;

    #[test]
    fn room_is_the_lesser_of_both() {
        for (free, held, expected) in [
            (0, 0, 0),
            (50_000_000_000, 0, 5_000_000_000),
            (45_000_000_000, 5_000_000_000, 5_000_000_000),
            (u64::MAX, 1, DEFAULT),
        ] {
            assert_eq!(allowance(free, held), expected, "{free} free, {held} held");
        }
    }

    #[test]
    fn hashes_cost_too() {
        assert_eq!((cost(1), values(1)), (4097, 0));
        assert_eq!((values(GROUP), values(GROUP + 1), values(PAGE)), (0, 2, 256));
        assert_eq!((values(PAGE + 1), page_values(PAGE + 1)), (259, 2));
        assert_eq!(cost(PAGE + 1), PAGE + 1 + 259 * 32 + 4096);
        assert!(cost(tree::MAX_SIZE) < u64::MAX / 2);
    }
}
