//! A copy that is open for serving: its bytes, its set-up information, its hashes. The file stays the one that was
//! opened, even when another takes its name; its hashes go when that happens.

use std::{fs::File, io, io::IoSliceMut, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use anyhow::Result;
use thiserror::Error;
use usher_proto::{
    ContentId, Fault, Title,
    pb::v1,
    tree::{self, GROUP, PAGE_GROUPS, Value},
};

use super::{
    catalog::{Copy, Key, bitrate},
    index::{Entry, changed},
    replicas::{self, Files, Held},
    shared::Shared,
    volume::Node,
};

/// Why a copy cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It is not there any more; the catalog will say so in a moment.
    #[error("the file is gone")]
    Gone,
    /// It is not the file that was found any more; it is being looked at again.
    #[error("the file changed")]
    Changed,
    /// The disk failed, or the file may not be read.
    #[error("open the file: {0}")]
    Io(#[from] io::Error),
}

/// A file open for serving.
pub struct OpenMedia(Source);

enum Source {
    Volume {
        file: File,
        key: Key,
        // Boxed: large beside the other kind.
        entry: Box<Entry>,
        shared: Arc<Shared>,
    },
    Replica {
        held: Arc<Held>,
        files: Arc<Files>,
    },
}

impl OpenMedia {
    pub(crate) fn open(shared: &Arc<Shared>, copy: &Copy) -> Result<Self, OpenError> {
        if copy.volume == replicas::VOLUME {
            let (held, files) = shared.replicas.as_ref().ok_or(OpenError::Gone)?.open_copy(copy)?;
            return Ok(Self(Source::Replica { held, files }));
        }
        let volume = shared.volume(copy.volume).ok_or(OpenError::Gone)?;
        let path = Path::new(copy.title.as_str());
        let again = || shared.look_again(copy.volume, path);
        let (file, fingerprint) = match volume.open_node(path) {
            Ok(Node::File(file, fingerprint)) => (file, fingerprint),
            Ok(Node::Folder | Node::Other | Node::Missing) => {
                again();
                return Err(OpenError::Gone);
            }
            Err(error) => {
                again();
                return Err(error.into());
            }
        };
        let key = shared.key(volume, path);
        let entry = shared.index.entry(&key).map_err(io::Error::other)?;
        match entry {
            Some(entry) if entry.id == copy.id && entry.fingerprint == fingerprint => {
                let key = (copy.title.clone(), copy.volume);
                if entry.content.is_none() {
                    // Whoever opened it will wait for its hashes when all is sent: they had better be there then.
                    shared.queue.hurry(key.clone());
                }
                Ok(Self(Source::Volume { file, key, entry: Box::new(entry), shared: shared.clone() }))
            }
            _ => {
                again();
                Err(OpenError::Changed)
            }
        }
    }

    /// The set-up information, all but the range: that is the session's.
    pub fn setup(&self) -> v1::Setup {
        match &self.0 {
            Source::Volume { key, entry, .. } => {
                let (size, probe) = (self.size(), &entry.probe);
                v1::Setup {
                    title: key.0.to_string(),
                    content_id: entry.content.map(|content| content.to_string()).unwrap_or_default(),
                    size,
                    media_type: probe.media_type.to_owned(),
                    duration_ms: probe.duration_ms,
                    bitrate_bps: bitrate(size, probe.duration_ms).0,
                    tracks: probe.tracks.clone(),
                    streamable: probe.streamable,
                    range: None,
                    page_groups: PAGE_GROUPS as u32,
                    feed: None,
                }
            }
            Source::Replica { held, .. } => v1::Setup { range: None, ..held.setup.clone() },
        }
    }

    /// What it is called.
    pub fn title(&self) -> &Title {
        match &self.0 {
            Source::Volume { key, .. } => &key.0,
            Source::Replica { held, .. } => &held.title,
        }
    }

    /// Bytes of the whole title.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Source::Volume { entry, .. } => entry.fingerprint.size,
            Source::Replica { held, .. } => held.size,
        }
    }

    /// Its content, if it was hashed when it was opened; [`Self::hashed`] waits for it.
    pub fn content(&self) -> Option<ContentId> {
        match &self.0 {
            Source::Volume { entry, .. } => entry.content,
            Source::Replica { held, .. } => Some(held.content),
        }
    }

    /// Groups, from the first on, that can be read now: all of them, unless the copy is still coming in.
    pub fn groups(&self) -> u64 {
        match &self.0 {
            Source::Volume { .. } => tree::groups(self.size()),
            Source::Replica { held, .. } => held.groups(),
        }
    }

    /// Waits until so many groups, from the first on, can be read, and the hashes of their pages.
    ///
    /// # Errors
    /// `UNAVAILABLE` when they will not come.
    pub async fn ready(&self, groups: u64) -> Result<(), Fault> {
        match &self.0 {
            Source::Volume { .. } => Ok(()),
            Source::Replica { held, .. } => held.ready(groups).await,
        }
    }

    /// Reads at `offset` until `buf` is full or the file ends. Blocks.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Source::Volume { file, .. } => read_at(file, offset, buf),
            Source::Replica { files, .. } => files.read_at(offset, buf),
        }
    }

    /// Reads from `offset` on what is in memory already, until it is not or all of `bufs` is full; the bytes that were
    /// read. Blocks for no disk. Also 0 where the system cannot tell.
    pub fn read_cached(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> usize {
        let file = match &self.0 {
            Source::Volume { file, .. } => file,
            Source::Replica { files, .. } => files.media(),
        };
        read_cached(file, offset, bufs)
    }

    /// Chaining values of all pages; empty for a title of one page or less. Blocks; fails when the title is not
    /// hashed, or its file changed since.
    pub fn page_values(&self) -> Result<Vec<Value>> {
        if tree::pages(self.size()) <= 1 {
            return Ok(Vec::new());
        }
        match &self.0 {
            Source::Volume { entry, shared, .. } => shared.index.page_values(entry.id)?.ok_or_else(changed),
            Source::Replica { files, .. } => Ok(files.page_values()?),
        }
    }

    /// Chaining values of the groups of one page; empty for a title of one group. Blocks; fails when the title is
    /// not hashed, or its file changed since.
    pub fn group_values(&self, page: u64) -> Result<Vec<Value>> {
        if self.size() <= GROUP {
            return Ok(Vec::new());
        }
        match &self.0 {
            Source::Volume { entry, shared, .. } => shared.index.group_values(entry.id, page)?.ok_or_else(changed),
            Source::Replica { files, .. } => Ok(files.group_values(page)?),
        }
    }

    /// Waits until the copy is found to be damaged: what is sent of it is not its content.
    pub(crate) async fn damaged(&self) {
        match &self.0 {
            Source::Volume { entry, shared, .. } => {
                let mut damaged = shared.damaged.subscribe();
                // Fails only when the sender is gone, which is in `self`.
                drop(damaged.wait_for(|ids| ids.contains(&entry.id)).await);
            }
            Source::Replica { held, .. } => held.damaged().await,
        }
    }

    /// The title's content: hashed next, if it is not yet. `None` when the file changed or went meanwhile, or the
    /// library is closed.
    pub async fn hashed(&self) -> Option<ContentId> {
        let Source::Volume { key, entry, shared, .. } = &self.0 else { return self.content() };
        if entry.content.is_some() {
            return entry.content;
        }
        let mut progress = shared.progress.subscribe();
        shared.queue.hurry(key.clone());
        loop {
            progress.mark_unchanged();
            let copy = shared.catalog.copy(key).filter(|copy| copy.id == entry.id)?;
            if copy.content.is_some() {
                return copy.content;
            }
            if shared.stopping() {
                return None;
            }
            progress.changed().await.ok()?;
        }
    }
}

#[cfg(target_os = "linux")]
fn read_cached(file: &File, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> usize {
    use rustix::io::{ReadWriteFlags, preadv2};
    // Any error, also that the file system does not know the flag, is for the reading that may wait to meet.
    preadv2(file, bufs, offset, ReadWriteFlags::NOWAIT).unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_file: &File, _offset: u64, _bufs: &mut [IoSliceMut<'_>]) -> usize {
    0
}

/// Fills `buf` from `offset`, less only at the end of the file.
pub(crate) fn read_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match file.read_at(&mut buf[have..], offset.saturating_add(have as u64)) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}
