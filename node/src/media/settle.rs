//! When a file is complete. Pure: time is an argument. A file that is written is complete when its writer closes it,
//! or takes its place by a rename; where nobody can tell of a close, when it kept size and mtime for a second.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::volume::Fingerprint;

/// How long a file must stay as it is when no close is expected. Half of the 2 s within which a title must be known.
pub(crate) const QUIET: Duration = Duration::from_secs(1);

/// A file whose mtime is younger than this when it is found may still be written by someone who opened it before.
pub(crate) const YOUNG: Duration = Duration::from_secs(2);

/// How long a close may be missing after the last write: a cut by `truncate` is told as a write, but closes nothing.
const LOST: Duration = Duration::from_secs(60);

/// Whether this platform tells when a writer closes a file.
const CLOSES: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A path on a volume.
pub(crate) type Place = (u16, PathBuf);

struct Dirty {
    /// When to look at it.
    at: Instant,
    /// Its state when it was last looked at.
    last: Option<Fingerprint>,
    /// It was written, and a close will come.
    written: bool,
    /// The scan that found it waits for it.
    scan: bool,
}

/// The files that are not complete.
pub(crate) struct Settle {
    dirty: HashMap<Place, Dirty>,
    order: BTreeSet<(Instant, Place)>,
    from_scan: usize,
    closes: bool,
}

impl Default for Settle {
    fn default() -> Self {
        Self { dirty: HashMap::new(), order: BTreeSet::new(), from_scan: 0, closes: CLOSES }
    }
}

impl Settle {
    /// A file appeared, or changed in a way that no close follows. One that is being written stays so.
    pub(crate) fn appeared(&mut self, now: Instant, place: Place, last: Fingerprint) {
        if !self.dirty.get(&place).is_some_and(|dirty| dirty.written) {
            self.set(place, Dirty { at: now + QUIET, last: Some(last), written: false, scan: false });
        }
    }

    /// A scan found a file that is too young to be sure of.
    pub(crate) fn found(&mut self, now: Instant, place: Place, last: Fingerprint) {
        if !self.dirty.contains_key(&place) {
            self.set(place, Dirty { at: now + QUIET, last: Some(last), written: false, scan: true });
        }
    }

    /// A file was written. Returns whether that is news.
    pub(crate) fn written(&mut self, now: Instant, place: Place) -> bool {
        let news = !self.dirty.get(&place).is_some_and(|dirty| dirty.written);
        let wait = if self.closes { LOST } else { QUIET };
        self.set(place, Dirty { at: now + wait, last: None, written: true, scan: false });
        news
    }

    /// A file is complete, or gone.
    pub(crate) fn done(&mut self, place: &Place) {
        if let Some(old) = self.dirty.remove(place) {
            self.order.remove(&(old.at, place.clone()));
            self.from_scan -= usize::from(old.scan);
        }
    }

    /// Everything below a folder is gone.
    pub(crate) fn gone(&mut self, volume: u16, folder: &Path) {
        let below = |place: &&Place| place.0 == volume && place.1.starts_with(folder);
        let below: Vec<Place> = self.dirty.keys().filter(below).cloned().collect();
        below.iter().for_each(|place| self.done(place));
    }

    /// Whether a file is waited for.
    pub(crate) fn waits(&self, place: &Place) -> bool {
        self.dirty.contains_key(place)
    }

    /// A file to look at now; tell what was seen with [`Self::seen`].
    pub(crate) fn due(&self, now: Instant) -> Option<Place> {
        self.order.first().filter(|(at, _)| *at <= now).map(|(_, place)| place.clone())
    }

    /// Takes what a look at a due file saw. Returns whether the file is complete.
    pub(crate) fn seen(&mut self, now: Instant, place: Place, fingerprint: Fingerprint) -> bool {
        let Some(dirty) = self.dirty.get(&place) else { return false };
        if dirty.last == Some(fingerprint) {
            self.done(&place);
            return true;
        }
        let written = dirty.written;
        // One that changes may do so for ever: no scan waits for it.
        self.set(place, Dirty { at: now + QUIET, last: Some(fingerprint), written, scan: false });
        false
    }

    /// When the next file is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Whether a scan waits for files that it found.
    pub(crate) fn scan_waits(&self) -> bool {
        self.from_scan > 0
    }

