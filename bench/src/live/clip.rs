//! A clip as ffmpeg makes it, once, and its frames: when each is written to a publisher, and which come out of a
//! player. Parses MPEG-TS as far as that needs; independent of clusters.

use std::{
    io::Write as _,
    ops::Range,
    path::Path,
    process::{ChildStdin, Command},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::peers::testbed::find;

/// Pictures in a second.
const PICTURES: u32 = 25;

/// From a picture to the next.
pub(crate) const INTERVAL: Duration = Duration::from_millis(1000 / PICTURES as u64);

/// Pictures from a keyframe to the next: 2 s.
const GOP: u32 = 2 * PICTURES;

/// The rate of all clips, in bits per second.
pub(crate) const RATE: u64 = 4_000_000;

/// Rate of a clip's sound, in bits per second.
const SOUND: u64 = 64_000;

/// Bytes of a packet.
const PACKET: usize = 188;

/// Ticks of a transport stream's clock from a picture to the next.
const TICKS: u64 = 90_000 / PICTURES as u64;

/// The numbers with which ffmpeg marks the pictures' packets, and those of the stream's tables.
const PICTURE_PID: u16 = 0x100;
const TABLE_PIDS: [u16; 3] = [0, 0x11, 0x1000];

/// Some seconds of pictures and sound, in memory.
pub(crate) struct Clip {
    bytes: Vec<u8>,
    /// Where each picture lies, with the sound behind it.
    pictures: Vec<Range<usize>>,
    /// The first picture's time.
    first: u64,
}

impl Clip {
    /// Lets ffmpeg make one of this length and rate in bits per second, in `dir`.
    pub(crate) fn make(dir: &Path, length: Duration, rate: u64) -> anyhow::Result<Arc<Self>> {
        let ffmpeg = find("ffmpeg", "apt-get install ffmpeg").context("feeds are made with ffmpeg")?;
        let file = dir.join("clip.ts");
        let mut make = Command::new(ffmpeg);
        make.args(["-nostdin", "-v", "error", "-y"]);
        make.args(["-f", "lavfi", "-i", &format!("testsrc2=size=640x360:rate={PICTURES}")]);
        make.args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
        // Without noise there would be too little to say for this rate.
        make.args(["-vf", "noise=alls=30:allf=t", "-t", &length.as_secs().to_string()]);
        make.args(["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-sc_threshold", "0"]);
        make.args(["-g", &GOP.to_string(), "-keyint_min", &GOP.to_string()]);
        let picture = rate.saturating_sub(SOUND).to_string();
        make.args(["-b:v", &picture, "-maxrate", &picture, "-bufsize", &picture]);
        make.args(["-c:a", "aac", "-b:a", &SOUND.to_string(), "-f", "mpegts"]).arg(&file);
        let made = make.output().context("run ffmpeg")?;
        ensure!(made.status.success(), "ffmpeg: {}", String::from_utf8_lossy(&made.stderr));
        Ok(Arc::new(Self::cut(std::fs::read(&file).context("read a clip")?)?))
    }

    /// Finds the pictures. Tables belong to the picture behind them.
    fn cut(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let (mut starts, mut tables, mut first) = (Vec::new(), None, None);
        for (number, packet) in bytes.chunks_exact(PACKET).enumerate() {
            let at = number * PACKET;
            match Packet::read(packet).context("a packet of a transport stream")? {
                Packet::Table => drop(tables.get_or_insert(at)),
                Packet::Picture(time) => {
                    first.get_or_insert(time);
                    starts.push(tables.take().unwrap_or(at));
                }
                Packet::More | Packet::Other => tables = None,
            }
        }
        let first = first.context("a clip without a picture")?;
        // Packets before the first picture go with it.
        *starts.first_mut().context("a clip without a picture")? = 0;
        let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
        let pictures = starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect();
        Ok(Self { bytes, pictures, first })
    }

    /// How many packets of its picture each picture has.
    fn packets(&self) -> Vec<usize> {
        let of = |range: &Range<usize>| {
            let packets = self.bytes[range.clone()].chunks_exact(PACKET).filter_map(Packet::read);
            packets.filter(|packet| matches!(packet, Packet::Picture(_) | Packet::More)).count()
        };
        self.pictures.iter().map(of).collect()
    }

    /// Writes the clip at the speed at which it plays, in a thread of its own, until it or its reader ends.
    pub(crate) fn play(self: &Arc<Self>, mut to: ChildStdin) -> Playing {
        let times = Arc::<Mutex<Vec<Instant>>>::default();
        let (clip, told) = (Arc::clone(self), Arc::clone(&times));
        let (stop, stopped) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let began = Instant::now();
            for (range, number) in clip.pictures.iter().zip(0..) {
                let due = (began + INTERVAL * number).saturating_duration_since(Instant::now());
                if stopped.recv_timeout(due) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                told.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                if to.write_all(&clip.bytes[range.clone()]).is_err() {
                    return;
                }
            }
        });
        Playing { times, _stop: stop }
    }
}

/// A clip that is being written; ends when dropped.
pub(crate) struct Playing {
    times: Arc<Mutex<Vec<Instant>>>,
    _stop: mpsc::Sender<()>,
}

