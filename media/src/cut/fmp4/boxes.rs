//! What is read of boxes: tracks, and whether a fragment begins with a keyframe. Trusts no length in them.

use usher_proto::pb::v1::{Track, TrackKind};

use crate::{
    codec,
    cut::{CutError, MAX_TRACKS},
};

/// Bit of a sample's flags: it is no keyframe (ISO/IEC 14496-12, 8.8.3.1).
const NON_SYNC: u32 = 0x1_0000;

/// What a `moov` says.
#[derive(Debug)]
pub(super) struct Movie {
    pub(super) tracks: Vec<TrackBox>,
    /// The track that decides where groups begin.
    video: Option<u32>,
}

/// One track.
#[derive(Debug)]
pub(super) struct TrackBox {
    id: u32,
    /// Ticks in a second.
    scale: u64,
    /// Flags of samples that have no others.
    flags: u32,
    /// `None` for what is neither video, audio nor subtitles.
    pub(super) about: Option<Track>,
}

/// What a `moof` says.
#[derive(Debug, Default)]
pub(super) struct Fragment {
    /// Whether its first picture is a keyframe; `None` for a fragment without pictures.
    pub(super) key: Option<bool>,
    /// When it begins, and ticks in a second.
    pub(super) time: Option<(u64, u64)>,
    /// There are no pictures in any fragment.
    pub(super) is_sound: bool,
}

/// Kind and size of the box with this header; `None` for a size below its header's. A box without an end has the largest
/// size.
pub(super) fn header(bytes: &[u8]) -> Option<([u8; 4], u64)> {
    let [a, b, c, d, kind @ ..] = *bytes.first_chunk::<8>()?;
    let size = match u32::from_be_bytes([a, b, c, d]) {
        0 => u64::MAX,
        1 => u64::from_be_bytes(*bytes.get(8..)?.first_chunk()?),
        size => size.into(),
    };
    (size >= if size_is_long(bytes) { 16 } else { 8 }).then_some((kind, size))
}

fn size_is_long(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0, 0, 0, 1])
}

/// The boxes of a body, each without its header, up to one that is longer than what is there.
fn children(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (kind, size) = header(bytes)?;
        let (whole, rest) = bytes.split_at_checked(usize::try_from(size).ok()?)?;
        let body = whole.get(if size_is_long(bytes) { 16 } else { 8 }..)?;
        bytes = rest;
        Some((kind, body))
    })
}

fn child<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, kind| children(bytes).find(|(one, _)| one == *kind).map(|(_, body)| body))
}

fn body(whole: &[u8]) -> &[u8] {
    whole.get(if size_is_long(whole) { 16 } else { 8 }..).unwrap_or_default()
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at, 4).and_then(|number| u32::try_from(number).ok())
}

/// The flags of a box that has a version.
fn flags_of(bytes: &[u8]) -> u64 {
    number(bytes, 1, 3).unwrap_or(0)
}

/// Reads a whole `moov`; `None` for one that announces no fragments.
pub(super) fn movie(whole: &[u8]) -> Option<Movie> {
    let moov = body(whole);
    let extends = child(moov, &[b"mvex"])?;
    let mut tracks = Vec::new();
    for (_, trak) in children(moov).filter(|(kind, _)| kind == b"trak").take(MAX_TRACKS) {
        let Some(mut track) = track(trak) else { continue };
        let defaults = children(extends).filter(|(kind, _)| kind == b"trex");
        let own = defaults.map(|(_, trex)| trex).find(|trex| number32(trex, 4) == Some(track.id));
        track.flags = own.and_then(|trex| number32(trex, 20)).unwrap_or(0);
        tracks.push(track);
    }
    let is_video = |track: &&TrackBox| track.about.as_ref().is_some_and(|about| about.kind() == TrackKind::Video);
    let video = tracks.iter().find(is_video).map(|track| track.id);
    Some(Movie { tracks, video })
}

