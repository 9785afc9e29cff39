//! Pages of the catalog as values.

use usher_proto::{Bitrate, Title, model::Origin};

use super::*;

fn copies(count: usize) -> Vec<CatalogCopy> {
    let copy = |i| CatalogCopy {
        title: Title::parse(&format!("t{i}")).expect("a title"),
        volume: 0,
        content: None,
        size: 1,
        modified_ms: 0,
        bitrate: Bitrate(1),
        duration_ms: 0,
        media_type: "video/mp4".into(),
        streamable: true,
        origin: Origin::Operator,
    };
    (0..count).map(copy).collect()
}

/// The page behind a key, of copies in any order.
fn behind(copies: &[CatalogCopy], after: Option<&CopyKey>) -> Vec<CatalogCopy> {
    let at = |(title, volume): &CopyKey| copies.iter().position(|c| c.title == *title && c.volume == *volume);
    let start = after.and_then(at).map_or(0, |at| at + 1);
    copies[start..].iter().take(PAGE).cloned().collect()
}

#[test]
fn a_catalog_has_one_beginning_and_one_end() {
    for (count, lens) in [(0, vec![0]), (1, vec![1]), (PAGE, vec![PAGE, 0]), (2 * PAGE + 1, vec![PAGE, PAGE, 1])] {
        let copies = copies(count);
        let pages: Vec<_> =
            full_catalog_pages(BadFiles { rejected: 3, damaged: 2 }, |after| behind(&copies, after)).collect();
        assert_eq!(pages.iter().map(|page| page.copies.len()).collect::<Vec<_>>(), lens);
        for (i, page) in pages.iter().enumerate() {
            assert_eq!((page.restart, page.complete), (i == 0, i + 1 == pages.len()), "page {i} of {count}");
            assert_eq!((page.rejected_files, page.damaged_files), (3, 2));
        }
    }
}

#[test]
fn changes_are_complete_in_themselves() {
    let removals = copies(PAGE + 5).into_iter().map(|copy| (copy.title, copy.volume)).collect();
    let changes = Changes { copies: copies(2), removals, damaged_files: 1, ..Changes::default() };
    let pages: Vec<_> = pages(changes).collect();
    assert_eq!(pages.iter().map(|p| (p.copies.len(), p.removals.len())).collect::<Vec<_>>(), [(2, PAGE), (0, 5)]);
    assert!(pages.iter().all(|page| page.complete && !page.restart && page.damaged_files == 1));
}
