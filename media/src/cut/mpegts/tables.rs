//! The first program's tables (ISO/IEC 13818-1, 2.4.4): what it consists of, and the packets that say so.

use bytes::Bytes;
use usher_proto::pb::v1::{Track, TrackKind};

use super::{Packet, packet::Parsed};
use crate::{codec, cut::MAX_TRACKS};

/// The PID of the program association table.
const PAT: u16 = 0;

/// The PID that means none.
const NONE: u16 = 0x1fff;

/// The longest section, and what its last packet brings besides.
const MAX_SECTION: usize = 4096 + 188;

/// The most packets of one: each brings a little at least.
const MAX_PACKETS: usize = 64;

/// One table, as its packets come.
#[derive(Debug, Default)]
struct Table {
    /// The section that is coming.
    buffer: Vec<u8>,
    packets: Vec<(u64, Packet)>,
    /// The packets of the last whole one.
    current: Vec<(u64, Packet)>,
    /// Its body without header and checksum.
    body: Vec<u8>,
}

impl Table {
    /// Takes a packet; whether it made a section whole that is wanted and differs from the one before.
    fn take(&mut self, number: u64, packet: &Packet, parsed: &Parsed<'_>, wanted: impl Fn(&[u8]) -> bool) -> bool {
        if parsed.starts {
            let begin = parsed.payload.split_first().and_then(|(skip, rest)| rest.get(usize::from(*skip)..));
            self.buffer.clear();
            self.packets.clear();
            self.buffer.extend_from_slice(begin.unwrap_or_default());
        } else if !self.buffer.is_empty() && self.buffer.len() < MAX_SECTION && self.packets.len() < MAX_PACKETS {
            self.buffer.extend_from_slice(parsed.payload);
        } else {
            return false;
        }
        self.packets.push((number, *packet));
        let mut rest = self.buffer.as_slice();
        while let Some((section, after)) = split(rest) {
            if wanted(section) && crc(section) == 0 {
                let body = section.get(3..section.len() - 4).unwrap_or_default();
                let differs = self.body != body;
                if differs {
                    self.body = body.to_vec();
                }
                self.current = std::mem::take(&mut self.packets);
                self.buffer.clear();
                return differs;
            }
            rest = after;
        }
        false
    }
}

/// The first section, once it is whole, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [table, a, b, ..] = *bytes else { return None };
    let len = usize::from(u16::from_be_bytes([a, b]) & 0xfff);
    // 0xff fills the rest of a packet, and a section has at least its checksum.
    if table == 0xff || len < 4 {
        return None;
    }
    bytes.split_at_checked(3 + len)
}

/// CRC-32/MPEG-2, which is 0 over a section with its checksum.
fn crc(section: &[u8]) -> u32 {
    section.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            if crc & 0x8000_0000 == 0 { crc << 1 } else { crc << 1 ^ 0x04c1_1db7 }
        })
    })
}

/// The tables of a stream.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pat: Table,
    pmt: Table,
    /// The first program's number and where its table is.
    program: Option<(u16, u16)>,
    clock: Option<u16>,
    tracks: Vec<(u16, Track)>,
}

impl Tables {
    /// Whether packets of this PID carry tables.
    pub(super) fn are_of(&self, pid: u16) -> bool {
        pid == PAT || self.program.is_some_and(|(_, pmt)| pmt == pid)
    }

    /// Takes such a packet.
    pub(super) fn take(&mut self, number: u64, packet: &Packet, parsed: &Parsed<'_>) {
        if parsed.pid == PAT {
            // Bit 0 of the sixth byte: it applies now.
            let wanted = |section: &[u8]| section.first() == Some(&0) && section.get(5).is_some_and(|b| b & 1 != 0);
            if self.pat.take(number, packet, parsed, wanted) {
                let program = program(&self.pat.body);
                if program != self.program {
                    (self.program, self.pmt) = (program, Table::default());
                }
            }
        } else if let Some((program, _)) = self.program {
            let number_of = |section: &[u8]| Some(u16::from_be_bytes([*section.get(3)?, *section.get(4)?]));
            let wanted = |section: &[u8]| {
                section.first() == Some(&2)
                    && section.get(5).is_some_and(|b| b & 1 != 0)
                    && number_of(section) == Some(program)
            };
            if self.pmt.take(number, packet, parsed, wanted) {
                (self.clock, self.tracks) = streams(&self.pmt.body);
            }
        }
    }

    /// Whether it is known what the program consists of.
    pub(super) fn is_known(&self) -> bool {
        !self.pmt.current.is_empty()
    }

    /// The packets of the last tables, and their numbers.
    pub(super) fn head(&self) -> (Vec<u64>, Bytes) {
        let packets = self.pat.current.iter().chain(&self.pmt.current);
        let head: Vec<u8> = packets.clone().flat_map(|(_, packet)| *packet).collect();
        (packets.map(|(number, _)| *number).collect(), head.into())
    }

    /// What the program consists of.
    pub(super) fn tracks(&self) -> Vec<Track> {
        self.tracks.iter().map(|(_, track)| track.clone()).collect()
    }

    /// Where its clock is, if it has one.
    pub(super) fn clock_pid(&self) -> Option<u16> {
        self.clock
    }

    fn first(&self, kind: TrackKind) -> Option<&(u16, Track)> {
        self.tracks.iter().find(|(_, track)| track.kind() == kind)
    }

    /// Where its pictures are.
    pub(super) fn video_pid(&self) -> Option<u16> {
        self.first(TrackKind::Video).map(|(pid, _)| *pid)
    }

    /// How they are coded; empty when there are none.
    pub(super) fn video_codec(&self) -> &str {
        self.first(TrackKind::Video).map_or("", |(_, track)| &track.codec)
    }

    /// Where its sound is, when there are no pictures.
    pub(super) fn sound_pid(&self) -> Option<u16> {
        self.first(TrackKind::Audio).map(|(pid, _)| *pid).filter(|_| self.video_pid().is_none())
    }
}

fn pid(a: u8, b: u8) -> u16 {
    u16::from(a & 0x1f) << 8 | u16::from(b)
}

/// The first program of a PAT: entries of four bytes, of which number 0 is the network's.
fn program(body: &[u8]) -> Option<(u16, u16)> {
    let (entries, _) = body.get(5..)?.as_chunks::<4>();
    entries.iter().map(|[a, b, c, d]| (u16::from_be_bytes([*a, *b]), pid(*c, *d))).find(|(number, _)| *number != 0)
}

/// The clock and the streams of a PMT.
fn streams(body: &[u8]) -> (Option<u16>, Vec<(u16, Track)>) {
    let mut tracks = Vec::new();
    let [_, _, _, _, _, a, b, c, d, rest @ ..] = body else { return (None, tracks) };
    let clock = Some(pid(*a, *b)).filter(|pid| *pid != NONE);
    let skip = usize::from(u16::from_be_bytes([*c, *d]) & 0xfff);
    let mut rest = rest.get(skip..).unwrap_or_default();
    while let [kind, a, b, c, d, tail @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*c, *d]) & 0xfff);
        let Some((descriptors, after)) = tail.split_at_checked(len) else { break };
        if let Some(track) = codec::of_mpegts(*kind, descriptors)
            && tracks.len() < MAX_TRACKS
        {
            tracks.push((pid(*a, *b), track));
        }
        rest = after;
    }
    (clock, tracks)
}
