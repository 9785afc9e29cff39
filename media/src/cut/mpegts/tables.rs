//! The first program's tables: its streams, and the packets of the tables.

use bytes::Bytes;
use usher_proto::pb::v1::{Track, TrackKind};

use super::Packet;
use crate::mpegts::{
    packet::Parsed,
    tables::{PAT, Sections, first_program, is_intact, streams},
};

/// Limit of the packets of one section.
const MAX_PACKETS: usize = 64;

/// One table and its packets.
#[derive(Debug, Default)]
struct Table {
    sections: Sections,
    /// The packets of the section that is arriving, with their numbers.
    packets: Vec<(u64, Packet)>,
    /// The packets of the last complete section.
    current: Vec<(u64, Packet)>,
    /// Its body without header and checksum.
    body: Vec<u8>,
}

impl Table {
    /// Takes a packet; `true` when it completes a wanted section that differs from the one before.
    fn take(&mut self, number: u64, packet: &Packet, parsed: &Parsed<'_>, wanted: impl Fn(&[u8]) -> bool) -> bool {
        if parsed.starts {
            self.packets.clear();
        } else if self.packets.len() >= MAX_PACKETS {
            return false;
        }
        if !self.sections.push(parsed) {
            return false;
        }
        self.packets.push((number, *packet));
        let Some(body) = self.sections.take(|section| wanted(section) && is_intact(section)) else { return false };
        self.current = std::mem::take(&mut self.packets);
        let differs = self.body != body;
        self.body = body;
        differs
    }
}

/// The tables of a stream.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pat: Table,
    pmt: Table,
    /// Number of the first program, and the PID of its table.
    program: Option<(u16, u16)>,
    clock: Option<u16>,
    tracks: Vec<(u16, Track)>,
}

impl Tables {
    /// Whether packets of this PID carry tables.
    pub(super) fn are_of(&self, pid: u16) -> bool {
        pid == PAT || self.program.is_some_and(|(_, pmt)| pmt == pid)
    }

    /// Takes a packet of a table.
    pub(super) fn take(&mut self, number: u64, packet: &Packet, parsed: &Parsed<'_>) {
        if parsed.pid == PAT {
            // Bit 0 of the sixth byte: it applies now.
            let wanted = |section: &[u8]| section.first() == Some(&0) && section.get(5).is_some_and(|b| b & 1 != 0);
            if self.pat.take(number, packet, parsed, wanted) {
                let program = first_program(&self.pat.body);
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

    /// Whether the program's streams are known.
    pub(super) fn is_known(&self) -> bool {
        !self.pmt.current.is_empty()
    }

    /// The packets of the last tables, and their numbers.
    pub(super) fn head(&self) -> (Vec<u64>, Bytes) {
        let packets = self.pat.current.iter().chain(&self.pmt.current);
        let head: Vec<u8> = packets.clone().flat_map(|(_, packet)| *packet).collect();
        (packets.map(|(number, _)| *number).collect(), head.into())
    }

    /// The program's streams.
    pub(super) fn tracks(&self) -> Vec<Track> {
        self.tracks.iter().map(|(_, track)| track.clone()).collect()
    }

    /// The PID of its clock, if it has one.
    pub(super) fn clock_pid(&self) -> Option<u16> {
        self.clock
    }

    fn first(&self, kind: TrackKind) -> Option<&(u16, Track)> {
        self.tracks.iter().find(|(_, track)| track.kind() == kind)
    }

    /// The PID of its video.
    pub(super) fn video_pid(&self) -> Option<u16> {
        self.first(TrackKind::Video).map(|(pid, _)| *pid)
    }

    /// The video's codec; empty without video.
    pub(super) fn video_codec(&self) -> &str {
        self.first(TrackKind::Video).map_or("", |(_, track)| &track.codec)
    }

    /// The PID of its audio, if there is no video.
    pub(super) fn sound_pid(&self) -> Option<u16> {
        self.first(TrackKind::Audio).map(|(pid, _)| *pid).filter(|_| self.video_pid().is_none())
    }
}
