//! The scan of a folder with all below it, on two threads: one parses while the other waits for the disk. Owns the
//! inspection of a file, and how its result reaches index, catalog and queue.

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
    copy::{CopyKey, CopyRecord},
    debounce::{VolumePath, YOUNG},
    index::{Finding, IndexEntry, KnownFile},
    shared::Shared,
    volume::{Fingerprint, OpenedPath, Volume, open_entry, parent},
    walk::{self, EntryKind},
    watch::FolderWatcher,
};
use crate::sync::lock;

/// Files inspected together: one transaction of the index each.
const BATCH: usize = 256;

/// Rejected files logged one by one at info; the others of a scan are counted.
const LOGGED_MAX: u64 = 100;

/// Threads of one scan.
const THREADS: usize = 2;

/// A file that is too young to be offered.
pub(crate) type YoungFile = (VolumePath, Fingerprint);

/// Names to inspect in a folder, or, without names, a folder to read.
struct ScanJob {
    folder: PathBuf,
    names: Option<Vec<Vec<u8>>>,
}

#[derive(Default)]
struct ScanQueue {
    jobs: Vec<ScanJob>,
    /// Jobs in progress, which may add others.
    running: usize,
}

/// One scan of one volume.
struct Scan<'a> {
    shared: &'a Shared,
    watch: &'a FolderWatcher,
    volume: &'a Volume,
    queue: Mutex<ScanQueue>,
    wake: Condvar,
    young: Mutex<Vec<YoungFile>>,
}

