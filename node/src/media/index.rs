//! The index on disk: what each file was found to be, and its hashes, so that a restart neither probes nor hashes
//! what did not change. One redb file; keyed by the volume's path, so that the order of volumes may change. Refuses
//! to know where files are and when they are looked at.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, anyhow, bail};
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition,
    TableError, WriteTransaction,
};
use usher_media::probe::{self, Probe};
use usher_proto::{
    ContentId,
    pb::v1::Track,
    tree::{self, Hashes, Value},
};

use super::volume::Fingerprint;

/// Memory for pages of the file: enough for the upper levels of a tree; the kernel keeps the rest.
const CACHE: usize = 1 << 20;

/// Kind, codec, width, height, sample rate, channels, language.
type TrackRow<'a> = (i32, &'a str, u32, u32, u32, u32, &'a str);

/// Id, (size, mtime, inode, device), duration, streamable, media type, content, tracks.
type FileRow<'a> = (u64, (u64, i64, u64, u64), u64, bool, &'a str, Option<[u8; 32]>, Vec<TrackRow<'a>>);

/// Volume path → number in the index.
const VOLUMES: TableDefinition<'_, &[u8], u32> = TableDefinition::new("volumes");
/// Number of the volume (4 bytes, big endian) and path in it → file.
const FILES: TableDefinition<'_, &[u8], FileRow<'static>> = TableDefinition::new("files.1");
/// The same key → size, mtime, inode, device, reason.
const REJECTED: TableDefinition<'_, &[u8], (u64, i64, u64, u64, &str)> = TableDefinition::new("rejected.1");
/// The keys of those rejected ones whose bytes are not what they were.
const DAMAGED: TableDefinition<'_, &[u8], ()> = TableDefinition::new("damaged");
/// File id and page → its group values; the page values lie at [`TOP`].
const VALUES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("values.1");
/// The next file id.
const COUNTER: TableDefinition<'_, (), u64> = TableDefinition::new("counter");

/// Where the page values of a file lie: no file has so many pages.
const TOP: u64 = u64::MAX;

/// What the index knows of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Names this state of the file, and its hashes; never used twice.
    pub(crate) id: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) probe: Probe,
    pub(crate) content: Option<ContentId>,
}

/// What is remembered of a path.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    Offered(Entry),
    Rejected(Fingerprint),
    /// Rejected until it is another file: what is in it looks as it did.
    Damaged(Fingerprint),
}

/// What was learnt of a file.
pub(crate) enum Finding {
    /// It is offered.
    Offered(Fingerprint, Probe),
    /// It is not; without a fingerprint it is looked at again whenever it is met.
    Rejected(Option<Fingerprint>, String),
    /// It is not, since its bytes are not what they were when it was hashed.
    Damaged(Fingerprint, String),
    /// It is not there, or of no interest.
    Gone,
}

/// A rejected path, and why it is.
pub(crate) type Reason = (Vec<u8>, String);

/// Files that are not offered; or by how much their number changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bad {
    /// All of them.
    pub(crate) rejected: i64,
    /// Those whose bytes are not what they were.
    pub(crate) damaged: i64,
}

/// The open index.
pub(crate) struct Index {
    db: Database,
    /// Something was committed that a power failure would undo.
    unflushed: AtomicBool,
}

/// A path of a volume as a key.
pub(crate) fn key(volume: u32, path: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + path.len());
    key.extend_from_slice(&volume.to_be_bytes());
    key.extend_from_slice(path);
    key
}

