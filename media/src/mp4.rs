//! MP4 and QuickTime (ISO/IEC 14496-12): a walker of boxes and the description of tracks, over a file as over bytes in
//! memory. Reads headers and no sample tables; trusts no length.

use usher_proto::pb::v1::{Track, TrackKind};

use crate::codec;

/// Boxes of one parent that are read.
const MAX_CHILDREN: usize = 4096;

/// Bytes of a sample entry that are read: everything used of one is at its start.
const MAX_ENTRY: usize = 1024;

/// Bytes to walk over.
pub(crate) trait Boxes {
    /// Error that ends walking.
    type Error;

    /// Reads at `offset` until `buf` is full or the bytes end, and returns the number of bytes read.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize, Self::Error>;

    /// Handles a box that breaks the rules: an error, or the end of the list of boxes.
    fn damaged(&self, what: Damage) -> Result<(), Self::Error>;

    /// Whether the limit of reads is reached.
    fn is_spent(&self) -> bool {
        false
    }
}

/// The way in which a box breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The bytes end within its header.
    Cut,
    /// It is shorter than its header.
    Short,
    /// It reaches past its parent.
    Overlong,
}

impl Boxes for &[u8] {
    type Error = std::convert::Infallible;

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize, Self::Error> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn damaged(&self, _what: Damage) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A box and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Atom {
    pub(crate) kind: [u8; 4],
    /// First byte of the header.
    pub(crate) at: u64,
    /// First byte of the body.
    pub(crate) body: u64,
    /// One past the last byte.
    pub(crate) end: u64,
}

/// Whether bytes begin like a file: with a box of a known kind.
pub(crate) fn begins_file(head: &[u8]) -> bool {
    let kinds: [&[u8]; 8] = [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"];
    head.get(4..8).is_some_and(|kind| kinds.contains(&kind))
}

/// Whether bytes begin like a file or a fragment.
pub(crate) fn begins_fragment(head: &[u8]) -> bool {
    begins_file(head) || matches!(head.get(4..8), Some(b"moof" | b"sidx"))
}

/// Size of the header of which these are the first bytes.
pub(crate) fn header_len(bytes: &[u8]) -> usize {
    if bytes.starts_with(&[0, 0, 0, 1]) { 16 } else { 8 }
}

/// Kind and size of the box with this header; `None` for a size below its header's. A box without an end has the largest
/// size.
pub(crate) fn header(bytes: &[u8]) -> Option<([u8; 4], u64)> {
    let [a, b, c, d, kind @ ..] = *bytes.first_chunk::<8>()?;
    let size = match u32::from_be_bytes([a, b, c, d]) {
        0 => u64::MAX,
        1 => u64::from_be_bytes(*bytes.get(8..)?.first_chunk()?),
        size => size.into(),
    };
    (size >= header_len(bytes) as u64).then_some((kind, size))
}

/// The box at `at` of a parent that ends at `limit`, which a box without an end reaches to; `None` where the list ends.
pub(crate) fn atom<R: Boxes>(source: &mut R, at: u64, limit: u64) -> Result<Option<Atom>, R::Error> {
    let mut head = [0; 16];
    let got = source.read_at(at, &mut head)?;
    let len = header_len(&head[..got]);
    if got < len {
        return source.damaged(Damage::Cut).map(|()| None);
    }
    let Some((kind, size)) = header(&head[..got]) else { return source.damaged(Damage::Short).map(|()| None) };
    let end = if head.starts_with(&[0; 4]) { limit } else { at.saturating_add(size) };
    Ok(Some(Atom { kind, at, body: at.saturating_add(len as u64), end }))
}

/// The boxes within a box.
pub(crate) fn children<R: Boxes>(source: &mut R, parent: Atom) -> Result<Vec<Atom>, R::Error> {
    let mut found = Vec::new();
    let mut at = parent.body;
    // QuickTime may end a list with four zero bytes.
    while at.saturating_add(8) <= parent.end && found.len() < MAX_CHILDREN && !source.is_spent() {
        let Some(child) = atom(source, at, parent.end)? else { break };
        if child.end > parent.end {
            source.damaged(Damage::Overlong)?;
            break;
        }
        at = child.end;
        found.push(child);
    }
    Ok(found)
}

/// The box at a path of kinds below `parent`.
pub(crate) fn child<R: Boxes>(source: &mut R, parent: Atom, path: &[&[u8; 4]]) -> Result<Option<Atom>, R::Error> {
    let mut at = parent;
    for kind in path {
        match children(source, at)?.into_iter().find(|child| child.kind == **kind) {
            Some(child) => at = child,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The first bytes, at most `most`, of a box's body; none for no box.
pub(crate) fn body<R: Boxes>(source: &mut R, of: Option<Atom>, most: usize) -> Result<Vec<u8>, R::Error> {
    let Some(of) = of else { return Ok(Vec::new()) };
    let len = usize::try_from(of.end.saturating_sub(of.body)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(most)];
    let got = source.read_at(of.body, &mut bytes)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// The big-endian number of `len` bytes at `at`; `None` past the end.
pub(crate) fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// The number of four bytes at `at`.
pub(crate) fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at, 4).and_then(|number| u32::try_from(number).ok())
}

/// The flags of a box that has a version, 24 bits.
pub(crate) fn flags(body: &[u8]) -> u64 {
    number(body, 1, 3).unwrap_or(0)
}

/// Ticks in a second and the duration in ticks, from `mvhd` or `mdhd`; an unknown duration is 0.
pub(crate) fn time(header: &[u8]) -> Option<(u64, u64)> {
    let (scale, duration, unknown) = match header.first()? {
        0 => (number(header, 12, 4)?, number(header, 16, 4)?, u32::MAX.into()),
        1 => (number(header, 20, 4)?, number(header, 24, 8)?, u64::MAX),
        _ => return None,
    };
    Some((scale, if duration == unknown { 0 } else { duration }))
}

/// The `baseMediaDecodeTime` of a `tfdt`, in ticks.
pub(crate) fn decode_time(tfdt: &[u8]) -> Option<u64> {
    number(tfdt, 4, if tfdt.first() == Some(&1) { 8 } else { 4 })
}

/// A `trak` box.
#[derive(Debug)]
pub(crate) struct TrackBox {
    pub(crate) id: Option<u32>,
    /// Ticks in a second.
    pub(crate) scale: u64,
    /// Ticks; 0 when unknown.
    pub(crate) duration: u64,
    /// `None` for a track that is neither video, audio nor subtitles.
    pub(crate) track: Option<Track>,
}

/// Reads a `trak` box; `None` without a media header.
pub(crate) fn track<R: Boxes>(source: &mut R, trak: Atom) -> Result<Option<TrackBox>, R::Error> {
    let head = child(source, trak, &[b"tkhd"])?;
    let head = body(source, head, 32)?;
    let id = number32(&head, if head.first() == Some(&1) { 20 } else { 12 });
    let Some(media) = child(source, trak, &[b"mdia"])? else { return Ok(None) };
    let parts = children(source, media)?;
    let part = |kind: &[u8; 4]| parts.iter().find(|part| part.kind == *kind).copied();
    let times = body(source, part(b"mdhd"), 64)?;
    let Some((scale, duration)) = time(&times) else { return Ok(None) };
    let packed = number(&times, if times.first() == Some(&1) { 32 } else { 20 }, 2).unwrap_or(0);
    let handler = body(source, part(b"hdlr"), 12)?;
    let kind = match handler.get(8..12) {
        Some(b"vide") => TrackKind::Video,
        Some(b"soun") => TrackKind::Audio,
        Some(b"sbtl" | b"subt" | b"text" | b"clcp" | b"subp") => TrackKind::Subtitle,
        _ => return Ok(Some(TrackBox { id, scale, duration, track: None })),
    };
    let table = child(source, media, &[b"minf", b"stbl", b"stsd"])?;
    // Version, flags and count (8 bytes), then the first entry.
    let entry = body(source, table, 8 + MAX_ENTRY)?;
    let entry = entry.get(8..).unwrap_or_default();
    let short = |at: usize| number(entry, at, 2).and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
    let mut track = Track { codec: codec::of_sample_entry(entry), language: codec::iso639(packed), ..Track::default() };
    track.set_kind(kind);
    match kind {
        TrackKind::Video => (track.width, track.height) = (short(32), short(34)),
        TrackKind::Audio => (track.channels, track.sample_rate) = (short(24), short(32)),
        _ => {}
    }
    Ok(Some(TrackBox { id, scale, duration, track: Some(track) }))
}
