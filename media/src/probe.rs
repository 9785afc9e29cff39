//! The type of a file, by its content and never by its name. Parsers over `Read + Seek` for untrusted files: work and
//! memory are bounded whatever a header says. They read headers and no sample tables, so a film costs as little as a clip.
//! Demuxing crates decode all sample tables, and reject a file for one unusual box that is not needed here.

mod container;
mod matroska;
mod mp4;
mod mpegts;

use std::io::{self, Read, Seek, SeekFrom};

use thiserror::Error;
use usher_proto::{
    pb::v1::{Track, TrackKind},
    tree,
};

pub use self::container::Container;
use crate::{MAX_TRACKS, codec::is_audio_or_video};

/// Every media type that a probe returns.
const MEDIA_TYPES: [&str; 8] = [
    "video/mp4",
    "audio/mp4",
    "video/quicktime",
    "video/x-matroska",
    "audio/x-matroska",
    "video/webm",
    "audio/webm",
    "video/mp2t",
];

/// Most reads of one probe. A file of one-second fragments may be ten hours long before its duration stays unknown.
const MAX_READS: u32 = 100_000;

/// Description of a media file.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// For example `video/mp4`.
    pub media_type: &'static str,
    /// Duration in milliseconds; 0 when unknown.
    pub duration_ms: u64,
    /// Whether a player can start before the file is complete.
    pub streamable: bool,
    /// The elementary streams of video, audio and subtitles; at least one of video or audio.
    pub tracks: Vec<Track>,
}

/// Error of a file that cannot be offered.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// Too large for a title.
    #[error("the file has {0} bytes, and a title at most {max}", max = tree::MAX_SIZE)]
    TooLarge(u64),
    /// None of the known containers.
    #[error("not MP4, Matroska, WebM or MPEG-TS")]
    NotMedia,
    /// It is shorter than its headers say; probably an unfinished copy.
    #[error("the file ends before {0}; copy it again")]
    Truncated(&'static str),
    /// It breaks its container's rules.
    #[error("damaged: {0}")]
    Malformed(&'static str),
    /// No video and no audio.
    #[error("neither video nor audio in it")]
    NoTracks,
    /// Reading failed.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Describes a file of `size` bytes. Never panics; reads headers only, in small parts.
///
/// # Errors
/// The file is no media file that can be offered, or cannot be read.
pub fn probe(reader: &mut (impl Read + Seek), size: u64) -> Result<Probe, ProbeError> {
    if size == 0 {
        return Err(ProbeError::Empty);
    }
    if size > tree::MAX_SIZE {
        return Err(ProbeError::TooLarge(size));
    }
    let mut source = Source::new(reader, size);
    let mut head = [0; 12];
    let known = source.read_at(0, &mut head)?;
    let head = &head[..known];
    let mut found = if matroska::is_ebml(head) {
        matroska::probe(&mut source)?
    } else if crate::mp4::begins_file(head) {
        mp4::probe(&mut source)?
    } else if let Some(layout) = mpegts::layout(&mut source)? {
        mpegts::probe(&mut source, layout)?
    } else {
        return Err(ProbeError::NotMedia);
    };
    if !found.tracks.iter().any(is_audio_or_video) {
        return Err(ProbeError::NoTracks);
    }
    found.tracks.truncate(MAX_TRACKS);
    Ok(found)
}

/// The constant equal to a stored media type; `None` for an unknown one.
pub fn media_type(text: &str) -> Option<&'static str> {
    MEDIA_TYPES.into_iter().find(|known| *known == text)
}

/// A media type in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaType(u8);

impl MediaType {
    /// From the text of a probe.
    pub fn of(text: &str) -> Self {
        Self((0..).zip(MEDIA_TYPES).find(|(_, known)| *known == text).map_or(0, |(at, _)| at))
    }

    /// The text.
    pub fn name(self) -> &'static str {
        MEDIA_TYPES.get(usize::from(self.0)).copied().unwrap_or("application/octet-stream")
    }
}

/// The media type `video` if a track is video, otherwise `audio`.
fn with_video(tracks: &[Track], video: &'static str, audio: &'static str) -> &'static str {
    if tracks.iter().any(|track| track.kind() == TrackKind::Video) { video } else { audio }
}

/// `value / scale` seconds in milliseconds; 0 for no scale.
fn millis(value: u64, scale: u64) -> u64 {
    let ms = (u128::from(value) * 1000).checked_div(u128::from(scale)).unwrap_or(0);
    u64::try_from(ms).unwrap_or(0)
}

/// Reads anywhere in the file through one small window, and counts the reads.
struct Source<'a, R> {
    reader: &'a mut R,
    size: u64,
    window: Vec<u8>,
    start: u64,
    reads: u32,
}

impl<'a, R: Read + Seek> Source<'a, R> {
    /// Bytes of one read: most files have all headers in one or two.
    const WINDOW: usize = 4096;

    fn new(reader: &'a mut R, size: u64) -> Self {
        Self { reader, size, window: Vec::new(), start: 0, reads: 0 }
    }

    /// Whether the limit of reads is reached.
    fn spent(&self) -> bool {
        self.reads >= MAX_READS
    }

    /// Reads at `offset`; fewer bytes than `buf` holds only at the end of the file.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize, ProbeError> {
        let room = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = buf.len().min(room);
        let buf = &mut buf[..want];
        if let Some(bytes) = self.cached(offset, want) {
            buf.copy_from_slice(bytes);
            return Ok(want);
        }
        if want >= Self::WINDOW {
            return Self::fill(self.reader, &mut self.reads, offset, buf);
        }
        self.window.resize(Self::WINDOW.min(room), 0);
        let got = Self::fill(self.reader, &mut self.reads, offset, &mut self.window);
        self.window.truncate(*got.as_ref().unwrap_or(&0));
        self.start = offset;
        got?;
        let have = self.window.len().min(want);
        buf[..have].copy_from_slice(&self.window[..have]);
        Ok(have)
    }

    fn cached(&self, offset: u64, want: usize) -> Option<&[u8]> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.window.get(at..at.checked_add(want)?)
    }

    fn fill(reader: &mut R, reads: &mut u32, offset: u64, buf: &mut [u8]) -> Result<usize, ProbeError> {
        *reads = reads.saturating_add(1);
        reader.seek(SeekFrom::Start(offset))?;
        let mut have = 0;
        while have < buf.len() {
            match reader.read(&mut buf[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(have)
    }

    /// Reads exactly `N` bytes at `offset`; `None` when the file ends before.
    fn array<const N: usize>(&mut self, offset: u64) -> Result<Option<[u8; N]>, ProbeError> {
        let mut buf = [0; N];
        Ok((self.read_at(offset, &mut buf)? == N).then_some(buf))
    }

    /// Reads up to `len` bytes at `offset`, for a `len` that the caller has bounded.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, ProbeError> {
        let mut buf = vec![0; len];
        let got = self.read_at(offset, &mut buf)?;
        buf.truncate(got);
        Ok(buf)
    }
}

#[cfg(test)]
mod tests;
