//! Output of ffmpeg in chunks of any size, damaged input, and noise.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use proptest::prelude::*;
use usher_proto::{
    feed::{MAX_HEAD, MAX_PIECE},
    pb::v1::TrackKind,
};

use super::*;

/// Output of ffmpeg: three seconds of pictures and sound with a keyframe each second.
fn ffmpeg(options: &str) -> Vec<u8> {
    let (sources, options): (&[&str], _) = match options.strip_prefix("sound ") {
        Some(options) => (&["-f", "lavfi", "-i", "sine=440:sample_rate=48000"], options),
        None => (&["-f", "lavfi", "-i", "testsrc2=s=160x90:r=25", "-f", "lavfi", "-i", "sine=440"], options),
    };
    let mut child = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-loglevel", "error"])
        .args(sources)
        .args(["-t", "3", "-pix_fmt", "yuv420p", "-preset", "ultrafast", "-g", "25", "-c:a", "aac"])
        .args(options.split(' '))
        .arg("-")
        .stdout(Stdio::piped())
        .spawn()
        .expect("ffmpeg runs; `cargo xtask test` installs it");
    let mut bytes = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut bytes).expect("reads");
    assert!(child.wait().is_ok_and(|status| status.success()) && !bytes.is_empty(), "ffmpeg {options}");
    bytes
}

/// The number of video frames that ffprobe finds.
fn frames(media: &[u8]) -> usize {
    let mut child = Command::new("ffprobe")
        .args(["-loglevel", "error", "-select_streams", "v", "-show_entries", "frame=pict_type", "-of", "csv=p=0", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ffprobe runs; `cargo xtask test` installs it");
    child.stdin.take().expect("piped").write_all(media).expect("takes all");
    let out = child.wait_with_output().expect("ends");
    let text = String::from_utf8(out.stdout).expect("text");
    assert!(text.starts_with('I'), "it begins with a keyframe: {text}");
    // A line without a letter is about the encoder's settings.
    text.lines().filter(|line| line.starts_with(['I', 'P', 'B'])).count()
}

/// A group as it was cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    head: Bytes,
    media: Vec<u8>,
    /// Where the media may end without harm last.
    whole: usize,
}

/// All that was cut.
#[derive(Debug, Default)]
struct Cuts {
    medium: Option<Medium>,
    groups: Vec<Group>,
    warnings: Vec<Warning>,
    pieces: usize,
}

impl Cuts {
    fn take(&mut self, cutter: &mut Cutter) {
        while let Some(cut) = cutter.next_cut() {
            match cut {
                Cut::Medium(medium) => assert!(self.medium.replace(medium).is_none() && self.groups.is_empty()),
                Cut::Group(head) => {
                    assert!(self.medium.is_some() && !head.is_empty() && head.len() <= MAX_HEAD);
                    self.groups.push(Group { head, ..Group::default() });
                }
                Cut::Piece { media, is_boundary } => {
                    assert!((1..=MAX_PIECE).contains(&media.len()));
                    let group = self.groups.last_mut().expect("a group began");
                    group.media.extend_from_slice(&media);
                    assert!(group.media.len() as u64 <= MAX_GROUP);
                    group.whole = if is_boundary { group.media.len() } else { group.whole };
                    self.pieces += 1;
                }
                Cut::Warning(warning) => self.warnings.push(warning),
            }
        }
    }

    fn joined(&self) -> Vec<u8> {
        let mut last = Bytes::new();
        let mut bytes = Vec::new();
        for group in &self.groups {
            if group.head != last {
                bytes.extend_from_slice(&group.head);
                last = group.head.clone();
            }
            bytes.extend_from_slice(&group.media);
        }
        bytes
    }
}

/// Cuts what was read in parts of these sizes, over and over.
fn cut_in(parts: &[usize], format: Option<Format>, bytes: &[u8]) -> Result<Cuts, CutError> {
    let (mut cutter, mut cuts, now) = (Cutter::new(format), Cuts::default(), Instant::now());
    let (mut rest, mut sizes) = (bytes, parts.iter().cycle());
    while !rest.is_empty() {
        let size = sizes.next().copied().unwrap_or(usize::MAX).clamp(1, rest.len());
        cutter.push(now, &rest[..size])?;
        cutter.flush();
        cuts.take(&mut cutter);
        rest = &rest[size..];
    }
    cutter.finish()?;
    cuts.take(&mut cutter);
    Ok(cuts)
}

fn cut(bytes: &[u8]) -> Result<Cuts, CutError> {
    cut_in(&[4096], None, bytes)
}

/// The transport stream's packets.
fn packets(bytes: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    bytes.chunks_exact_mut(188)
}

/// Takes away what says where keyframes are.
fn hide_keyframes(bytes: &mut [u8]) {
    for packet in packets(bytes) {
        if packet[3] & 0x20 != 0 && packet[4] > 0 {
            packet[5] &= !0x40;
        }
    }
}

const TS: &str = "-c:v libx264 -f mpegts";
const FRAGMENTS: [&str; 3] = [
    "-c:v libx264 -movflags frag_keyframe+empty_moov+default_base_moof -f mp4",
    "-c:v libx264 -movflags frag_every_frame+empty_moov+default_base_moof -f mp4",
    "-c:v libx264 -movflags frag_keyframe+empty_moov+default_base_moof -frag_duration 300000 -f mp4",
];

#[test]
fn a_transport_stream_is_cut_at_keyframes_and_nothing_is_lost() {
    let bytes = ffmpeg(TS);
    let cuts = cut(&bytes).expect("good");
    // ffmpeg's first packet names the service, and belongs to no group.
    assert!(cuts.joined() == bytes[188..] && cuts.warnings.is_empty());
    assert_eq!(cuts.groups.len(), 3);
    for group in &cuts.groups {
        assert_eq!((group.head.len(), group.whole), (2 * 188, group.media.len()));
        assert_eq!((group.media[1] & 0x5f, group.media[2], group.media[5] & 0x40), (0x41, 0, 0x40), "a keyframe");
        assert_eq!(frames(&[&group.head, group.media.as_slice()].concat()), 25, "each can be seen alone");
    }
    let medium = cuts.medium.expect("told");
    let codecs: Vec<_> = medium.tracks.iter().map(|track| (track.kind(), track.codec.as_str())).collect();
    assert_eq!(medium.media_type, "video/mp2t");
    assert_eq!(codecs, [(TrackKind::Video, "h264"), (TrackKind::Audio, "aac")]);
}

#[test]
fn keyframes_that_the_muxer_does_not_tell_are_found() {
    for codec in ["libx264", "mpeg2video", "libx265 -x265-params log-level=none"] {
        let mut bytes = ffmpeg(&format!("-c:v {codec} -f mpegts"));
        let told = cut(&bytes).expect("good");
        hide_keyframes(&mut bytes);
        let found = cut(&bytes).expect("good");
        assert!(told.groups.len() == 3 && found.joined() == bytes[188..], "{codec}");
        let lengths = |cuts: &Cuts| cuts.groups.iter().map(|group| group.media.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&found), lengths(&told), "{codec}");
    }
}

