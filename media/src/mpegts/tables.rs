//! Sections of the program tables PAT and PMT (ISO/IEC 13818-1, 2.4.4).

use usher_proto::pb::v1::Track;

use super::packet::Parsed;
use crate::{MAX_TRACKS, codec};

/// The PID of the program association table.
pub(crate) const PAT: u16 = 0;

/// The PID that means none.
const NONE: u16 = 0x1fff;

/// The largest section in bytes, and the rest of its last packet.
const MAX_SECTION: usize = 4096 + 188;

/// Reassembles the sections of one PID.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    buffer: Vec<u8>,
}

impl Sections {
    /// Adds a packet; `false` when it continues no section, or one that is too long.
    pub(crate) fn push(&mut self, parsed: &Parsed<'_>) -> bool {
        if parsed.starts {
            let begin = parsed.payload.split_first().and_then(|(skip, rest)| rest.get(usize::from(*skip)..));
            self.buffer.clear();
            self.buffer.extend_from_slice(begin.unwrap_or_default());
            true
        } else if !self.buffer.is_empty() && self.buffer.len() < MAX_SECTION {
            self.buffer.extend_from_slice(parsed.payload);
            true
        } else {
            false
        }
    }

    /// The body, without header and checksum, of the first whole section that is `wanted`, which is then forgotten with all
    /// others.
    pub(crate) fn take(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let mut rest = self.buffer.as_slice();
        while let Some((section, after)) = split(rest) {
            if wanted(section) {
                let body = section.get(3..section.len() - 4).unwrap_or_default().to_vec();
                self.buffer.clear();
                return Some(body);
            }
            rest = after;
        }
        None
    }
}

/// The first section, once it is whole, and the bytes after it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [table, a, b, ..] = *bytes else { return None };
    let len = usize::from(u16::from_be_bytes([a, b]) & 0xfff);
    // 0xff fills the rest of a packet, and a section has at least its checksum.
    if table == 0xff || len < 4 {
        return None;
    }
    bytes.split_at_checked(3 + len)
}

/// Whether a section's checksum is right: CRC-32/MPEG-2 is 0 over a section with its checksum.
pub(crate) fn is_intact(section: &[u8]) -> bool {
    let crc = section.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            if crc & 0x8000_0000 == 0 { crc << 1 } else { crc << 1 ^ 0x04c1_1db7 }
        })
    });
    crc == 0
}

fn pid(a: u8, b: u8) -> u16 {
    u16::from(a & 0x1f) << 8 | u16::from(b)
}

/// Number and PID of the first program of a PAT's body: entries of four bytes, of which number 0 is the network's.
pub(crate) fn first_program(body: &[u8]) -> Option<(u16, u16)> {
    let (entries, _) = body.get(5..)?.as_chunks::<4>();
    entries.iter().map(|[a, b, c, d]| (u16::from_be_bytes([*a, *b]), pid(*c, *d))).find(|(number, _)| *number != 0)
}

/// The PID of the clock, if any, and the streams of a PMT's body with their PIDs.
pub(crate) fn streams(body: &[u8]) -> (Option<u16>, Vec<(u16, Track)>) {
    let mut tracks = Vec::new();
    let [_, _, _, _, _, a, b, c, d, rest @ ..] = body else { return (None, tracks) };
    let clock = Some(pid(*a, *b)).filter(|pid| *pid != NONE);
    let skip = usize::from(u16::from_be_bytes([*c, *d]) & 0xfff);
    let mut rest = rest.get(skip..).unwrap_or_default();
    while let [kind, a, b, c, d, tail @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*c, *d]) & 0xfff);
        let (descriptors, after) = tail.split_at_checked(len).unwrap_or_default();
        if let Some(track) = codec::of_mpegts(*kind, descriptors)
            && tracks.len() < MAX_TRACKS
        {
            tracks.push((pid(*a, *b), track));
        }
        rest = after;
    }
    (clock, tracks)
}
