//! The library on real folders. Waits for changes, never for time.

mod volumes;

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use usher_proto::{
    ContentId, Title,
    model::CatalogCopy,
    tree::{self, GROUP, PAGE},
};

use super::{
    Copy, FindError, Library, LibraryConfig, OpenError, Subscription,
    fixtures::{age, clip, folder, mp4, put_old, rot},
};

fn title(name: &str) -> Title {
    Title::parse(name).expect("a title")
}

fn id(data: &[u8]) -> ContentId {
    ContentId(*blake3::hash(data).as_bytes())
}

/// A library on one volume, and its catalog as a subscriber sees it.
struct TestLibrary {
    dir: TempDir,
    library: Library,
    view: CatalogView,
}

struct CatalogView {
    subscription: Subscription,
    copies: Vec<CatalogCopy>,
    rejected: u32,
    damaged: u32,
}

impl CatalogView {
    fn new(library: &Library) -> Self {
        let mut subscription = library.subscribe();
        let copies = subscription.page(None, usize::MAX);
        let (rejected, damaged) = (subscription.rejected_files(), subscription.damaged_files());
        Self { subscription, copies, rejected, damaged }
    }

    fn find(&self, name: &str) -> Option<&CatalogCopy> {
        self.copies.iter().find(|copy| copy.title.as_str() == name)
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.copies.iter().map(|copy| copy.title.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Applies changes until the catalog matches; the timeout only turns a hang into a failure.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            let changes = tokio::time::timeout(Duration::from_secs(20), self.subscription.changed()).await;
            let changes = changes.unwrap_or_else(|_| panic!("never: {what}; there is {:?}", self.names()));
            assert!(!changes.resync);
            (self.rejected, self.damaged) = (changes.rejected_files, changes.damaged_files);
            let gone = |copy: &CatalogCopy| {
                let key = (copy.title.clone(), copy.volume);
                changes.removals.contains(&key)
                    || changes.copies.iter().any(|new| (&new.title, new.volume) == (&key.0, key.1))
            };
            self.copies.retain(|copy| !gone(copy));
            self.copies.extend(changes.copies);
        }
    }
}

fn config(dir: &Path) -> LibraryConfig {
    LibraryConfig { volumes: vec![dir.join("films")], index: dir.join("state/index.redb"), replicas: None }
}

async fn open(dir: &Path) -> Library {
    let library = Library::open(config(dir)).await.expect("open a library");
    library.scanned().await;
    library
}

impl TestLibrary {
    async fn with(files: &[(&str, &[u8])]) -> Self {
        let dir = TempDir::new().expect("a folder");
        folder(&dir.path().join("films"), files);
        let library = open(dir.path()).await;
        let view = CatalogView::new(&library);
        Self { dir, library, view }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("films").join(name)
    }