#[test]
fn sound_alone_is_cut_each_second() {
    for (options, media_type) in [
        ("sound -f mpegts -pes_payload_size 200", "video/mp2t"),
        ("sound -movflags empty_moov+default_base_moof -frag_duration 100000 -f mp4", "audio/mp4"),
    ] {
        let cuts = cut(&ffmpeg(options)).expect("good");
        assert_eq!(cuts.medium.map(|medium| medium.media_type).as_deref(), Some(media_type));
        assert!((3..=4).contains(&cuts.groups.len()) && cuts.warnings.is_empty(), "{options}");
        let sizes: Vec<_> = cuts.groups.iter().map(|group| group.media.len()).collect();
        assert!(sizes[0].abs_diff(sizes[1]) < sizes[0] / 4, "{options}: {sizes:?}");
    }
}

#[test]
fn a_stream_is_joined_at_its_next_keyframe() {
    let bytes = ffmpeg(TS);
    let (all, later) = (cut(&bytes).expect("good"), cut(&bytes[188 * 20..]).expect("good"));
    assert_eq!(later.groups, all.groups[1..]);
    assert_eq!(later.warnings, [Warning::Waiting]);
}

#[test]
fn what_is_damaged_is_left_out() {
    let bytes = ffmpeg(TS);
    let whole = cut(&bytes).expect("good");
    // Something that greets, and later half a packet that is missing.
    let at = 188 * 200;
    let damaged = [b"hello\n".as_slice(), &bytes[..at + 100], &bytes[at + 188..]].concat();
    let cuts = cut(&damaged).expect("good enough");
    assert_eq!(cuts.warnings, [Warning::Damaged]);
    assert_eq!(cuts.groups.len(), 3);
    let lost = whole.joined().len() - cuts.joined().len();
    assert!(lost.is_multiple_of(188) && lost <= 188 * 2, "{lost} bytes");
    let noise = [&bytes[..at], &vec![0x55; 2 << 20]].concat();
    assert!(matches!(cut(&noise), Err(CutError::OutOfSync(_))));
}

