//! Splits an encoder's output into the groups of a feed. Each group begins at a keyframe, with the head that a decoder needs.
//!
//! Input is bytes in chunks of any size, output is events. The input is untrusted: work and memory are bounded whatever a
//! header says.

mod clock;
mod fmp4;
mod mpegts;
mod output;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use thiserror::Error;
use usher_proto::{feed::MAX_GROUP, model::Medium};

use self::{fmp4::Fmp4, mpegts::Mpegts, output::Output};
use crate::mp4::begins_fragment;

/// Longest group without a keyframe: viewers join at groups.
pub const LONGEST: Duration = Duration::from_secs(30);

/// Length of a group of sound alone: the usual distance of keyframes.
const SOUND: Duration = Duration::from_secs(1);

/// A group of this many bytes ends at the next good position; the rest up to [`MAX_GROUP`] is the margin to find it.
const LARGEST: u64 = MAX_GROUP - (1 << 20);

/// A container that can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// MPEG transport stream, ISO/IEC 13818-1, in packets of 188 bytes.
    Mpegts,
    /// Fragmented MP4, ISO/IEC 14496-12.
    Fmp4,
}

/// Error of the input.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CutError {
    /// None of the known containers.
    #[error("the input is neither MPEG-TS nor fragmented MP4; let ffmpeg write `-f mpegts -`")]
    NotMedia,
    /// Another container.
    #[error("the input is {0}, which cannot be sent as a feed; let ffmpeg write `-f mpegts -`")]
    Other(&'static str),
    /// Not what --format says.
    #[error("the input is not MPEG-TS; let ffmpeg write `-f mpegts -`, or name another format with --format")]
    NotMpegts,
    /// Not what --format says.
    #[error("the input is not MP4; let ffmpeg write `-f mp4 {MOVFLAGS} -`, or name another format with --format")]
    NotMp4,
    /// An MP4 whose index comes once.
    #[error("the MP4 is not fragmented as a feed must be; let ffmpeg write `-f mp4 {MOVFLAGS} -`")]
    NotFragmented,
    /// A long part of a transport stream has no packets.
    #[error(
        "no MPEG-TS packet in {0} bytes; the program that writes the input has failed, or a second \
         program writes to it"
    )]
    OutOfSync(usize),
    /// A transport stream without program tables.
    #[error("the MPEG-TS has no program tables (PAT and PMT) in its first {0} bytes; let ffmpeg write `-f mpegts -`")]
    NoTables(u64),
    /// No video and no audio.
    #[error("the input has neither video nor audio of a known codec")]
    NoTracks,
    /// It breaks its container's rules.
    #[error("the input is damaged: {0}")]
    Malformed(&'static str),
    /// A part of it is larger than a feed allows.
    #[error("the input has {0} of {1} bytes, and a feed allows {2}; let the encoder make keyframes more often")]
    TooLarge(&'static str, u64, u64),
    /// It ended before the first group.
    #[error(
        "the input ended before its first keyframe; check the program that writes it; with ffmpeg, use `-f mpegts -`"
    )]
    Empty,
}

/// Options of ffmpeg for fragmented MP4.
const MOVFLAGS: &str = "-movflags +frag_keyframe+empty_moov+default_base_moof";

/// A problem of the input that does not end it; each is reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Warning {
    /// A group was cut without one.
    #[error(
        "no keyframe for 30 s or 63 MiB: viewers cannot join well; let the encoder make one every 1 to 2 s (ffmpeg: -g 50)"
    )]
    NoKeyframe,
    /// Bytes were passed over.
    #[error("a part of the input is damaged and was left out")]
    Damaged,
    /// Input before the first keyframe was left out.
    #[error("the input does not begin at a keyframe; waiting for the first one")]
    Waiting,
}

