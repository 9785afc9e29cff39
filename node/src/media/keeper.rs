//! The keeper: one thread that keeps the catalog true to the folders. Scans, listens, waits for files to be complete,
//! looks after volumes that go and come back. The only one that decides what is offered.

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
    index::{Finding, Known},
    scan::{self, Look},
    settle::Settle,
    shared::Shared,
    volume::{Fingerprint, Volume, parent},
    walk::{self, Seen},
    watch::{Hint, Message, Watch},
};

/// How often volumes are looked after: whether they are there, and whether one that went is back.
const ROUND: Duration = Duration::from_secs(3);

/// How often everything is scanned when some folder cannot be watched.
const RESCAN: Duration = Duration::from_secs(30);

/// How long findings may stay off the disk: lost ones are found again.
const FLUSH: Duration = Duration::from_secs(2);

pub(crate) struct Keeper {
    shared: Arc<Shared>,
    watch: Watch,
    events: Receiver<Message>,
    settle: Settle,
}

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>, watch: Watch, events: Receiver<Message>) -> Self {
        Self { shared, watch, events, settle: Settle::default() }
    }

    /// Runs until the library is closed.
    pub(crate) fn run(mut self) {
        let shared = self.shared.clone();
        self.scan_all();
        let (mut round, mut flush) = (Instant::now() + ROUND, Instant::now() + FLUSH);
        let (mut rescan, mut scanned) = (Instant::now() + RESCAN, false);
        while !shared.stopping() {
            if !scanned && !self.settle.scan_waits() {
                scanned = true;
                shared.progress.send_modify(|progress| progress.scanned = true);
            }
            let now = Instant::now();
            let next = self.settle.deadline().map_or(round, |at| at.min(round)).min(flush);
            match self.events.recv_timeout(next.saturating_duration_since(now)) {
                Ok(message) => self.message(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if shared.overflow.swap(false, Ordering::AcqRel) {
                tracing::warn!("too many changes at once in the media folders; all are scanned again");
                self.scan_all();
            }
            self.settled();
            let now = Instant::now();
            if now >= round {
                shared.volumes.iter().for_each(|volume| self.check(volume));
                round = Instant::now() + ROUND;
            }
            if now >= rescan {
                if shared.unwatched.swap(false, Ordering::AcqRel) {
                    self.scan_all();
                }
                rescan = Instant::now() + RESCAN;
            }
            if now >= flush {
                self.flush();
                flush = Instant::now() + FLUSH;
            }
        }
        self.flush();
    }

    fn flush(&self) {
        if let Err(error) = self.shared.index.flush() {
            tracing::error!(error = format!("{error:#}"), "what was found is not on the disk");
        }
    }

    fn scan_all(&mut self) {
        let shared = self.shared.clone();
        for volume in &shared.volumes {
            if volume.is_up() {
                self.scan(volume, Path::new(""));
            }
        }
    }

    fn scan(&mut self, volume: &Volume, folder: &Path) {
        let young = scan::folder(&self.shared, &self.watch, volume, folder);
        let now = Instant::now();
        for (place, fingerprint) in young {
            scan::withdraw(&self.shared, volume, &place.1);
            self.settle.found(now, place, fingerprint);
        }
    }

    /// Looks whether a volume went or came back.
    fn check(&mut self, volume: &Volume) {
        let Some(there) = volume.check() else { return };
        self.settle.gone(volume.number, Path::new(""));
        if there {
            tracing::info!(volume = ?volume.path, "media folder is there; scanning");
            self.scan(volume, Path::new(""));
        } else {
            tracing::error!(volume = ?volume.path, "media folder is gone; its titles are not offered");
            let titles = self.shared.catalog.of_volume(volume.number);
            titles.into_iter().for_each(|title| self.shared.withdraw(volume.number, title));
        }
    }

    fn message(&mut self, message: Message) {
        let shared = self.shared.clone();
        let (volume, path, done) = match message {
            Message::Stop => return,
            Message::Event(hint, path) => {
                let volume = shared.volumes.iter().find_map(|of| of.relative(&path).map(|path| (of, path.to_owned())));
                let Some((volume, path)) = volume else { return };
                let done = self.event(hint, volume, &path);
                (volume, path, done)
            }
            Message::Look(volume, path) => {
                let Some(volume) = shared.volume(volume) else { return };
                let done = self.look(volume, &path, Settled::No);
                (volume, path, done)
            }
            Message::Unreadable(volume, path, id, reason) => {
                let Some(volume) = shared.volume(volume) else { return };
                let done = self.unreadable(volume, &path, id, reason);
                (volume, path, done)
            }
            Message::Damaged(volume, path, id) => {
                let Some(volume) = shared.volume(volume) else { return };
                let done = self.damaged(volume, &path, id);
                (volume, path, done)
            }
        };
        if let Err(error) = done {
            let path = volume.path.join(path);
            tracing::error!(?path, error = format!("{error:#}"), "change not taken");
        }
    }

    fn event(&mut self, hint: Hint, volume: &Volume, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() {
            self.check(volume);
            return Ok(());
        }
        if walk::skipped_path(path) {
            return Ok(());
        }
        let place = (volume.number, path.to_owned());
        match hint {
            Hint::Written => {
                if self.settle.written(Instant::now(), place) {
                    // Its index entry goes too: within the clock's resolution a change may leave no trace.
                    scan::apply(&self.shared, volume, vec![(path.to_owned(), Finding::Gone)])?;
                }
                Ok(())
            }
            Hint::Complete => {
                self.settle.done(&place);
                self.look(volume, path, Settled::Yes)
            }
            Hint::Gone | Hint::Created | Hint::Touched => self.look(volume, path, Settled::No),
        }
    }

    /// Looks at a path, whatever is there.
    fn look(&mut self, volume: &Volume, path: &Path, settled: Settled) -> Result<()> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let folder = match volume.open_folder(parent(path)) {
            Ok(folder) => folder,
            Err(_) => return self.forget(volume, path),
        };
        let seen = walk::look(&folder, name).context("look at the file")?;
        match seen {
            Seen::Nothing => self.forget(volume, path),
            Seen::Folder => {
                self.scan(volume, path);
                Ok(())
            }
            Seen::File(_) if self.settle.waits(&(volume.number, path.to_owned())) => Ok(()),
            Seen::File(fingerprint) => {
                let key = self.shared.key(volume, path);
                let known = self.shared.index.known(&[key])?.pop().flatten();
                if matches!(known, Some(Known::Damaged(of)) if of == fingerprint) {
                    return Ok(());
                }
                let settled = match &known {
                    // Its permissions may have changed: that leaves no trace in the fingerprint.
                    Some(Known::Rejected(_)) => Settled::Yes,
                    Some(Known::Offered(entry)) if entry.fingerprint == fingerprint => Settled::Yes,
                    _ => settled,
                };
                if settled == Settled::No {
                    scan::withdraw(&self.shared, volume, path);
                    self.settle.appeared(Instant::now(), (volume.number, path.to_owned()), fingerprint);
                    return Ok(());
                }
                let known = known.filter(|known| matches!(known, Known::Offered(_)));
                self.take(
                    volume,
                    path,
                    scan::file(&self.shared, volume, &folder, (name.as_bytes(), path), known, false),
                )
            }
        }
    }

    fn take(&mut self, volume: &Volume, path: &Path, look: Look) -> Result<()> {
        match look {
            Look::Same => Ok(()),
            Look::Young(fingerprint) => {
                self.settle.appeared(Instant::now(), (volume.number, path.to_owned()), fingerprint);
                Ok(())
            }
            Look::Found(finding) => scan::apply(&self.shared, volume, vec![(path.to_owned(), finding)]),
        }
    }

    /// Forgets a path and all below it.
    fn forget(&mut self, volume: &Volume, path: &Path) -> Result<()> {
        self.settle.gone(volume.number, path);
        if !volume.is_up() {
            return Ok(());
        }
        scan::apply(&self.shared, volume, vec![(path.to_owned(), Finding::Gone)])?;
        scan::sweep(&self.shared, volume, path)
    }

    /// Looks at the files whose time has come.
    fn settled(&mut self) {
        let shared = self.shared.clone();
        while let Some(place) = self.settle.due(Instant::now()) {
            let Some(volume) = shared.volume(place.0) else { return self.settle.done(&place) };
            let complete = match self.fingerprint(volume, &place.1) {
                Some(fingerprint) => self.settle.seen(Instant::now(), place.clone(), fingerprint),
                None => {
                    self.settle.done(&place);
                    true
                }
            };
            if complete && let Err(error) = self.look(volume, &place.1, Settled::Yes) {
                let path = volume.path.join(&place.1);
                tracing::error!(?path, error = format!("{error:#}"), "change not taken");
            }
        }
    }

    fn fingerprint(&self, volume: &Volume, path: &Path) -> Option<Fingerprint> {
        let folder = volume.open_folder(parent(path)).ok()?;
        match walk::look(&folder, path.file_name()?) {
            Ok(Seen::File(fingerprint)) => Some(fingerprint),
            _ => None,
        }
    }

    /// Rejects a file that could not be hashed, if it is still the same.
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

    /// Takes a file out of the offer whose bytes are not what they were, if it is still the same, and ends its sessions.
    fn damaged(&mut self, volume: &Volume, path: &Path, id: u64) -> Result<()> {
        let key = self.shared.key(volume, path);
        let Some(entry) = self.shared.index.entry(&key)?.filter(|entry| entry.id == id) else { return Ok(()) };
        let content = entry.content.map(|content| content.to_string()).unwrap_or_default();
        let reason = format!("damaged: its bytes are not those of {content} any more; replace it from another copy");
        tracing::error!(
            path = ?volume.path.join(path),
            content,
            "file damaged: its bytes are not what they were, though its size and time are; it is not offered until it is replaced from another copy (`usher locate` tells who has one)"
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
enum Settled {
    Yes,
    No,
}
