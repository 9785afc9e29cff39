//! MPEG transport streams (ISO/IEC 13818-1) in packets of 188 bytes, or 192 with a leading time code (M2TS): PAT and
//! PMT for the tracks, the first and last PTS for the duration.

use std::io::{Read, Seek};

use usher_proto::pb::v1::Track;

use crate::mpegts::{
    TICKS, WRAP,
    packet::{PACKET, Parsed, SYNC},
    tables::{PAT, Sections, first_program, streams},
};

use super::{Probe, ProbeError, Source, millis};

/// Bytes looked at from each end, more than any usual distance between two tables or two PTS.
const REACH: u64 = 1 << 20;

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
            in_step = in_step && source.array(packet * layout.stride + layout.lead)? == Some([SYNC]);
        }
        if in_step {
            return Ok(Some(layout));
        }
    }
    Ok(None)
}

pub(super) fn probe<R: Read + Seek>(source: &mut Source<'_, R>, layout: Layout) -> Result<Probe, ProbeError> {
    let head = source.bytes(0, usize::try_from(source.size.min(REACH)).unwrap_or(0))?;
    let mut tables = FileTables::default();
    let mut range = PtsRange::default();
    for packet in packets(&head, layout) {
        if tables.tracks.is_none() {
            tables.take(&packet);
        }
        if range.first.is_none() {
            range.take(&packet);
        }
    }
    let tracks = tables.tracks.ok_or(ProbeError::Malformed("no program table near its start"))?;
    let mut tail_range = PtsRange::default();
    let start = source.size.saturating_sub(REACH) / layout.stride * layout.stride;
    let tail = source.bytes(start, usize::try_from(source.size - start).unwrap_or(0))?;
    for packet in packets(&tail, layout) {
        tail_range.take(&packet);
    }
    let ticks = match (range.first, tail_range.last) {
        (Some(first), Some(last)) => last.wrapping_sub(first) % WRAP,
        _ => 0,
    };
    // The clock was reset in the file if it seems to run backwards: the duration is unknown.
    let ticks = if ticks > WRAP / 2 && range.first < tail_range.last { 0 } else { ticks };
    Ok(Probe { media_type: "video/mp2t", duration_ms: millis(ticks, TICKS), streamable: true, tracks })
}

fn packets(bytes: &[u8], layout: Layout) -> impl Iterator<Item = Parsed<'_>> {
    let (stride, lead) = (layout.stride as usize, layout.lead as usize);
    bytes.chunks(stride).filter_map(move |chunk| {
        let packet = chunk.get(lead..)?.first_chunk::<PACKET>()?;
        (packet[0] == SYNC).then(|| Parsed::from(packet))
    })
}

/// The program tables of a file's beginning.
#[derive(Default)]
struct FileTables {
    pat: Sections,
    pmt_pid: Option<u16>,
    pmt: Sections,
    tracks: Option<Vec<Track>>,
}

impl FileTables {
    fn take(&mut self, packet: &Parsed<'_>) {
        let take = |sections: &mut Sections, table: u8| {
            sections.push(packet).then(|| sections.take(|section| section.first() == Some(&table))).flatten()
        };
        if packet.pid == PAT && self.pmt_pid.is_none() {
            if let Some(body) = take(&mut self.pat, 0) {
                self.pmt_pid = first_program(&body).map(|(_, pid)| pid);
            }
        } else if Some(packet.pid) == self.pmt_pid
            && let Some(body) = take(&mut self.pmt, 2)
        {
            self.tracks = Some(streams(&body).1.into_iter().map(|(_, track)| track).collect());
        }
    }
}

/// First and last PTS seen, of any stream, in ticks of 90 kHz.
#[derive(Default)]
struct PtsRange {
    first: Option<u64>,
    last: Option<u64>,
}

impl PtsRange {
    fn take(&mut self, packet: &Parsed<'_>) {
        let Some(pts) = packet.pts else { return };
        self.first = self.first.or(Some(pts));
        // Pictures are sent out of order: the latest counts, but for a wrap.
        let later = self.last.is_none_or(|last| (pts.wrapping_sub(last) % WRAP) < WRAP / 2);
        if later {
            self.last = Some(pts);
        }
    }
}