impl Playing {
    /// When each picture so far was written: before its first byte was.
    pub(crate) fn times(&self) -> Vec<Instant> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The header of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packet {
    /// The program map: the tracks of the stream.
    Table,
    /// A picture of this time begins.
    Picture(u64),
    /// It goes on.
    More,
    Other,
}

impl Packet {
    /// ISO/IEC 13818-1, 2.4.3.2 and 2.4.3.6; `None` for what is no packet.
    fn read(packet: &[u8]) -> Option<Self> {
        let [0x47, high, low, flags, ..] = *packet else { return None };
        let pid = u16::from_be_bytes([high & 0x1f, low]);
        if TABLE_PIDS.contains(&pid) {
            return Some(Self::Table);
        }
        if pid != PICTURE_PID {
            return Some(Self::Other);
        }
        if high & 0x40 == 0 {
            return Some(Self::More);
        }
        let adaptation = if flags & 0x20 == 0 { 0 } else { 1 + usize::from(*packet.get(4)?) };
        let begin = packet.get(4 + adaptation..)?;
        let [0, 0, 1, _, _, _, _, has, _, a, b, c, d, e, ..] = *begin else { return None };
        if has & 0x80 == 0 {
            return None;
        }
        let [a, b, c, d, e] = [a, b, c, d, e].map(u64::from);
        Some(Self::Picture((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1))
    }
}

/// Finds the complete pictures of a clip in a player's output.
pub(crate) struct PictureReader {
    clip: Arc<Clip>,
    packets: Arc<Vec<usize>>,
    rest: Vec<u8>,
    /// The present picture, and the number of its packets so far.
    now: Option<(usize, usize)>,
    /// The newest that has begun.
    newest: Option<usize>,
    again: u64,
}

impl PictureReader {
    pub(crate) fn new(clip: &Arc<Clip>) -> Self {
        Self {
            clip: Arc::clone(clip),
            packets: Arc::new(clip.packets()),
            rest: Vec::new(),
            now: None,
            newest: None,
            again: 0,
        }
    }

    /// The same for another player.
    pub(crate) fn another(&self) -> Self {
        let (clip, packets) = (Arc::clone(&self.clip), Arc::clone(&self.packets));
        Self { clip, packets, rest: Vec::new(), now: None, newest: None, again: 0 }
    }

    /// Number of pictures that were not newer than all before them.
    pub(crate) fn again(&self) -> u64 {
        self.again
    }

    /// Takes bytes as they come; `seen` gets the number of each whole picture.
    pub(crate) fn see(&mut self, mut bytes: &[u8], mut seen: impl FnMut(usize)) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            let (some, more) = bytes.split_at(bytes.len().min(PACKET - self.rest.len()));
            self.rest.extend_from_slice(some);
            bytes = more;
            if self.rest.len() < PACKET {
                break;
            }
            let packet = Packet::read(&self.rest).context("what comes out of the player is no transport stream")?;
            self.rest.clear();
            match packet {
                Packet::Picture(time) => {
                    let ticks = time.checked_sub(self.clip.first).context("a picture from before the clip")?;
                    let picture = usize::try_from(ticks / TICKS)?;
                    self.again += u64::from(self.newest.is_some_and(|newest| newest >= picture));
                    (self.now, self.newest) = (Some((picture, 1)), self.newest.max(Some(picture)));
                }
                Packet::More => self.now = self.now.map(|(picture, packets)| (picture, packets + 1)),
                Packet::Table | Packet::Other => continue,
            }
            if let Some((picture, packets)) = self.now
                && self.packets.get(picture) == Some(&packets)
            {
                seen(picture);
                self.now = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pid: u16, time: Option<u64>) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let mut packet = vec![0x47, high | if time.is_some() { 0x40 } else { 0 }, low, 0x30, 1, 0];
        if let Some(time) = time {
            let [a, b, c, d, e] = [time >> 29 & 14 | 0x21, time >> 22, time >> 14 | 1, time >> 7, time << 1 | 1];
            packet.extend([0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5]);
            packet.extend([a, b, c, d, e].map(|byte| (byte & 0xff) as u8));
        }
        packet.resize(PACKET, 0xff);
        packet
    }

    fn clip() -> Clip {
        let table = || packet(0, None);
        let picture = |number: u64| packet(PICTURE_PID, Some(126_000 + number * TICKS));
        let more = || packet(PICTURE_PID, None);
        let sound = || packet(0x101, None);
        let all = [table(), picture(0), more(), sound(), table(), table(), picture(1), sound(), picture(2), more()];
        Clip::cut(all.concat()).expect("a clip")
    }

    #[test]
    fn a_clip_is_cut_at_its_pictures() {
        let packets = |range: &Range<usize>| (range.start / PACKET, range.end / PACKET);
        let clip = clip();
        assert_eq!(clip.pictures.iter().map(packets).collect::<Vec<_>>(), [(0, 4), (4, 8), (8, 10)]);
        assert_eq!((clip.first, clip.packets()), (126_000, vec![2, 1, 2]));
        assert!(Clip::cut(packet(0x101, None)).is_err() && Clip::cut(vec![0; PACKET]).is_err());
    }

    #[test]
    fn whole_pictures_are_seen_however_they_are_cut() {
        let clip = Arc::new(clip());
        for step in [1, 100, PACKET, 500, 5000] {
            let (mut eye, mut seen) = (PictureReader::new(&clip), Vec::new());
            for some in clip.bytes.chunks(step) {
                eye.see(some, |picture| seen.push(picture)).expect("a transport stream");
            }
            assert_eq!(seen, [0, 1, 2], "in steps of {step}");
        }
        let (mut eye, mut seen) = (PictureReader::new(&clip), Vec::new());
        for range in [0..8, 4..8, 0..2, 8..10] {
            eye.see(&clip.bytes[range.start * PACKET..range.end * PACKET], |_| ()).expect("a transport stream");
        }
        assert_eq!(eye.again(), 2);
        PictureReader::new(&clip)
            .see(&clip.bytes[..2 * PACKET], |picture| seen.push(picture))
            .expect("a transport stream");
        assert!(seen.is_empty(), "{seen:?}");
        assert!(PictureReader::new(&clip).see(&[0; PACKET], |_| ()).is_err());
    }
}