#[test]
fn tables_that_are_damaged_do_not_count() {
    let mut bytes = ffmpeg(TS);
    let good = cut(&bytes).expect("good");
    // The second program map names another PID for the video, and its checksum is wrong.
    let mut maps = packets(&mut bytes).filter(|packet| packet[1] & 0x1f == 0x10 && packet[2] == 0);
    let map = maps.nth(1).expect("a second one");
    assert_eq!(map[18..20], [0xe1, 0], "where the first stream's PID is");
    map[19] = 7;
    drop(maps);
    let cuts = cut(&bytes).expect("good");
    assert_eq!(cuts.groups.len(), good.groups.len());
}

#[test]
fn fragments_are_cut_at_keyframes_and_nothing_is_lost() {
    for options in FRAGMENTS {
        let bytes = ffmpeg(options);
        let cuts = cut(&bytes).unwrap_or_else(|error| panic!("{options}: {error}"));
        let joined = cuts.joined();
        // The index at the end is of the file, and sound before the first picture is nobody's.
        let end = bytes.windows(4).rposition(|window| window == b"mfra").expect("an index") - 4;
        let (head, media) = joined.split_at(cuts.groups[0].head.len());
        assert!(bytes.starts_with(head) && bytes[..end].ends_with(media), "{options}");
        assert!(end - joined.len() < 500, "{options}");
        assert!(cuts.groups.len() == 3 && cuts.warnings.is_empty(), "{options}: {:?}", cuts.warnings);
        for group in &cuts.groups {
            assert_eq!(&group.media[4..8], b"moof", "{options}");
            assert_eq!(group.whole, group.media.len(), "{options}");
        }
        let alone = cuts.groups.iter().map(|group| frames(&[&group.head, group.media.as_slice()].concat()));
        assert_eq!(alone.sum::<usize>(), 75, "{options}");
        let medium = cuts.medium.expect("told");
        assert_eq!(medium.media_type, "video/mp4");
        let [video, audio] = &medium.tracks[..] else { panic!("{:?}", medium.tracks) };
        assert_eq!((video.codec.as_str(), video.width, video.height), ("h264", 160, 90));
        assert_eq!((audio.codec.as_str(), audio.channels, audio.sample_rate), ("aac", 2, 44_100));
    }
}

#[test]
fn a_fragment_is_handed_on_while_it_comes() {
    let bytes = ffmpeg(FRAGMENTS[0]);
    let (mut cutter, mut cuts) = (Cutter::new(None), Cuts::default());
    // Half of the first fragment.
    let at = bytes.windows(4).position(|window| window == b"mdat").expect("media") + 1000;
    cutter.push(Instant::now(), &bytes[..at]).expect("good");
    cutter.flush();
    cuts.take(&mut cutter);
    let [group] = &cuts.groups[..] else { panic!("{cuts:?}") };
    assert_eq!((group.whole, group.head.len() + group.media.len()), (0, at));
}

#[test]
fn without_keyframes_groups_are_cut_by_time() {
    for options in [
        "-c:v libx264 -g 1000 -f mpegts",
        "-c:v libx264 -g 1000 -movflags frag_every_frame+empty_moov+default_base_moof -f mp4",
    ] {
        let bytes = ffmpeg(options);
        let (mut cutter, mut cuts, begun) = (Cutter::new(None), Cuts::default(), Instant::now());
        let parts = bytes.chunks(bytes.len() / 100 + 1);
        for (second, part) in parts.enumerate() {
            cutter.push(begun + Duration::from_secs(second as u64), part).expect("good");
            cuts.take(&mut cutter);
        }
        cutter.finish().expect("good");
        cuts.take(&mut cutter);
        assert_eq!((cuts.groups.len(), cuts.warnings), (4, vec![Warning::NoKeyframe]), "{options}");
        assert!(cuts.groups.iter().all(|group| group.whole == group.media.len()), "{options}");
    }
}

