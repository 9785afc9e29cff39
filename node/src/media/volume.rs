//! One volume: a folder that holds titles. Owns the rule that nothing outside it is ever opened: every part of a path
//! is opened from the directory before it, and no link is followed. Knows nothing of what is in the files.

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

use super::catalog::lock;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fingerprint {
    /// Bytes.
    pub(crate) size: u64,
    /// Nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
    /// A file replaced by another within the clock's resolution differs here.
    pub(crate) inode: u64,
    /// Not compared: one disk may have another number after each boot.
    pub(crate) device: u64,
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)
    }
}

impl Eq for Fingerprint {}

impl Fingerprint {
    /// Of an open regular file; `None` for anything else.
    pub(crate) fn of(file: &File) -> io::Result<Option<Self>> {
        let stat = fstat(file)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(regular.then(|| Self::from_stat(&stat)))
    }

    /// From what the system tells.
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

    /// Whether the file was written within `age` of `now`: it may still be.
    pub(crate) fn younger_than(&self, age: Duration, now: SystemTime) -> bool {
        let modified = Duration::from_nanos(u64::try_from(self.mtime_ns).unwrap_or(0));
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        now.abs_diff(modified) < age
    }
}

/// What lies under a path of a volume.
pub(crate) enum Node {
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
    /// Without links.
    pub(crate) path: PathBuf,
    /// `None` while the folder is away.
    root: Mutex<Option<Arc<OwnedFd>>>,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Without `NONBLOCK` opening a pipe would wait for its writer.
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

    /// Looks whether the folder is there, and is the one that was opened. `Some(true)`: it is back or another one.
    /// `Some(false)`: it went away. `None`: as before.
    pub(crate) fn check(&self) -> Option<bool> {
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

    /// Whether the folder is there.
    pub(crate) fn is_up(&self) -> bool {
        lock(&self.root).is_some()
    }

    fn root(&self) -> io::Result<Arc<OwnedFd>> {
        lock(&self.root).clone().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Opens a folder of the volume; the empty path is the volume's own.
    pub(crate) fn open_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let root = self.root()?;
        // Another description of the root: reading its entries moves a position that must not be shared.
        let mut folder = openat(root.as_fd(), ".", FOLDER, Mode::empty())?;
        for part in path.as_os_str().as_bytes().split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            if matches!(part, b"." | b"..") {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            folder = openat(&folder, part, FOLDER, Mode::empty())?;
        }
        Ok(folder)
    }

    /// Opens what is at a path of the volume.
    pub(crate) fn open_node(&self, path: &Path) -> io::Result<Node> {
        let Some(name) = path.file_name() else { return Ok(Node::Folder) };
        let folder = match self.open_folder(parent(path)) {
            Ok(folder) => folder,
            Err(error) => return absent(error),
        };
        open_in(&folder, name.as_bytes())
    }

    /// A path below the volume's folder, from one that the watcher tells.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.strip_prefix(&self.path).ok()
    }
}

/// The folder of a path; of a path of one part, the volume's own.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new(""))
}

/// Opens what has this name in a folder.
pub(crate) fn open_in(folder: &OwnedFd, name: &[u8]) -> io::Result<Node> {
    let file = match openat(folder, name, FILE, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(error) => return absent(error.into()),
    };
    match Fingerprint::of(&file)? {
        Some(fingerprint) => Ok(Node::File(file, fingerprint)),
        None if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Directory => Ok(Node::Folder),
        None => Ok(Node::Other),
    }
}

/// What a failure to open says about what is there.
fn absent(error: io::Error) -> io::Result<Node> {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => Ok(Node::Missing),
        // A link, a socket, a device without a driver.
        Some(Errno::LOOP | Errno::NXIO | Errno::NODEV) => Ok(Node::Other),
        _ if error.kind() == io::ErrorKind::NotFound => Ok(Node::Missing),
        _ => Err(error),
    }
}
