//! The library on real folders. Waits for changes, never for time.

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
    Config, Copy, FindError, Library, OpenError, Subscription,
    clips::{age, clip, folder, mp4, put_old, rot},
};

fn title(name: &str) -> Title {
    Title::parse(name).expect("a title")
}

fn id(data: &[u8]) -> ContentId {
    ContentId(*blake3::hash(data).as_bytes())
}

/// A library on one volume, and its catalog as a subscriber sees it.
struct House {
    dir: TempDir,
    library: Library,
    view: View,
}

struct View {
    subscription: Subscription,
    copies: Vec<CatalogCopy>,
    rejected: u32,
    damaged: u32,
}

impl View {
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

    /// Follows the changes until the catalog is as wanted; the limit only turns a hang into a failure.
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

fn config(dir: &Path) -> Config {
    Config { volumes: vec![dir.join("films")], index: dir.join("state/index.redb"), replicas: None }
}

async fn open(dir: &Path) -> Library {
    let library = Library::open(config(dir)).await.expect("open a library");
    library.scanned().await;
    library
}

impl House {
    async fn with(files: &[(&str, &[u8])]) -> Self {
        let dir = TempDir::new().expect("a folder");
        folder(&dir.path().join("films"), files);
        let library = open(dir.path()).await;
        let view = View::new(&library);
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
    let house = House::with(&[("a.mp4", &film), ("deep/er/f.webm", &web), ("no name", &film)]).await;
    assert_eq!(house.view.names(), ["a.mp4", "deep/er/f.webm", "no name"]);
    house.library.hashed().await;
    let copy = house.find("deep/er/f.webm");
    assert_eq!((copy.content, copy.size, copy.duration_ms), (Some(id(&web)), web.len() as u64, 9008));
    assert_eq!(copy.bitrate.0, web.len() as u64 * 8000 / 9008);
    let open = house.library.open_copy(&copy).expect("open");
    let setup = open.setup();
    assert_eq!((setup.content_id, setup.tracks.len()), (id(&web).to_string(), 2));
    let mut buf = vec![0; web.len() + 10];
    assert_eq!(open.read_at(3, &mut buf).expect("read"), web.len() - 3);
    assert_eq!(buf[..web.len() - 3], web[3..]);
    let stats = house.library.stats();
    assert_eq!((stats.titles, stats.unhashed, stats.rejected_files), (3, 0, 0));
    assert_eq!(house.library.find(&title("a.mp4"), Some(id(&web))), Err(FindError::OtherContent));
    assert_eq!(house.library.find(&title("z.mp4"), None), Err(FindError::NotFound));
}

#[tokio::test]
async fn values_verify() {
    // One group; several; several pages, and a bit.
    let sizes = [1000, 3 * GROUP as usize, 2 * PAGE as usize + 70_000];
    let files: Vec<Vec<u8>> = sizes.iter().zip(1..).map(|(len, seed)| mp4(seed, *len)).collect();
    let house = House::with(&[("0", &files[0]), ("1", &files[1]), ("2", &files[2])]).await;
    for (name, data) in ["0", "1", "2"].iter().zip(&files) {
        let open = house.library.open_copy(&house.find(name)).expect("open");
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
async fn files_come_change_move_and_go() {
    let mut house = House::with(&[("old.mp4", &mp4(1, 100))]).await;
    // A rename into place is complete at once.
    put_old(&house.dir.path().join("aside"), &mp4(2, 200));
    fs::rename(house.dir.path().join("aside"), house.path("new.mp4")).expect("move in");
    house.view.until("added", |view| view.find("new.mp4").is_some_and(|copy| copy.content.is_some())).await;
    // Replaced by a rename, the way careful writers do it.
    put_old(&house.dir.path().join("aside"), &mp4(3, 300));
    fs::rename(house.dir.path().join("aside"), house.path("new.mp4")).expect("replace");
    let wanted = Some(id(&mp4(3, 300)));
    house.view.until("replaced", |view| view.find("new.mp4").is_some_and(|copy| copy.content == wanted)).await;
    // Overwritten in place, to the same size.
    fs::write(house.path("old.mp4"), mp4(9, 100)).expect("overwrite");
    let wanted = Some(id(&mp4(9, 100)));
    house.view.until("overwritten", |view| view.find("old.mp4").is_some_and(|copy| copy.content == wanted)).await;
    fs::rename(house.path("old.mp4"), house.path("renamed.mp4")).expect("rename");
    house.view.until("renamed", |view| view.names() == ["new.mp4", "renamed.mp4"]).await;
    fs::rename(house.path("renamed.mp4"), house.path(".hidden.mp4")).expect("hide");
    fs::remove_file(house.path("new.mp4")).expect("remove");
    house.view.until("gone", |view| view.copies.is_empty()).await;
    assert_eq!(house.library.stats().bytes, 0);
}

#[tokio::test]
async fn a_file_being_written_is_not_offered() {
    let mut house = House::with(&[("other.mp4", &mp4(1, 100))]).await;
    let data = mp4(5, 5000);
    let mut file = File::create(house.path("slow.mp4")).expect("create");
    // All but the last byte would be a truncated file; all of it, with the writer still there, is not complete.
    file.write_all(&data[..4000]).expect("write");
    file.write_all(&data[4000..]).expect("write");
    // Events come in order: when a later file is there, the earlier writes were seen and not taken.
    fs::write(house.path("later.mp4"), mp4(2, 50)).expect("write");
    house.view.until("later.mp4", |view| view.find("later.mp4").is_some()).await;
    assert!(house.view.find("slow.mp4").is_none() && house.view.rejected == 0);
    drop(file);
    house.view.until("slow.mp4", |view| view.find("slow.mp4").is_some()).await;
    // Opened again for writing, it is withdrawn with the first byte.
    let mut file = File::options().append(true).open(house.path("slow.mp4")).expect("open");
    file.write_all(b"\0\0\0\x08free").expect("append");
    house.view.until("withdrawn", |view| view.find("slow.mp4").is_none()).await;
    drop(file);
    house.view.until("back", |view| view.find("slow.mp4").is_some_and(|copy| copy.size == data.len() as u64 + 8)).await;
}

#[tokio::test]
async fn folders_come_move_and_go() {
    let mut house = House::with(&[("a/b/one.mp4", &mp4(1, 100)), ("ab.mp4", &mp4(2, 100))]).await;
    folder(&house.dir.path().join("aside"), &[("x/two.mp4", &mp4(3, 100)), ("three.mp4", &mp4(4, 100))]);
    fs::rename(house.dir.path().join("aside"), house.path("in")).expect("move in");
    house
        .view
        .until("moved in", |view| view.names() == ["a/b/one.mp4", "ab.mp4", "in/three.mp4", "in/x/two.mp4"])
        .await;
    fs::rename(house.path("a"), house.path("z")).expect("rename");
    house.view.until("renamed", |view| view.names() == ["ab.mp4", "in/three.mp4", "in/x/two.mp4", "z/b/one.mp4"]).await;
    // The renamed folder is watched under its new name.
    fs::write(house.path("z/b/four.mp4"), mp4(5, 100)).expect("write");
    house.view.until("added", |view| view.find("z/b/four.mp4").is_some()).await;
    // New folders, made in one go with what is in them.
    fs::create_dir_all(house.path("n/e/w")).expect("make folders");
    fs::write(house.path("n/e/w/five.mp4"), mp4(6, 100)).expect("write");
    house.view.until("nested", |view| view.find("n/e/w/five.mp4").is_some()).await;
    for name in ["in", "z", "n"] {
        fs::remove_dir_all(house.path(name)).expect("remove");
    }
    house.view.until("gone", |view| view.names() == ["ab.mp4"]).await;
}

#[tokio::test]
async fn nothing_outside_a_volume_is_reached() {
    let dir = TempDir::new().expect("a folder");
    let films = folder(&dir.path().join("films"), &[("real.mp4", &mp4(1, 100)), ("sub/in.mp4", &mp4(2, 100))]);
    let secret = folder(&dir.path().join("secret"), &[("s.mp4", &mp4(3, 100)), ("in.mp4", &mp4(4, 100))]);
    symlink(secret.join("s.mp4"), films.join("file.mp4")).expect("link");
    symlink(&secret, films.join("folder")).expect("link");
    symlink(films.join("real.mp4"), films.join("inner.mp4")).expect("link");
    rustix::fs::mknodat(rustix::fs::CWD, films.join("pipe.mp4"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("make a pipe");
    let library = open(dir.path()).await;
    let mut view = View::new(&library);
    assert_eq!(view.names(), ["real.mp4", "sub/in.mp4"]);
    let (real, inner) = (library.find(&title("real.mp4"), None), library.find(&title("sub/in.mp4"), None));
    let (real, inner) = (real.expect("found"), inner.expect("found"));
    // Swapped for links after they were found: the file, and a folder on the way.
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
    let mut house = House::with(bad).await;
    let reasons: Vec<_> = house
        .library
        .rejected()
        .into_iter()
        .map(|rejected| format!("{}: {}", rejected.path, rejected.reason))
        .collect();
    assert_eq!(
        reasons,
        [
            "empty.mp4: the file is empty",
            "half.mp4: the file ends before the end of its media; copy it again",
            "live/film.mp4: names under live/ are those of feeds; move it to another folder",
            "new\nline.mp4: a title must not contain control characters",
            "text.mp4: not MP4, Matroska, WebM or MPEG-TS",
        ]
    );
    assert_eq!((house.view.rejected, house.library.stats().titles), (5, 0));
    // Repaired, it is offered, and counted no more.
    put_old(&house.dir.path().join("aside"), &whole);
    fs::rename(house.dir.path().join("aside"), house.path("half.mp4")).expect("repair");
    fs::remove_file(house.path("empty.mp4")).expect("remove");
    house.view.until("repaired", |view| view.rejected == 3 && view.names() == ["half.mp4"]).await;
}

#[tokio::test]
async fn a_restart_looks_at_nothing_again() {
    let house = House::with(&[("a.mp4", &mp4(1, 100_000)), ("b.mp4", &mp4(2, 100)), ("no.mp4", b"text")]).await;
    house.library.hashed().await;
    let before = house.library.stats();
    assert_eq!((before.probed_files, before.hashed_bytes), (3, before.bytes));
    let copies = house.library.subscribe().page(None, usize::MAX);
    house.library.close().await;
    let House { dir, library, .. } = house;
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
async fn a_changed_file_is_not_served_as_the_old_one() {
    let mut house = House::with(&[("a.mp4", &mp4(1, 200_000))]).await;
    house.library.hashed().await;
    let copy = house.find("a.mp4");
    let before = house.library.open_copy(&copy).expect("open");
    put_old(&house.dir.path().join("aside"), &mp4(2, 200_000));
    fs::rename(house.dir.path().join("aside"), house.path("a.mp4")).expect("replace");
    assert!(matches!(house.library.open_copy(&copy), Err(OpenError::Changed)));
    let wanted = Some(id(&mp4(2, 200_000)));
    house.view.until("replaced", |view| view.find("a.mp4").is_some_and(|copy| copy.content == wanted)).await;
    // Who has it open reads on in the old file, but gets no more hashes.
    let mut buf = vec![0; 300_000];
    assert_eq!(before.read_at(0, &mut buf).expect("read"), mp4(1, 200_000).len());
    assert_eq!(buf[..mp4(1, 200_000).len()], mp4(1, 200_000));
    assert!(before.group_values(0).is_err());
}

#[tokio::test]
async fn a_file_that_rots_in_silence_is_found_when_it_is_doubted_and_stays_out() {
    let mut house = House::with(&[("a.mp4", &mp4(1, 200_000)), ("b.mp4", &mp4(2, 300_000))]).await;
    house.library.hashed().await;
    let (good, bad) = (house.find("a.mp4"), house.find("b.mp4"));
    let open_before = house.library.open_copy(&bad).expect("open");
    rot(&house.path("b.mp4"), 250_000);
    assert!(house.library.open_copy(&bad).is_ok(), "nothing tells of it");
    let recheck = |copy: &Copy| house.library.recheck(&copy.title, copy.content.expect("hashed"));
    assert_eq!((recheck(&good), recheck(&bad)), (1, 1));
    assert_eq!(house.library.recheck(&bad.title, id(b"other content")), 0);
    house.view.until("found", |view| view.names() == ["a.mp4"] && view.damaged == 1 && view.rejected == 1).await;
    open_before.damaged().await;
    assert!(house.library.open_copy(&bad).is_err());
    // The other one was looked at before it, and is as it was.
    assert_eq!(house.find("a.mp4"), good);
    let open_good = house.library.open_copy(&good).expect("open");
    assert_eq!(tree::root(&open_good.group_values(0).expect("values")), good.content);
    let reasons = house.library.rejected();
    assert!(reasons[0].path == "b.mp4" && reasons[0].reason.contains("damaged"), "{reasons:?}");
    // Neither a look at it nor a restart puts it back.
    house.library.0.shared.look_again(0, "b.mp4");
    house.library.close().await;
    let House { dir, library, view } = house;
    drop((library, view, open_good, open_before));
    let again = open(dir.path()).await;
    let stats = again.stats();
    assert_eq!((stats.titles, stats.rejected_files, stats.damaged_files), (1, 1, 1));
    assert_eq!((stats.probed_files, stats.hashed_bytes), (0, 0));
    // Replaced, it is as any other.
    let mut view = View::new(&again);
    put_old(&dir.path().join("aside"), &mp4(2, 300_000));
    fs::rename(dir.path().join("aside"), dir.path().join("films/b.mp4")).expect("replace");
    let back = |view: &View| view.find("b.mp4").is_some_and(|copy| copy.content == bad.content);
    view.until("replaced", |view| back(view) && view.damaged == 0 && view.rejected == 0).await;
}

#[tokio::test]
async fn two_volumes() {
    let dir = TempDir::new().expect("a folder");
    let both = [
        folder(&dir.path().join("one"), &[("a.mp4", &mp4(1, 100))]),
        folder(&dir.path().join("two"), &[("a.mp4", &mp4(2, 100)), ("b.mp4", &mp4(3, 100))]),
    ];
    let config = Config { volumes: both.to_vec(), index: dir.path().join("index"), replicas: None };
    let library = Library::open(config.clone()).await.expect("open");
    library.scanned().await;
    library.hashed().await;
    let view = View::new(&library);
    assert_eq!(view.names(), ["a.mp4", "a.mp4", "b.mp4"]);
    let by_content = |content: &[u8]| library.find(&title("a.mp4"), Some(id(content))).map(|copy| copy.volume);
    assert_eq!((by_content(&mp4(1, 100)), by_content(&mp4(2, 100))), (Ok(0), Ok(1)));
    let error = Library::open(config.clone()).await.err().expect("locked").to_string();
    assert!(error.contains("in use by another node"), "{error}");
    library.close().await;
    drop((library, view));
    // In the other order nothing is hashed again.
    let swapped = Config { volumes: both.iter().rev().cloned().collect(), ..config };
    let library = Library::open(swapped).await.expect("open");
    library.scanned().await;
    assert_eq!((library.stats().hashed_bytes, library.stats().unhashed), (0, 0));
    assert_eq!(library.find(&title("a.mp4"), Some(id(&mp4(1, 100)))).map(|copy| copy.volume), Ok(1));
}

#[tokio::test]
async fn a_volume_goes_and_comes_back() {
    let mut house = House::with(&[("a.mp4", &mp4(1, 1000))]).await;
    house.library.hashed().await;
    let hashed = house.library.stats().hashed_bytes;
    fs::rename(house.dir.path().join("films"), house.dir.path().join("away")).expect("unplug");
    house.view.until("gone", |view| view.copies.is_empty()).await;
    assert_eq!(house.library.find(&title("a.mp4"), None), Err(FindError::NotFound));
    fs::rename(house.dir.path().join("away"), house.dir.path().join("films")).expect("plug in");
    house.view.until("back", |view| view.find("a.mp4").is_some_and(|copy| copy.content.is_some())).await;
    assert_eq!(house.library.stats().hashed_bytes, hashed, "it was known");
    age(&house.path("a.mp4"));
}

#[tokio::test]
async fn a_damaged_index_is_set_aside() {
    let house = House::with(&[("a.mp4", &mp4(1, 1000))]).await;
    house.library.close().await;
    let House { dir, library, view } = house;
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
        let error = Library::open(Config { volumes, index: index.clone(), replicas: None }).await.err().expect(reason);
        assert!(format!("{error:#}").contains(reason), "{error:#}");
    }
}
