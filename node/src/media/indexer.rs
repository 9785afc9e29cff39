//! The indexer: the thread that keeps the catalog in step with the folders. Scans, handles file system events, waits
//! for files to be complete, and checks whether volumes are present. It alone decides which files are offered.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    debounce::Debouncer,
    index::{Finding, KnownFile},
    scan::{self, Inspection},
    shared::Shared,
    volume::{Fingerprint, Volume, parent},
    walk::{self, EntryKind},
    watch::{ChangeHint, FileReport, FolderWatcher, IndexerMessage},
};

/// Interval between checks whether volumes are present.
const VOLUME_CHECK: Duration = Duration::from_secs(3);

/// Interval between full scans while some folder cannot be watched.
const RESCAN_INTERVAL: Duration = Duration::from_secs(30);

/// Longest time that findings may stay off the disk; after a crash they are found again.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);

pub(crate) struct Indexer {
    shared: Arc<Shared>,
    watch: FolderWatcher,
    events: Receiver<IndexerMessage>,
    debouncer: Debouncer,
}

impl Indexer {
    pub(crate) fn new(shared: Arc<Shared>, watch: FolderWatcher, events: Receiver<IndexerMessage>) -> Self {
        Self { shared, watch, events, debouncer: Debouncer::default() }
    }

