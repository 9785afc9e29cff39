//! Decides when a file is complete. Pure: time is an argument. A file is complete when its writer closes it, when a
//! rename puts it in place, or, where no close is reported, when its size and mtime stay the same for a second.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::volume::Fingerprint;

/// How long a file must stay the same when no close is expected. Half of the 2 s within which a title must be known.
pub(crate) const QUIET: Duration = Duration::from_secs(1);

/// A file whose mtime is younger than this when it is found may still have a writer.
pub(crate) const YOUNG: Duration = Duration::from_secs(2);

/// How long to wait for a close after the last write: `truncate` reports a write, but no close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether this platform reports that a writer closes a file.
const REPORTS_CLOSE: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A path on a volume.
pub(crate) type VolumePath = (u16, PathBuf);

struct PendingFile {
    /// When to check it.
    at: Instant,
    /// Its state at the last check.
    last: Option<Fingerprint>,
    /// It was written, and a close is expected.
    written: bool,
    /// The scan that found it waits for it.
    scan: bool,
}

/// Files that may still be written.
pub(crate) struct Debouncer {
    pending: HashMap<VolumePath, PendingFile>,
    order: BTreeSet<(Instant, VolumePath)>,
    from_scan: usize,
    closes: bool,
}

impl Default for Debouncer {
    fn default() -> Self {
        Self { pending: HashMap::new(), order: BTreeSet::new(), from_scan: 0, closes: REPORTS_CLOSE }
    }
}

impl Debouncer {
    /// A file appeared, or changed in a way that no close follows. A file that is being written stays pending.
    pub(crate) fn handle_appeared(&mut self, now: Instant, path: VolumePath, last: Fingerprint) {
        if !self.pending.get(&path).is_some_and(|pending| pending.written) {
            self.set(path, PendingFile { at: now + QUIET, last: Some(last), written: false, scan: false });
        }
    }

    /// A scan found a file that is too young to be offered.
    pub(crate) fn handle_found(&mut self, now: Instant, path: VolumePath, last: Fingerprint) {
        if !self.pending.contains_key(&path) {
            self.set(path, PendingFile { at: now + QUIET, last: Some(last), written: false, scan: true });
        }
    }

    /// A file was written. Returns whether it was not known to be.
    pub(crate) fn handle_written(&mut self, now: Instant, path: VolumePath) -> bool {
        let is_new = !self.pending.get(&path).is_some_and(|pending| pending.written);
        let wait = if self.closes { CLOSE_TIMEOUT } else { QUIET };
        self.set(path, PendingFile { at: now + wait, last: None, written: true, scan: false });
        is_new
    }

    /// A file is complete, or was removed.
    pub(crate) fn handle_complete(&mut self, path: &VolumePath) {
        if let Some(old) = self.pending.remove(path) {
            self.order.remove(&(old.at, path.clone()));
            self.from_scan -= usize::from(old.scan);
        }
    }

    /// A folder, with all below it, was removed.
    pub(crate) fn handle_removed(&mut self, volume: u16, folder: &Path) {
        let below = |path: &&VolumePath| path.0 == volume && path.1.starts_with(folder);
        let below: Vec<VolumePath> = self.pending.keys().filter(below).cloned().collect();
        below.iter().for_each(|path| self.handle_complete(path));
    }

    /// Whether a file may still be written.
    pub(crate) fn is_pending(&self, path: &VolumePath) -> bool {
        self.pending.contains_key(path)
    }

    /// A file to check now; pass its state to [`Self::handle_checked`].
    pub(crate) fn poll_due(&self, now: Instant) -> Option<VolumePath> {
        self.order.first().filter(|(at, _)| *at <= now).map(|(_, path)| path.clone())
    }

    /// A due file was checked. Returns whether it is complete.
    pub(crate) fn handle_checked(&mut self, now: Instant, path: VolumePath, fingerprint: Fingerprint) -> bool {
        let Some(pending) = self.pending.get(&path) else { return false };
        if pending.last == Some(fingerprint) {
            self.handle_complete(&path);
            return true;
        }
        let written = pending.written;
        // A file may keep changing for ever: no scan waits for it.
        self.set(path, PendingFile { at: now + QUIET, last: Some(fingerprint), written, scan: false });
        false
    }

    /// When the next file is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Whether a scan waits for files that it found.
    pub(crate) fn scan_is_pending(&self) -> bool {
        self.from_scan > 0
    }

