//! Probes against real clips, written files, and noise.

use std::{fs, io::Cursor, path::Path};

use proptest::prelude::*;

use super::*;
use crate::samples::{boxed, element, mka, moof, moov, mp4};

/// A clip of the demo.
fn clip(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

fn run(data: &[u8]) -> Result<Probe, ProbeError> {
    probe(&mut Cursor::new(data), data.len() as u64)
}

fn video(codec: &str, width: u32, height: u32, language: &str) -> Track {
    let (codec, language) = (codec.to_owned(), language.to_owned());
    Track { kind: TrackKind::Video.into(), codec, width, height, language, ..Track::default() }
}

fn audio(codec: &str, sample_rate: u32, channels: u32, language: &str) -> Track {
    let (codec, language) = (codec.to_owned(), language.to_owned());
    Track { kind: TrackKind::Audio.into(), codec, sample_rate, channels, language, ..Track::default() }
}

#[test]
fn real_clips() {
    let h264 = || vec![video("h264", 480, 270, ""), audio("aac", 48_000, 2, "")];
    let vp9 = vec![video("vp9", 480, 270, ""), audio("opus", 48_000, 2, "")];
    let broadcast = vec![video("h264", 0, 0, ""), audio("aac", 0, 0, "")];
    for (name, media_type, duration_ms, tracks) in [
        ("A.mp4", "video/mp4", 10_000, h264()),
        ("B.mp4", "video/mp4", 20_000, h264()),
        ("H.mp4", "video/mp4", 12_000, h264()),
        ("F.webm", "video/webm", 9008, vp9),
        // First to last PTS: the last frame's own length is not told.
        ("G.ts", "video/mp2t", 7960, broadcast.clone()),
    ] {
        let found = run(&clip(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found, Probe { media_type, duration_ms, streamable: true, tracks }, "{name}");
    }
    // The same stream in packets of 192 bytes, as cameras and discs write it.
    let m2ts: Vec<u8> = clip("G.ts").chunks(188).flat_map(|packet| [&[0; 4], packet].concat()).collect();
    let found = run(&m2ts).expect("192-byte packets");
    assert_eq!((found.duration_ms, found.tracks), (7960, broadcast));
}

#[test]
fn the_index_decides_what_streams() {
    let (ftyp, mdat) = (boxed(b"ftyp", &[b"isom", &[0; 4]]), boxed(b"mdat", &[&[0; 100]]));
    let tracks = vec![video("h264", 640, 360, "deu")];
    for (what, data, streamable, media_type) in [
        ("index first", [ftyp.clone(), moov(10_000, false), mdat.clone()].concat(), true, "video/mp4"),
        ("index last", [ftyp.clone(), mdat.clone(), moov(10_000, false)].concat(), false, "video/mp4"),
        ("QuickTime", [mdat, moov(10_000, false)].concat(), false, "video/quicktime"),
    ] {
        let expected = Probe { media_type, duration_ms: 10_000, streamable, tracks: tracks.clone() };
        assert_eq!(run(&data).expect(what), expected, "{what}");
    }
}

#[test]
fn a_header_of_the_first_part_only_is_not_believed() {
    let mdat = boxed(b"mdat", &[&[0; 100]]);
    let head = [boxed(b"ftyp", &[b"iso5", &[0; 4]]), moov(40, true)].concat();
    let file = [head, moof(0, 50), mdat.clone(), moof(2_000, 50), mdat].concat();
    assert_eq!(run(&file).map(|found| found.duration_ms).ok(), Some(4_000));
}

#[test]
fn fragments_tell_the_duration() {
    let mdat = boxed(b"mdat", &[&[0; 10]]);
    let head = [boxed(b"ftyp", &[b"iso5", &[0; 4]]), moov(0, true)].concat();
    // A recording that began on the clock at 1000 s: two fragments of 2 s.
    let file = [head, moof(1_000_000, 50), mdat.clone(), moof(1_002_000, 50), mdat].concat();
    let found = run(&file).expect("a fragmented file");
    assert_eq!((found.duration_ms, found.streamable), (4000, true));
}

#[test]
fn matroska_of_all_kinds() {
    for (what, data, duration_ms) in [
        ("told", mka(Some(6020.0), true), 6020),
        ("not told", mka(None, true), 5500),
        ("recorded live", mka(None, false), 5500),
    ] {
        let tracks = vec![audio("opus", 48_000, 6, "eng")];
        let expected = Probe { media_type: "audio/x-matroska", duration_ms, streamable: true, tracks };
        assert_eq!(run(&data).expect(what), expected, "{what}");
    }
}

#[test]
fn what_is_not_offered_and_why() {
    let whole = clip("A.mp4");
    let webm = clip("F.webm");
    let no_tracks = [element(&[0x1A, 0x45, 0xDF, 0xA3], &element(&[0x42, 0x82], b"webm", true), true), {
        element(&[0x18, 0x53, 0x80, 0x67], &element(&[0x1F, 0x43, 0xB6, 0x75], &[], true), true)
    }];
    let picture = [boxed(b"ftyp", &[b"heic", &[0; 4]]), boxed(b"meta", &[&[0; 20]])].concat();
    for (what, data, reason) in [
        ("empty", Vec::new(), "the file is empty"),
        ("text", b"Once upon a time there was a film.".to_vec(), "not MP4, Matroska, WebM or MPEG-TS"),
        ("one byte", vec![0x47], "not MP4, Matroska, WebM or MPEG-TS"),
        ("half a film", whole[..whole.len() / 2].to_vec(), "the file ends before the end of its media; copy it again"),
        ("half a clip", webm[..webm.len() / 2].to_vec(), "the file ends before the end of its segment; copy it again"),
        ("no index", boxed(b"mdat", &[&[0; 50]]), "the file ends before its index (no moov box); copy it again"),
        ("a picture", picture, "the file ends before its index (no moov box); copy it again"),
        ("no media", no_tracks.concat(), "neither video nor audio in it"),
        ("sync only", [[0x47; 188]; 9].concat(), "damaged: no program table near its start"),
        (
            "a book",
            element(&[0x1A, 0x45, 0xDF, 0xA3], &element(&[0x42, 0x82], b"book", true), true),
            "not MP4, Matroska, WebM or MPEG-TS",
        ),
    ] {
        assert_eq!(run(&data).expect_err(what).to_string(), reason, "{what}");
    }
    let too_large = probe(&mut Cursor::new(&whole), tree::MAX_SIZE + 1);
    assert!(matches!(too_large, Err(ProbeError::TooLarge(_))));
}

#[test]
fn only_known_media_types_are_returned() {
    for name in MEDIA_TYPES {
        assert_eq!(media_type(name), Some(name));
        assert_eq!(MediaType::of(name).name(), name);
    }
    assert_eq!(media_type("text/html"), None);
}

/// Beginnings of real files, since parsers read headers.
fn seeds() -> Vec<Vec<u8>> {
    let fragmented = [boxed(b"ftyp", &[b"iso5", &[0; 4]]), moov(0, true), moof(7, 9), moof(9, 9)].concat();
    let short = |name: &str| clip(name).into_iter().take(6000).collect();
    vec![
        mp4(1, 500),
        fragmented,
        mka(Some(9.0), true),
        mka(None, false),
        short("F.webm"),
        short("G.ts"),
        short("A.mp4"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn noise_is_survived(data in proptest::collection::vec(any::<u8>(), 0..2000), head in 0..4_usize) {
        let heads: [&[u8]; 4] = [b"", b"\0\0\0\x10ftypisom\0\0\0\0", b"\x1A\x45\xDF\xA3", b"\x47"];
        drop(run(&[heads[head], &data].concat()));
    }

    #[test]
    fn damage_is_survived(
        seed in 0..7_usize,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
        lie in 0..3_u64,
    ) {
        let mut data = seeds().swap_remove(seed);
        for (at, byte) in damage {
            let at = at.index(data.len());
            data[at] = byte;
        }
        data.truncate(cut.index(data.len()) + 1);
        // The size on the disk may have changed since it was asked for.
        let size = match lie { 0 => data.len() as u64, 1 => tree::MAX_SIZE, _ => data.len() as u64 / 2 };
        if let Ok(found) = probe(&mut Cursor::new(&data), size) {
            prop_assert!(found.tracks.len() <= MAX_TRACKS && media_type(found.media_type).is_some());
        }
    }
}