    fn find(&self, name: &str) -> Copy {
        self.library.find(&title(name), None).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

#[tokio::test]
async fn clips_are_found_described_and_hashed() {
    let (film, web) = (clip("A.mp4"), clip("F.webm"));
    let test = TestLibrary::with(&[("a.mp4", &film), ("deep/er/f.webm", &web), ("no name", &film)]).await;
    assert_eq!(test.view.names(), ["a.mp4", "deep/er/f.webm", "no name"]);
    test.library.hashed().await;
    let copy = test.find("deep/er/f.webm");
    assert_eq!((copy.content, copy.size, copy.duration_ms), (Some(id(&web)), web.len() as u64, 9008));
    assert_eq!(copy.bitrate.0, web.len() as u64 * 8000 / 9008);
    let open = test.library.open_copy(&copy).expect("open");
    let setup = open.setup();
    assert_eq!((setup.content_id, setup.tracks.len()), (id(&web).to_string(), 2));
    let mut buf = vec![0; web.len() + 10];
    assert_eq!(open.read_at(3, &mut buf).expect("read"), web.len() - 3);
    assert_eq!(buf[..web.len() - 3], web[3..]);
    let stats = test.library.stats();
    assert_eq!((stats.titles, stats.unhashed, stats.rejected_files), (3, 0, 0));
    assert_eq!(test.library.find(&title("a.mp4"), Some(id(&web))), Err(FindError::OtherContent));
    assert_eq!(test.library.find(&title("z.mp4"), None), Err(FindError::NotFound));
}

#[tokio::test]
async fn hash_values_verify() {
    // One group; several groups; several pages and a partial one.
    let sizes = [1000, 3 * GROUP as usize, 2 * PAGE as usize + 70_000];
    let files: Vec<Vec<u8>> = sizes.iter().zip(1..).map(|(len, seed)| mp4(seed, *len)).collect();
    let test = TestLibrary::with(&[("0", &files[0]), ("1", &files[1]), ("2", &files[2])]).await;
    for (name, data) in ["0", "1", "2"].iter().zip(&files) {
        let open = test.library.open_copy(&test.find(name)).expect("open");
        assert_eq!(open.hashed().await, Some(id(data)), "{name}");
        let (pages, size) = (open.page_values().expect("pages"), data.len() as u64);
        let groups: Vec<_> = (0..tree::pages(size)).map(|page| open.group_values(page).expect("groups")).collect();
        for (index, group) in (0..).zip(data.chunks(GROUP as usize)) {
            let page = &groups[usize::try_from(index / tree::PAGE_GROUPS).expect("a page")];
            match page.get(usize::try_from(index % tree::PAGE_GROUPS).expect("a group")) {
                Some(value) => assert_eq!(*value, tree::group_value(index, group)),
                None => assert_eq!(tree::single(group), id(data)),
            }
        }
        match groups.as_slice() {
            [only] => assert!(pages.is_empty() && (only.is_empty() || tree::root(only) == Some(id(data)))),
            all => {
                assert_eq!(tree::root(&pages), Some(id(data)));
                assert!(all.iter().zip(&pages).all(|(groups, page)| tree::page_value(groups) == *page));
            }
        }
    }
}

#[tokio::test]
async fn files_are_added_changed_moved_and_removed() {
    let mut test = TestLibrary::with(&[("old.mp4", &mp4(1, 100))]).await;
    // A file renamed into place is complete at once.
    put_old(&test.dir.path().join("aside"), &mp4(2, 200));
    fs::rename(test.dir.path().join("aside"), test.path("new.mp4")).expect("move in");
    test.view.until("added", |view| view.find("new.mp4").is_some_and(|copy| copy.content.is_some())).await;
    // Replaced by a rename.
    put_old(&test.dir.path().join("aside"), &mp4(3, 300));
    fs::rename(test.dir.path().join("aside"), test.path("new.mp4")).expect("replace");
    let wanted = Some(id(&mp4(3, 300)));
    test.view.until("replaced", |view| view.find("new.mp4").is_some_and(|copy| copy.content == wanted)).await;
    // Overwritten in place with the same size.
    fs::write(test.path("old.mp4"), mp4(9, 100)).expect("overwrite");
    let wanted = Some(id(&mp4(9, 100)));
    test.view.until("overwritten", |view| view.find("old.mp4").is_some_and(|copy| copy.content == wanted)).await;
    fs::rename(test.path("old.mp4"), test.path("renamed.mp4")).expect("rename");
    test.view.until("renamed", |view| view.names() == ["new.mp4", "renamed.mp4"]).await;
    fs::rename(test.path("renamed.mp4"), test.path(".hidden.mp4")).expect("hide");
    fs::remove_file(test.path("new.mp4")).expect("remove");
    test.view.until("gone", |view| view.copies.is_empty()).await;
    assert_eq!(test.library.stats().bytes, 0);
}

#[tokio::test]
async fn a_file_being_written_is_not_offered() {
    let mut test = TestLibrary::with(&[("other.mp4", &mp4(1, 100))]).await;
    let data = mp4(5, 5000);
    let mut file = File::create(test.path("slow.mp4")).expect("create");
    // Without the last byte it would be truncated; with all bytes and an open writer it is not complete.
    file.write_all(&data[..4000]).expect("write");
    file.write_all(&data[4000..]).expect("write");
    // Events arrive in order: when a later file is offered, the earlier writes were handled.
    fs::write(test.path("later.mp4"), mp4(2, 50)).expect("write");
    test.view.until("later.mp4", |view| view.find("later.mp4").is_some()).await;
    assert!(test.view.find("slow.mp4").is_none() && test.view.rejected == 0);
    drop(file);
    test.view.until("slow.mp4", |view| view.find("slow.mp4").is_some()).await;
    // Appending withdraws it with the first byte.
    let mut file = File::options().append(true).open(test.path("slow.mp4")).expect("open");
    file.write_all(b"\0\0\0\x08free").expect("append");
    test.view.until("withdrawn", |view| view.find("slow.mp4").is_none()).await;
    drop(file);
    test.view.until("back", |view| view.find("slow.mp4").is_some_and(|copy| copy.size == data.len() as u64 + 8)).await;
}

#[tokio::test]
async fn folders_are_added_moved_and_removed() {
    let mut test = TestLibrary::with(&[("a/b/one.mp4", &mp4(1, 100)), ("ab.mp4", &mp4(2, 100))]).await;
    folder(&test.dir.path().join("aside"), &[("x/two.mp4", &mp4(3, 100)), ("three.mp4", &mp4(4, 100))]);
    fs::rename(test.dir.path().join("aside"), test.path("in")).expect("move in");
    test.view.until("moved in", |view| view.names() == ["a/b/one.mp4", "ab.mp4", "in/three.mp4", "in/x/two.mp4"]).await;
    fs::rename(test.path("a"), test.path("z")).expect("rename");
    test.view.until("renamed", |view| view.names() == ["ab.mp4", "in/three.mp4", "in/x/two.mp4", "z/b/one.mp4"]).await;
    // The renamed folder is watched under its new name.
    fs::write(test.path("z/b/four.mp4"), mp4(5, 100)).expect("write");
    test.view.until("added", |view| view.find("z/b/four.mp4").is_some()).await;
    // New folders, created together with their contents.
    fs::create_dir_all(test.path("n/e/w")).expect("make folders");
    fs::write(test.path("n/e/w/five.mp4"), mp4(6, 100)).expect("write");
    test.view.until("nested", |view| view.find("n/e/w/five.mp4").is_some()).await;
    for name in ["in", "z", "n"] {
        fs::remove_dir_all(test.path(name)).expect("remove");
    }
    test.view.until("gone", |view| view.names() == ["ab.mp4"]).await;
}

#[tokio::test]
async fn nothing_outside_a_volume_is_opened() {
    let dir = TempDir::new().expect("a folder");
    let films = folder(&dir.path().join("films"), &[("real.mp4", &mp4(1, 100)), ("sub/in.mp4", &mp4(2, 100))]);
    let secret = folder(&dir.path().join("secret"), &[("s.mp4", &mp4(3, 100)), ("in.mp4", &mp4(4, 100))]);
    symlink(secret.join("s.mp4"), films.join("file.mp4")).expect("link");
    symlink(&secret, films.join("folder")).expect("link");
    symlink(films.join("real.mp4"), films.join("inner.mp4")).expect("link");
    rustix::fs::mknodat(rustix::fs::CWD, films.join("pipe.mp4"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("make a pipe");
    let library = open(dir.path()).await;
    let mut view = CatalogView::new(&library);
    assert_eq!(view.names(), ["real.mp4", "sub/in.mp4"]);
    let (real, inner) = (library.find(&title("real.mp4"), None), library.find(&title("sub/in.mp4"), None));
    let (real, inner) = (real.expect("found"), inner.expect("found"));
    // A file, and a folder on the way, become links after they were indexed.
    fs::remove_file(films.join("real.mp4")).expect("remove");
    symlink(secret.join("s.mp4"), films.join("real.mp4")).expect("link");
    fs::rename(films.join("sub"), dir.path().join("away")).expect("move away");
    symlink(&secret, films.join("sub")).expect("link");
    assert!(matches!(library.open_copy(&real), Err(OpenError::Gone)));
    assert!(matches!(library.open_copy(&inner), Err(OpenError::Gone)));
    view.until("gone", |view| view.copies.is_empty()).await;
}

#[tokio::test]
async fn files_that_are_not_offered_have_a_reason() {
    let whole = clip("A.mp4");
    let bad: &[(&str, &[u8])] = &[
        ("empty.mp4", b""),
        ("text.mp4", b"not a film"),
        ("half.mp4", &whole[..whole.len() / 2]),
        ("live/film.mp4", &whole),
        ("new\nline.mp4", &whole),
        (".hidden.mp4", b""),
        ("copy.mp4.part", b""),
        ("backup.mp4~", b""),
        ("x.tmp", b""),
    ];
    let mut test = TestLibrary::with(bad).await;
    let reasons: Vec<_> =
        test.library.rejected().into_iter().map(|rejected| format!("{}: {}", rejected.path, rejected.reason)).collect();
    assert_eq!(
        reasons,
        [
            "empty.mp4: the file is empty",
            "half.mp4: the file ends before the end of its media; copy it again",
            "live/film.mp4: names under live/ are those of feeds; move it to another folder",
            "new\nline.mp4: a title must not contain control or invisible characters; this one has U+000A",
            "text.mp4: not MP4, Matroska, WebM or MPEG-TS",
        ]
    );
    assert_eq!((test.view.rejected, test.library.stats().titles), (5, 0));
    // A repaired file is offered and no longer counted.
    put_old(&test.dir.path().join("aside"), &whole);
    fs::rename(test.dir.path().join("aside"), test.path("half.mp4")).expect("repair");
    fs::remove_file(test.path("empty.mp4")).expect("remove");
    test.view.until("repaired", |view| view.rejected == 3 && view.names() == ["half.mp4"]).await;
}

#[tokio::test]
async fn a_changed_file_is_not_served_as_the_old_one() {
    let mut test = TestLibrary::with(&[("a.mp4", &mp4(1, 200_000))]).await;
    test.library.hashed().await;
    let copy = test.find("a.mp4");
    let before = test.library.open_copy(&copy).expect("open");
    put_old(&test.dir.path().join("aside"), &mp4(2, 200_000));
    fs::rename(test.dir.path().join("aside"), test.path("a.mp4")).expect("replace");
    assert!(matches!(test.library.open_copy(&copy), Err(OpenError::Changed)));
    let wanted = Some(id(&mp4(2, 200_000)));
    test.view.until("replaced", |view| view.find("a.mp4").is_some_and(|copy| copy.content == wanted)).await;
    // A session that has it open reads the old file, but gets no more hashes.
    let mut buf = vec![0; 300_000];
    assert_eq!(before.read_at(0, &mut buf).expect("read"), mp4(1, 200_000).len());
    assert_eq!(buf[..mp4(1, 200_000).len()], mp4(1, 200_000));
    assert!(before.group_values(0).is_err());
}

#[tokio::test]
async fn silent_corruption_is_found_by_a_recheck_and_stays_rejected() {
    let mut test = TestLibrary::with(&[("a.mp4", &mp4(1, 200_000)), ("b.mp4", &mp4(2, 300_000))]).await;
    test.library.hashed().await;
    let (good, bad) = (test.find("a.mp4"), test.find("b.mp4"));
    let open_before = test.library.open_copy(&bad).expect("open");
    rot(&test.path("b.mp4"), 250_000);
    assert!(test.library.open_copy(&bad).is_ok(), "nothing tells of it");
    let recheck = |copy: &Copy| test.library.recheck(&copy.title, copy.content.expect("hashed"));
    assert_eq!((recheck(&good), recheck(&bad)), (1, 1));
    assert_eq!(test.library.recheck(&bad.title, id(b"other content")), 0);
    test.view.until("found", |view| view.names() == ["a.mp4"] && view.damaged == 1 && view.rejected == 1).await;
    open_before.damaged().await;
    assert!(test.library.open_copy(&bad).is_err());
    // The other title was verified before it and is unchanged.
    assert_eq!(test.find("a.mp4"), good);
    let open_good = test.library.open_copy(&good).expect("open");
    assert_eq!(tree::root(&open_good.group_values(0).expect("values")), good.content);
    let reasons = test.library.rejected();
    assert!(reasons[0].path == "b.mp4" && reasons[0].reason.contains("damaged"), "{reasons:?}");
    // Neither an inspection nor a restart offers it again.
    test.library.0.shared.reinspect(0, "b.mp4");
    test.library.close().await;
    let TestLibrary { dir, library, view } = test;
    drop((library, view, open_good, open_before));
    let again = open(dir.path()).await;
    let stats = again.stats();
    assert_eq!((stats.titles, stats.rejected_files, stats.damaged_files), (1, 1, 1));
    assert_eq!((stats.probed_files, stats.hashed_bytes), (0, 0));
    // Replaced, it is offered like any other file.
    let mut view = CatalogView::new(&again);
    put_old(&dir.path().join("aside"), &mp4(2, 300_000));
    fs::rename(dir.path().join("aside"), dir.path().join("films/b.mp4")).expect("replace");
    let back = |view: &CatalogView| view.find("b.mp4").is_some_and(|copy| copy.content == bad.content);
    view.until("replaced", |view| back(view) && view.damaged == 0 && view.rejected == 0).await;
}
