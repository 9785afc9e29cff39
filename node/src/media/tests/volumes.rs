//! Volumes that are removed and come back, and what the index keeps of them.

use super::*;

#[tokio::test]
async fn a_restart_inspects_no_file_again() {
    let test = TestLibrary::with(&[("a.mp4", &mp4(1, 100_000)), ("b.mp4", &mp4(2, 100)), ("no.mp4", b"text")]).await;
    test.library.hashed().await;
    let before = test.library.stats();
    assert_eq!((before.probed_files, before.hashed_bytes), (3, before.bytes));
    let copies = test.library.subscribe().page(None, usize::MAX);
    test.library.close().await;
    let TestLibrary { dir, library, .. } = test;
    drop(library);
    let again = open(dir.path()).await;
    again.hashed().await;
    let stats = again.stats();
    assert_eq!((stats.probed_files, stats.hashed_bytes), (0, 0), "nothing changed");
    assert_eq!((stats.titles, stats.unhashed, stats.rejected_files), (2, 0, 1));
    let now = again.subscribe().page(None, usize::MAX);
    assert_eq!(now, copies);
    let open_again = again.open_copy(&again.find(&title("a.mp4"), None).expect("found")).expect("open");
    assert_eq!(tree::root(&open_again.group_values(0).expect("values")), open_again.content());
    drop(open_again);
    again.close().await;
    drop(again);
    put_old(&dir.path().join("films/a.mp4"), &mp4(7, 100));
    fs::remove_file(dir.path().join("films/no.mp4")).expect("remove");
    let third = open(dir.path()).await;
    third.hashed().await;
    let stats = third.stats();
    assert_eq!((stats.titles, stats.rejected_files, stats.probed_files), (2, 0, 1));
    assert_eq!(third.find(&title("a.mp4"), None).map(|copy| copy.content), Ok(Some(id(&mp4(7, 100)))));
}

#[tokio::test]
async fn two_volumes() {
    let dir = TempDir::new().expect("a folder");
    let both = [
        folder(&dir.path().join("one"), &[("a.mp4", &mp4(1, 100))]),
        folder(&dir.path().join("two"), &[("a.mp4", &mp4(2, 100)), ("b.mp4", &mp4(3, 100))]),
    ];
    let config = LibraryConfig { volumes: both.to_vec(), index: dir.path().join("index"), replicas: None };
    let library = Library::open(config.clone()).await.expect("open");
    library.scanned().await;
    library.hashed().await;
    let view = CatalogView::new(&library);
    assert_eq!(view.names(), ["a.mp4", "a.mp4", "b.mp4"]);
    let by_content = |content: &[u8]| library.find(&title("a.mp4"), Some(id(content))).map(|copy| copy.volume);
    assert_eq!((by_content(&mp4(1, 100)), by_content(&mp4(2, 100))), (Ok(0), Ok(1)));
    let error = Library::open(config.clone()).await.err().expect("locked").to_string();
    assert!(error.contains("in use by another node"), "{error}");
    library.close().await;
    drop((library, view));
    // With the volumes in the other order, nothing is hashed again.
    let swapped = LibraryConfig { volumes: both.iter().rev().cloned().collect(), ..config };
    let library = Library::open(swapped).await.expect("open");
    library.scanned().await;
    assert_eq!((library.stats().hashed_bytes, library.stats().unhashed), (0, 0));
    assert_eq!(library.find(&title("a.mp4"), Some(id(&mp4(1, 100)))).map(|copy| copy.volume), Ok(1));
}

#[tokio::test]
async fn a_volume_is_removed_and_comes_back() {
    let mut test = TestLibrary::with(&[("a.mp4", &mp4(1, 1000))]).await;
    test.library.hashed().await;
    let hashed = test.library.stats().hashed_bytes;
    fs::rename(test.dir.path().join("films"), test.dir.path().join("away")).expect("unplug");
    test.view.until("gone", |view| view.copies.is_empty()).await;
    assert_eq!(test.library.find(&title("a.mp4"), None), Err(FindError::NotFound));
    fs::rename(test.dir.path().join("away"), test.dir.path().join("films")).expect("plug in");
    test.view.until("back", |view| view.find("a.mp4").is_some_and(|copy| copy.content.is_some())).await;
    assert_eq!(test.library.stats().hashed_bytes, hashed, "it was known");
    age(&test.path("a.mp4"));
}

#[tokio::test]
async fn a_damaged_index_is_replaced() {
    let test = TestLibrary::with(&[("a.mp4", &mp4(1, 1000))]).await;
    test.library.close().await;
    let TestLibrary { dir, library, view } = test;
    drop((library, view));
    let index = config(dir.path()).index;
    fs::write(&index, [7; 5000]).expect("damage");
    let library = open(dir.path()).await;
    assert_eq!(library.stats().titles, 1);
    assert!(index.with_file_name("index.redb.corrupt").exists());
}

#[tokio::test]
async fn wrong_folders_are_refused() {
    let dir = TempDir::new().expect("a folder");
    let films = folder(&dir.path().join("films"), &[("sub/a.mp4", b"")]);
    let index = dir.path().join("index");
    for (volumes, reason) in [
        (vec![], "no media folder"),
        (vec![dir.path().join("missing")], "open media folder"),
        (vec![films.join("sub/a.mp4")], "open media folder"),
        (vec![films.clone(), films.join("sub")], "overlap"),
        (vec![films.join("sub"), films.clone()], "overlap"),
        (vec![films.clone(), films.clone()], "overlap"),
    ] {
        let error =
            Library::open(LibraryConfig { volumes, index: index.clone(), replicas: None }).await.err().expect(reason);
        assert!(format!("{error:#}").contains(reason), "{error:#}");
    }
}
