//! Looks at everything below a folder: two threads share the work, so that one waits for the disk while the other
//! parses. Owns what is learnt of one file, and how it reaches index, catalog and queue.

use std::{
    ffi::OsStr,
    fs::File,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, PoisonError, atomic::Ordering},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use usher_media::probe::{self, MediaType, ProbeError};
use usher_proto::{Title, model::Origin};

use super::{
    catalog::{Key, Record, lock},
    index::{Entry, Finding, Known},
    settle::{Place, YOUNG},
    shared::Shared,
    volume::{Fingerprint, Node, Volume, open_in, parent},
    walk::{self, Seen},
    watch::Watch,
};

/// Files that are looked at together: one transaction of the index each.
const BATCH: usize = 256;

/// Files not offered that are logged one by one; the rest of a scan is counted.
const TOLD: u64 = 100;

/// Threads of one scan.
const THREADS: usize = 2;

/// A file that is too young to be offered.
pub(crate) type Young = (Place, Fingerprint);

enum Work {
    Folder(PathBuf),
    Files(PathBuf, Vec<Vec<u8>>),
}

#[derive(Default)]
struct Todo {
    work: Vec<Work>,
    busy: usize,
}

/// One scan of one volume.
struct Scan<'a> {
    shared: &'a Shared,
    watch: &'a Watch,
    volume: &'a Volume,
    todo: Mutex<Todo>,
    wake: Condvar,
    young: Mutex<Vec<Young>>,
}

/// Watches and looks at everything below a folder of a volume; the empty path is all of it. Returns the files that
/// may still be written.
pub(crate) fn folder(shared: &Shared, watch: &Watch, volume: &Volume, folder: &Path) -> Vec<Young> {
    shared.not_offered.store(0, Ordering::Relaxed);
    let todo = Todo { work: vec![Work::Folder(folder.to_owned())], busy: 0 };
    let scan = Scan { shared, watch, volume, todo: todo.into(), wake: Condvar::new(), young: Mutex::default() };
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(|| scan.run());
        }
        scan.run();
    });
    if !shared.stopping()
        && let Err(error) = sweep(shared, volume, folder)
    {
        tracing::error!(error = format!("{error:#}"), "the index could not be tidied");
    }
    let more = shared.not_offered.load(Ordering::Relaxed).saturating_sub(TOLD);
    if more > 0 {
        tracing::info!(more, "more files are not offered; they are logged at debug");
    }
    scan.young.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Scan<'_> {
    fn run(&self) {
        while let Some(work) = self.next() {
            if let Err((path, error)) = self.work(work) {
                let path = self.volume.path.join(path);
                tracing::warn!(?path, error = format!("{error:#}"), "not scanned");
            }
            let mut todo = lock(&self.todo);
            todo.busy -= 1;
            if todo.busy == 0 && todo.work.is_empty() {
                self.wake.notify_all();
            }
        }
    }

    fn next(&self) -> Option<Work> {
        let mut todo = lock(&self.todo);
        loop {
            if self.shared.stopping() {
                todo.work.clear();
            }
            if let Some(work) = todo.work.pop() {
                todo.busy += 1;
                return Some(work);
            }
            if todo.busy == 0 {
                return None;
            }
            todo = self.wake.wait(todo).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, work: Work) {
        lock(&self.todo).work.push(work);
        self.wake.notify_one();
    }

    fn work(&self, work: Work) -> Result<(), (PathBuf, anyhow::Error)> {
        match work {
            Work::Folder(path) => self.folder(&path).map_err(|error| (path, error)),
            Work::Files(path, names) => self.files(&path, &names).map_err(|error| (path, error)),
        }
    }

    fn folder(&self, path: &Path) -> Result<()> {
        let absolute = self.volume.path.join(path);
        if let Err(error) = self.watch.add(&absolute)
            && !matches!(error.kind, notify::ErrorKind::PathNotFound)
            && !self.shared.unwatched.swap(true, Ordering::AcqRel)
        {
            // Said once: where one fails, thousands do.
            tracing::warn!(folder = ?absolute, %error, "some folders cannot be watched and are scanned every 30 s; on Linux raise fs.inotify.max_user_watches");
        }
        let folder = self.volume.open_folder(path).context("open folder")?;
        let names = walk::names(&folder).context("read folder")?;
        for name in names.folders {
            self.add(Work::Folder(path.join(OsStr::from_bytes(&name))));
        }
        for names in names.files.chunks(BATCH) {
            self.add(Work::Files(path.to_owned(), names.to_vec()));
        }
        Ok(())
    }

    fn files(&self, path: &Path, names: &[Vec<u8>]) -> Result<()> {
        let folder = self.volume.open_folder(path).context("open folder")?;
        let paths: Vec<PathBuf> = names.iter().map(|name| path.join(OsStr::from_bytes(name))).collect();
        let keys: Vec<Vec<u8>> = paths.iter().map(|path| self.shared.key(self.volume, path)).collect();
        let known = self.shared.index.known(&keys).context("read the index")?;
        let mut findings = Vec::new();
        for ((name, path), known) in names.iter().zip(paths).zip(known) {
            match file(self.shared, self.volume, &folder, (name, &path), known, true) {
                Look::Same => {}
                Look::Young(fingerprint) => lock(&self.young).push(((self.volume.number, path), fingerprint)),
                Look::Found(finding) => findings.push((path, finding)),
            }
        }
        apply(self.shared, self.volume, findings)
    }
}