fn track(trak: &[u8]) -> Option<TrackBox> {
    let head = child(trak, &[b"tkhd"])?;
    let id = number32(head, if head.first() == Some(&1) { 20 } else { 12 })?;
    let media = child(trak, &[b"mdia"])?;
    let times = child(media, &[b"mdhd"])?;
    let long = times.first() == Some(&1);
    let scale = number(times, if long { 20 } else { 12 }, 4)?;
    let packed = number(times, if long { 32 } else { 20 }, 2).unwrap_or(0);
    let kind = match child(media, &[b"hdlr"])?.get(8..12) {
        Some(b"vide") => Some(TrackKind::Video),
        Some(b"soun") => Some(TrackKind::Audio),
        Some(b"sbtl" | b"subt" | b"text" | b"clcp" | b"subp") => Some(TrackKind::Subtitle),
        _ => None,
    };
    // Version, flags and count (8 bytes), then the first entry.
    let entry = child(media, &[b"minf", b"stbl", b"stsd"]).and_then(|table| table.get(8..)).unwrap_or_default();
    let about = kind.map(|kind| {
        let short = |at: usize| number(entry, at, 2).and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        let mut track = Track {
            codec: codec::of_sample_entry(entry.get(..entry.len().min(1024)).unwrap_or_default()),
            language: codec::iso639(packed),
            ..Track::default()
        };
        track.set_kind(kind);
        match kind {
            TrackKind::Video => (track.width, track.height) = (short(32), short(34)),
            TrackKind::Audio => (track.channels, track.sample_rate) = (short(24), short(32)),
            _ => {}
        }
        track
    });
    Some(TrackBox { id, scale, flags: 0, about })
}

/// Reads a whole `moof`.
///
/// # Errors
/// [`CutError::NotFragmented`] for one whose places are those of a file.
pub(super) fn fragment(whole: &[u8], movie: &Movie) -> Result<Fragment, CutError> {
    let mut found = Fragment { is_sound: movie.video.is_none(), ..Fragment::default() };
    for (_, traf) in children(body(whole)).filter(|(kind, _)| kind == b"traf").take(MAX_TRACKS) {
        let head = child(traf, &[b"tfhd"]).unwrap_or_default();
        let flags = flags_of(head);
        if flags & 1 != 0 {
            return Err(CutError::NotFragmented);
        }
        let Some(track) = movie.tracks.iter().find(|track| number32(head, 4) == Some(track.id)) else { continue };
        let decides = movie.video.is_none_or(|video| video == track.id);
        if !decides {
            continue;
        }
        let time = child(traf, &[b"tfdt"]).unwrap_or_default();
        let ticks = number(time, 4, if time.first() == Some(&1) { 8 } else { 4 });
        found.time = found.time.or_else(|| ticks.map(|ticks| (ticks, track.scale)));
        let runs = children(traf).filter(|(kind, _)| kind == b"trun").map(|(_, trun)| trun);
        let first = runs.into_iter().find(|trun| number(trun, 4, 4).is_some_and(|count| count > 0));
        if movie.video.is_some()
            && found.key.is_none()
            && let Some(run) = first
        {
            let before = [(2, 4), (8, 4), (16, 4)].iter().filter(|(bit, _)| flags & bit != 0).map(|(_, len)| len);
            let own = if flags & 0x20 != 0 { number32(head, 8 + before.sum::<usize>()) } else { None };
            let sample = first_flags(run).or(own).unwrap_or(track.flags);
            found.key = Some(sample & NON_SYNC == 0);
        }
    }
    Ok(found)
}

/// The flags of a run's first sample, if the run has any.
fn first_flags(run: &[u8]) -> Option<u32> {
    let flags = flags_of(run);
    let at = 8 + if flags & 1 != 0 { 4 } else { 0 };
    if flags & 4 != 0 {
        return number32(run, at);
    }
    let before = [0x100, 0x200].iter().filter(|bit| flags & **bit != 0).count();
    if flags & 0x400 != 0 { number32(run, at + 4 * before) } else { None }
}