/// Watches and inspects everything below a folder of a volume; the empty path is the whole volume. Returns the files
/// that may still be written.
pub(crate) fn scan_folder(shared: &Shared, watch: &FolderWatcher, volume: &Volume, folder: &Path) -> Vec<YoungFile> {
    shared.not_offered.store(0, Ordering::Relaxed);
    let queue = ScanQueue { jobs: vec![ScanJob { folder: folder.to_owned(), names: None }], running: 0 };
    let scan = Scan { shared, watch, volume, queue: queue.into(), wake: Condvar::new(), young: Mutex::default() };
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(|| scan.run());
        }
        scan.run();
    });
    if !shared.stopping()
        && let Err(error) = sweep(shared, volume, folder)
    {
        tracing::error!(error = format!("{error:#}"), "cannot remove deleted files from the index");
    }
    let more = shared.not_offered.load(Ordering::Relaxed).saturating_sub(LOGGED_MAX);
    if more > 0 {
        tracing::info!(more, "more files not offered: logged at debug");
    }
    scan.young.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Scan<'_> {
    fn run(&self) {
        while let Some(ScanJob { folder, names }) = self.next() {
            let result = match names {
                None => self.folder(&folder),
                Some(names) => self.files(&folder, &names),
            };
            if let Err(error) = result {
                let path = self.volume.path.join(folder);
                tracing::warn!(?path, error = format!("{error:#}"), "folder not scanned");
            }
            let mut queue = lock(&self.queue);
            queue.running -= 1;
            if queue.running == 0 && queue.jobs.is_empty() {
                self.wake.notify_all();
            }
        }
    }

    fn next(&self) -> Option<ScanJob> {
        let mut queue = lock(&self.queue);
        loop {
            if self.shared.stopping() {
                queue.jobs.clear();
            }
            if let Some(job) = queue.jobs.pop() {
                queue.running += 1;
                return Some(job);
            }
            if queue.running == 0 {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, folder: PathBuf, names: Option<Vec<Vec<u8>>>) {
        lock(&self.queue).jobs.push(ScanJob { folder, names });
        self.wake.notify_one();
    }

    fn folder(&self, path: &Path) -> Result<()> {
        let absolute = self.volume.path.join(path);
        if let Err(error) = self.watch.add(&absolute)
            && !matches!(error.kind, notify::ErrorKind::PathNotFound)
            && !self.shared.unwatched.swap(true, Ordering::AcqRel)
        {
            // Logged once: where one watch fails, thousands do.
            tracing::warn!(folder = ?absolute, %error, "cannot watch some folders: scanning them every 30 s; on Linux raise fs.inotify.max_user_watches");
        }
        let folder = self.volume.open_folder(path).context("open folder")?;
        let names = walk::read_folder(&folder).context("read folder")?;
        for name in names.folders {
            self.add(path.join(OsStr::from_bytes(&name)), None);
        }
        for names in names.files.chunks(BATCH) {
            self.add(path.to_owned(), Some(names.to_vec()));
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
            match inspect(self.shared, self.volume, &folder, (name, &path), known, true) {
                Inspection::Unchanged => {}
                Inspection::Young(fingerprint) => lock(&self.young).push(((self.volume.number, path), fingerprint)),
                Inspection::Found(finding) => findings.push((path, finding)),
            }
        }
        apply(self.shared, self.volume, findings)
    }
}

/// The result of inspecting a file.
pub(crate) enum Inspection {
    /// The stored state is still true.
    Unchanged,
    /// It may still be written.
    Young(Fingerprint),
    /// A new state.
    Found(Finding),
}

/// Inspects one file of an open folder; reads its content only if its fingerprint changed. With `wait`, a file that was
/// written a moment ago is left for later.
pub(crate) fn inspect(
    shared: &Shared,
    volume: &Volume,
    folder: &OwnedFd,
    (name, path): (&[u8], &Path),
    known: Option<KnownFile>,
    wait: bool,
) -> Inspection {
    let seen = match walk::entry_kind(folder, OsStr::from_bytes(name)) {
        Ok(EntryKind::File(fingerprint)) => fingerprint,
        Ok(EntryKind::Folder | EntryKind::Other) => return Inspection::Found(Finding::Gone),
        Err(error) => return Inspection::Found(Finding::Rejected(None, format!("cannot be read: {error}"))),
    };
    match known {
        Some(KnownFile::Offered(entry)) if entry.fingerprint == seen => {
            offer(shared, volume, path, &entry);
            return Inspection::Unchanged;
        }
        Some(KnownFile::Rejected(fingerprint) | KnownFile::Damaged(fingerprint)) if fingerprint == seen => {
            return Inspection::Unchanged;
        }
        _ => {}
    }
    if wait && seen.younger_than(YOUNG, SystemTime::now()) {
        return Inspection::Young(seen);
    }
    match Title::from_bytes(path.as_os_str().as_bytes()) {
        Ok(title) if title.is_live() => {
            let reason = "names under live/ are those of feeds; move it to another folder";
            return Inspection::Found(Finding::Rejected(Some(seen), reason.to_owned()));
        }
        Ok(_) => {}
        Err(error) => return Inspection::Found(Finding::Rejected(Some(seen), error.to_string())),
    }
    match open_entry(folder, name) {
        Ok(OpenedPath::File(file, fingerprint)) => probe_file(shared, file, fingerprint),
        Ok(OpenedPath::Folder | OpenedPath::Other | OpenedPath::Missing) => Inspection::Found(Finding::Gone),
        // Permissions change without a change of size and mtime: it is tried again each time.
        Err(error) => Inspection::Found(Finding::Rejected(None, format!("cannot be opened: {error}"))),
    }
}

fn probe_file(shared: &Shared, mut file: File, fingerprint: Fingerprint) -> Inspection {
    shared.probed.fetch_add(1, Ordering::Relaxed);
    let probed = probe::probe(&mut file, fingerprint.size);
    match Fingerprint::of(&file) {
        Ok(Some(after)) if after != fingerprint => return Inspection::Young(after),
        _ => {}
    }
    Inspection::Found(match probed {
        Ok(probe) => Finding::Offered(fingerprint, probe),
        Err(ProbeError::Io(error)) => Finding::Rejected(None, format!("cannot be read: {error}")),
        Err(error) => Finding::Rejected(Some(fingerprint), error.to_string()),
    })
}

/// Offers an indexed file, unless it is offered already.
fn offer(shared: &Shared, volume: &Volume, path: &Path, entry: &IndexEntry) {
    let Ok(title) = Title::from_bytes(path.as_os_str().as_bytes()) else { return };
    let key: CopyKey = (title, volume.number);
    if shared.catalog.copy(&key).is_some_and(|copy| copy.id == entry.id) {
        return;
    }
    let record = CopyRecord {
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

/// Writes findings to the index, then offers or withdraws the files.
pub(crate) fn apply(shared: &Shared, volume: &Volume, findings: Vec<(PathBuf, Finding)>) -> Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    let (paths, findings): (Vec<PathBuf>, Vec<Finding>) = findings.into_iter().unzip();
    for (path, finding) in paths.iter().zip(&findings) {
        if let Finding::Rejected(_, reason) = finding {
            let path = volume.path.join(path);
            // `Debug` escapes control characters, which could forge a line.
            if shared.not_offered.fetch_add(1, Ordering::Relaxed) < LOGGED_MAX {
                tracing::info!(?path, reason, "file not offered");
            } else {
                tracing::debug!(?path, reason, "file not offered");
            }
        }
    }
    let keys = paths.iter().map(|path| shared.key(volume, path));
    let (entries, delta) = shared.index.apply(keys.zip(findings).collect()).context("write the index")?;
    for (path, entry) in paths.iter().zip(entries) {
        match entry {
            Some(entry) => offer(shared, volume, path, &entry),
            None => withdraw(shared, volume, path),
        }
    }
    shared.catalog.add_rejected(delta);
    shared.tick();
    Ok(())
}

/// Withdraws a path.
pub(crate) fn withdraw(shared: &Shared, volume: &Volume, path: &Path) {
    if let Ok(title) = Title::from_bytes(path.as_os_str().as_bytes()) {
        shared.withdraw(volume.number, title);
    }
}

/// Removes the paths below a folder that no longer exist.
pub(crate) fn sweep(shared: &Shared, volume: &Volume, folder: &Path) -> Result<()> {
    if !volume.is_present() {
        return Ok(());
    }
    // A disk that is not mounted leaves an empty folder behind: its titles are withdrawn, but their entries are kept
    // for its return.
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
                Some(Ok(folder)) => !matches!(walk::entry_kind(folder, name), Ok(EntryKind::Folder | EntryKind::Other)),
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