/// What a look at a file told.
pub(crate) enum Look {
    /// What was known.
    Same,
    /// It may still be written.
    Young(Fingerprint),
    /// News.
    Found(Finding),
}

/// Looks at one file of an open folder; at its content only if it is not as known. With `wait`, a file that was
/// written a moment ago is left for later.
pub(crate) fn file(
    shared: &Shared,
    volume: &Volume,
    folder: &OwnedFd,
    (name, path): (&[u8], &Path),
    known: Option<Known>,
    wait: bool,
) -> Look {
    let seen = match walk::look(folder, OsStr::from_bytes(name)) {
        Ok(Seen::File(fingerprint)) => fingerprint,
        Ok(Seen::Folder | Seen::Nothing) => return Look::Found(Finding::Gone),
        Err(error) => return Look::Found(Finding::Rejected(None, format!("cannot be read: {error}"))),
    };
    match known {
        Some(Known::Offered(entry)) if entry.fingerprint == seen => {
            offer(shared, volume, path, &entry);
            return Look::Same;
        }
        Some(Known::Rejected(fingerprint) | Known::Damaged(fingerprint)) if fingerprint == seen => return Look::Same,
        _ => {}
    }
    if wait && seen.younger_than(YOUNG, SystemTime::now()) {
        return Look::Young(seen);
    }
    match Title::from_bytes(path.as_os_str().as_bytes()) {
        Ok(title) if title.is_live() => {
            let reason = "names under live/ are those of feeds; move it to another folder";
            return Look::Found(Finding::Rejected(Some(seen), reason.to_owned()));
        }
        Ok(_) => {}
        Err(error) => return Look::Found(Finding::Rejected(Some(seen), error.to_string())),
    }
    match open_in(folder, name) {
        Ok(Node::File(file, fingerprint)) => probe_file(shared, file, fingerprint),
        Ok(Node::Folder | Node::Other | Node::Missing) => Look::Found(Finding::Gone),
        // Permissions change without a trace in size and mtime: it is tried again whenever it is met.
        Err(error) => Look::Found(Finding::Rejected(None, format!("cannot be opened: {error}"))),
    }
}

fn probe_file(shared: &Shared, mut file: File, fingerprint: Fingerprint) -> Look {
    shared.probed.fetch_add(1, Ordering::Relaxed);
    let probed = probe::probe(&mut file, fingerprint.size);
    match Fingerprint::of(&file) {
        Ok(Some(after)) if after != fingerprint => return Look::Young(after),
        _ => {}
    }
    Look::Found(match probed {
        Ok(probe) => Finding::Offered(fingerprint, probe),
        Err(ProbeError::Io(error)) => Finding::Rejected(None, format!("cannot be read: {error}")),
        Err(error) => Finding::Rejected(Some(fingerprint), error.to_string()),
    })
}

