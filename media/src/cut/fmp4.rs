//! Fragmented MP4: groups begin at fragments whose first picture is a keyframe; the head of a group is `ftyp` and `moov`.
//!
//! Boxes that are neither index, fragment nor message for the player (`sidx`, `styp`, `mfra`, free space) are left out: they
//! refer to offsets in a file. A group's media can end after each fragment.

mod boxes;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use usher_proto::{feed::MAX_GROUP, feed::MAX_HEAD, model::Medium, pb::v1::TrackKind};

use self::boxes::{Fragment, Movie};
use super::{Cut, CutError, Output, SOUND, Warning, clock::Clock};
use crate::{
    codec::is_audio_or_video,
    mp4::{self, begins_fragment, header_len},
};

/// The largest `moof`: half a million samples.
const MAX_MOOF: u64 = 8 << 20;

/// Limit of the messages before one fragment, in bytes.
const MAX_MESSAGES: usize = 64 * 1024;

/// The largest box that is left out: an index of a long recording.
const MAX_SKIP: u64 = 64 << 20;

/// Limit of the media before the first keyframe, in bytes.
const MAX_BEFORE: u64 = MAX_GROUP;

/// Meaning of the next bytes.
#[derive(Debug)]
enum At {
    /// A box's header.
    Header,
    /// A box that is buffered; its size includes the header.
    Buffered([u8; 4], usize),
    /// Media of the present fragment.
    Media(u64),
    /// Bytes that are left out.
    Skip(u64),
}

/// Splits fragmented MP4 into groups.
#[derive(Debug)]
pub(super) struct Fmp4 {
    /// The format was given, not detected.
    named: bool,
    at: At,
    /// Received bytes of the next header or box.
    rest: BytesMut,
    ftyp: Vec<u8>,
    /// `ftyp` and `moov`.
    head: Vec<u8>,
    movie: Option<Movie>,
    format_emitted: bool,
    /// Messages for the player that go with the next fragment.
    messages: Vec<u8>,
    /// The last `moof`, whose media is next.
    fragment: Option<(Vec<u8>, Fragment)>,
    /// Whether media belongs to a group; `false` before the first.
    in_group: bool,
    /// The next group must begin at a keyframe: the index is another one.
    fresh: bool,
    /// Bytes before the first group.
    before: u64,
    since: Option<Instant>,
    /// When the present group began, in ticks of its track.
    sound: Option<u64>,
    clock: Clock,
    any: bool,
}

impl Fmp4 {
    pub(super) fn new(named: bool) -> Self {
        Self {
            named,
            at: At::Header,
            rest: BytesMut::new(),
            ftyp: Vec::new(),
            head: Vec::new(),
            movie: None,
            format_emitted: false,
            messages: Vec::new(),
            fragment: None,
            in_group: false,
            fresh: true,
            before: 0,
            since: None,
            sound: None,
            clock: Clock::new(),
            any: false,
        }
    }

    pub(super) fn clock(&self) -> Duration {
        self.clock.length()
    }