#[test]
fn no_group_is_larger_than_a_feed_allows() {
    let bytes = ffmpeg("-c:v libx264 -g 1000 -f mpegts");
    let times = usize::try_from(MAX_GROUP).expect("small") / (bytes.len() - 100 * 188) + 2;
    let (mut cutter, mut cuts, now) = (Cutter::new(None), Cuts::default(), Instant::now());
    cutter.push(now, &bytes).expect("good");
    let mut later = bytes.clone();
    hide_keyframes(&mut later);
    for _ in 0..times {
        cutter.push(now, &later).expect("good");
        cuts.take(&mut cutter);
    }
    assert_eq!((cuts.groups.len(), cuts.warnings), (2, vec![Warning::NoKeyframe]));
}

#[test]
fn errors_of_the_input_name_the_remedy() {
    let mp4 = ffmpeg("-c:v libx264 -movflags frag_keyframe -f mp4");
    let progressive = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/samples/A.mp4")).expect("a clip");
    let webm = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/samples/F.webm")).expect("a clip");
    let text = "a text that is none\n".repeat(10_000);
    let data_only = ffmpeg("-c:v libx264 -f mpegts")[..188 * 2].repeat(100_000);
    for (what, bytes, expected) in [
        ("progressive", &progressive[..], CutError::NotFragmented),
        ("samples in the moov", &mp4, CutError::NotFragmented),
        ("WebM", &webm, CutError::Other("Matroska or WebM")),
        ("text", text.as_bytes(), CutError::NotMedia),
        ("little text", b"hello, world\n", CutError::NotMedia),
        ("nothing", b"", CutError::Empty),
        ("two bytes", b"ab", CutError::NotMedia),
        ("no more than a head", &mp4[..24], CutError::NotFragmented),
    ] {
        assert_eq!(cut(bytes).err(), Some(expected), "{what}");
    }
    assert!(matches!(cut(&data_only), Err(CutError::NoTables(_))));
    assert_eq!(cut_in(&[99], Some(Format::Mpegts), &progressive).err(), Some(CutError::NotMpegts));
    assert_eq!(cut_in(&[99], Some(Format::Fmp4), text.as_bytes()).err(), Some(CutError::NotMp4));
    assert!(CutError::NotFragmented.to_string().contains("-movflags +frag_keyframe+empty_moov+default_base_moof"));
}

#[test]
fn the_media_keeps_its_own_time() {
    for (options, least) in [(TS, 2600), (FRAGMENTS[1], 2900)] {
        let mut cutter = Cutter::new(None);
        cutter.push(Instant::now(), &ffmpeg(options)).expect("good");
        let millis = cutter.clock().as_millis();
        assert!((least..=3100).contains(&millis), "{options}: {millis}");
    }
}

#[test]
fn any_cut_of_the_input_makes_the_same_groups() {
    let mut hidden = ffmpeg(TS);
    hide_keyframes(&mut hidden);
    hidden.splice(5000..5050, []);
    let inputs = [ffmpeg(TS), hidden, ffmpeg(FRAGMENTS[0]), ffmpeg(FRAGMENTS[1])];
    let known = inputs.each_ref().map(|input| cut(input).expect("good"));
    proptest!(ProptestConfig::with_cases(48), |(
        which in 0_usize..4,
        parts in proptest::collection::vec(prop_oneof![1_usize..8, 180_usize..400, 1_usize..100_000], 1..20),
    )| {
        let cuts = cut_in(&parts, None, &inputs[which]).expect("good");
        prop_assert!(cuts.groups == known[which].groups, "{which}");
        prop_assert_eq!(&cuts.warnings, &known[which].warnings);
        prop_assert_eq!(&cuts.medium, &known[which].medium);
    });
}

#[test]
fn no_input_panics() {
    let inputs = [ffmpeg(TS), ffmpeg(FRAGMENTS[0]), ffmpeg(FRAGMENTS[1])];
    proptest!(ProptestConfig::with_cases(256), |(
        which in 0_usize..3,
        from in 0_usize..20_000,
        changes in proptest::collection::vec((0_usize..20_000, any::<u8>()), 0..40),
        parts in proptest::collection::vec(1_usize..5000, 1..4),
        noise in proptest::collection::vec(any::<u8>(), 0..400),
    )| {
        let mut bytes = inputs[which][..40_000].to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _any = cut_in(&parts, None, &bytes[from..]);
        let _any = cut_in(&parts, Some(Format::Fmp4), &[&inputs[1][..1200], &noise[..]].concat());
        let _any = cut_in(&parts, None, &noise);
    });
}
