//! One volume: a folder that holds titles. Owns the rule that nothing outside it is ever opened: each part of a path is
//! opened relative to the directory before it, and no link is followed. The files' content is left to others.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{FileType, Mode, OFlags, Stat, fstat, open, openat},
    io::Errno,
};

use crate::sync::lock;

/// Identifies a state of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fingerprint {
    /// Bytes.
    pub(crate) size: u64,
    /// Nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
    /// Differs for a file that was replaced within the clock's resolution.
    pub(crate) inode: u64,
    /// Not compared: a disk may get another number at each boot.
    pub(crate) device: u64,
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)
    }
}

impl Eq for Fingerprint {}

impl Fingerprint {
    /// Fingerprint of an open regular file; `None` for anything else.
    pub(crate) fn of(file: &File) -> io::Result<Option<Self>> {
        let stat = fstat(file)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(regular.then(|| Self::from_stat(&stat)))
    }

    /// Fingerprint from the result of a `stat` call.
    pub(crate) fn from_stat(stat: &Stat) -> Self {
        #[allow(clippy::unnecessary_cast, reason = "the fields' widths differ between platforms")]
        let (seconds, nanos, inode, device) =
            (stat.st_mtime as i64, stat.st_mtime_nsec as i64, stat.st_ino as u64, stat.st_dev as u64);
        let mtime_ns = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self { size: u64::try_from(stat.st_size).unwrap_or(0), mtime_ns, inode, device }
    }

    /// Unix milliseconds.
    pub(crate) fn modified_ms(&self) -> i64 {
        self.mtime_ns.div_euclid(1_000_000)
    }

    /// Whether the file was modified within `age` of `now`.
    pub(crate) fn younger_than(&self, age: Duration, now: SystemTime) -> bool {
        let modified = Duration::from_nanos(u64::try_from(self.mtime_ns).unwrap_or(0));
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        now.abs_diff(modified) < age
    }
}

/// The result of opening a path of a volume.
pub(crate) enum OpenedPath {
    File(File, Fingerprint),
    Folder,
    /// A link, a pipe, a device: never offered, not even reported.
    Other,
    Missing,
}

/// A folder of titles.
pub(crate) struct Volume {
    /// Counted from 0, as configured.
    pub(crate) number: u16,
    /// Canonical path.
    pub(crate) path: PathBuf,
    /// `None` while the folder is missing.
    root: Mutex<Option<Arc<OwnedFd>>>,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Without `NONBLOCK`, opening a pipe would wait for its writer.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Volume {
    /// Checks the folders: at least one, each a readable directory, none inside another.
    pub(crate) fn all(paths: &[PathBuf]) -> Result<Vec<Self>> {
        if paths.is_empty() {
            bail!("no media folder: name at least one");
        }
        let mut volumes: Vec<Self> = Vec::new();
        for path in paths {
            let real = path.canonicalize().with_context(|| format!("open media folder {}", path.display()))?;
            let number = u16::try_from(volumes.len()).context("too many media folders: at most 65536")?;
            for other in &volumes {
                if other.path.starts_with(&real) || real.starts_with(&other.path) {
                    bail!(
                        "media folders {} and {} overlap: name the outer one only",
                        other.path.display(),
                        real.display()
                    );
                }
            }
            let volume = Self { number, path: real, root: Mutex::new(None) };
            let root = volume.open_root().with_context(|| format!("open media folder {}", path.display()))?;
            rustix::fs::Dir::read_from(&root)
                .and_then(|mut entries| entries.next().transpose())
                .with_context(|| format!("read media folder {}", path.display()))?;
            *lock(&volume.root) = Some(Arc::new(root));
            volumes.push(volume);
        }
        Ok(volumes)
    }

    fn open_root(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.path, FOLDER, Mode::empty())?)
    }

    /// Checks whether the folder is still the opened one. `Some(true)`: it is back or another one. `Some(false)`: it is
    /// missing. `None`: unchanged.
    pub(crate) fn refresh(&self) -> Option<bool> {
        let identity = |fd: &OwnedFd| fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino));
        let now = self.open_root().ok();
        let mut root = lock(&self.root);
        let same = root.as_deref().and_then(identity) == now.as_ref().and_then(identity);
        if same {
            return None;
        }
        let there = now.is_some();
        *root = now.map(Arc::new);
        Some(there)
    }

    /// Whether the folder is present.
    pub(crate) fn is_present(&self) -> bool {
        lock(&self.root).is_some()
    }

    fn root(&self) -> io::Result<Arc<OwnedFd>> {
        lock(&self.root).clone().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Opens a folder of the volume; the empty path is the volume's own.
    pub(crate) fn open_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let root = self.root()?;
        // A new descriptor for the root: reading entries moves a position that must not be shared.
        let mut folder = openat(root.as_fd(), ".", FOLDER, Mode::empty())?;
        for part in path.as_os_str().as_bytes().split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            if matches!(part, b"." | b"..") {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            folder = openat(&folder, part, FOLDER, Mode::empty())?;
        }
        Ok(folder)
    }

    /// Opens a path of the volume.
    pub(crate) fn open_path(&self, path: &Path) -> io::Result<OpenedPath> {
        let Some(name) = path.file_name() else { return Ok(OpenedPath::Folder) };
        let folder = match self.open_folder(parent(path)) {
            Ok(folder) => folder,
            Err(error) => return absent(error),
        };
        open_entry(&folder, name.as_bytes())
    }

    /// The path relative to the volume's folder, from an absolute one.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.strip_prefix(&self.path).ok()
    }
}

/// The parent folder of a path; empty for a path of one part.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new(""))
}

/// Opens a name in a folder.
pub(crate) fn open_entry(folder: &OwnedFd, name: &[u8]) -> io::Result<OpenedPath> {
    let file = match openat(folder, name, FILE, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(error) => return absent(error.into()),
    };
    match Fingerprint::of(&file)? {
        Some(fingerprint) => Ok(OpenedPath::File(file, fingerprint)),
        None if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Directory => Ok(OpenedPath::Folder),
        None => Ok(OpenedPath::Other),
    }
}

/// The kind of path that a failure to open indicates.
fn absent(error: io::Error) -> io::Result<OpenedPath> {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => Ok(OpenedPath::Missing),
        // A link, a socket, a device without a driver.
        Some(Errno::LOOP | Errno::NXIO | Errno::NODEV) => Ok(OpenedPath::Other),
        _ if error.kind() == io::ErrorKind::NotFound => Ok(OpenedPath::Missing),
        _ => Err(error),
    }
}
