//! Titles to test and measure with: a container that a node offers, around random bytes. Written piece by piece, so that
//! a large title needs no memory. Their holders are left to `library`.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// A box of MP4 (ISO/IEC 14496-12) around these parts.
fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = u32::try_from(8 + body.len()).expect("headers are small");
    [&len.to_be_bytes(), &kind[..], &body].concat()
}

/// All before the media of a film of `duration` ms: one H.264 track of 640x360.
fn head(duration: u32) -> Vec<u8> {
    let times = [&[0; 12], &1000_u32.to_be_bytes()[..], &duration.to_be_bytes(), &[0; 4]].concat();
    let mut entry = vec![0; 70];
    entry[7] = 1;
    entry[24..26].copy_from_slice(&640_u16.to_be_bytes());
    entry[26..28].copy_from_slice(&360_u16.to_be_bytes());
    let stsd = boxed(b"stsd", &[&[0, 0, 0, 0, 0, 0, 0, 1], &boxed(b"avc1", &[&entry])]);
    let minf = boxed(b"minf", &[&boxed(b"stbl", &[&stsd])]);
    let hdlr = boxed(b"hdlr", &[&[0; 8], b"vide", &[0; 13]]);
    let mdia = boxed(b"mdia", &[&boxed(b"mdhd", &[&times]), &hdlr, &minf]);
    let mut tkhd = vec![0; 84];
    tkhd[15] = 1;
    let trak = boxed(b"trak", &[&boxed(b"tkhd", &[&tkhd]), &mdia]);
    let moov = boxed(b"moov", &[&boxed(b"mvhd", &[&times, &[0; 76]]), &trak]);
    [boxed(b"ftyp", &[b"isom", &[0; 4]]), moov].concat()
}

/// Writes a title of `size` bytes that plays at `rate` bits per second. No two have the same bytes: the seed must differ.
///
/// # Errors
/// When it cannot be written, or is too small for its headers, or too large or too long for their fields.
pub fn write(path: &Path, size: u64, rate: u64, seed: u64) -> anyhow::Result<()> {
    let what = || format!("write {}", path.display());
    fs::create_dir_all(path.parent().context("a folder")?).with_context(what)?;
    let head = head(u32::try_from(size * 8 * 1000 / rate).context("a film that is too long")?);
    let media = size.checked_sub(head.len() as u64).context("a title that is too small")?;
    let mut file = BufWriter::new(File::create(path).with_context(what)?);
    file.write_all(&head).with_context(what)?;
    file.write_all(&u32::try_from(media).context("a title that is too large")?.to_be_bytes()).with_context(what)?;
    file.write_all(b"mdat").with_context(what)?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut left = media - 8;
    let mut piece = vec![0; 256 * 1024];
    while left > 0 {
        rng.fill(&mut piece[..]);
        let len = left.min(piece.len() as u64);
        file.write_all(&piece[..len as usize]).with_context(what)?;
        left -= len;
    }
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(what)?;
    // As if finished long ago: a node waits for the writers of young files.
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_has_its_size_and_whole_boxes() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("many/1.mp4");
        write(&path, 300_000, 2_000_000, 7).expect("written");
        let bytes = fs::read(&path).expect("read");
        assert_eq!(bytes.len(), 300_000);
        let (mut at, mut kinds) = (0, Vec::new());
        while at < bytes.len() {
            let len = u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            kinds.push(String::from_utf8_lossy(&bytes[at + 4..at + 8]).into_owned());
            at += len as usize;
        }
        assert_eq!((kinds.join(" ").as_str(), at), ("ftyp moov mdat", 300_000));
    }
}