    pub(super) fn push(&mut self, now: Instant, mut bytes: &[u8], output: &mut Output) -> Result<(), CutError> {
        self.since.get_or_insert(now);
        while !bytes.is_empty() {
            match &mut self.at {
                At::Media(left) | At::Skip(left) => {
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (some, rest) = bytes.split_at(len);
                    *left -= len as u64;
                    let (ends, is_media) = (*left == 0, matches!(self.at, At::Media(_)));
                    if is_media && self.in_group {
                        output.media(some);
                        if ends {
                            output.mark_boundary();
                        }
                    }
                    if ends {
                        self.at = At::Header;
                    }
                    bytes = rest;
                }
                At::Header => {
                    // Sixteen bytes are a header, or a box of that size with its header.
                    let wanted = header_len(&self.rest);
                    let (some, rest) = bytes.split_at((wanted - self.rest.len()).min(bytes.len()));
                    self.rest.extend_from_slice(some);
                    bytes = rest;
                    if self.rest.len() == header_len(&self.rest) && self.rest.len() >= 8 {
                        self.handle_header(now, output)?;
                    }
                }
                At::Buffered(kind, len) => {
                    let (kind, len) = (*kind, *len);
                    let (some, rest) = bytes.split_at((len - self.rest.len()).min(bytes.len()));
                    self.rest.extend_from_slice(some);
                    bytes = rest;
                    if self.rest.len() == len {
                        self.at = At::Header;
                        let bytes = self.rest.split().to_vec();
                        self.handle_box(kind, bytes, output)?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn finish(&self) -> Result<(), CutError> {
        match self.movie {
            None if !self.any => Err(CutError::Empty),
            None => Err(CutError::NotFragmented),
            Some(_) => Ok(()),
        }
    }

    /// Handles the header of a box.
    fn handle_header(&mut self, now: Instant, output: &mut Output) -> Result<(), CutError> {
        let (kind, size) = mp4::header(&self.rest).ok_or(CutError::Malformed("a box shorter than its header"))?;
        if !self.any && !begins_fragment(&self.rest) {
            return Err(if self.named { CutError::NotMp4 } else { CutError::NotMedia });
        }
        self.any = true;
        let (header, body) = (self.rest.len(), size - self.rest.len() as u64);
        let most = |what, most: u64| if size > most { Err(CutError::TooLarge(what, size, most)) } else { Ok(()) };
        match &kind {
            b"ftyp" => most("an `ftyp` box", MAX_HEAD as u64)?,
            b"moov" => {
                if size > MAX_HEAD as u64 {
                    // An index of samples, rather than of tracks.
                    return Err(CutError::NotFragmented);
                }
            }
            b"moof" if self.movie.is_none() => return Err(CutError::Malformed("a fragment before any `moov` box")),
            b"moof" => most("a `moof` box", MAX_MOOF)?,
            b"emsg" | b"prft" if size <= MAX_MESSAGES as u64 => {}
            b"mdat" => {
                self.begin_mdat(now, body, output)?;
                if self.in_group {
                    output.media(&self.rest);
                    if body == 0 {
                        output.mark_boundary();
                    }
                }
                self.rest.clear();
                self.at = if body == 0 { At::Header } else { At::Media(body) };
                return Ok(());
            }
            // A number in the place of a name is no box, and one without an end hides all that follows.
            kind if size > MAX_SKIP || kind.iter().any(u8::is_ascii_control) => {
                return Err(CutError::Malformed("no box of MP4 where one should be"));
            }
            _ => {
                self.rest.clear();
                self.at = if body == 0 { At::Header } else { At::Skip(body) };
                return Ok(());
            }
        }
        if body == 0 {
            return Err(CutError::Malformed("an empty box"));
        }
        // The limits above are far below 4 GiB.
        self.at = At::Buffered(kind, header + usize::try_from(body).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Handles a complete box.
    fn handle_box(&mut self, kind: [u8; 4], bytes: Vec<u8>, output: &mut Output) -> Result<(), CutError> {
        match &kind {
            b"ftyp" => self.ftyp = bytes,
            b"moov" => {
                let movie = boxes::movie(&bytes).ok_or(CutError::NotFragmented)?;
                let head = [self.ftyp.as_slice(), &bytes].concat();
                if head.len() > MAX_HEAD {
                    return Err(CutError::NotFragmented);
                }
                self.emit_format(&movie, output)?;
                self.fresh |= self.head != head;
                (self.head, self.movie) = (head, Some(movie));
            }
            b"moof" => {
                let movie = self.movie.as_ref().ok_or(CutError::NotFragmented)?;
                let fragment = boxes::fragment(&bytes, movie)?;
                if let Some((ticks, scale)) = fragment.time {
                    self.clock.take(ticks, scale, u64::MAX);
                }
                self.fragment = Some((bytes, fragment));
            }
            _ if self.messages.len() + bytes.len() <= MAX_MESSAGES => self.messages.extend_from_slice(&bytes),
            _ => {}
        }
        Ok(())
    }

    fn emit_format(&mut self, movie: &Movie, output: &mut Output) -> Result<(), CutError> {
        if std::mem::replace(&mut self.format_emitted, true) {
            return Ok(());
        }
        let tracks: Vec<_> = movie.tracks.iter().filter_map(|track| track.about.clone()).collect();
        if !tracks.iter().any(is_audio_or_video) {
            return Err(CutError::NoTracks);
        }
        let video = tracks.iter().any(|track| track.kind() == TrackKind::Video);
        let media_type = if video { "video/mp4" } else { "audio/mp4" }.to_owned();
        output.cuts.push_back(Cut::Medium(Medium { media_type, tracks }));
        Ok(())
    }

    /// Handles the beginning of a fragment's media, and with it the fragment: begins a group where one is due.
    fn begin_mdat(&mut self, now: Instant, body: u64, output: &mut Output) -> Result<(), CutError> {
        let Some((moof, fragment)) = self.fragment.take() else {
            // More media of the same fragment, or an index of media outside of fragments.
            return match self.in_group || self.before > 0 {
                true if output.is_too_much(body + 16) => Err(CutError::TooLarge("a fragment", body, MAX_GROUP)),
                true => Ok(()),
                false => Err(CutError::NotFragmented),
            };
        };
        let size = body + (moof.len() + self.messages.len() + self.rest.len()) as u64;
        if size > MAX_GROUP {
            return Err(CutError::TooLarge("a fragment", size, MAX_GROUP));
        }
        let since = self.since.unwrap_or(now);
        let next = match fragment.key {
            Some(key) => key,
            None => fragment.is_sound && self.is_next_sound(&fragment),
        };
        let waited = output.has_begun() && (output.is_due(now) || output.is_too_much(size))
            || !output.has_begun()
                && (self.before >= MAX_BEFORE || now.saturating_duration_since(since) >= super::LONGEST);
        if next || waited {
            if !next {
                output.warn(Warning::NoKeyframe);
            }
            self.sound = fragment.time.map(|(ticks, _)| ticks);
            output.begin(now, self.head.clone().into());
            (self.in_group, self.fresh) = (true, false);
        } else if self.fresh {
            // A viewer with the previous index cannot decode it, and a viewer with this index cannot either.
            self.in_group = false;
            self.before += size;
            self.messages.clear();
            if fragment.key.is_some() {
                output.warn(Warning::Waiting);
            }
        }
        if self.in_group {
            output.media(&std::mem::take(&mut self.messages));
            output.media(&moof);
        }
        Ok(())
    }

    /// Whether a fragment of sound begins a group of sound alone.
    fn is_next_sound(&self, fragment: &Fragment) -> bool {
        match (self.sound, fragment.time) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(since), Some((ticks, scale))) => ticks.abs_diff(since) >= SOUND.as_secs() * scale,
        }
    }
}
