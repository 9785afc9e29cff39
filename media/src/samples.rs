//! Small writers of MP4 and Matroska, for tests.

/// A box of MP4.
pub fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = u32::try_from(len).expect("a small box").to_be_bytes().to_vec();
    out.extend_from_slice(kind);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// The MP4 file `clip` with a free box behind it, which readers skip.
pub fn padded(clip: &[u8], padding: &[u8]) -> Vec<u8> {
    [clip, &boxed(b"free", &[padding])].concat()
}

/// The header of a movie or track of `duration` ms; ends with the language "deu" where a track's is.
fn times(duration: u32) -> Vec<u8> {
    let mut out = vec![0; 12];
    out.extend_from_slice(&1000_u32.to_be_bytes());
    out.extend_from_slice(&duration.to_be_bytes());
    out.extend_from_slice(&(4_u16 << 10 | 5 << 5 | 21).to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out
}

/// A movie of one H.264 track of 640x360, number 1, with the time scale 1000.
pub fn moov(duration: u32, fragmented: bool) -> Vec<u8> {
    let mut entry = vec![0; 70];
    entry[7] = 1;
    entry[24..26].copy_from_slice(&640_u16.to_be_bytes());
    entry[26..28].copy_from_slice(&360_u16.to_be_bytes());
    let stsd = boxed(b"stsd", &[&[0, 0, 0, 0, 0, 0, 0, 1], &boxed(b"avc1", &[&entry])]);
    let minf = boxed(b"minf", &[&boxed(b"stbl", &[&stsd])]);
    let hdlr = boxed(b"hdlr", &[&[0; 8], b"vide", &[0; 13]]);
    let mdia = boxed(b"mdia", &[&boxed(b"mdhd", &[&times(duration)]), &hdlr, &minf]);
    let mut head = vec![0; 84];
    head[15] = 1;
    let trak = boxed(b"trak", &[&boxed(b"tkhd", &[&head]), &mdia]);
    let mvhd = boxed(b"mvhd", &[&times(duration), &[0; 76]]);
    let mvex = if fragmented { boxed(b"mvex", &[]) } else { Vec::new() };
    boxed(b"moov", &[&mvhd, &trak, &mvex])
}

/// A fragment of `samples` samples of 40 ms, from `start` ms on.
pub fn moof(start: u32, samples: u32) -> Vec<u8> {
    let tfhd = boxed(b"tfhd", &[&[0, 2, 0, 8, 0, 0, 0, 1], &40_u32.to_be_bytes()]);
    let tfdt = boxed(b"tfdt", &[&[0; 4], &start.to_be_bytes()]);
    let trun = boxed(b"trun", &[&[0; 4], &samples.to_be_bytes()]);
    boxed(b"moof", &[&boxed(b"traf", &[&tfhd, &tfdt, &trun])])
}

/// An MP4 of ten seconds with `len` bytes of "media" that depend on `seed`.
pub fn mp4(seed: u8, len: usize) -> Vec<u8> {
    let media: Vec<u8> = (0..len).map(|i| (i % 251) as u8 ^ (i >> 12) as u8 ^ seed).collect();
    [boxed(b"ftyp", &[b"isom", &[0; 4]]), moov(10_000, false), boxed(b"mdat", &[&media])].concat()
}

/// An element of EBML with a size of eight bytes; `None` for an unknown size.
pub fn element(id: &[u8], body: &[u8], known: bool) -> Vec<u8> {
    let size = if known { 1 << 56 | body.len() as u64 } else { 0x01FF_FFFF_FFFF_FFFF };
    [id, &size.to_be_bytes(), body].concat()
}

/// A Matroska file of one Opus track in English and clusters at 0 s and 5 s, the last block at 5.5 s.
pub fn mka(duration: Option<f64>, known_size: bool) -> Vec<u8> {
    let audio = [element(&[0xB5], &48_000_f32.to_be_bytes(), true), element(&[0x9F], &[6], true)].concat();
    let entry = [
        element(&[0x83], &[2], true),
        element(&[0x86], b"A_OPUS", true),
        element(&[0x22, 0xB5, 0x9C], b"eng", true),
        element(&[0xE1], &audio, true),
    ];
    let duration = duration.map_or_else(Vec::new, |ms| element(&[0x44, 0x89], &ms.to_be_bytes(), true));
    let cluster = |at: u16, block: u16| {
        let block = [&[0x81][..], &block.to_be_bytes(), &[0x80, 1, 2, 3]].concat();
        let body = [element(&[0xE7], &at.to_be_bytes(), true), element(&[0xA3], &block, true)].concat();
        element(&[0x1F, 0x43, 0xB6, 0x75], &body, true)
    };
    let segment = [
        element(&[0x15, 0x49, 0xA9, 0x66], &duration, true),
        element(&[0x16, 0x54, 0xAE, 0x6B], &element(&[0xAE], &entry.concat(), true), true),
        cluster(0, 20),
        cluster(5000, 500),
    ];
    let head = element(&[0x1A, 0x45, 0xDF, 0xA3], &element(&[0x42, 0x82], b"matroska", true), true);
    [head, element(&[0x18, 0x53, 0x80, 0x67], &segment.concat(), known_size)].concat()
}
