//! The folder of copies ordered by the master. Each copy is two files, named by its content id and, since two titles
//! may have the same content, a hash of its title: the bytes (`.part`, or `.media` once complete), and `.meta`: the
//! set-up information as a frame of `usher/1`, then the values of all pages and of all groups. Everything is verified
//! before it is used; other files in the folder are left alone. Knows no quota and no catalog.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, OFlags, flock, statvfs};
use usher_files::Existing;
use usher_media::probe;
use usher_proto::{
    ContentId, Title,
    model::SetupInfo,
    pb::v1::Setup,
    tree::{self, GROUP, PAGE_GROUPS, Value},
    wire::{self, Decoder, Frame, HEADER, Kind, MAX_SETUP},
};

use super::super::read::read_at;
use crate::core::quota;

/// Bytes of a hash value.
const VALUE: u64 = size_of::<Value>() as u64;

/// The file that is locked by the folder's process.
const LOCK: &str = "lock";

/// The extensions, by [`FileKind`].
const EXTENSIONS: [&str; 3] = ["media", "part", "meta"];

/// The kinds of a copy's files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Media = 0,
    Part = 1,
    Meta = 2,
}

/// The name of a copy's files, without extension.
pub(super) fn name(title: &Title, content: ContentId) -> String {
    let hash = blake3::hash(title.as_str().as_bytes()).to_hex();
    format!("{content}-{}", &hash[..16])
}

/// The name and kind of a file, if it is one of this folder's.
fn split(file: &str) -> Option<(&str, FileKind)> {
    let (name, end) = file.split_once('.')?;
    let (content, title) = name.split_once('-')?;
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let ours = content.len() == 64 && title.len() == 16 && hex(content) && hex(title);
    let end =
        [FileKind::Media, FileKind::Part, FileKind::Meta].into_iter().find(|known| EXTENSIONS[*known as usize] == end);
    end.filter(|_| ours).map(|end| (name, end))
}

/// A copy found in the folder.
pub(super) enum FoundReplica {
    Complete(Box<Setup>, SystemTime),
    /// Name, bytes of its files, and last modification.
    Partial(String, u64, SystemTime),
}

/// Why a copy's files cannot be used.
pub(super) enum ReplicaFileError {
    /// They are damaged.
    Content(String),
    /// They cannot be read now.
    Io(io::Error),
}

impl From<io::Error> for ReplicaFileError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Content("one of its two files is missing".to_owned()),
            io::ErrorKind::UnexpectedEof => Self::Content("it is truncated".to_owned()),
            _ => Self::Io(error),
        }
    }
}

/// The folder, locked for this process.
pub(super) struct ReplicaFolder {
    path: PathBuf,
    /// Keeps the folder locked.
    _lock: File,
}

fn options() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

