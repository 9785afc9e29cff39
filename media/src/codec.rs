//! Codec and language names of a [`Track`], derived from the names that containers use; the same for files and feeds.
//! Validates all bytes; their place in a container is left to the caller.

use usher_proto::pb::v1::{Track, TrackKind};

/// An elementary stream of a transport stream by its type (table 2-34, and what registrations, DVB and ATSC add in descriptors).
pub fn of_mpegts(kind: u8, descriptors: &[u8]) -> Option<Track> {
    let mut found = match kind {
        0x01 => Some((TrackKind::Video, "mpeg1")),
        0x02 => Some((TrackKind::Video, "mpeg2")),
        0x10 => Some((TrackKind::Video, "mpeg4")),
        0x1b => Some((TrackKind::Video, "h264")),
        0x24 => Some((TrackKind::Video, "hevc")),
        0x33 => Some((TrackKind::Video, "vvc")),
        0x03 | 0x04 => Some((TrackKind::Audio, "mp2")),
        0x0f | 0x11 => Some((TrackKind::Audio, "aac")),
        0x81 => Some((TrackKind::Audio, "ac3")),
        0x82 | 0x85 | 0x86 => Some((TrackKind::Audio, "dts")),
        0x83 => Some((TrackKind::Audio, "truehd")),
        0x84 | 0x87 => Some((TrackKind::Audio, "eac3")),
        0x90 => Some((TrackKind::Subtitle, "pgs")),
        _ => None,
    };
    let (mut track_language, mut rest) = (String::new(), descriptors);
    while let [tag, len, tail @ ..] = rest {
        let Some((data, after)) = tail.split_at_checked((*len).into()) else { break };
        match (*tag, data) {
            (0x0a, _) => track_language = language(data.get(..3).unwrap_or_default()),
            (0x05, b"Opus") => found = Some((TrackKind::Audio, "opus")),
            (0x05, [b'A', b'V', b'0', b'1', ..]) => found = Some((TrackKind::Video, "av1")),
            (0x05, [b'H', b'E', b'V', b'C', ..]) => found = Some((TrackKind::Video, "hevc")),
            (0x6a, _) => found = found.or(Some((TrackKind::Audio, "ac3"))),
            (0x7a, _) => found = found.or(Some((TrackKind::Audio, "eac3"))),
            (0x56, _) => found = found.or(Some((TrackKind::Subtitle, "teletext"))),
            (0x59, _) => {
                found = found.or(Some((TrackKind::Subtitle, "dvb_subtitle")));
                track_language = language(data.get(..3).unwrap_or_default());
            }
            _ => {}
        }
        rest = after;
    }
    let (kind, codec) = found?;
    let mut track = Track { codec: codec.to_owned(), language: track_language, ..Track::default() };
    track.set_kind(kind);
    Some(track)
}

/// A language of three letters, packed into 15 bits (ISO/IEC 14496-12, 8.4.2).
pub fn iso639(packed: u64) -> String {
    let letter = |shift: u32| u8::try_from(packed >> shift & 31).unwrap_or(0).saturating_add(0x60);
    let letters = [letter(10), letter(5), letter(0)];
    if letters.iter().all(u8::is_ascii_lowercase) { language(&letters) } else { String::new() }
}

/// The codec of a sample entry of MP4.
pub fn of_sample_entry(entry: &[u8]) -> String {
    let after = |name: &[u8; 4]| {
        let at = entry.windows(4).skip(8).position(|window| window == name)?;
        entry.get(at + 12..)
    };
    let kind = match entry.get(4..8) {
        // Encrypted: the original format is in a nested box.
        Some(b"encv" | b"enca") => after(b"frma").and_then(|rest| rest.get(..4)),
        kind => kind,
    };
    let kind = kind.unwrap_or_default();
    let name = match kind {
        b"avc1" | b"avc3" | b"dva1" | b"dvav" => "h264",
        b"hvc1" | b"hev1" | b"dvh1" | b"dvhe" => "hevc",
        b"av01" => "av1",
        b"vp08" => "vp8",
        b"vp09" => "vp9",
        b"mp4v" => "mpeg4",
        b"jpeg" | b"mjpa" | b"mjpb" => "mjpeg",
        b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => "prores",
        b"mp4a" => return mpeg4_audio(after(b"esds").unwrap_or_default()).to_owned(),
        b"ac-3" => "ac3",
        b"ec-3" => "eac3",
        b"Opus" => "opus",
        b"fLaC" => "flac",
        b".mp3" => "mp3",
        b"sowt" | b"twos" | b"lpcm" | b"ipcm" | b"fpcm" | b"in24" | b"in32" | b"fl32" | b"fl64" | b"raw " => "pcm",
        b"tx3g" => "mov_text",
        b"wvtt" => "webvtt",
        b"stpp" => "ttml",
        other => return plain(other),
    };
    name.to_owned()
}

/// `mp4a` is AAC unless its descriptor (ISO/IEC 14496-1, 7.2.6.6) says MP3.
fn mpeg4_audio(esds: &[u8]) -> &'static str {
    // Tag 4 begins the decoder configuration; its length takes one to four bytes, then comes the object type.
    let config = esds.iter().skip(4).position(|b| *b == 4).and_then(|at| esds.get(at + 5..)).unwrap_or_default();
    let object = config.iter().take(5).skip_while(|b| **b & 0x80 != 0).nth(1);
    if matches!(object, Some(0x69 | 0x6b)) { "mp3" } else { "aac" }
}

/// Whether a track is video or audio.
pub(crate) fn is_audio_or_video(track: &Track) -> bool {
    matches!(track.kind(), TrackKind::Video | TrackKind::Audio)
}

/// A short codec name from untrusted bytes: lower case letters, digits, `_` and `-` only.
pub fn plain(name: &[u8]) -> String {
    let plain = name.iter().filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')).take(32);
    plain.map(|b| char::from(b.to_ascii_lowercase())).collect()
}

/// A language tag from untrusted bytes; empty for none, and for ISO 639's "undetermined".
pub fn language(tag: &[u8]) -> String {
    let plain: String =
        tag.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'-').take(35).map(|b| char::from(*b)).collect();
    if plain == "und" { String::new() } else { plain }
}
