//! Matroska and WebM (RFC 9559 on RFC 8794): EBML elements up to the first cluster, and the last cluster when the
//! header has no duration.

use std::io::{Read, Seek};

use usher_proto::pb::v1::{Track, TrackKind};

use super::{Probe, ProbeError, Source, with_video};
use crate::{
    MAX_TRACKS,
    codec::{language, plain},
    mp4::number,
};

const EBML: u32 = 0x1A45_DFA3;
const DOC_TYPE: u32 = 0x4282;
const SEGMENT: u32 = 0x1853_8067;
const INFO: u32 = 0x1549_A966;
const TIMESTAMP_SCALE: u32 = 0x002A_D7B1;
const DURATION: u32 = 0x4489;
const TRACKS: u32 = 0x1654_AE6B;
const TRACK_ENTRY: u32 = 0xAE;
const CLUSTER: u32 = 0x1F43_B675;
const TIMESTAMP: u32 = 0xE7;
const BLOCK_GROUP: u32 = 0xA0;
const BLOCK: u32 = 0xA1;
const SIMPLE_BLOCK: u32 = 0xA3;

/// Elements of one parent that are looked at.
const MAX_CHILDREN: usize = 100_000;

/// Whether a file begins with an EBML header.
pub(super) fn is_ebml(head: &[u8]) -> bool {
    head.starts_with(&EBML.to_be_bytes())
}

/// An element: where its body lies. `end` is `None` when its size is unknown.
#[derive(Clone, Copy)]
struct Element {
    id: u32,
    body: u64,
    end: Option<u64>,
}

/// The element at `at`; `None` where the file ends.
fn element<R: Read + Seek>(source: &mut Source<'_, R>, at: u64) -> Result<Option<Element>, ProbeError> {
    let mut head = [0; 12];
    let have = source.read_at(at, &mut head)?;
    let Some(&first) = head[..have].first() else { return Ok(None) };
    let id_len = first.leading_zeros() as usize + 1;
    if id_len > 4 {
        return Err(ProbeError::Malformed("an element without a valid id"));
    }
    let Some(&size_first) = head[..have].get(id_len) else { return Ok(None) };
    let size_len = size_first.leading_zeros() as usize + 1;
    if size_len > 8 {
        return Err(ProbeError::Malformed("an element without a valid size"));
    }
    let id = number(&head[..have], 0, id_len).and_then(|id| u32::try_from(id).ok());
    let (Some(id), Some(raw)) = (id, number(&head[..have], id_len, size_len)) else { return Ok(None) };
    let mask = (1_u64 << (7 * size_len)) - 1;
    let size = raw & mask;
    let body = at.saturating_add((id_len + size_len) as u64);
    Ok(Some(Element { id, body, end: (size != mask).then(|| body.saturating_add(size)) }))
}

/// Takes a child and the position of its end; returns whether to continue.
type Visit<'a, R> = dyn FnMut(&mut Source<'_, R>, Element, u64) -> Result<bool, ProbeError> + 'a;

/// Calls `visit` for each child of a master element of known size, until it returns `false`.
fn children<R: Read + Seek>(
    source: &mut Source<'_, R>,
    (mut at, end): (u64, u64),
    visit: &mut Visit<'_, R>,
) -> Result<(), ProbeError> {
    for _ in 0..MAX_CHILDREN {
        if at >= end || source.spent() {
            break;
        }
        let Some(child) = element(source, at)? else { break };
        let child_end = child.end.unwrap_or(end);
        if child_end > end {
            return Err(ProbeError::Malformed("an element reaches past its parent"));
        }
        if !visit(source, child, child_end)? {
            break;
        }
        at = child_end;
    }
    Ok(())
}

/// An element's body of at most `most` bytes.
fn body<R: Read + Seek>(source: &mut Source<'_, R>, of: Element, end: u64, most: usize) -> Result<Vec<u8>, ProbeError> {
    let len = usize::try_from(end.saturating_sub(of.body)).unwrap_or(usize::MAX);
    source.bytes(of.body, len.min(most))
}

fn unsigned(bytes: &[u8]) -> u64 {
    number(bytes, 0, bytes.len().min(8)).unwrap_or(0)
}

fn float(bytes: &[u8]) -> f64 {
    let value = match *bytes {
        [a, b, c, d] => f32::from_be_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => f64::from_be_bytes([a, b, c, d, e, f, g, h]),
        _ => 0.0,
    };
    if value.is_finite() && value > 0.0 { value } else { 0.0 }
}

