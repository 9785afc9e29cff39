//! The index on disk: the type and hashes of each file, so that a restart neither probes nor hashes unchanged files.
//! One redb file, keyed by the volume's path, so that the order of volumes may change. Does not access the media files.

mod rows;

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, anyhow, bail};
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition,
    TableError, WriteTransaction, backends::FileBackend,
};
use usher_media::probe::Probe;
use usher_proto::tree::{self, Hashes, Value};

pub(crate) use self::rows::IndexEntry;
use self::rows::{FileRow, entry, row};
use super::{copy::RejectedCounts, volume::Fingerprint};

/// Bytes of page cache: enough for the upper levels of a tree; the kernel caches the rest.
const CACHE: usize = 1 << 20;

/// Volume path → number in the index.
const VOLUMES: TableDefinition<'_, &[u8], u32> = TableDefinition::new("volumes");
/// Number of the volume (4 bytes, big endian) and path in it → file.
const FILES: TableDefinition<'_, &[u8], FileRow<'static>> = TableDefinition::new("files.1");
/// The same key → size, mtime, inode, device, reason.
const REJECTED: TableDefinition<'_, &[u8], (u64, i64, u64, u64, &str)> = TableDefinition::new("rejected.1");
/// Keys of the rejected files whose bytes changed since they were hashed.
const DAMAGED: TableDefinition<'_, &[u8], ()> = TableDefinition::new("damaged");
/// File id and page → its group values; the page values are at [`TOP`].
const VALUES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("values.1");
/// The next file id.
const COUNTER: TableDefinition<'_, (), u64> = TableDefinition::new("counter");

/// The page number of a file's page values: no file has so many pages.
const TOP: u64 = u64::MAX;

/// The fingerprint of no real file, so that the next inspection finds a change.
const NEVER: Fingerprint = Fingerprint { size: 0, mtime_ns: i64::MIN, inode: 0, device: 0 };

/// The stored state of a path.
#[derive(Clone, Debug)]
pub(crate) enum KnownFile {
    Offered(IndexEntry),
    Rejected(Fingerprint),
    /// Rejected until its fingerprint changes.
    Damaged(Fingerprint),
}

/// The result of inspecting a path.
pub(crate) enum Finding {
    /// A file to offer.
    Offered(Fingerprint, Probe),
    /// A file not to offer; without a fingerprint it is inspected again each time.
    Rejected(Option<Fingerprint>, String),
    /// A file not to offer because its bytes changed since it was hashed.
    Damaged(Fingerprint, String),
    /// No file, or one to ignore.
    Gone,
}

/// A rejected path and the reason.
pub(crate) type RejectedPath = (Vec<u8>, String);

/// The open index.
pub(crate) struct Index {
    db: Database,
    /// A commit is not on the disk yet.
    unflushed: AtomicBool,
}

/// The key of a path on a volume.
pub(crate) fn key(volume: u32, path: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + path.len());
    key.extend_from_slice(&volume.to_be_bytes());
    key.extend_from_slice(path);
    key
}

