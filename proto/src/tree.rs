//! The hash tree of a title: BLAKE3 seen as groups of 64 KiB and pages of 256 groups, so that any group can be
//! checked against the content id by itself. Source: the BLAKE3 paper, section 2.1 (tree structure), and the
//! `hazmat` module of the `blake3` crate. Overhead: 32 bytes a group and 32 a page, 0.05 % of the media.
//!
//! A title of one group needs no hashes: its content id is the hash of the group. One of one page needs the
//! chaining values of its groups; a larger one those of its pages, then of each page's groups.

use std::ops::Range;

use blake3::{
    Hasher,
    hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root},
};

use crate::id::ContentId;

/// Bytes of a group, the unit that is verified.
pub const GROUP: u64 = 64 * 1024;

/// Groups of a page, the unit in which hashes travel: 16 MiB of media in 8 KiB of hashes.
pub const PAGE_GROUPS: u64 = 256;

/// Bytes of media that one page covers.
pub const PAGE: u64 = GROUP * PAGE_GROUPS;

/// The largest title, in bytes: its page values (32 bytes per 16 MiB) still fit one frame.
pub const MAX_SIZE: u64 = 1 << 42;

/// A BLAKE3 chaining value.
pub type Value = [u8; 32];

/// Number of groups of a title of `size` bytes.
pub fn groups(size: u64) -> u64 {
    size.div_ceil(GROUP)
}

/// Number of pages of a title of `size` bytes.
pub fn pages(size: u64) -> u64 {
    size.div_ceil(PAGE)
}

/// Bytes of the group `index` in a title of `size` bytes.
pub fn group_len(size: u64, index: u64) -> u64 {
    size.saturating_sub(index.saturating_mul(GROUP)).min(GROUP)
}

/// The groups of the page `index` in a title of `size` bytes.
pub fn page_groups(size: u64, index: u64) -> Range<u64> {
    let all = groups(size);
    let start = index.saturating_mul(PAGE_GROUPS).min(all);
    start..start.saturating_add(PAGE_GROUPS).min(all)
}

/// Chaining value of the group `index` of a title that has more than one.
pub fn group_value(index: u64, data: &[u8]) -> Value {
    Hasher::new().set_input_offset(index * GROUP).update(data).finalize_non_root()
}

/// Chaining value of a page, from those of its groups, in a title that has more than one page.
///
/// # Panics
/// When `groups` is empty.
pub fn page_value(groups: &[Value]) -> Value {
    if let [only] = groups {
        return *only;
    }
    let (left, right) = groups.split_at(left_len(groups.len()));
    merge_subtrees_non_root(&page_value(left), &page_value(right), Mode::Hash)
}

/// The content id, from all page values, or from all group values of a title of one page. `None` for fewer than two
/// values: such a title has one group, and its content id is [`single`].
pub fn root(values: &[Value]) -> Option<ContentId> {
    if values.len() < 2 {
        return None;
    }
    let (left, right) = values.split_at(left_len(values.len()));
    Some(ContentId(*merge_subtrees_root(&page_value(left), &page_value(right), Mode::Hash).as_bytes()))
}

/// The content id of a title of one group.
pub fn single(data: &[u8]) -> ContentId {
    ContentId(*blake3::hash(data).as_bytes())
}

/// The left subtree takes the largest power of two that leaves something to the right.
fn left_len(len: usize) -> usize {
    len.next_power_of_two() / 2
}

/// The hashes of a whole title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// Names the content.
    pub content: ContentId,
    /// One value a group; empty for a title of one group.
    pub groups: Vec<Value>,
    /// One value a page; empty for a title of one page.
    pub pages: Vec<Value>,
}

/// Hashes a title group by group, in order.
#[derive(Default)]
pub struct Builder {
    groups: Vec<Value>,
    /// The first group, needed when the title has no second one.
    first: Option<ContentId>,
}

impl Builder {
    /// Adds the next group: exactly 64 KiB, but for the last.
    pub fn push(&mut self, data: &[u8]) {
        if self.groups.is_empty() {
            self.first = Some(single(data));
        }
        let index = self.groups.len() as u64;
        self.groups.push(group_value(index, data));
    }

    /// All hashes; for no group at all, the content id of the empty title.
    pub fn finish(self) -> Hashes {
        let Self { groups, first } = self;
        if groups.len() < 2 {
            let content = first.unwrap_or_else(|| single(&[]));
            return Hashes { content, groups: Vec::new(), pages: Vec::new() };
        }
        let pages: Vec<Value> = if groups.len() as u64 > PAGE_GROUPS {
            groups.chunks(PAGE_GROUPS as usize).map(page_value).collect()
        } else {
            Vec::new()
        };
        let top = if pages.is_empty() { &groups } else { &pages };
        let content = root(top).unwrap_or_else(|| single(&[]));
        Hashes { content, groups, pages }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(data: &[u8]) -> Hashes {
        let mut builder = Builder::default();
        data.chunks(GROUP as usize).for_each(|group| builder.push(group));
        builder.finish()
    }

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8 ^ (i >> 13) as u8).collect()
    }

    #[test]
    fn the_content_id_is_plain_blake3() {
        let (group, page) = (GROUP as usize, PAGE as usize);
        for len in [
            0,
            1,
            group - 1,
            group,
            group + 1,
            2 * group,
            3 * group,
            5 * group + 7,
            page - 1,
            page,
            page + 1,
            page + group,
            2 * page,
            2 * page + 3 * group + 11,
        ] {
            let data = sample(len);
            let hashes = build(&data);
            assert_eq!(hashes.content.0, *blake3::hash(&data).as_bytes(), "{len} bytes");
            let size = len as u64;
            assert_eq!(hashes.groups.len() as u64, if size <= GROUP { 0 } else { groups(size) });
            assert_eq!(hashes.pages.len() as u64, if size <= PAGE { 0 } else { pages(size) });
        }
    }

    #[test]
    fn shapes() {
        assert_eq!((groups(0), groups(1), groups(GROUP), groups(GROUP + 1)), (0, 1, 1, 2));
        assert_eq!(group_len(GROUP + 5, 1), 5);
        assert_eq!(group_len(5, 9), 0);
        assert_eq!(page_groups(PAGE + 1, 1), 256..257);
        assert_eq!(page_groups(PAGE + 1, u64::MAX), 257..257);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_length_agrees(len in 0_usize..1_500_000) {
            let data = sample(len);
            prop_assert_eq!(build(&data).content.0, *blake3::hash(&data).as_bytes());
        }
    }
}