/// Opens an existing file to write.
fn own(path: &Path) -> io::Result<File> {
    usher_files::existing(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl ReplicaFolder {
    /// A volume that contains the folder or lies in it. Checked before the folder is created: nothing is written into
    /// an operator's volume, not even a folder.
    pub(super) fn overlap<'a>(path: &Path, mut volumes: impl Iterator<Item = &'a Path>) -> Option<&'a Path> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let real = path.ancestors().find_map(|above| above.canonicalize().ok()).unwrap_or_default();
        let exists = path.exists();
        volumes.find(|volume| real.starts_with(volume) || (exists && volume.starts_with(&real)))
    }

    /// Opens or creates the folder.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let text = path.display();
        usher_files::private_folder(path, LOCK).with_context(|| format!("create the folder of copies {text}"))?;
        let path = path.canonicalize().with_context(|| format!("open the folder of copies {text}"))?;
        let lock = usher_files::open_own(&path.join(LOCK), 0o600);
        let lock = lock.with_context(|| format!("write to the folder of copies {text}"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!("the folder of copies {text} is in use by another node: give each its own with --replicas")
            }
            Err(error) => Err(error).with_context(|| format!("lock the folder of copies {text}")),
        }
    }

    fn file(&self, name: &str, end: FileKind) -> PathBuf {
        self.path.join(format!("{name}.{}", EXTENSIONS[end as usize]))
    }

    /// Bytes free on its disk for unprivileged users.
    pub(super) fn free(&self) -> io::Result<u64> {
        let stat = statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The copies in the folder. Damaged ones are deleted with a warning: the master can order them again.
    pub(super) fn scan(&self) -> Result<Vec<FoundReplica>> {
        let read = || format!("read the folder of copies {}", self.path.display());
        let mut names = std::collections::BTreeMap::<String, [bool; 3]>::new();
        for entry in fs::read_dir(&self.path).with_context(read)? {
            let file = entry.with_context(read)?.file_name();
            if let Some((name, end)) = file.to_str().and_then(split) {
                names.entry(name.to_owned()).or_default()[end as usize] = true;
            }
        }
        let mut found = Vec::new();
        for (name, ends) in names {
            let one = if ends[FileKind::Media as usize] { self.find_complete(&name) } else { self.find_partial(&name) };
            match one {
                Ok(one) => found.push(one),
                Err(ReplicaFileError::Content(why)) => {
                    tracing::warn!(name, why, "copy damaged: deleted");
                    self.remove(&name);
                }
                Err(ReplicaFileError::Io(error)) => {
                    tracing::warn!(name, %error, "copy unreadable: not offered")
                }
            }
        }
        Ok(found)
    }

    fn find_complete(&self, name: &str) -> Result<FoundReplica, ReplicaFileError> {
        let data = options().open(self.file(name, FileKind::Media))?;
        let (setup, content, files) = self.with_meta(name, data)?;
        if files.data.metadata()?.len() != files.size {
            return Err(ReplicaFileError::Content("the length of its file is not that of its title".to_owned()));
        }
        let modified = files.data.metadata()?.modified()?;
        let pages = files.page_values()?;
        for page in 0..tree::pages(files.size) {
            if files.checked_values(content, &pages, page)?.is_none() {
                return Err(ReplicaFileError::Content("its hashes do not match its content".to_owned()));
            }
        }
        Ok(FoundReplica::Complete(Box::new(setup), modified))
    }

    fn find_partial(&self, name: &str) -> Result<FoundReplica, ReplicaFileError> {
        let (data, meta) =
            (fs::metadata(self.file(name, FileKind::Part))?, fs::metadata(self.file(name, FileKind::Meta))?);
        Ok(FoundReplica::Partial(name.to_owned(), data.len().saturating_add(meta.len()), data.modified()?))
    }

    /// Opens the `.meta` file of a copy.
    fn with_meta(&self, name: &str, data: File) -> Result<(Setup, ContentId, ReplicaFiles), ReplicaFileError> {
        let wrong =
            |what: &dyn std::fmt::Display| ReplicaFileError::Content(format!("invalid set-up information: {what}"));
        let meta = own(&self.file(name, FileKind::Meta))?;
        let mut head = vec![0; HEADER + MAX_SETUP];
        let got = read_at(&meta, 0, &mut head)?;
        if head[0] != Kind::Setup as u8 {
            return Err(wrong(&"the file begins with another frame"));
        }
        let mut decoder = Decoder::default();
        decoder.push(&head[..got]);
        let frame = decoder.next_frame().map_err(|error| wrong(&error))?;
        let Some(Frame::Setup(setup)) = frame else { return Err(wrong(&"truncated")) };
        let info = SetupInfo::try_from(setup.clone()).map_err(|error| wrong(&error))?;
        let content = info.content.ok_or_else(|| wrong(&"it names no content"))?;
        if self::name(&info.title, content) != name || probe::media_type(&info.media_type).is_none() {
            return Err(wrong(&"it belongs to another copy"));
        }
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        Ok((setup, content, ReplicaFiles { data, meta, base: HEADER as u64 + u64::from(len), size: info.size }))
    }

    /// Opens a complete copy.
    pub(super) fn open_complete(&self, name: &str) -> Result<ReplicaFiles, ReplicaFileError> {
        let (_, _, files) = self.with_meta(name, options().open(self.file(name, FileKind::Media))?)?;
        if files.data.metadata()?.len() == files.size {
            Ok(files)
        } else {
            Err(ReplicaFileError::Content("the length of its file is not that of its title".to_owned()))
        }
    }

    /// Creates the files of a copy.
    pub(super) fn create(&self, name: &str, setup: &Setup) -> io::Result<ReplicaFiles> {
        let frame = wire::message(Kind::Setup, setup).ok_or(io::ErrorKind::InvalidData)?;
        let new = |end| {
            let file = usher_files::open_own(&self.file(name, end), 0o600)?;
            file.set_len(0).map(|()| file)
        };
        let meta = new(FileKind::Meta)?;
        meta.write_all_at(&frame, 0)?;
        let data = new(FileKind::Part)?;
        Ok(ReplicaFiles { data, meta, base: frame.len() as u64, size: setup.size })
    }

    /// Opens the files of an incomplete copy, with the number of its valid groups from the first on. Groups that are
    /// `known` to be valid are not hashed again: a ticket is valid for a minute only.
    pub(super) fn reopen(
        &self,
        name: &str,
        known: Option<u64>,
    ) -> Result<(Setup, ReplicaFiles, u64), ReplicaFileError> {
        let data = own(&self.file(name, FileKind::Part))?;
        let (setup, content, files) = self.with_meta(name, data)?;
        let (size, len) = (files.size, files.data.metadata()?.len());
        let bytes = |groups: u64| groups.saturating_mul(GROUP).min(size);
        let groups = match known {
            Some(groups) if bytes(groups) <= len => groups,
            _ => files.verified_groups(content, &|| false)?,
        };
        files.data.set_len(bytes(groups))?;
        Ok((setup, files, groups))
    }

    /// Renames a complete copy into place; returns when all of it is on the disk.
    pub(super) fn complete(&self, name: &str, files: &ReplicaFiles) -> io::Result<()> {
        files.meta.sync_all()?;
        let (draft, target) = (self.file(name, FileKind::Part), self.file(name, FileKind::Media));
        usher_files::place(&files.data, &draft, &target, Existing::Replace)
    }

    /// Deletes a copy's files. Sessions that have them open keep them.
    pub(super) fn remove(&self, name: &str) {
        for end in [FileKind::Media, FileKind::Part, FileKind::Meta] {
            match fs::remove_file(self.file(name, end)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(name, %error, "cannot delete a file of a copy"),
            }
        }
    }
}