impl Index {
    /// Opens or creates the file. A damaged file is renamed aside and replaced: its content can be rebuilt from the
    /// media.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            usher_files::private_folder(parent, &name)
                .with_context(|| format!("create the folder of the index {}", parent.display()))?;
        }
        match Self::try_open(path) {
            Ok(index) => Ok(index),
            Err(error) if damaged(&error) => {
                let mut aside = path.as_os_str().to_owned();
                aside.push(".corrupt");
                tracing::warn!(index = %path.display(), error = format!("{error:#}"), "index damaged: renamed with the suffix .corrupt and rebuilt");
                fs::rename(path, &aside).with_context(|| format!("rename the damaged index {}", path.display()))?;
                Self::try_open(path)
            }
            Err(error) => Err(error),
        }
    }

    fn try_open(path: &Path) -> Result<Self> {
        let file = usher_files::open_own(path, 0o600).with_context(|| format!("open the index {}", path.display()))?;
        let opened =
            FileBackend::new(file).and_then(|file| Database::builder().set_cache_size(CACHE).create_with_backend(file));
        let db = match opened {
            Ok(db) => db,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                bail!("the index {} is in use by another node: give each its own", path.display())
            }
            Err(error) => return Err(error).with_context(|| format!("open the index {}", path.display())),
        };
        let write = db.begin_write().context("begin to write the index")?;
        write.open_table(VOLUMES)?;
        write.open_table(FILES)?;
        write.open_table(REJECTED)?;
        write.open_table(DAMAGED)?;
        write.open_table(VALUES)?;
        write.open_table(COUNTER)?;
        write.commit().context("write the index")?;
        Ok(Self { db, unflushed: AtomicBool::new(false) })
    }

    /// The number of a volume; assigns one to a new volume.
    pub(crate) fn volume_number(&self, path: &[u8]) -> Result<u32> {
        let write = self.db.begin_write()?;
        let number = {
            let mut table = write.open_table(VOLUMES)?;
            let known = table.get(path)?.map(|number| number.value());
            match known {
                Some(number) => number,
                None => {
                    let number = u32::try_from(redb::ReadableTableMetadata::len(&table)?)?;
                    table.insert(path, number)?;
                    number
                }
            }
        };
        write.commit()?;
        Ok(number)
    }

    /// The stored states of these paths.
    pub(crate) fn known(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<KnownFile>>> {
        let read = self.db.begin_read()?;
        let (files, rejected) = (read.open_table(FILES)?, read.open_table(REJECTED)?);
        let damaged = read.open_table(DAMAGED)?;
        let known = |key: &Vec<u8>| -> Result<Option<KnownFile>> {
            if let Some(row) = files.get(key.as_slice())? {
                return Ok(entry(row.value()).map(KnownFile::Offered));
            }
            let Some(row) = rejected.get(key.as_slice())? else { return Ok(None) };
            let (size, mtime_ns, inode, device, _) = row.value();
            let fingerprint = Fingerprint { size, mtime_ns, inode, device };
            let is_damaged = damaged.get(key.as_slice())?.is_some();
            Ok(Some(if is_damaged { KnownFile::Damaged(fingerprint) } else { KnownFile::Rejected(fingerprint) }))
        };
        keys.iter().map(known).collect()
    }

    /// The entry of an offered path.
    pub(crate) fn entry(&self, key: &[u8]) -> Result<Option<IndexEntry>> {
        let read = self.db.begin_read()?;
        let row = read.open_table(FILES)?.get(key)?;
        Ok(row.and_then(|row| entry(row.value())))
    }

    /// Applies findings in one commit, which the next [`Self::flush`] makes durable. Returns the entries of the offered
    /// files, in order, and the changes of the counts of rejected files.
    pub(crate) fn apply(&self, findings: Vec<(Vec<u8>, Finding)>) -> Result<(Vec<Option<IndexEntry>>, RejectedCounts)> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        let (mut entries, mut delta) = (Vec::with_capacity(findings.len()), RejectedCounts::default());
        {
            let (mut files, mut rejected) = (write.open_table(FILES)?, write.open_table(REJECTED)?);
            let mut damaged = write.open_table(DAMAGED)?;
            let mut counter = write.open_table(COUNTER)?;
            let mut next = counter.get(())?.map_or(0, |next| next.value());
            for (key, finding) in findings {
                let key = key.as_slice();
                let old = files.remove(key)?.map(|row| row.value().0);
                if let Some(old) = old {
                    remove_values(&write, old)?;
                }
                delta.rejected -= i64::from(rejected.remove(key)?.is_some());
                delta.damaged -= i64::from(damaged.remove(key)?.is_some());
                if let Finding::Damaged(..) = &finding {
                    damaged.insert(key, ())?;
                    delta.damaged += 1;
                }
                let (at, reason) = match finding {
                    Finding::Offered(fingerprint, probe) => {
                        let entry = IndexEntry { id: next, fingerprint, probe, content: None };
                        next += 1;
                        files.insert(key, row(&entry))?;
                        entries.push(Some(entry));
                        continue;
                    }
                    Finding::Gone => {
                        entries.push(None);
                        continue;
                    }
                    Finding::Rejected(at, reason) => (at.unwrap_or(NEVER), reason),
                    Finding::Damaged(at, reason) => (at, reason),
                };
                rejected.insert(key, (at.size, at.mtime_ns, at.inode, at.device, reason.as_str()))?;
                delta.rejected += 1;
                entries.push(None);
            }
            counter.insert((), next)?;
        }
        write.commit()?;
        self.unflushed.store(true, Ordering::Release);
        Ok((entries, delta))
    }

    /// Stores the hashes of a file, unless it changed since it got this id. Returns whether they were stored.
    pub(crate) fn set_hashes(&self, key: &[u8], id: u64, hashes: &Hashes) -> Result<bool> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut files = write.open_table(FILES)?;
            let known = files.get(key)?.and_then(|row| entry(row.value())).filter(|entry| entry.id == id);
            let Some(mut known) = known else { return Ok(false) };
            known.content = Some(hashes.content);
            files.insert(key, row(&known))?;
            let mut values = write.open_table(VALUES)?;
            for (page, groups) in (0..).zip(hashes.groups.chunks(tree::PAGE_GROUPS as usize)) {
                values.insert((id, page), groups.as_flattened())?;
            }
            if !hashes.pages.is_empty() {
                values.insert((id, TOP), hashes.pages.as_flattened())?;
            }
        }
        write.commit()?;
        self.unflushed.store(true, Ordering::Release);
        Ok(true)
    }

    /// Chaining values of the groups of one page; `None` when the file changed since it got this id.
    pub(crate) fn group_values(&self, id: u64, page: u64) -> Result<Option<Vec<Value>>> {
        let read = self.db.begin_read()?;
        let row = read.open_table(VALUES)?.get((id, page))?;
        Ok(row.map(|row| row.value().as_chunks().0.to_vec()))
    }

    /// Chaining values of all pages; `None` when there are none, or the file changed.
    pub(crate) fn page_values(&self, id: u64) -> Result<Option<Vec<Value>>> {
        self.group_values(id, TOP)
    }

    /// Number of rejected files of a volume, and at most `most` of them with their reasons.
    pub(crate) fn rejected(&self, volume: u32, most: usize) -> Result<(u32, Vec<RejectedPath>)> {
        let read = self.db.begin_read()?;
        let table = read.open_table(REJECTED)?;
        let (mut count, mut some) = (0_u32, Vec::new());
        let (start, end) = span(volume);
        for row in table.range(start.as_slice()..end.as_slice())? {
            let (key, value) = row?;
            count = count.saturating_add(1);
            if some.len() < most {
                some.push((key.value().get(4..).unwrap_or_default().to_vec(), value.value().4.to_owned()));
            }
        }
        Ok((count, some))
    }

    /// Number of damaged files of a volume; they are among the rejected ones.
    pub(crate) fn damaged_count(&self, volume: u32) -> Result<i64> {
        let read = self.db.begin_read()?;
        let table = read.open_table(DAMAGED)?;
        let (start, end) = span(volume);
        table.range(start.as_slice()..end.as_slice())?.try_fold(0, |count, row| Ok(row.map(|_| count + 1)?))
    }

    /// At most `most` known paths below a folder of a volume, after `after`, in order.
    pub(crate) fn paths(&self, volume: u32, folder: &[u8], after: Option<&[u8]>, most: usize) -> Result<Vec<Vec<u8>>> {
        let read = self.db.begin_read()?;
        let mut prefix = key(volume, folder);
        if !folder.is_empty() {
            prefix.push(b'/');
        }
        let start = after.map_or_else(|| prefix.clone(), |after| [&key(volume, after)[..], &[0]].concat());
        let end = span(volume).1;
        let mut found = Vec::new();
        let mut of = |keys: &mut dyn Iterator<Item = Result<Vec<u8>, StorageError>>| -> Result<()> {
            for key in keys.take(most) {
                let key = key?;
                if !key.starts_with(&prefix) {
                    break;
                }
                found.push(key.get(4..).unwrap_or_default().to_vec());
            }
            Ok(())
        };
        let range = start.as_slice()..end.as_slice();
        let (files, rejected) = (read.open_table(FILES)?, read.open_table(REJECTED)?);
        of(&mut files.range::<&[u8]>(range.clone())?.map(|row| row.map(|(key, _)| key.value().to_vec())))?;
        of(&mut rejected.range::<&[u8]>(range)?.map(|row| row.map(|(key, _)| key.value().to_vec())))?;
        found.sort_unstable();
        found.truncate(most);
        Ok(found)
    }

    /// Makes all commits durable.
    pub(crate) fn flush(&self) -> Result<()> {
        if self.unflushed.swap(false, Ordering::AcqRel) {
            self.db.begin_write()?.commit().context("write the index to the disk")?;
        }
        Ok(())
    }
}

/// The key range of a volume.
fn span(volume: u32) -> (Vec<u8>, Vec<u8>) {
    (key(volume, &[]), key(volume.saturating_add(1), &[]))
}

fn remove_values(write: &WriteTransaction, id: u64) -> Result<()> {
    let mut values = write.open_table(VALUES)?;
    values.retain_in((id, 0)..=(id, TOP), |_, _| false)?;
    Ok(())
}

/// Whether an error reports wrong content of the file, not a failing disk.
fn damaged(error: &anyhow::Error) -> bool {
    let storage = |error: &StorageError| match error {
        StorageError::Corrupted(_) => true,
        StorageError::Io(error) => {
            matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    };
    error.chain().any(|cause| match cause.downcast_ref::<DatabaseError>() {
        Some(DatabaseError::Storage(error)) => storage(error),
        Some(DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted) => true,
        Some(_) => false,
        None => match cause.downcast_ref::<TableError>() {
            Some(TableError::Storage(error)) => storage(error),
            Some(_) => true,
            None => false,
        },
    })
}

/// The error for hashes that are no longer stored.
pub(crate) fn hashes_gone() -> anyhow::Error {
    anyhow!("the file changed since it was opened: its hashes are gone")
}
