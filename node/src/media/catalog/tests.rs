//! The catalog and its subscriptions.

use usher_proto::Bitrate;

use usher_media::probe::MediaType;

use super::*;

fn key(name: &str, volume: u16) -> CopyKey {
    (Title::parse(name).expect("a title"), volume)
}

fn record(id: u64, modified_ms: i64, content: Option<u8>) -> CopyRecord {
    CopyRecord {
        id,
        size: 1000,
        modified_ms,
        duration_ms: 8000,
        content: content.map(|byte| ContentId([byte; 32])),
        media_type: MediaType::of("video/mp4"),
        streamable: true,
        origin: Origin::Operator,
    }
}

#[test]
fn the_best_copy_is_found() {
    let catalog = Catalog::default();
    let title = key("a", 0).0;
    assert_eq!(catalog.copies(&title, None), Err(FindError::NotFound));
    catalog.put(key("a", 0), record(1, 50, None));
    catalog.put(key("a", 1), record(2, 10, Some(1)));
    catalog.put(key("a", 2), record(3, 20, Some(2)));
    let volume = |content| catalog.copies(&title, content).map(|copies| copies[0].volume);
    assert_eq!(volume(None), Ok(2), "hashed, then newest");
    assert_eq!(volume(Some(ContentId([1; 32]))), Ok(1));
    assert_eq!(volume(Some(ContentId([9; 32]))), Err(FindError::OtherContent));
    assert_eq!(catalog.copies(&title, None).map(|copies| copies[0].bitrate), Ok(Bitrate(1000)));
}

#[test]
fn counts_follow_changes() {
    let catalog = Catalog::default();
    catalog.put(key("a", 0), record(1, 1, None));
    catalog.put(key("a", 0), record(2, 1, None));
    assert!(!catalog.hashed(&key("a", 0), 1, ContentId([0; 32])), "another state of the file");
    assert_eq!(catalog.counts(), CatalogCounts { copies: 1, unhashed: 1, bytes: 1000, rejected: 0, damaged: 0 });
    assert!(catalog.hashed(&key("a", 0), 2, ContentId([0; 32])));
    catalog.add_rejected(RejectedCounts { rejected: 2, damaged: 1 });
    assert_eq!(catalog.counts(), CatalogCounts { copies: 1, unhashed: 0, bytes: 1000, rejected: 2, damaged: 1 });
    assert!(catalog.remove(&key("a", 0)) && !catalog.remove(&key("a", 0)));
    catalog.add_rejected(RejectedCounts { rejected: -5, damaged: -1 });
    assert_eq!(catalog.counts(), CatalogCounts::default());
}

#[test]
fn a_subscriber_receives_each_state_once() {
    let catalog = Catalog::default();
    catalog.put(key("a", 0), record(1, 1, None));
    let mut subscription = catalog.subscribe();
    assert_eq!(subscription.page(None, 9).len(), 1);
    assert_eq!(subscription.take(), None);
    catalog.put(key("b", 0), record(2, 1, None));
    catalog.put(key("b", 0), record(3, 7, None));
    catalog.remove(&key("a", 0));
    let changes = subscription.take().expect("changes");
    assert_eq!(changes.copies.iter().map(|copy| copy.modified_ms).collect::<Vec<_>>(), [7]);
    assert_eq!(changes.removals, [key("a", 0)]);
    assert_eq!(subscription.take(), None);
}

#[test]
fn a_change_between_two_pages_is_reported() {
    let catalog = Catalog::default();
    ["a", "b", "c"].iter().for_each(|name| catalog.put(key(name, 0), record(1, 1, None)));
    let mut subscription = catalog.subscribe();
    let names = |page: &[CatalogCopy]| page.iter().map(|copy| copy.title.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&subscription.page(None, 2)), ["a", "b"]);
    catalog.remove(&key("a", 0));
    catalog.put(key("bb", 0), record(2, 1, None));
    assert_eq!(names(&subscription.page(Some(&key("b", 0)), 2)), ["bb", "c"]);
    assert_eq!(names(&subscription.page(Some(&key("c", 0)), 2)), [""; 0]);
    let changes = subscription.take().expect("changes");
    assert_eq!((changes.removals, names(&changes.copies)), (vec![key("a", 0)], vec!["bb".to_owned()]));
}

#[test]
fn a_slow_subscriber_starts_over() {
    let catalog = Catalog::default();
    let mut subscription = catalog.subscribe();
    for i in 0..=PENDING {
        catalog.put(key(&format!("t{i}"), 0), record(i as u64, 1, None));
    }
    assert!(subscription.take().is_some_and(|changes| changes.resync && changes.copies.is_empty()));
    assert_eq!(subscription.page(None, usize::MAX).len(), PENDING + 1);
    catalog.remove(&key("t0", 0));
    assert_eq!(subscription.take().map(|changes| changes.removals.len()), Some(1));
}