/// Offers what the index knows, unless it is offered already.
fn offer(shared: &Shared, volume: &Volume, path: &Path, entry: &Entry) {
    let Ok(title) = Title::from_bytes(path.as_os_str().as_bytes()) else { return };
    let key: Key = (title, volume.number);
    if shared.catalog.copy(&key).is_some_and(|copy| copy.id == entry.id) {
        return;
    }
    let record = Record {
        id: entry.id,
        size: entry.fingerprint.size,
        modified_ms: entry.fingerprint.modified_ms(),
        duration_ms: u32::try_from(entry.probe.duration_ms).unwrap_or(u32::MAX),
        content: entry.content,
        media_type: MediaType::of(entry.probe.media_type),
        streamable: entry.probe.streamable,
        origin: Origin::Operator,
    };
    shared.catalog.put(key.clone(), record);
    if entry.content.is_none() {
        shared.queue.push(key, entry.fingerprint.size);
    }
}

/// Writes findings to the index, and offers or withdraws accordingly.
pub(crate) fn apply(shared: &Shared, volume: &Volume, findings: Vec<(PathBuf, Finding)>) -> Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    let (paths, findings): (Vec<PathBuf>, Vec<Finding>) = findings.into_iter().unzip();
    for (path, finding) in paths.iter().zip(&findings) {
        if let Finding::Rejected(_, reason) = finding {
            let path = volume.path.join(path);
            // `Debug` escapes what would forge a line.
            if shared.not_offered.fetch_add(1, Ordering::Relaxed) < TOLD {
                tracing::info!(?path, reason, "file not offered");
            } else {
                tracing::debug!(?path, reason, "file not offered");
            }
        }
    }
    let keys = paths.iter().map(|path| shared.key(volume, path));
    let (entries, delta) = shared.index.take(keys.zip(findings).collect()).context("write the index")?;
    for (path, entry) in paths.iter().zip(entries) {
        match entry {
            Some(entry) => offer(shared, volume, path, &entry),
            None => withdraw(shared, volume, path),
        }
    }
    shared.catalog.count_bad(delta);
    shared.tick();
    Ok(())
}

/// Takes a path out of the offer.
pub(crate) fn withdraw(shared: &Shared, volume: &Volume, path: &Path) {
    if let Ok(title) = Title::from_bytes(path.as_os_str().as_bytes()) {
        shared.withdraw(volume.number, title);
    }
}

/// Forgets what is known below a folder and not there any more.
pub(crate) fn sweep(shared: &Shared, volume: &Volume, folder: &Path) -> Result<()> {
    if !volume.is_up() {
        return Ok(());
    }
    // A disk that is not mounted leaves an empty folder behind: its titles are not to be had, but what was learnt of
    // them is kept for its return.
    let empty = folder.as_os_str().is_empty() && volume.open_folder(folder).and_then(|root| walk::is_empty(&root))?;
    if empty {
        shared.catalog.of_volume(volume.number).into_iter().for_each(|title| shared.withdraw(volume.number, title));
        return Ok(());
    }
    let number = shared.indexed.get(usize::from(volume.number)).copied().unwrap_or(u32::MAX);
    let mut after: Option<Vec<u8>> = None;
    let mut open: Option<(PathBuf, std::io::Result<OwnedFd>)> = None;
    loop {
        let paths = shared.index.paths(number, folder.as_os_str().as_bytes(), after.as_deref(), 1000)?;
        let Some(last) = paths.last().cloned() else { return Ok(()) };
        let mut gone = Vec::new();
        for path in paths {
            let path = PathBuf::from(OsStr::from_bytes(&path));
            let (above, name) = (parent(&path), path.file_name().unwrap_or_default());
            if open.as_ref().is_none_or(|(folder, _)| folder != above) {
                open = Some((above.to_owned(), volume.open_folder(above)));
            }
            let there = match open.as_ref().map(|(_, folder)| folder) {
                Some(Ok(folder)) => !matches!(walk::look(folder, name), Ok(Seen::Folder | Seen::Nothing)),
                _ => false,
            };
            if !there {
                gone.push((path, Finding::Gone));
            }
        }
        apply(shared, volume, gone)?;
        after = Some(last);
    }
}
