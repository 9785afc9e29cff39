//! MPEG transport streams: groups begin at packets that begin a keyframe of the first program's video; the head of a group
//! is the program's tables, as they came last.
//!
//! Head and media of all groups one after the other are the input from the first group's tables on, packet by packet, where
//! tables stand directly before each keyframe, as ffmpeg writes them. Where they do not, a head repeats the last tables,
//! with their continuity counters: packets that ISO/IEC 13818-1 (2.4.3.3) calls duplicates.

mod keyframe;
mod tables;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use usher_proto::model::Medium;

use self::{keyframe::Scan, tables::Tables};
use crate::{
    codec::is_audio_or_video,
    mpegts::{
        TICKS, WRAP,
        packet::{PACKET, Parsed, SYNC, Ticks},
    },
};

use super::{CutError, LARGEST, LONGEST, Output, SOUND, Warning, clock::Clock};

/// Number of consecutive sync bytes that locate packets at the start and after damage.
const IN_STEP: usize = 3;

/// Bytes searched for packets at the beginning: more than the banner that a login shell prints into the pipe.
const REACH_FIRST: usize = 64 * 1024;

/// The same after damage: a short loss.
const REACH: usize = 1 << 20;

/// Bytes without tables after which the input is refused. Tables come at least every 0.1 s (DVB, TR 101 290).
const REACH_TABLES: u64 = 8 << 20;

/// Packets that a decision about a keyframe may wait for.
const HELD: usize = 64;

/// Packets of tables in a row whose group is not known yet.
const PENDING: usize = 64;

/// Bytes that these and the next packet may add to a group.
const MARGIN: u64 = ((HELD + PENDING + 2) * PACKET) as u64;

type Packet = [u8; PACKET];

/// Splits a transport stream into groups.
#[derive(Debug)]
pub(super) struct Mpegts {
    /// The format was given, not detected.
    named: bool,
    /// Received bytes of the next packets.
    rest: BytesMut,
    synced: bool,
    /// Bytes passed over since the last packet, or the beginning.
    skipped: usize,
    /// Whether any packet was found.
    begun: bool,
    /// Bytes of packets so far, while there were no tables.
    before: u64,
    /// The number of the next packet.
    number: u64,
    tables: Tables,
    format_emitted: bool,
    clock: Clock,
    since: Option<Instant>,
    /// Packets of tables whose group is that of the next other packet.
    pending: Vec<(u64, Packet)>,
    /// Packets since the start of a picture that may be a keyframe.
    held: Vec<Packet>,
    scan: Option<Scan>,
    /// The packets mark keyframes (random access indicator).
    indicated: bool,
    /// When the present group of sound began.
    sound: Option<Ticks>,
}

impl Mpegts {
    pub(super) fn new(named: bool) -> Self {
        Self {
            named,
            rest: BytesMut::new(),
            synced: false,
            skipped: 0,
            begun: false,
            before: 0,
            number: 0,
            tables: Tables::default(),
            format_emitted: false,
            clock: Clock::new(),
            since: None,
            pending: Vec::new(),
            held: Vec::new(),
            scan: None,
            indicated: false,
            sound: None,
        }
    }

    pub(super) fn clock(&self) -> Duration {
        self.clock.length()
    }

    pub(super) fn push(&mut self, now: Instant, bytes: &[u8], output: &mut Output) -> Result<(), CutError> {
        self.rest.extend_from_slice(bytes);
        loop {
            if !self.synced && !self.search(output)? {
                return Ok(());
            }
            let Some(packet) = self.rest.first_chunk::<PACKET>().copied() else { return Ok(()) };
            if packet[0] != SYNC {
                self.synced = false;
                continue;
            }
            let _taken = self.rest.split_to(PACKET);
            self.skipped = 0;
            self.packet(now, packet, output)?;
        }
    }

    pub(super) fn finish(&mut self, output: &mut Output) -> Result<(), CutError> {
        if !self.begun {
            return Err(if self.skipped + self.rest.len() == 0 { CutError::Empty } else { self.not_media() });
        }
        if !self.format_emitted {
            return Err(CutError::NoTables(self.before));
        }
        self.release(output);
        self.add_pending_tables(output);
        Ok(())
    }

    /// Finds packets in step; `false` when that needs more bytes.
    fn search(&mut self, output: &mut Output) -> Result<bool, CutError> {
        let reach = PACKET * (IN_STEP - 1);
        let last = self.rest.len().saturating_sub(reach);
        let in_step = |at: &usize| (0..IN_STEP).all(|step| self.rest.get(at + step * PACKET) == Some(&SYNC));
        let found = (0..last).find(in_step);
        let passed = found.unwrap_or(last);
        self.skipped += passed;
        let _passed = self.rest.split_to(passed);
        let most = if self.begun { REACH } else { REACH_FIRST };
        if self.skipped > most {
            return Err(if self.begun { CutError::OutOfSync(self.skipped) } else { self.not_media() });
        }
        if found.is_some() {
            if self.begun || self.skipped > 0 {
                output.warn(Warning::Damaged);
            }
            (self.synced, self.begun) = (true, true);
        }
        Ok(found.is_some())
    }

    fn not_media(&self) -> CutError {
        if self.named { CutError::NotMpegts } else { CutError::NotMedia }
    }