    fn set(&mut self, place: Place, dirty: Dirty) {
        self.done(&place);
        self.from_scan += usize::from(dirty.scan);
        self.order.insert((dirty.at, place.clone()));
        self.dirty.insert(place, dirty);
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
        /// A look that sees this size; whether it is complete then.
        Look(u64, bool),
        /// Nothing is due.
        Idle,
    }
    use Do::*;

    /// What happens, whether closes are told, and the steps with their times in milliseconds.
    type Table = (&'static str, bool, &'static [(u64, Do)]);

    fn print(size: u64) -> Fingerprint {
        Fingerprint { size, mtime_ns: 0, inode: 1, device: 1 }
    }

    #[test]
    fn files_settle() {
        let start = Instant::now();
        let tables: &[Table] = &[
            ("hard link", true, &[(0, Appear(5)), (999, Idle), (1000, Look(5, true)), (9000, Idle)]),
            ("grows", true, &[(0, Appear(5)), (1000, Look(6, false)), (1999, Idle), (2000, Look(6, true))]),
            (
                "closed",
                true,
                &[(0, Appear(0)), (10, Write), (1500, Idle), (30_000, Idle), (31_000, Close), (99_999, Idle)],
            ),
            ("paused writer", true, &[(0, Write), (59_999, Idle), (59_999, Write), (60_001, Idle), (70_000, Close)]),
            ("truncated, never closed", true, &[(0, Write), (60_000, Look(5, false)), (61_000, Look(5, true))]),
            (
                "no closes here",
                false,
                &[(0, Write), (999, Write), (1998, Idle), (1999, Look(5, false)), (2999, Look(5, true))],
            ),
            ("appears while written", true, &[(0, Write), (500, Appear(5)), (1500, Idle), (2000, Close)]),
            ("removed", true, &[(0, Appear(5)), (500, Remove), (1000, Idle)]),
            ("young", true, &[(0, Found(5)), (999, Idle), (1000, Look(5, true))]),
            ("young, then written", true, &[(0, Found(5)), (10, Write), (1000, Idle), (1100, Close)]),
        ];
        for (what, closes, steps) in tables {
            let mut settle = Settle { closes: *closes, ..Settle::default() };
            let place = (0, PathBuf::from("a/b"));
            for (at, step) in *steps {
                let now = start + Duration::from_millis(*at);
                match step {
                    Appear(size) => settle.appeared(now, place.clone(), print(*size)),
                    Found(size) => settle.found(now, place.clone(), print(*size)),
                    Write => drop(settle.written(now, place.clone())),
                    Close => settle.done(&place),
                    Remove => settle.gone(0, Path::new("a")),
                    Look(size, complete) => {
                        assert_eq!(settle.due(now), Some(place.clone()), "{what} at {at}");
                        assert_eq!(settle.seen(now, place.clone(), print(*size)), *complete, "{what} at {at}");
                    }
                    Idle => assert_eq!(settle.due(now), None, "{what} at {at}"),
                }
            }
            assert!(settle.deadline().is_none() && settle.order.is_empty() && !settle.scan_waits(), "{what}");
        }
    }

    #[test]
    fn a_scan_does_not_wait_for_what_changes() {
        let (now, place) = (Instant::now(), (0, PathBuf::from("a")));
        let mut settle = Settle::default();
        settle.found(now, place.clone(), print(1));
        assert!(settle.scan_waits());
        assert!(!settle.seen(now + QUIET, place.clone(), print(2)));
        assert!(!settle.scan_waits() && settle.waits(&place));
        assert!(settle.seen(now + QUIET * 2, place, print(2)));
    }

    #[test]
    fn a_write_is_news_once() {
        let (now, place) = (Instant::now(), (0, PathBuf::from("a")));
        let mut settle = Settle::default();
        settle.found(now, place.clone(), print(1));
        assert!(settle.scan_waits());
        assert!(settle.written(now, place.clone()) && !settle.written(now, place.clone()));
        assert!(!settle.scan_waits() && settle.waits(&place), "a scan does not wait for a writer");
        settle.gone(1, Path::new(""));
        assert!(settle.waits(&place), "another volume");
    }
}
