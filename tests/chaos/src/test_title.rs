//! Media files for tests and measurements: an MP4 with random bytes as its media. Written in pieces, so that a large title
//! needs no memory. The holders are left to `library`.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use usher_media::samples::{boxed, moov};

/// Writes a title of `size` bytes that plays at `rate` bits per second. Different seeds give different bytes.
///
/// # Errors
/// The file cannot be written, or the size is too small for the headers, or size or duration too large for their fields.
pub fn write(path: &Path, size: u64, rate: u64, seed: u64) -> anyhow::Result<()> {
    let what = || format!("write {}", path.display());
    fs::create_dir_all(path.parent().context("a folder")?).with_context(what)?;
    let duration = u32::try_from(size * 8 * 1000 / rate).context("a film that is too long")?;
    let head = [boxed(b"ftyp", &[b"isom", &[0; 4]]), moov(duration, false)].concat();
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
    fn a_title_has_its_size_and_complete_boxes() {
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