    fn packet(&mut self, now: Instant, packet: Packet, output: &mut Output) -> Result<(), CutError> {
        let number = self.number;
        self.number += 1;
        let since = *self.since.get_or_insert(now);
        let parsed = Parsed::from(&packet);
        if self.tables.are_of(parsed.pid) {
            self.tables.take(number, &packet, &parsed);
            if !self.format_emitted && self.tables.is_known() {
                self.emit_format(output)?;
            }
            if !self.held.is_empty() {
                self.hold(packet, output);
                return Ok(());
            }
            if self.pending.len() >= PENDING {
                self.add_pending_tables(output);
            }
            self.pending.push((number, packet));
            return Ok(());
        }
        if !self.format_emitted {
            self.before += PACKET as u64;
            let late = self.before > REACH_TABLES || now.saturating_duration_since(since) > LONGEST;
            return if late { Err(CutError::NoTables(self.before)) } else { Ok(()) };
        }
        self.update_clock(&parsed);
        if self.scan.is_some() {
            if self.tables.video_pid() != Some(parsed.pid) {
                self.hold(packet, output);
                return Ok(());
            }
            if !parsed.starts {
                let is_keyframe = self.scan.as_mut().and_then(|scan| scan.take(parsed.payload));
                self.hold(packet, output);
                self.handle_scan_result(now, is_keyframe, output);
                return Ok(());
            }
            // The previous picture ended before its type was known.
            self.release(output);
        }
        let waited = if output.has_begun() {
            output.is_due(now)
        } else {
            self.before += PACKET as u64;
            self.before >= LARGEST || now.saturating_duration_since(since) >= LONGEST
        };
        if waited && parsed.starts || output.is_too_much(MARGIN) {
            output.warn(Warning::NoKeyframe);
            self.sound = parsed.pts;
            self.begin(now, output);
        } else if parsed.starts && self.tables.video_pid() == Some(parsed.pid) {
            if self.handle_picture_start(now, &packet, &parsed, output) {
                return Ok(());
            }
        } else if parsed.starts && self.tables.sound_pid() == Some(parsed.pid) && self.is_next_sound(parsed.pts) {
            self.sound = parsed.pts;
            self.begin(now, output);
        }
        self.add_pending_tables(output);
        self.media(&packet, output);
        Ok(())
    }

    fn emit_format(&mut self, output: &mut Output) -> Result<(), CutError> {
        let tracks = self.tables.tracks();
        if !tracks.iter().any(is_audio_or_video) {
            return Err(CutError::NoTracks);
        }
        (self.format_emitted, self.before) = (true, 0);
        let medium = Medium { media_type: "video/mp2t".to_owned(), tracks };
        output.cuts.push_back(super::Cut::Medium(medium));
        Ok(())
    }

    fn update_clock(&mut self, parsed: &Parsed<'_>) {
        let ticks = match self.tables.clock_pid() {
            Some(pid) => parsed.pcr.filter(|_| parsed.pid == pid),
            None => parsed.pts,
        };
        if let Some(ticks) = ticks {
            self.clock.take(ticks, TICKS, WRAP - 1);
        }
    }

    /// Handles the first packet of a picture: begins a group if the picture is known to be a keyframe. Returns `true` if the
    /// packet is held until that is known.
    fn handle_picture_start(
        &mut self,
        now: Instant,
        packet: &Packet,
        parsed: &Parsed<'_>,
        output: &mut Output,
    ) -> bool {
        self.indicated |= parsed.random_access;
        let scan = Scan::new(self.tables.video_codec()).filter(|_| !self.indicated && !parsed.scrambled);
        let is_held = scan.is_some();
        match scan {
            Some(mut scan) => {
                let is_keyframe = scan.take(parsed.payload);
                self.scan = Some(scan);
                self.held.push(*packet);
                self.handle_scan_result(now, is_keyframe, output);
            }
            None if parsed.random_access => self.begin(now, output),
            None if !output.has_begun() => output.warn(Warning::Waiting),
            None => {}
        }
        is_held
    }

    /// Whether sound that begins here begins a group.
    fn is_next_sound(&self, pts: Option<Ticks>) -> bool {
        match (self.sound, pts) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(since), Some(pts)) => pts.wrapping_sub(since) % WRAP >= SOUND.as_secs() * TICKS,
        }
    }

    fn handle_scan_result(&mut self, now: Instant, is_keyframe: Option<bool>, output: &mut Output) {
        let Some(is_keyframe) = is_keyframe else { return };
        if self.scan.is_none() {
            return;
        }
        if is_keyframe {
            self.begin(now, output);
        } else if !output.has_begun() {
            output.warn(Warning::Waiting);
        }
        self.release(output);
    }

    /// Holds a packet until it is known whether a group begins before it.
    fn hold(&mut self, packet: Packet, output: &mut Output) {
        self.held.push(packet);
        if self.held.len() >= HELD {
            self.release(output);
        }
    }

    fn release(&mut self, output: &mut Output) {
        self.scan = None;
        if self.held.is_empty() {
            return;
        }
        self.add_pending_tables(output);
        for packet in std::mem::take(&mut self.held) {
            self.media(&packet, output);
        }
    }

    /// Begins a group.
    fn begin(&mut self, now: Instant, output: &mut Output) {
        let (numbers, head) = self.tables.head();
        let pending = std::mem::take(&mut self.pending);
        for (_, packet) in pending.iter().filter(|(number, _)| !numbers.contains(number)) {
            self.media(packet, output);
        }
        output.begin(now, head);
    }

    /// Adds the pending packets of tables to the present group.
    fn add_pending_tables(&mut self, output: &mut Output) {
        for (_, packet) in std::mem::take(&mut self.pending) {
            self.media(&packet, output);
        }
    }

    fn media(&self, packet: &Packet, output: &mut Output) {
        if output.has_begun() {
            output.media(packet);
            output.mark_boundary();
        }
    }
}