/// A copy's open files.
pub(crate) struct ReplicaFiles {
    data: File,
    meta: File,
    /// Offset of the first hash value.
    base: u64,
    /// Bytes of the title.
    size: u64,
}

impl ReplicaFiles {
    /// Reads at `offset` until `buf` is full or the file ends.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_at(&self.data, offset, buf)
    }

    /// The file of the bytes.
    pub(crate) fn media(&self) -> &File {
        &self.data
    }

    fn values(&self, first: u64, count: u64) -> io::Result<Vec<Value>> {
        let count = usize::try_from(count).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut values: Vec<Value> = vec![[0; 32]; count];
        self.meta.read_exact_at(values.as_flattened_mut(), self.base + first * VALUE)?;
        Ok(values)
    }

    /// Chaining values of all pages; empty for a title of one page.
    pub(crate) fn page_values(&self) -> io::Result<Vec<Value>> {
        self.values(0, quota::page_values(self.size))
    }

    /// Chaining values of the groups of one page; empty for a title of one group.
    pub(crate) fn group_values(&self, page: u64) -> io::Result<Vec<Value>> {
        let groups = tree::page_groups(self.size, page);
        let count = if tree::groups(self.size) > 1 { groups.end - groups.start } else { 0 };
        self.values(quota::page_values(self.size) + groups.start, count)
    }

    /// The group values of one page, if they match the content; `pages` are the page values.
    fn checked_values(&self, content: ContentId, pages: &[Value], page: u64) -> io::Result<Option<Vec<Value>>> {
        let values = self.group_values(page)?;
        let good = match usize::try_from(page).ok().and_then(|page| pages.get(page)) {
            Some(expected) => tree::root(pages) == Some(content) && tree::page_value(&values) == *expected,
            None => values.is_empty() || tree::root(&values) == Some(content),
        };
        Ok(good.then_some(values))
    }

    /// Stores the values of all pages.
    pub(super) fn put_pages(&self, values: &[Value]) -> io::Result<()> {
        self.meta.write_all_at(values.as_flattened(), self.base)
    }

    /// Stores the values of a page's groups.
    pub(super) fn put_hashes(&self, page: u64, values: &[Value]) -> io::Result<()> {
        let first = quota::page_values(self.size) + page * PAGE_GROUPS;
        self.meta.write_all_at(values.as_flattened(), self.base + first * VALUE)
    }

    /// Stores a group.
    pub(super) fn put_group(&self, index: u64, data: &[u8]) -> io::Result<()> {
        self.data.write_all_at(data, index * GROUP)
    }

    /// Bytes of both files.
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.data.metadata()?.len().saturating_add(self.meta.metadata()?.len()))
    }

    /// Number of groups, from the first on, that hash to the content: after a power failure a file may have any length
    /// and any bytes. Returns early when `stop` returns true.
    pub(super) fn verified_groups(&self, content: ContentId, stop: &dyn Fn() -> bool) -> io::Result<u64> {
        let cut = |error: io::Error| if error.kind() == io::ErrorKind::UnexpectedEof { Ok(0) } else { Err(error) };
        let pages = match self.page_values() {
            Ok(pages) => pages,
            Err(error) => return cut(error),
        };
        let (mut good, mut buf) = (0, vec![0; GROUP as usize]);
        for page in 0..tree::pages(self.size) {
            if stop() {
                return Ok(good);
            }
            let values = match self.checked_values(content, &pages, page) {
                Ok(Some(values)) => values,
                Ok(None) => return Ok(good),
                Err(error) => return cut(error).map(|_| good),
            };
            for (at, index) in tree::page_groups(self.size, page).enumerate() {
                let len = tree::group_len(self.size, index) as usize;
                let group = &mut buf[..len];
                let is_complete = self.read_at(index * GROUP, group)? == len;
                let is_valid = match values.get(at) {
                    Some(value) => tree::group_value(index, group) == *value,
                    None => tree::single(group) == content,
                };
                if !(is_complete && is_valid) {
                    return Ok(good);
                }
                good += 1;
            }
        }
        Ok(good)
    }
}