pub(super) fn probe<R: Read + Seek>(source: &mut Source<'_, R>) -> Result<Probe, ProbeError> {
    let damaged = ProbeError::Malformed("no EBML header");
    let Some(Element { body: start, end: Some(end), .. }) = element(source, 0)? else { return Err(damaged) };
    let mut doc_type = Vec::new();
    children(source, (start, end.min(source.size)), &mut |source, child, end| {
        if child.id == DOC_TYPE {
            doc_type = body(source, child, end, 16)?;
        }
        Ok(true)
    })?;
    while doc_type.last() == Some(&0) {
        doc_type.pop();
    }
    let webm = match doc_type.as_slice() {
        b"webm" => true,
        b"matroska" => false,
        _ => return Err(ProbeError::NotMedia),
    };
    let segment = element(source, end)?.filter(|element| element.id == SEGMENT);
    let segment = segment.ok_or(ProbeError::Truncated("its segment"))?;
    let end = segment.end.unwrap_or(source.size);
    if end > source.size {
        return Err(ProbeError::Truncated("the end of its segment"));
    }
    let mut found = SegmentInfo { scale: 1_000_000, ..SegmentInfo::default() };
    children(source, (segment.body, end), &mut |source, child, end| found.top(source, child, end))?;
    if found.first_cluster.is_none() {
        return Err(ProbeError::Truncated("its first cluster"));
    }
    let SegmentInfo { scale, duration, tracks, .. } = &found;
    let mut duration_ms = (*duration * *scale as f64 / 1e6).round() as u64;
    if duration_ms == 0 {
        let last = found.last_timestamp(source)?;
        duration_ms = u64::try_from(u128::from(last) * u128::from(*scale) / 1_000_000).unwrap_or(0);
    }
    let media_type = if webm {
        with_video(tracks, "video/webm", "audio/webm")
    } else {
        with_video(tracks, "video/x-matroska", "audio/x-matroska")
    };
    Ok(Probe { media_type, duration_ms, streamable: !found.late, tracks: found.tracks })
}

#[derive(Default)]
struct SegmentInfo {
    /// Nanoseconds of one tick.
    scale: u64,
    /// Ticks.
    duration: f64,
    tracks: Vec<Track>,
    has_tracks: bool,
    first_cluster: Option<u64>,
    last_cluster: Option<(u64, u64)>,
    /// The tracks are described after the media.
    late: bool,
}

impl SegmentInfo {
    /// Takes one element of the segment; goes on past the clusters only for what is still missing.
    fn top<R: Read + Seek>(
        &mut self,
        source: &mut Source<'_, R>,
        child: Element,
        end: u64,
    ) -> Result<bool, ProbeError> {
        match child.id {
            INFO => children(source, (child.body, end), &mut |source, child, end| {
                match child.id {
                    TIMESTAMP_SCALE => self.scale = unsigned(&body(source, child, end, 8)?).max(1),
                    DURATION => self.duration = float(&body(source, child, end, 8)?),
                    _ => {}
                }
                Ok(true)
            })?,
            TRACKS => {
                self.has_tracks = true;
                self.late = self.first_cluster.is_some();
                children(source, (child.body, end), &mut |source, child, end| {
                    if child.id == TRACK_ENTRY {
                        self.tracks.extend(track(source, (child.body, end))?);
                    }
                    Ok(self.tracks.len() < MAX_TRACKS)
                })?;
            }
            CLUSTER => {
                self.first_cluster = self.first_cluster.or(Some(child.body));
                self.last_cluster = Some((child.body, end));
                // A cluster of unknown size cannot be skipped: what follows stays unknown.
                return Ok(child.end.is_some() && !(self.has_tracks && self.duration > 0.0));
            }
            _ => {}
        }
        Ok(true)
    }

    /// The largest timestamp of the last cluster, in ticks.
    fn last_timestamp<R: Read + Seek>(&self, source: &mut Source<'_, R>) -> Result<u64, ProbeError> {
        let Some(span) = self.last_cluster else { return Ok(0) };
        let (mut base, mut last) = (0, 0);
        children(source, span, &mut |source, child, end| {
            match child.id {
                CLUSTER => return Ok(false),
                TIMESTAMP => base = unsigned(&body(source, child, end, 8)?),
                SIMPLE_BLOCK => last = last.max(offset(source, child, end)?),
                BLOCK_GROUP => children(source, (child.body, end), &mut |source, child, end| {
                    if child.id == BLOCK {
                        last = last.max(offset(source, child, end)?);
                    }
                    Ok(child.id != BLOCK)
                })?,
                _ => {}
            }
            Ok(true)
        })?;
        Ok(base.saturating_add(last))
    }
}

