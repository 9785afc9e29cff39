//! The boxes that decide about groups: tracks, and whether a fragment begins with a keyframe. Trusts no length in them.

use std::convert::Infallible;

use usher_proto::pb::v1::{Track, TrackKind};

use crate::{
    MAX_TRACKS,
    cut::CutError,
    mp4::{self, Atom, number32},
};

/// Bytes of a box's body that are read: all used fields are at its start.
const MAX_FIELDS: usize = 64;

/// Bit of a sample's flags: it is no keyframe (ISO/IEC 14496-12, 8.8.3.1).
const NON_SYNC: u32 = 0x1_0000;

/// The used fields of a `moov`.
#[derive(Debug)]
pub(super) struct Movie {
    pub(super) tracks: Vec<MovieTrack>,
    /// The track that decides where groups begin.
    video: Option<u32>,
}

/// One track of a movie.
#[derive(Debug)]
pub(super) struct MovieTrack {
    id: u32,
    /// Ticks in a second.
    scale: u64,
    /// Flags of samples that have no others.
    flags: u32,
    /// `None` for a track that is neither video, audio nor subtitles.
    pub(super) about: Option<Track>,
}

/// The used fields of a `moof`.
#[derive(Debug, Default)]
pub(super) struct Fragment {
    /// Whether its first picture is a keyframe; `None` for a fragment without pictures.
    pub(super) key: Option<bool>,
    /// When it begins, and ticks in a second.
    pub(super) time: Option<(u64, u64)>,
    /// There are no pictures in any fragment.
    pub(super) is_sound: bool,
}

/// The walker's answer for bytes in memory, which cannot fail.
fn read<T>(result: Result<T, Infallible>) -> T {
    let Ok(value) = result;
    value
}

/// The only box of `whole`.
fn root(whole: &[u8]) -> Option<Atom> {
    read(mp4::atom(&mut { whole }, 0, whole.len() as u64))
}

/// The boxes of one kind within a box.
fn all(whole: &[u8], parent: Atom, kind: &'static [u8; 4]) -> impl Iterator<Item = Atom> {
    read(mp4::children(&mut { whole }, parent)).into_iter().filter(move |child| child.kind == *kind)
}

/// The first bytes of a box's body, at most [`MAX_FIELDS`].
fn body(whole: &[u8], of: Option<Atom>) -> Vec<u8> {
    read(mp4::body(&mut { whole }, of, MAX_FIELDS))
}

/// Reads a whole `moov`; `None` for one that announces no fragments.
pub(super) fn movie(whole: &[u8]) -> Option<Movie> {
    let moov = root(whole)?;
    let extends = all(whole, moov, b"mvex").next()?;
    let defaults: Vec<_> = all(whole, extends, b"trex").map(|trex| body(whole, Some(trex))).collect();
    let mut tracks = Vec::new();
    for trak in all(whole, moov, b"trak").take(MAX_TRACKS) {
        let Some(track) = read(mp4::track(&mut { whole }, trak)) else { continue };
        let Some(id) = track.id else { continue };
        let own = defaults.iter().find(|trex| number32(trex, 4) == Some(id));
        let flags = own.and_then(|trex| number32(trex, 20)).unwrap_or(0);
        tracks.push(MovieTrack { id, scale: track.scale, flags, about: track.track });
    }
    let is_video = |track: &&MovieTrack| track.about.as_ref().is_some_and(|about| about.kind() == TrackKind::Video);
    let video = tracks.iter().find(is_video).map(|track| track.id);
    Some(Movie { tracks, video })
}

/// Reads a whole `moof`.
///
/// # Errors
/// [`CutError::NotFragmented`] for one whose offsets are those of a file.
pub(super) fn fragment(whole: &[u8], movie: &Movie) -> Result<Fragment, CutError> {
    let mut found = Fragment { is_sound: movie.video.is_none(), ..Fragment::default() };
    let trafs = root(whole).into_iter().flat_map(|moof| all(whole, moof, b"traf"));
    for traf in trafs.take(MAX_TRACKS) {
        let head = body(whole, all(whole, traf, b"tfhd").next());
        let flags = mp4::flags(&head);
        if flags & 1 != 0 {
            return Err(CutError::NotFragmented);
        }
        let Some(track) = movie.tracks.iter().find(|track| number32(&head, 4) == Some(track.id)) else { continue };
        if movie.video.is_some_and(|video| video != track.id) {
            continue;
        }
        let ticks = mp4::decode_time(&body(whole, all(whole, traf, b"tfdt").next()));
        found.time = found.time.or_else(|| ticks.map(|ticks| (ticks, track.scale)));
        let mut runs = all(whole, traf, b"trun").map(|trun| body(whole, Some(trun)));
        if movie.video.is_some()
            && found.key.is_none()
            && let Some(run) = runs.find(|run| number32(run, 4).is_some_and(|count| count > 0))
        {
            let before = [(2, 4), (8, 4), (16, 4)].iter().filter(|(bit, _)| flags & bit != 0).map(|(_, len)| len);
            let own = if flags & 0x20 != 0 { number32(&head, 8 + before.sum::<usize>()) } else { None };
            let sample = first_flags(&run).or(own).unwrap_or(track.flags);
            found.key = Some(sample & NON_SYNC == 0);
        }
    }
    Ok(found)
}

/// The flags of a run's first sample, if the run has any.
fn first_flags(run: &[u8]) -> Option<u32> {
    let flags = mp4::flags(run);
    let at = 8 + if flags & 1 != 0 { 4 } else { 0 };
    if flags & 4 != 0 {
        return number32(run, at);
    }
    let before = [0x100, 0x200].iter().filter(|bit| flags & **bit != 0).count();
    if flags & 0x400 != 0 { number32(run, at + 4 * before) } else { None }
}
