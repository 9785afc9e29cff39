//! MP4 and QuickTime (ISO/IEC 14496-12): boxes, headers, no samples.

use std::io::{Read, Seek};

use usher_proto::pb::v1::Track;

use super::{Probe, ProbeError, Source, millis, with_video};
use crate::{
    MAX_TRACKS,
    mp4::{self, Atom, Boxes, Damage, TrackBox, body, child, children, number},
};

/// Fragments at the end that are looked at for the duration: tracks may take turns.
const LAST_FRAGMENTS: usize = 8;

/// Runs of samples in one fragment that are added up, and samples of one run.
const MAX_SAMPLES: u64 = 100_000;

impl<R: Read + Seek> Boxes for Source<'_, R> {
    type Error = ProbeError;

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize, ProbeError> {
        Source::read_at(self, offset, buf)
    }

    fn damaged(&self, what: Damage) -> Result<(), ProbeError> {
        Err(match what {
            Damage::Cut => ProbeError::Truncated("a box header"),
            Damage::Short => ProbeError::Malformed("a box shorter than its header"),
            Damage::Overlong => ProbeError::Malformed("a box reaches past its parent"),
        })
    }

    fn is_spent(&self) -> bool {
        self.spent()
    }
}

pub(super) fn probe<R: Read + Seek>(source: &mut Source<'_, R>) -> Result<Probe, ProbeError> {
    let (mut moov, mut first_mdat, mut quicktime) = (None, None, true);
    let (mut first_moof, mut moofs) = (None, std::collections::VecDeque::new());
    let mut at = 0;
    while at < source.size && !source.spent() {
        if source.size - at < 8 {
            break; // Padding that some writers leave.
        }
        let Some(top) = mp4::atom(source, at, source.size)? else { break };
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
    let (scale, mut duration) = mp4::time(&header).ok_or(ProbeError::Malformed("no movie header"))?;
    let extends = movie.iter().find(|child| child.kind == *b"mvex").copied();
    let mut tracks = Vec::new();
    for trak in movie.iter().filter(|child| child.kind == *b"trak").take(MAX_TRACKS) {
        if let Some(track) = mp4::track(source, *trak)? {
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
        duration_ms = tracks.iter().map(|track| millis(track.duration, track.scale)).max().unwrap_or(0);
    }
    // The headers of a fragmented file may describe its first part only.
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

/// First and last moment of a fragment, in milliseconds.
fn fragment<R: Read + Seek>(
    source: &mut Source<'_, R>,
    moof: Atom,
    tracks: &[TrackBox],
) -> Result<Option<(u64, u64)>, ProbeError> {
    let mut span: Option<(u64, u64)> = None;
    for traf in children(source, moof)?.into_iter().filter(|child| child.kind == *b"traf").take(MAX_TRACKS) {
        let parts = children(source, traf)?;
        let part = |kind: &[u8; 4]| parts.iter().find(|part| part.kind == *kind).copied();
        let (head, time) = (body(source, part(b"tfhd"), 40)?, body(source, part(b"tfdt"), 12)?);
        let start = mp4::decode_time(&time);
        let track = mp4::number32(&head, 4).and_then(|id| tracks.iter().find(|track| track.id.unwrap_or(0) == id));
        let (Some(track), Some(start)) = (track, start) else { continue };
        let flags = mp4::flags(&head);
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
    let (flags, count) = (mp4::flags(&head), number(&head, 4, 4).unwrap_or(0));
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