/// A block's time after its cluster's, in ticks: it follows the track number, which takes one to eight bytes.
fn offset<R: Read + Seek>(source: &mut Source<'_, R>, block: Element, end: u64) -> Result<u64, ProbeError> {
    let head = body(source, block, end, 10)?;
    let track = head.first().map_or(9, |first| first.leading_zeros() as usize + 1);
    // Signed 16 bits; what lies before the cluster's time does not lengthen it.
    Ok(number(&head, track, 2).filter(|value| *value < 0x8000).unwrap_or(0))
}

/// One track entry; `None` for what is neither video, audio nor subtitles.
fn track<R: Read + Seek>(source: &mut Source<'_, R>, span: (u64, u64)) -> Result<Option<Track>, ProbeError> {
    // RFC 9559, 5.1.4.1.19: a track that names no language is English; but muxers that mean "none" leave it out
    // too, so nothing is claimed.
    let mut track = Track::default();
    let mut bcp47 = false;
    children(source, span, &mut |source, child, end| {
        match child.id {
            0x83 => track.set_kind(match unsigned(&body(source, child, end, 8)?) {
                1 => TrackKind::Video,
                2 => TrackKind::Audio,
                17 => TrackKind::Subtitle,
                _ => TrackKind::Unspecified,
            }),
            0x86 => track.codec = codec(&body(source, child, end, 64)?),
            0x22_B59C if !bcp47 => track.language = language(&body(source, child, end, 64)?),
            0x22_B59D => (bcp47, track.language) = (true, language(&body(source, child, end, 64)?)),
            0xE0 | 0xE1 => children(source, (child.body, end), &mut |source, child, end| {
                let value = body(source, child, end, 8)?;
                let whole = u32::try_from(unsigned(&value)).unwrap_or(0);
                match child.id {
                    0xB0 => track.width = whole,
                    0xBA => track.height = whole,
                    0xB5 => track.sample_rate = float(&value).round() as u32,
                    0x9F => track.channels = whole,
                    _ => {}
                }
                Ok(true)
            })?,
            _ => {}
        }
        Ok(true)
    })?;
    if track.kind() == TrackKind::Audio {
        // RFC 9559: the defaults of what is left out.
        track.channels = track.channels.max(1);
        track.sample_rate = if track.sample_rate == 0 { 8000 } else { track.sample_rate };
    }
    Ok((track.kind() != TrackKind::Unspecified).then_some(track))
}

fn codec(id: &[u8]) -> String {
    let known: [(&[u8], &str); 24] = [
        (b"V_MPEG4/ISO/AVC", "h264"),
        (b"V_MPEGH/ISO/HEVC", "hevc"),
        (b"V_AV1", "av1"),
        (b"V_VP8", "vp8"),
        (b"V_VP9", "vp9"),
        (b"V_MPEG4/ISO", "mpeg4"),
        (b"V_MPEG2", "mpeg2"),
        (b"V_MPEG1", "mpeg1"),
        (b"V_PRORES", "prores"),
        (b"V_THEORA", "theora"),
        (b"A_AAC", "aac"),
        (b"A_OPUS", "opus"),
        (b"A_VORBIS", "vorbis"),
        (b"A_FLAC", "flac"),
        (b"A_AC3", "ac3"),
        (b"A_EAC3", "eac3"),
        (b"A_DTS", "dts"),
        (b"A_TRUEHD", "truehd"),
        (b"A_MPEG/L3", "mp3"),
        (b"A_MPEG/L2", "mp2"),
        (b"A_PCM", "pcm"),
        (b"S_TEXT/UTF8", "srt"),
        (b"S_TEXT/WEBVTT", "webvtt"),
        (b"S_HDMV/PGS", "pgs"),
    ];
    match known.iter().find(|(prefix, _)| id.starts_with(prefix)) {
        Some((_, name)) => (*name).to_owned(),
        None => plain(id.get(2..).unwrap_or_default().rsplit(|b| *b == b'/').next().unwrap_or_default()),
    }
}
