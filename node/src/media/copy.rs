//! The types that describe a copy of a title, and why one cannot be found or opened.

use std::{io, time::Duration};

use thiserror::Error;
use usher_media::probe::MediaType;
use usher_proto::{
    Bitrate, ContentId, Title,
    model::{CatalogCopy, Origin},
};

/// The key of a copy: a title on a volume.
pub type CopyKey = (Title, u16);

/// The catalog's compact form of a copy: about 160 bytes beside its name.
#[derive(Clone, Debug)]
pub(crate) struct CopyRecord {
    /// Id of this state of the file in the index; a changed file gets another.
    pub(crate) id: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Unix milliseconds.
    pub(crate) modified_ms: i64,
    /// Milliseconds, 0 when unknown; four bytes hold 49 days.
    pub(crate) duration_ms: u32,
    /// `None` until it is hashed.
    pub(crate) content: Option<ContentId>,
    pub(crate) media_type: MediaType,
    /// Whether it plays before it is complete.
    pub(crate) streamable: bool,
    pub(crate) origin: Origin,
}

impl CopyRecord {
    /// The copy in the form that goes to the master.
    pub(crate) fn page_entry(&self, (title, volume): &CopyKey) -> CatalogCopy {
        CatalogCopy {
            title: title.clone(),
            volume: *volume,
            content: self.content,
            size: self.size,
            modified_ms: self.modified_ms,
            bitrate: bitrate(self.size, self.duration_ms.into()),
            duration_ms: self.duration_ms.into(),
            media_type: self.media_type.name().to_owned(),
            streamable: self.streamable,
            origin: self.origin,
        }
    }
}

/// Mean rate of `size` bytes over `duration_ms`; 0 when the duration is unknown.
pub(crate) fn bitrate(size: u64, duration_ms: u64) -> Bitrate {
    Bitrate::over(size, Duration::from_millis(duration_ms))
}

/// One copy of a title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its title.
    pub title: Title,
    /// Volume, counted from 0.
    pub volume: u16,
    /// `None` until it is hashed.
    pub content: Option<ContentId>,
    /// Bytes, at least 1.
    pub size: u64,
    /// Mean rate; 0 when the duration is unknown.
    pub bitrate: Bitrate,
    /// For example `video/mp4`.
    pub media_type: &'static str,
    /// Milliseconds, 0 when unknown.
    pub duration_ms: u64,
    /// Unix milliseconds.
    pub modified_ms: i64,
    /// Whether it plays before it is complete.
    pub streamable: bool,
    /// Id of this state of the file in the index.
    pub(crate) id: u64,
}

impl Copy {
    pub(super) fn new((title, volume): &CopyKey, record: &CopyRecord) -> Self {
        Self {
            title: title.clone(),
            volume: *volume,
            content: record.content,
            size: record.size,
            bitrate: bitrate(record.size, record.duration_ms.into()),
            media_type: record.media_type.name(),
            duration_ms: record.duration_ms.into(),
            modified_ms: record.modified_ms,
            streamable: record.streamable,
            id: record.id,
        }
    }
}

/// Why a title cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FindError {
    /// No volume holds it.
    #[error("this node has no such title")]
    NotFound,
    /// The title is here with other content, or not hashed yet.
    #[error("this node has the title, but not the content asked for")]
    OtherContent,
}

/// Why a copy cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file is missing; the catalog follows in a moment.
    #[error("the file is gone")]
    Gone,
    /// The file changed since it was indexed; it is being inspected again.
    #[error("the file changed")]
    Changed,
    /// The disk failed, or the file is not readable.
    #[error("open the file: {0}")]
    Io(#[from] io::Error),
}

/// Counts of files that are not offered, or changes of these counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RejectedCounts {
    /// All files that are not offered.
    pub(crate) rejected: i64,
    /// Those whose bytes changed since they were hashed.
    pub(crate) damaged: i64,
}