impl Index {
    /// Opens or makes the file. One that is damaged is set aside and begun anew: all of it can be found out again.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("make the index's folder {}", parent.display()))?;
        }
        match Self::try_open(path) {
            Ok(index) => Ok(index),
            Err(error) if damaged(&error) => {
                let mut aside = path.as_os_str().to_owned();
                aside.push(".corrupt");
                tracing::warn!(index = %path.display(), error = format!("{error:#}"), "index damaged; set aside and begun anew");
                fs::rename(path, &aside).with_context(|| format!("set the damaged index {} aside", path.display()))?;
                Self::try_open(path)
            }
            Err(error) => Err(error),
        }
    }

    fn try_open(path: &Path) -> Result<Self> {
        let db = match Database::builder().set_cache_size(CACHE).create(path) {
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

    /// The number of a volume, given on first sight.
    pub(crate) fn volume(&self, path: &[u8]) -> Result<u32> {
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

    /// What is known of each of these paths.
    pub(crate) fn known(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Known>>> {
        let read = self.db.begin_read()?;
        let (files, rejected) = (read.open_table(FILES)?, read.open_table(REJECTED)?);
        let damaged = read.open_table(DAMAGED)?;
        let known = |key: &Vec<u8>| -> Result<Option<Known>> {
            if let Some(row) = files.get(key.as_slice())? {
                return Ok(entry(row.value()).map(Known::Offered));
            }
            let Some(row) = rejected.get(key.as_slice())? else { return Ok(None) };
            let (size, mtime_ns, inode, device, _) = row.value();
            let fingerprint = Fingerprint { size, mtime_ns, inode, device };
            let is_damaged = damaged.get(key.as_slice())?.is_some();
            Ok(Some(if is_damaged { Known::Damaged(fingerprint) } else { Known::Rejected(fingerprint) }))
        };
        keys.iter().map(known).collect()
    }

    /// What is known of one path that is offered.
    pub(crate) fn entry(&self, key: &[u8]) -> Result<Option<Entry>> {
        let read = self.db.begin_read()?;
        let row = read.open_table(FILES)?.get(key)?;
        Ok(row.and_then(|row| entry(row.value())))
    }

    /// Takes findings, in one commit that reaches the disk with the next [`Self::flush`]. Returns the entries of what
    /// is offered, in order, and by how much the numbers of files that are not changed.
    pub(crate) fn take(&self, findings: Vec<(Vec<u8>, Finding)>) -> Result<(Vec<Option<Entry>>, Bad)> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        let (mut entries, mut delta) = (Vec::with_capacity(findings.len()), Bad::default());
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
                entries.push(match finding {
                    Finding::Offered(fingerprint, probe) => {
                        let entry = Entry { id: next, fingerprint, probe, content: None };
                        next += 1;
                        files.insert(key, row(&entry))?;
                        Some(entry)
                    }
                    Finding::Rejected(at, reason) => {
                        // No real file has this mtime, so that the next look does not find it unchanged.
                        let never = Fingerprint { size: 0, mtime_ns: i64::MIN, inode: 0, device: 0 };
                        let at = at.unwrap_or(never);
                        rejected.insert(key, (at.size, at.mtime_ns, at.inode, at.device, reason.as_str()))?;
                        delta.rejected += 1;
                        None
                    }
                    Finding::Damaged(at, reason) => {
                        rejected.insert(key, (at.size, at.mtime_ns, at.inode, at.device, reason.as_str()))?;
                        delta.rejected += 1;
                        None
                    }
                    Finding::Gone => None,
                });
            }
            counter.insert((), next)?;
        }
        write.commit()?;
        self.unflushed.store(true, Ordering::Release);
        Ok((entries, delta))
    }

    /// Keeps the hashes of a file, unless it changed since it got this id. Returns whether it was so.
    pub(crate) fn hashed(&self, key: &[u8], id: u64, hashes: &Hashes) -> Result<bool> {
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

    /// Rejected files of a volume: how many, and at most `most` with their reasons.
    pub(crate) fn rejected(&self, volume: u32, most: usize) -> Result<(u32, Vec<Reason>)> {
        let read = self.db.begin_read()?;
        let table = read.open_table(REJECTED)?;
        let (mut count, mut some) = (0_u32, Vec::new());
        for row in table.range(span(volume).0.as_slice()..span(volume).1.as_slice())? {
            let (key, value) = row?;
            count = count.saturating_add(1);
            if some.len() < most {
                some.push((key.value().get(4..).unwrap_or_default().to_vec(), value.value().4.to_owned()));
            }
        }
        Ok((count, some))
    }

    /// How many files of a volume are damaged; they are among the rejected ones.
    pub(crate) fn damaged(&self, volume: u32) -> Result<i64> {
        let read = self.db.begin_read()?;
        let table = read.open_table(DAMAGED)?;
        let mut count = 0;
        for row in table.range(span(volume).0.as_slice()..span(volume).1.as_slice())? {
            row?;
            count += 1;
        }
        Ok(count)
    }

    /// Up to `most` paths that are known below a folder of a volume, after `after`; in order.
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

    /// Makes everything so far outlast a power failure.
    pub(crate) fn flush(&self) -> Result<()> {
        if self.unflushed.swap(false, Ordering::AcqRel) {
            self.db.begin_write()?.commit().context("write the index to the disk")?;
        }
        Ok(())
    }
}

/// The keys of a volume.
fn span(volume: u32) -> (Vec<u8>, Vec<u8>) {
    (key(volume, &[]), key(volume.saturating_add(1), &[]))
}

fn remove_values(write: &WriteTransaction, id: u64) -> Result<()> {
    let mut values = write.open_table(VALUES)?;
    values.retain_in((id, 0)..=(id, TOP), |_, _| false)?;
    Ok(())
}

fn row(entry: &Entry) -> FileRow<'_> {
    let track = |track: &'_ Track| -> (i32, u32, u32, u32, u32) {
        (track.kind, track.width, track.height, track.sample_rate, track.channels)
    };
    let tracks = entry.probe.tracks.iter().map(|of| {
        let (kind, width, height, rate, channels) = track(of);
        (kind, of.codec.as_str(), width, height, rate, channels, of.language.as_str())
    });
    let Fingerprint { size, mtime_ns, inode, device } = entry.fingerprint;
    (
        entry.id,
        (size, mtime_ns, inode, device),
        entry.probe.duration_ms,
        entry.probe.streamable,
        entry.probe.media_type,
        entry.content.map(|content| content.0),
        tracks.collect(),
    )
}

/// The entry of a row; `None` for one that another version wrote.
fn entry(row: FileRow<'_>) -> Option<Entry> {
    let (id, (size, mtime_ns, inode, device), duration_ms, streamable, media_type, content, tracks) = row;
    let tracks = tracks.into_iter().map(|(kind, codec, width, height, sample_rate, channels, language)| Track {
        kind,
        codec: codec.to_owned(),
        width,
        height,
        sample_rate,
        channels,
        language: language.to_owned(),
    });
    let probe = Probe { media_type: probe::media_type(media_type)?, duration_ms, streamable, tracks: tracks.collect() };
    Some(Entry {
        id,
        fingerprint: Fingerprint { size, mtime_ns, inode, device },
        probe,
        content: content.map(ContentId),
    })
}

/// Whether an error says that the file's content is wrong, not that the disk failed.
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

/// What to say of hashes that are not there any more.
pub(crate) fn changed() -> anyhow::Error {
    anyhow!("the file changed since it was opened: its hashes are gone")
}