    fn set(&mut self, path: VolumePath, pending: PendingFile) {
        self.handle_complete(&path);
        self.from_scan += usize::from(pending.scan);
        self.order.insert((pending.at, path.clone()));
        self.pending.insert(path, pending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Do {
        Appear(u64),
        Found(u64),
        Write,
        Close,
        Remove,
        /// A check that finds this size, and whether the file is complete then.
        Check(u64, bool),
        /// Nothing is due.
        Idle,
    }
    use Do::*;

    /// Name, whether closes are reported, and the steps with their times in milliseconds.
    type Table = (&'static str, bool, &'static [(u64, Do)]);

    fn print(size: u64) -> Fingerprint {
        Fingerprint { size, mtime_ns: 0, inode: 1, device: 1 }
    }

    #[test]
    fn files_become_complete() {
        let start = Instant::now();
        let tables: &[Table] = &[
            ("hard link", true, &[(0, Appear(5)), (999, Idle), (1000, Check(5, true)), (9000, Idle)]),
            ("grows", true, &[(0, Appear(5)), (1000, Check(6, false)), (1999, Idle), (2000, Check(6, true))]),
            (
                "closed",
                true,
                &[(0, Appear(0)), (10, Write), (1500, Idle), (30_000, Idle), (31_000, Close), (99_999, Idle)],
            ),
            ("paused writer", true, &[(0, Write), (59_999, Idle), (59_999, Write), (60_001, Idle), (70_000, Close)]),
            ("truncated, never closed", true, &[(0, Write), (60_000, Check(5, false)), (61_000, Check(5, true))]),
            (
                "no closes here",
                false,
                &[(0, Write), (999, Write), (1998, Idle), (1999, Check(5, false)), (2999, Check(5, true))],
            ),
            ("appears while written", true, &[(0, Write), (500, Appear(5)), (1500, Idle), (2000, Close)]),
            ("removed", true, &[(0, Appear(5)), (500, Remove), (1000, Idle)]),
            ("young", true, &[(0, Found(5)), (999, Idle), (1000, Check(5, true))]),
            ("young, then written", true, &[(0, Found(5)), (10, Write), (1000, Idle), (1100, Close)]),
        ];
        for (what, closes, steps) in tables {
            let mut debouncer = Debouncer { closes: *closes, ..Debouncer::default() };
            let path = (0, PathBuf::from("a/b"));
            for (at, step) in *steps {
                let now = start + Duration::from_millis(*at);
                match step {
                    Appear(size) => debouncer.handle_appeared(now, path.clone(), print(*size)),
                    Found(size) => debouncer.handle_found(now, path.clone(), print(*size)),
                    Write => drop(debouncer.handle_written(now, path.clone())),
                    Close => debouncer.handle_complete(&path),
                    Remove => debouncer.handle_removed(0, Path::new("a")),
                    Check(size, complete) => {
                        assert_eq!(debouncer.poll_due(now), Some(path.clone()), "{what} at {at}");
                        assert_eq!(
                            debouncer.handle_checked(now, path.clone(), print(*size)),
                            *complete,
                            "{what} at {at}"
                        );
                    }
                    Idle => assert_eq!(debouncer.poll_due(now), None, "{what} at {at}"),
                }
            }
            assert!(
                debouncer.next_timeout().is_none() && debouncer.order.is_empty() && !debouncer.scan_is_pending(),
                "{what}"
            );
        }
    }

    #[test]
    fn a_scan_does_not_wait_for_a_changing_file() {
        let (now, path) = (Instant::now(), (0, PathBuf::from("a")));
        let mut debouncer = Debouncer::default();
        debouncer.handle_found(now, path.clone(), print(1));
        assert!(debouncer.scan_is_pending());
        assert!(!debouncer.handle_checked(now + QUIET, path.clone(), print(2)));
        assert!(!debouncer.scan_is_pending() && debouncer.is_pending(&path));
        assert!(debouncer.handle_checked(now + QUIET * 2, path, print(2)));
    }

    #[test]
    fn a_write_is_reported_once() {
        let (now, path) = (Instant::now(), (0, PathBuf::from("a")));
        let mut debouncer = Debouncer::default();
        debouncer.handle_found(now, path.clone(), print(1));
        assert!(debouncer.scan_is_pending());
        assert!(debouncer.handle_written(now, path.clone()) && !debouncer.handle_written(now, path.clone()));
        assert!(!debouncer.scan_is_pending() && debouncer.is_pending(&path), "a scan does not wait for a writer");
        debouncer.handle_removed(1, Path::new(""));
        assert!(debouncer.is_pending(&path), "another volume");
    }
}
