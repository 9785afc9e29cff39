//! MP4 and QuickTime (ISO/IEC 14496-12): boxes, headers, no samples.

use std::io::{Read, Seek};

use usher_proto::pb::v1::{Track, TrackKind};

use crate::codec;

use super::{MAX_TRACKS, Probe, ProbeError, Source, millis, number, with_video};

/// Boxes that one parent is searched for before it is taken as damaged.
const MAX_CHILDREN: usize = 4096;

/// Fragments at the end that are looked at for the duration: tracks may take turns.
const LAST_FRAGMENTS: usize = 8;

/// Runs of samples in one fragment that are added up, and samples of one run.
const MAX_SAMPLES: u64 = 100_000;

/// Whether a file begins like one of the family: a first box of a known kind.
pub(super) fn looks(head: &[u8]) -> bool {
    let kinds: [&[u8]; 8] = [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"];
    head.get(4..8).is_some_and(|kind| kinds.contains(&kind))
}

/// A box: its kind and where its body lies.
#[derive(Clone, Copy)]
struct Atom {
    kind: [u8; 4],
    at: u64,
    body: u64,
    end: u64,
}

/// The box at `at`, which ends by `limit`.
fn atom<R: Read + Seek>(source: &mut Source<'_, R>, at: u64, limit: u64) -> Result<Atom, ProbeError> {
    let head: [u8; 8] = source.array(at)?.ok_or(ProbeError::Truncated("a box header"))?;
    let [a, b, c, d, kind @ ..] = head;
    let (body, end) = match u32::from_be_bytes([a, b, c, d]) {
        0 => (at.saturating_add(8), limit),
        1 => {
            let size = source.array(at.saturating_add(8))?.ok_or(ProbeError::Truncated("a box header"))?;
            (at.saturating_add(16), at.saturating_add(u64::from_be_bytes(size)))
        }
        size => (at.saturating_add(8), at.saturating_add(size.into())),
    };
    if end < body {
        return Err(ProbeError::Malformed("a box shorter than its header"));
    }
    Ok(Atom { kind, at, body, end })
}

/// The boxes within a box.
fn children<R: Read + Seek>(source: &mut Source<'_, R>, parent: Atom) -> Result<Vec<Atom>, ProbeError> {
    let mut found = Vec::new();
    let mut at = parent.body;
    // QuickTime may end a list with four zero bytes.
    while at.saturating_add(8) <= parent.end && found.len() < MAX_CHILDREN && !source.spent() {
        let child = atom(source, at, parent.end)?;
        if child.end > parent.end {
            return Err(ProbeError::Malformed("a box reaches past its parent"));
        }
        at = child.end;
        found.push(child);
    }
    Ok(found)
}

fn child<R: Read + Seek>(
    source: &mut Source<'_, R>,
    parent: Atom,
    path: &[&[u8; 4]],
) -> Result<Option<Atom>, ProbeError> {
    let mut at = parent;
    for kind in path {
        match children(source, at)?.into_iter().find(|child| child.kind == **kind) {
            Some(child) => at = child,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The first bytes of a box's body.
fn body<R: Read + Seek>(source: &mut Source<'_, R>, of: Option<Atom>, most: usize) -> Result<Vec<u8>, ProbeError> {
    let Some(of) = of else { return Ok(Vec::new()) };
    let len = usize::try_from(of.end.saturating_sub(of.body)).unwrap_or(usize::MAX);
    source.bytes(of.body, len.min(most))
}

pub(super) fn probe<R: Read + Seek>(source: &mut Source<'_, R>) -> Result<Probe, ProbeError> {
    let (mut moov, mut first_mdat, mut quicktime) = (None, None, true);
    let (mut first_moof, mut moofs) = (None, std::collections::VecDeque::new());
    let mut at = 0;
    while at < source.size && !source.spent() {
        if source.size - at < 8 {
            break; // Padding that some writers leave.
        }
        let top = atom(source, at, source.size)?;
        if top.end > source.size {
            return Err(ProbeError::Truncated(if top.kind == *b"mdat" {
                "the end of its media"
            } else {
                "the end of a box"
            }));
        }
        match &top.kind {
            b"ftyp" => quicktime = source.array(top.body)? == Some(*b"qt  "),
            b"moov" => moov = moov.or(Some(top)),
            b"mdat" => first_mdat = first_mdat.or(Some(top.at)),
            b"moof" => {
                first_moof = first_moof.or(Some(top));
                if moofs.len() == LAST_FRAGMENTS {
                    moofs.pop_front();
                }
                moofs.push_back(top);
            }
            _ => {}
        }
        at = top.end;
    }
    let moov = moov.ok_or(ProbeError::Truncated("its index (no moov box)"))?;
    let movie = children(source, moov)?;
    let header = movie.iter().find(|child| child.kind == *b"mvhd").copied();
    let header = body(source, header, 64)?;
    let (scale, mut duration) = time(&header).ok_or(ProbeError::Malformed("no movie header"))?;
    let extends = movie.iter().find(|child| child.kind == *b"mvex").copied();
    let mut tracks = Vec::new();
    for trak in movie.iter().filter(|child| child.kind == *b"trak").take(MAX_TRACKS) {
        if let Some(track) = self::track(source, *trak)? {
            tracks.push(track);
        }
    }
    if let Some(extends) = extends {
        let length = child(source, extends, &[b"mehd"])?;
        let length = body(source, length, 16)?;
        let whole = match length.first() {
            Some(0) => number(&length, 4, 4),
            Some(1) => number(&length, 4, 8),
            _ => None,
        };
        duration = whole.unwrap_or(0).max(duration);
    }
    let mut duration_ms = millis(duration, scale);
    if duration_ms == 0 {
        duration_ms = tracks.iter().map(|track| track.duration_ms).max().unwrap_or(0);
    }
    // What the headers say of a fragmented file may be that of its first part only.
    if let Some(first) = first_moof {
        let begin = fragment(source, first, &tracks)?.map_or(0, |span| span.0);
        for moof in moofs {
            let end = fragment(source, moof, &tracks)?.map_or(0, |span| span.1);
            duration_ms = duration_ms.max(end.saturating_sub(begin));
        }
    }
    let fragmented = extends.is_some();
    let tracks: Vec<Track> = tracks.into_iter().filter_map(|track| track.track).collect();
    let media_type = if quicktime { "video/quicktime" } else { with_video(&tracks, "video/mp4", "audio/mp4") };
    let streamable = fragmented || first_mdat.is_none_or(|mdat| moov.at < mdat);
    Ok(Probe { media_type, duration_ms, streamable, tracks })
}

/// Time scale and duration of `mvhd` or `mdhd`; an unknown duration is 0.
fn time(header: &[u8]) -> Option<(u64, u64)> {
    let (scale, duration, unknown) = match header.first()? {
        0 => (number(header, 12, 4)?, number(header, 16, 4)?, u32::MAX.into()),
        1 => (number(header, 20, 4)?, number(header, 24, 8)?, u64::MAX),
        _ => return None,
    };
    Some((scale, if duration == unknown { 0 } else { duration }))
}

struct Found {
    id: u64,
    scale: u64,
    duration_ms: u64,
    /// `None` for what is neither video, audio nor subtitles.
    track: Option<Track>,
}

fn track<R: Read + Seek>(source: &mut Source<'_, R>, trak: Atom) -> Result<Option<Found>, ProbeError> {
    let head = child(source, trak, &[b"tkhd"])?;
    let head = body(source, head, 32)?;
    let id = if head.first() == Some(&1) { number(&head, 20, 4) } else { number(&head, 12, 4) };
    let Some(media) = child(source, trak, &[b"mdia"])? else { return Ok(None) };
    let parts = children(source, media)?;
    let part = |kind: &[u8; 4]| parts.iter().find(|part| part.kind == *kind).copied();
    let header = body(source, part(b"mdhd"), 64)?;
    let Some((scale, duration)) = time(&header) else { return Ok(None) };
    let packed = number(&header, if header.first() == Some(&1) { 32 } else { 20 }, 2).unwrap_or(0);
    let handler = body(source, part(b"hdlr"), 12)?;
    let kind = match handler.get(8..12) {
        Some(b"vide") => TrackKind::Video,
        Some(b"soun") => TrackKind::Audio,
        Some(b"sbtl" | b"subt" | b"text" | b"clcp" | b"subp") => TrackKind::Subtitle,
        _ => TrackKind::Unspecified,
    };
    let mut found = Found { id: id.unwrap_or(0), scale, duration_ms: millis(duration, scale), track: None };
    if kind == TrackKind::Unspecified {
        return Ok(Some(found));
    }
    let table = child(source, media, &[b"minf", b"stbl", b"stsd"])?;
    // Version, flags and count (8 bytes), then the first entry: all that is needed of one lies in its first bytes.
    let entry = body(source, table, 8 + 1024)?;
    let entry = entry.get(8..).unwrap_or_default();
    let short = |at: usize| number(entry, at, 2).and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
    let mut track = Track { codec: codec::of_sample_entry(entry), language: codec::iso639(packed), ..Track::default() };
    track.set_kind(kind);
    match kind {
        TrackKind::Video => (track.width, track.height) = (short(32), short(34)),
        TrackKind::Audio => (track.channels, track.sample_rate) = (short(24), short(32)),
        _ => {}
    }
    found.track = Some(track);
    Ok(Some(found))
}

/// First and last moment of a fragment, in milliseconds.
fn fragment<R: Read + Seek>(
    source: &mut Source<'_, R>,
    moof: Atom,
    tracks: &[Found],
) -> Result<Option<(u64, u64)>, ProbeError> {
    let mut span: Option<(u64, u64)> = None;
    for traf in children(source, moof)?.into_iter().filter(|child| child.kind == *b"traf").take(MAX_TRACKS) {
        let parts = children(source, traf)?;
        let part = |kind: &[u8; 4]| parts.iter().find(|part| part.kind == *kind).copied();
        let (head, time) = (body(source, part(b"tfhd"), 40)?, body(source, part(b"tfdt"), 12)?);
        let start = if time.first() == Some(&1) { number(&time, 4, 8) } else { number(&time, 4, 4) };
        let track = number(&head, 4, 4).and_then(|id| tracks.iter().find(|track| track.id == id));
        let (Some(track), Some(start)) = (track, start) else { continue };
        let flags = number(&head, 1, 3).unwrap_or(0);
        let before = [(1, 8), (2, 4)].iter().filter(|(flag, _)| flags & flag != 0).map(|(_, len)| len).sum::<usize>();
        let default = if flags & 8 != 0 { number(&head, 8 + before, 4).unwrap_or(0) } else { 0 };
        let mut length = 0_u64;
        for run in parts.iter().filter(|part| part.kind == *b"trun").take(64) {
            length = length.saturating_add(self::run(source, *run, default)?);
        }
        let (begin, end) = (millis(start, track.scale), millis(start.saturating_add(length), track.scale));
        span = Some(span.map_or((begin, end), |(a, b)| (a.min(begin), b.max(end))));
    }
    Ok(span)
}

/// Duration of a run of samples.
fn run<R: Read + Seek>(source: &mut Source<'_, R>, trun: Atom, default: u64) -> Result<u64, ProbeError> {
    let head = body(source, Some(trun), 8)?;
    let (flags, count) = (number(&head, 1, 3).unwrap_or(0), number(&head, 4, 4).unwrap_or(0));
    if flags & 0x100 == 0 {
        return Ok(default.saturating_mul(count));
    }
    let each = 4 * u64::from((flags >> 8 & 15).count_ones());
    let mut at = trun.body + 8 + 4 * u64::from((flags & 5).count_ones());
    let mut sum = 0_u64;
    for _ in 0..count.min(MAX_SAMPLES) {
        if at.saturating_add(each) > trun.end || source.spent() {
            break;
        }
        let Some(duration) = source.array(at)? else { break };
        sum = sum.saturating_add(u32::from_be_bytes(duration).into());
        at += each;
    }
    Ok(sum)
}