    /// Runs until the library is closed.
    pub(crate) fn run(mut self) {
        let shared = self.shared.clone();
        self.scan_all();
        let (mut round, mut flush) = (Instant::now() + VOLUME_CHECK, Instant::now() + FLUSH_INTERVAL);
        let (mut rescan, mut scanned) = (Instant::now() + RESCAN_INTERVAL, false);
        while !shared.stopping() {
            if !scanned && !self.debouncer.scan_is_pending() {
                scanned = true;
                shared.progress.send_modify(|progress| progress.scanned = true);
            }
            let now = Instant::now();
            let next = self.debouncer.next_timeout().map_or(round, |at| at.min(round)).min(flush);
            match self.events.recv_timeout(next.saturating_duration_since(now)) {
                Ok(message) => self.handle_message(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if shared.overflow.swap(false, Ordering::AcqRel) {
                tracing::warn!("too many changes at once: scanning all media folders again");
                self.scan_all();
            }
            self.inspect_due();
            let now = Instant::now();
            if now >= round {
                shared.volumes.iter().for_each(|volume| self.check_volume(volume));
                round = Instant::now() + VOLUME_CHECK;
            }
            if now >= rescan {
                if shared.unwatched.swap(false, Ordering::AcqRel) {
                    self.scan_all();
                }
                rescan = Instant::now() + RESCAN_INTERVAL;
            }
            if now >= flush {
                self.flush();
                flush = Instant::now() + FLUSH_INTERVAL;
            }
        }
        self.flush();
    }

    fn flush(&self) {
        if let Err(error) = self.shared.index.flush() {
            tracing::error!(error = format!("{error:#}"), "cannot write the index to the disk");
        }
    }

    fn scan_all(&mut self) {
        let shared = self.shared.clone();
        for volume in &shared.volumes {
            if volume.is_present() {
                self.scan(volume, Path::new(""));
            }
        }
    }

    fn scan(&mut self, volume: &Volume, folder: &Path) {
        let young = scan::scan_folder(&self.shared, &self.watch, volume, folder);
        let now = Instant::now();
        for (path, fingerprint) in young {
            scan::withdraw(&self.shared, volume, &path.1);
            self.debouncer.handle_found(now, path, fingerprint);
        }
    }

    /// Checks whether a volume was removed or came back.
    fn check_volume(&mut self, volume: &Volume) {
        let Some(there) = volume.refresh() else { return };
        self.debouncer.handle_removed(volume.number, Path::new(""));
        if there {
            tracing::info!(volume = ?volume.path, "media folder present: scanning");
            self.scan(volume, Path::new(""));
        } else {
            tracing::error!(volume = ?volume.path, "media folder missing: its titles are not offered");
            let titles = self.shared.catalog.of_volume(volume.number);
            titles.into_iter().for_each(|title| self.shared.withdraw(volume.number, title));
        }
    }

    fn handle_message(&mut self, message: IndexerMessage) {
        let shared = self.shared.clone();
        let (volume, path, done) = match message {
            IndexerMessage::Stop => return,
            IndexerMessage::Event(hint, path) => {
                let volume = shared.volumes.iter().find_map(|of| of.relative(&path).map(|path| (of, path.to_owned())));
                let Some((volume, path)) = volume else { return };
                let done = self.handle_event(hint, volume, &path);
                (volume, path, done)
            }
            IndexerMessage::File(volume, path, report) => {
                let Some(volume) = shared.volume(volume) else { return };
                let done = match report {
                    FileReport::Outdated => self.inspect(volume, &path, Completeness::Unknown),
                    FileReport::Unreadable(id, reason) => self.unreadable(volume, &path, id, reason),
                    FileReport::Damaged(id) => self.damaged(volume, &path, id),
                };
                (volume, path, done)
            }
        };
        if let Err(error) = done {
            let path = volume.path.join(path);
            tracing::error!(?path, error = format!("{error:#}"), "cannot handle a change of a media file");
        }
    }

    fn handle_event(&mut self, hint: ChangeHint, volume: &Volume, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() {
            self.check_volume(volume);
            return Ok(());
        }
        if walk::is_skipped_path(path) {
            return Ok(());
        }
        let key = (volume.number, path.to_owned());
        match hint {
            ChangeHint::Written => {
                if self.debouncer.handle_written(Instant::now(), key) {
                    // Its index entry is dropped too: within the clock's resolution a change may leave the mtime as it
                    // was.
                    scan::apply(&self.shared, volume, vec![(path.to_owned(), Finding::Gone)])?;
                }
                Ok(())
            }
            ChangeHint::Complete => {
                self.debouncer.handle_complete(&key);
                self.inspect(volume, path, Completeness::Complete)
            }
            ChangeHint::Gone | ChangeHint::Created | ChangeHint::Touched => {
                self.inspect(volume, path, Completeness::Unknown)
            }
        }
    }

    /// Inspects whatever is at a path.
    fn inspect(&mut self, volume: &Volume, path: &Path, completeness: Completeness) -> Result<()> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let folder = match volume.open_folder(parent(path)) {
            Ok(folder) => folder,
            Err(_) => return self.forget(volume, path),
        };
        let seen = walk::entry_kind(&folder, name).context("inspect the file")?;
        match seen {
            EntryKind::Other => self.forget(volume, path),
            EntryKind::Folder => {
                self.scan(volume, path);
                Ok(())
            }
            EntryKind::File(_) if self.debouncer.is_pending(&(volume.number, path.to_owned())) => Ok(()),
            EntryKind::File(fingerprint) => {
                let key = self.shared.key(volume, path);
                let known = self.shared.index.known(&[key])?.pop().flatten();
                if matches!(known, Some(KnownFile::Damaged(of)) if of == fingerprint) {
                    return Ok(());
                }
                let completeness = match &known {
                    // Its permissions may have changed, which the fingerprint does not show.
                    Some(KnownFile::Rejected(_)) => Completeness::Complete,
                    Some(KnownFile::Offered(entry)) if entry.fingerprint == fingerprint => Completeness::Complete,
                    _ => completeness,
                };
                if completeness == Completeness::Unknown {
                    scan::withdraw(&self.shared, volume, path);
                    self.debouncer.handle_appeared(Instant::now(), (volume.number, path.to_owned()), fingerprint);
                    return Ok(());
                }
                let known = known.filter(|known| matches!(known, KnownFile::Offered(_)));
                self.take(
                    volume,
                    path,
                    scan::inspect(&self.shared, volume, &folder, (name.as_bytes(), path), known, false),
                )
            }
        }
    }

    fn take(&mut self, volume: &Volume, path: &Path, inspection: Inspection) -> Result<()> {
        match inspection {
            Inspection::Unchanged => Ok(()),
            Inspection::Young(fingerprint) => {
                self.debouncer.handle_appeared(Instant::now(), (volume.number, path.to_owned()), fingerprint);
                Ok(())
            }
            Inspection::Found(finding) => scan::apply(&self.shared, volume, vec![(path.to_owned(), finding)]),
        }
    }

    /// Removes a path and all below it.
    fn forget(&mut self, volume: &Volume, path: &Path) -> Result<()> {
        self.debouncer.handle_removed(volume.number, path);
        if !volume.is_present() {
            return Ok(());
        }
        scan::apply(&self.shared, volume, vec![(path.to_owned(), Finding::Gone)])?;
        scan::sweep(&self.shared, volume, path)
    }

    /// Inspects the pending files that are due.
    fn inspect_due(&mut self) {
        let shared = self.shared.clone();
        while let Some(path) = self.debouncer.poll_due(Instant::now()) {
            let Some(volume) = shared.volume(path.0) else { return self.debouncer.handle_complete(&path) };
            let complete = match self.fingerprint(volume, &path.1) {
                Some(fingerprint) => self.debouncer.handle_checked(Instant::now(), path.clone(), fingerprint),
                None => {
                    self.debouncer.handle_complete(&path);
                    true
                }
            };
            if complete && let Err(error) = self.inspect(volume, &path.1, Completeness::Complete) {
                let path = volume.path.join(&path.1);
                tracing::error!(?path, error = format!("{error:#}"), "cannot handle a change of a media file");
            }
        }
    }

    fn fingerprint(&self, volume: &Volume, path: &Path) -> Option<Fingerprint> {
        let folder = volume.open_folder(parent(path)).ok()?;
        match walk::entry_kind(&folder, path.file_name()?) {
            Ok(EntryKind::File(fingerprint)) => Some(fingerprint),
            _ => None,
        }
    }

    /// Rejects a file that could not be hashed, unless it changed since.
    fn unreadable(&mut self, volume: &Volume, path: &Path, id: u64, reason: String) -> Result<()> {
        let path: PathBuf = path.to_owned();
        let key = self.shared.key(volume, &path);
        match self.shared.index.entry(&key)? {
            Some(entry) if entry.id == id => {
                scan::apply(&self.shared, volume, vec![(path, Finding::Rejected(None, reason))])
            }
            _ => Ok(()),
        }
    }

    /// Withdraws a file whose bytes changed since it was hashed and ends its sessions, unless the file was replaced.
    fn damaged(&mut self, volume: &Volume, path: &Path, id: u64) -> Result<()> {
        let key = self.shared.key(volume, path);
        let Some(entry) = self.shared.index.entry(&key)?.filter(|entry| entry.id == id) else { return Ok(()) };
        let content = entry.content.map(|content| content.to_string()).unwrap_or_default();
        let reason = format!("damaged: its bytes no longer hash to {content}; replace it from another copy");
        tracing::error!(
            path = ?volume.path.join(path),
            content,
            "file damaged: its bytes changed while its size and time did not; not offered until it is replaced from another copy (`usher locate` shows which nodes hold one)"
        );
        scan::apply(&self.shared, volume, vec![(path.to_owned(), Finding::Damaged(entry.fingerprint, reason))])?;
        self.shared.damaged.send_modify(|ids| {
            ids.insert(id);
        });
        Ok(())
    }
}

/// Whether a file is known to be complete.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Completeness {
    Complete,
    Unknown,
}
