//! A copy that is open for serving: its bytes, set-up information and hashes. The open file stays the same when another
//! takes its name; its hashes are dropped then.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    path::Path,
    sync::Arc,
};

use anyhow::Result;
use usher_proto::{
    ContentId, Fault, Title,
    pb::v1,
    tree::{self, GROUP, PAGE_GROUPS, Value},
};

use super::{
    copy::{Copy, CopyKey, OpenError, bitrate},
    index::{IndexEntry, hashes_gone},
    read::{read_at, read_cached},
    replicas::{self, Replica, ReplicaFiles},
    shared::Shared,
    volume::OpenedPath,
};

/// A file open for serving.
pub struct OpenMedia(Backing);

enum Backing {
    Volume {
        file: File,
        key: CopyKey,
        // Boxed: large beside the other variant.
        entry: Box<IndexEntry>,
        shared: Arc<Shared>,
    },
    Replica {
        replica: Arc<Replica>,
        files: Arc<ReplicaFiles>,
    },
}

impl OpenMedia {
    pub(crate) fn open(shared: &Arc<Shared>, copy: &Copy) -> Result<Self, OpenError> {
        if copy.volume == replicas::VOLUME {
            let (replica, files) = shared.replicas.as_ref().ok_or(OpenError::Gone)?.open_copy(copy)?;
            return Ok(Self(Backing::Replica { replica, files }));
        }
        let volume = shared.volume(copy.volume).ok_or(OpenError::Gone)?;
        let path = Path::new(copy.title.as_str());
        let (file, fingerprint) = match volume.open_path(path) {
            Ok(OpenedPath::File(file, fingerprint)) => (file, fingerprint),
            other => {
                shared.reinspect(copy.volume, path);
                return Err(other.err().map_or(OpenError::Gone, OpenError::Io));
            }
        };
        let entry = shared.index.entry(&shared.key(volume, path)).map_err(io::Error::other)?;
        let Some(entry) = entry.filter(|entry| entry.id == copy.id && entry.fingerprint == fingerprint) else {
            shared.reinspect(copy.volume, path);
            return Err(OpenError::Changed);
        };
        let key = (copy.title.clone(), copy.volume);
        if entry.content.is_none() {
            // The session waits for the hashes after the last byte: have them ready by then.
            shared.queue.push_urgent(key.clone());
        }
        Ok(Self(Backing::Volume { file, key, entry: Box::new(entry), shared: shared.clone() }))
    }

    /// The set-up information without the range, which depends on the session.
    pub fn setup(&self) -> v1::Setup {
        match &self.0 {
            Backing::Volume { key, entry, .. } => {
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
            Backing::Replica { replica, .. } => v1::Setup { range: None, ..replica.setup.clone() },
        }
    }

    /// The title.
    pub fn title(&self) -> &Title {
        match &self.0 {
            Backing::Volume { key, .. } => &key.0,
            Backing::Replica { replica, .. } => &replica.title,
        }
    }

    /// Bytes of the whole title.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Backing::Volume { entry, .. } => entry.fingerprint.size,
            Backing::Replica { replica, .. } => replica.size,
        }
    }

    /// The content, if it was hashed when it was opened; [`Self::hashed`] waits for it.
    pub fn content(&self) -> Option<ContentId> {
        match &self.0 {
            Backing::Volume { entry, .. } => entry.content,
            Backing::Replica { replica, .. } => Some(replica.content),
        }
    }

    /// Number of groups, from the first on, that can be read now: all of them, unless the copy is incoming.
    pub fn groups(&self) -> u64 {
        match &self.0 {
            Backing::Volume { .. } => tree::groups(self.size()),
            Backing::Replica { replica, .. } => replica.groups(),
        }
    }

    /// Waits until this many groups, from the first on, and the hashes of their pages can be read.
    ///
    /// # Errors
    /// `UNAVAILABLE` when they will not arrive.
    pub async fn ready(&self, groups: u64) -> Result<(), Fault> {
        match &self.0 {
            Backing::Volume { .. } => Ok(()),
            Backing::Replica { replica, .. } => replica.ready(groups).await,
        }
    }

    /// Reads at `offset` until `buf` is full or the file ends. Blocks.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Backing::Volume { file, .. } => read_at(file, offset, buf),
            Backing::Replica { files, .. } => files.read_at(offset, buf),
        }
    }

    /// Reads cached bytes from `offset` until one is not in memory or `bufs` is full. Returns the number of bytes read,
    /// 0 where the system cannot tell. Never waits for a disk.
    pub fn read_cached(&self, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> usize {
        let file = match &self.0 {
            Backing::Volume { file, .. } => file,
            Backing::Replica { files, .. } => files.media(),
        };
        read_cached(file, offset, bufs)
    }

    /// Chaining values of all pages; empty for a title of one page or less. Blocks. Fails when the title is not hashed,
    /// or its file changed since.
    pub fn page_values(&self) -> Result<Vec<Value>> {
        if tree::pages(self.size()) <= 1 {
            return Ok(Vec::new());
        }
        match &self.0 {
            Backing::Volume { entry, shared, .. } => shared.index.page_values(entry.id)?.ok_or_else(hashes_gone),
            Backing::Replica { files, .. } => Ok(files.page_values()?),
        }
    }

    /// Chaining values of the groups of one page; empty for a title of one group. Blocks. Fails when the title is not
    /// hashed, or its file changed since.
    pub fn group_values(&self, page: u64) -> Result<Vec<Value>> {
        if self.size() <= GROUP {
            return Ok(Vec::new());
        }
        match &self.0 {
            Backing::Volume { entry, shared, .. } => shared.index.group_values(entry.id, page)?.ok_or_else(hashes_gone),
            Backing::Replica { files, .. } => Ok(files.group_values(page)?),
        }
    }

    /// Waits until the copy is found to be damaged: the bytes sent are not its content.
    pub(crate) async fn damaged(&self) {
        match &self.0 {
            Backing::Volume { entry, shared, .. } => {
                let mut damaged = shared.damaged.subscribe();
                // Fails only when the sender is dropped, which `self` holds.
                drop(damaged.wait_for(|ids| ids.contains(&entry.id)).await);
            }
            Backing::Replica { replica, .. } => replica.damaged().await,
        }
    }

    /// The title's content, hashed next if it is not yet. `None` when the file changed or was removed meanwhile, or the
    /// library is closed.
    pub async fn hashed(&self) -> Option<ContentId> {
        let Backing::Volume { key, entry, shared, .. } = &self.0 else { return self.content() };
        if entry.content.is_some() {
            return entry.content;
        }
        let mut progress = shared.progress.subscribe();
        shared.queue.push_urgent(key.clone());
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
