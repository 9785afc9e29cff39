//! Conversion between an index entry and its row.

use usher_media::probe::{self, Probe};
use usher_proto::{ContentId, pb::v1::Track};

use super::super::volume::Fingerprint;

/// Kind, codec, width, height, sample rate, channels, language.
type TrackRow<'a> = (i32, &'a str, u32, u32, u32, u32, &'a str);

/// Id, (size, mtime, inode, device), duration, streamable, media type, content, tracks.
pub(super) type FileRow<'a> = (u64, (u64, i64, u64, u64), u64, bool, &'a str, Option<[u8; 32]>, Vec<TrackRow<'a>>);

/// The index entry of an offered file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IndexEntry {
    /// Id of this state of the file and of its hashes; never reused.
    pub(crate) id: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) probe: Probe,
    pub(crate) content: Option<ContentId>,
}

pub(super) fn row(entry: &IndexEntry) -> FileRow<'_> {
    let tracks = entry.probe.tracks.iter().map(|track| {
        let Track { kind, codec, width, height, sample_rate, channels, language } = track;
        (*kind, codec.as_str(), *width, *height, *sample_rate, *channels, language.as_str())
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

/// The entry of a row; `None` for a media type of another version.
pub(super) fn entry(row: FileRow<'_>) -> Option<IndexEntry> {
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
    Some(IndexEntry {
        id,
        fingerprint: Fingerprint { size, mtime_ns, inode, device },
        probe,
        content: content.map(ContentId),
    })
}