/// An event of the cutter.
#[derive(Clone, Debug, PartialEq)]
pub enum Cut {
    /// Format of the input; the first event, and once.
    Medium(Medium),
    /// A group begins with this head, and the one before has ended.
    Group(Bytes),
    /// Media of the group that was begun last.
    Piece {
        /// 1 to 65536 bytes.
        media: Bytes,
        /// A group may end after this piece: no packet or fragment continues in the next one.
        is_boundary: bool,
    },
    /// A problem that does not end the input.
    Warning(Warning),
}

/// Splits an encoder's output into groups.
#[derive(Debug)]
pub struct Cutter {
    kind: Kind,
    output: Output,
}

#[derive(Debug)]
enum Kind {
    /// The first bytes, while there are too few to detect the format.
    Unknown(Vec<u8>),
    Mpegts(Box<Mpegts>),
    Fmp4(Box<Fmp4>),
}

/// Bytes that distinguish the formats.
const DETECTION_BYTES: usize = 12;

impl Cutter {
    /// A cutter for input of this format; `None` detects it.
    pub fn new(format: Option<Format>) -> Self {
        let kind = match format {
            None => Kind::Unknown(Vec::new()),
            Some(Format::Mpegts) => Kind::Mpegts(Box::new(Mpegts::new(true))),
            Some(Format::Fmp4) => Kind::Fmp4(Box::new(Fmp4::new(true))),
        };
        Self { kind, output: Output::default() }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The input is unusable from there on.
    pub fn push(&mut self, now: Instant, bytes: &[u8]) -> Result<(), CutError> {
        match &mut self.kind {
            Kind::Mpegts(cutter) => cutter.push(now, bytes, &mut self.output),
            Kind::Fmp4(cutter) => cutter.push(now, bytes, &mut self.output),
            Kind::Unknown(first) => {
                first.extend_from_slice(bytes);
                if first.len() < DETECTION_BYTES {
                    return Ok(());
                }
                let first = std::mem::take(first);
                self.kind = detect(&first)?;
                self.push(now, &first)
            }
        }
    }

    /// Emits buffered media, at a pause of the input.
    pub fn flush(&mut self) {
        self.output.flush();
    }

    /// Ends the input.
    ///
    /// # Errors
    /// [`CutError::Empty`] and the like when there was no group at all.
    pub fn finish(&mut self) -> Result<(), CutError> {
        match &mut self.kind {
            Kind::Mpegts(cutter) => cutter.finish(&mut self.output)?,
            Kind::Fmp4(cutter) => cutter.finish()?,
            Kind::Unknown(first) if first.is_empty() => return Err(CutError::Empty),
            Kind::Unknown(_) => return Err(CutError::NotMedia),
        }
        self.output.flush();
        if self.output.has_begun() { Ok(()) } else { Err(CutError::Empty) }
    }

    /// Takes the next event.
    pub fn next_cut(&mut self) -> Option<Cut> {
        self.output.cuts.pop_front()
    }

    /// Duration of the media so far, by its own timestamps without jumps.
    pub fn clock(&self) -> Duration {
        match &self.kind {
            Kind::Mpegts(cutter) => cutter.clock(),
            Kind::Fmp4(cutter) => cutter.clock(),
            Kind::Unknown(_) => Duration::ZERO,
        }
    }
}

fn detect(first: &[u8]) -> Result<Kind, CutError> {
    match first {
        [0x1a, 0x45, 0xdf, 0xa3, ..] => Err(CutError::Other("Matroska or WebM")),
        [b'F', b'L', b'V', ..] => Err(CutError::Other("FLV")),
        [b'R', b'I', b'F', b'F', ..] => Err(CutError::Other("RIFF")),
        [b'O', b'g', b'g', b'S', ..] => Err(CutError::Other("Ogg")),
        [0, 0, 0, 1, ..] | [0, 0, 1, ..] => Err(CutError::Other("a bare video stream")),
        first if begins_fragment(first) => Ok(Kind::Fmp4(Box::new(Fmp4::new(false)))),
        _ => Ok(Kind::Mpegts(Box::new(Mpegts::new(false)))),
    }
}

/// Events that were not taken yet.
type Cuts = VecDeque<Cut>;

#[cfg(test)]
mod tests;
