//! MPEG transport streams (ISO/IEC 13818-1) in packets of 188 bytes, or 192 with a leading time code (M2TS): PAT and
//! PMT for the tracks, the first and last PTS for the duration.

use std::io::{Read, Seek};

use usher_proto::pb::v1::Track;

use crate::codec;

use super::{MAX_TRACKS, Probe, ProbeError, Source, millis, number};

/// Bytes looked at from each end, more than any sane distance between two tables or two PTS.
const REACH: u64 = 1 << 20;

const PACKET: usize = 188;

/// PTS and PCR wrap at 33 bits of a 90 kHz clock, after 26.5 hours.
const WRAP: u64 = 1 << 33;

/// How packets lie in the file.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// 188 or 192.
    stride: u64,
    /// Bytes before each sync byte.
    lead: u64,
}

/// Finds the packets; `None` when this is no transport stream.
pub(super) fn layout<R: Read + Seek>(source: &mut Source<'_, R>) -> Result<Option<Layout>, ProbeError> {
    for layout in [Layout { stride: 188, lead: 0 }, Layout { stride: 192, lead: 4 }] {
        // Three sync bytes in step; five where the file is that long.
        let packets = (source.size / layout.stride).min(5);
        let mut in_step = packets >= 3;
        for packet in 0..packets {
            in_step = in_step && source.array(packet * layout.stride + layout.lead)? == Some([0x47]);
        }
        if in_step {
            return Ok(Some(layout));
        }
    }
    Ok(None)
}

pub(super) fn probe<R: Read + Seek>(source: &mut Source<'_, R>, layout: Layout) -> Result<Probe, ProbeError> {
    let head = source.bytes(0, usize::try_from(source.size.min(REACH)).unwrap_or(0))?;
    let mut tables = Tables::default();
    let mut clock = Clock::default();
    for packet in packets(&head, layout) {
        if tables.tracks.is_none() {
            tables.take(&packet);
        }
        if clock.first.is_none() {
            clock.take(&packet);
        }
    }
    let tracks = tables.tracks.ok_or(ProbeError::Malformed("no program table near its start"))?;
    let mut tail_clock = Clock::default();
    let start = source.size.saturating_sub(REACH) / layout.stride * layout.stride;
    let tail = source.bytes(start, usize::try_from(source.size - start).unwrap_or(0))?;
    for packet in packets(&tail, layout) {
        tail_clock.take(&packet);
    }
    let ticks = match (clock.first, tail_clock.last) {
        (Some(first), Some(last)) => last.wrapping_sub(first) % WRAP,
        _ => 0,
    };
    // A clock that seems to run backwards was reset on the way: no duration can be told.
    let ticks = if ticks > WRAP / 2 && clock.first < tail_clock.last { 0 } else { ticks };
    Ok(Probe { media_type: "video/mp2t", duration_ms: millis(ticks, 90_000), streamable: true, tracks })
}

/// One packet's header and payload.
struct Packet<'a> {
    pid: u16,
    starts: bool,
    payload: &'a [u8],
}

fn packets(bytes: &[u8], layout: Layout) -> impl Iterator<Item = Packet<'_>> {
    let (stride, lead) = (layout.stride as usize, layout.lead as usize);
    bytes.chunks(stride).filter_map(move |chunk| packet(chunk.get(lead..lead + PACKET)?))
}

fn packet(packet: &[u8]) -> Option<Packet<'_>> {
    let [0x47, a, b, control, ..] = *packet else { return None };
    let skip = match control >> 4 & 3 {
        1 => 4,
        3 => 5 + usize::from(*packet.get(4)?),
        _ => return None, // No payload.
    };
    if a & 0x80 != 0 {
        return None; // Known to be damaged.
    }
    Some(Packet { pid: u16::from(a & 0x1f) << 8 | u16::from(b), starts: a & 0x40 != 0, payload: packet.get(skip..)? })
}

/// The program tables, as they come together.
#[derive(Default)]
struct Tables {
    pat: Vec<u8>,
    pmt_pid: Option<u16>,
    pmt: Vec<u8>,
    tracks: Option<Vec<Track>>,
}

impl Tables {
    fn take(&mut self, packet: &Packet<'_>) {
        if packet.pid == 0 && self.pmt_pid.is_none() {
            // Entries of four bytes: program number and PID; program 0 is the network's.
            if let Some(body) = section(&mut self.pat, packet, 0) {
                let programs = body.get(5..).unwrap_or_default().chunks_exact(4);
                let program = programs.into_iter().find(|entry| entry[..2] != [0, 0]);
                self.pmt_pid = program.map(|entry| u16::from(entry[2] & 0x1f) << 8 | u16::from(entry[3]));
            }
        } else if Some(packet.pid) == self.pmt_pid
            && let Some(body) = section(&mut self.pmt, packet, 2)
        {
            self.tracks = Some(streams(&body));
        }
    }
}

/// Adds a packet to a section; the section's body without length and checksum once it is whole.
fn section(buffer: &mut Vec<u8>, packet: &Packet<'_>, table: u8) -> Option<Vec<u8>> {
    if packet.starts {
        let pointer = usize::from(*packet.payload.first()?);
        buffer.clear();
        buffer.extend_from_slice(packet.payload.get(1 + pointer..)?);
    } else if !buffer.is_empty() && buffer.len() < 4096 {
        buffer.extend_from_slice(packet.payload);
    }
    if buffer.first() != Some(&table) {
        buffer.clear();
        return None;
    }
    let len = usize::try_from(number(buffer, 1, 2)? & 0xfff).ok()?;
    let body = buffer.get(3..3 + len)?;
    Some(body.get(..len.checked_sub(4)?)?.to_vec())
}

/// The streams of a PMT's body.
fn streams(body: &[u8]) -> Vec<Track> {
    let short = |at: usize| number(body, at, 2).map(|value| (value & 0xfff) as usize);
    let mut tracks = Vec::new();
    let Some(info) = short(7) else { return tracks };
    let mut at = 9 + info;
    while let (Some(&kind), Some(len)) = (body.get(at), short(at + 3)) {
        let descriptors = body.get(at + 5..at + 5 + len).unwrap_or_default();
        if let Some(track) = codec::of_mpegts(kind, descriptors)
            && tracks.len() < MAX_TRACKS
        {
            tracks.push(track);
        }
        at += 5 + len;
    }
    tracks
}

/// First and last PTS seen, of any stream, in ticks of 90 kHz.
#[derive(Default)]
struct Clock {
    first: Option<u64>,
    last: Option<u64>,
}

impl Clock {
    fn take(&mut self, packet: &Packet<'_>) {
        let Some(pts) = pts(packet) else { return };
        self.first = self.first.or(Some(pts));
        // Pictures are sent out of order: the latest counts, but for a wrap.
        let later = self.last.is_none_or(|last| (pts.wrapping_sub(last) % WRAP) < WRAP / 2);
        if later {
            self.last = Some(pts);
        }
    }
}

/// The PTS of a PES header of audio or video.
fn pts(packet: &Packet<'_>) -> Option<u64> {
    let [0, 0, 1, 0xbd..=0xfd, _, _, _, flags, _, a, b, c, d, e, ..] = *packet.payload else { return None };
    if !packet.starts || flags & 0x80 == 0 {
        return None;
    }
    let [a, b, c, d, e] = [a, b, c, d, e].map(u64::from);
    Some((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1)
}
