//! The titles of a run: name, size, rate, holders and content hash. Writes each title once and copies it to each holder;
//! damages a copy and repairs it. The time of a damage is left to the caller.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use usher_proto::Bitrate;

use crate::{settings::Load, test_title};

/// One title.
#[derive(Clone, Debug)]
pub(crate) struct Title {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) rate: Bitrate,
    /// The holders, by number.
    pub(crate) holders: Vec<usize>,
    /// BLAKE3 of its bytes, in hex.
    pub(crate) content: String,
}

/// All titles of a run.
pub(crate) struct Library {
    pub(crate) titles: Vec<Title>,
    truth: PathBuf,
}

impl Library {
    /// Writes the titles below `truth`, each with different bytes, and chooses their holders: every second title has three
    /// copies, the others two.
    pub(crate) fn write(truth: &Path, load: &Load, nodes: usize, seed: u64) -> anyhow::Result<Self> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut titles = Vec::new();
        for number in 0..load.titles + load.large {
            let large = number >= load.titles;
            let rate = Bitrate(1000 * rng.random_range(load.kbits.clone()));
            let secs = rng.random_range(load.secs.clone());
            let size = if large { load.large_size } else { rate.0 * secs / 8 };
            let name = if large { format!("large/{number:02}.mp4") } else { format!("films/{number:02}.mp4") };
            let copies = (2 + number % 2).min(nodes);
            let holders = (0..copies).map(|copy| (number / 2 + copy) % nodes).collect();
            let path = truth.join(&name);
            test_title::write(&path, size, rate.0, rng.random())?;
            let content = hash(&path)?;
            titles.push(Title { name, size, rate, holders, content });
        }
        Ok(Self { titles, truth: truth.to_owned() })
    }

    /// The title's source.
    pub(crate) fn truth(&self, title: &Title) -> PathBuf {
        self.truth.join(&title.name)
    }

    /// Puts a complete copy below `media`, with the source's modification time. It replaces a present copy by a rename.
    pub(crate) fn copy(&self, title: &Title, media: &Path) -> anyhow::Result<()> {
        let (truth, path) = (self.truth(title), media.join(&title.name));
        let what = || format!("copy {} to {}", title.name, media.display());
        // A node does not offer hidden files.
        let draft = path.with_file_name(format!(".{}", title.content));
        fs::create_dir_all(path.parent().context("a folder")?).with_context(what)?;
        fs::copy(&truth, &draft).with_context(what)?;
        let modified = fs::metadata(&truth).and_then(|meta| meta.modified()).with_context(what)?;
        fs::File::options().write(true).open(&draft).and_then(|file| file.set_modified(modified)).with_context(what)?;
        fs::rename(&draft, &path).with_context(what)
    }
}

/// Flips a bit in every 512 KiB of a file, in place. Its size and time stay, and no file system event is sent for
/// its folder, as with a decaying disk: the bytes are written under another name, in the folder `beside`. A second call
/// undoes the damage.
pub(crate) fn damage(path: &Path, beside: &Path) -> anyhow::Result<()> {
    let what = || format!("damage {}", path.display());
    let name = beside.join("damaged");
    fs::hard_link(path, &name).with_context(what)?;
    let file = fs::File::options().read(true).write(true).open(&name).with_context(what)?;
    fs::remove_file(&name).with_context(what)?;
    let meta = file.metadata().with_context(what)?;
    let mut byte = [0];
    // Leaves the headers intact: a node reads them when it starts.
    for at in (100_000..meta.len()).step_by(512 * 1024) {
        file.read_exact_at(&mut byte, at).with_context(what)?;
        file.write_all_at(&[byte[0] ^ 4], at).with_context(what)?;
    }
    file.set_modified(meta.modified().with_context(what)?).with_context(what)
}

/// BLAKE3 of a file, in hex.
pub(crate) fn hash(path: &Path) -> anyhow::Result<String> {
    let what = || format!("hash {}", path.display());
    let mut file = fs::File::open(path).with_context(what)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let len = file.read(&mut buffer).with_context(what)?;
        ensure!(len <= buffer.len(), "a read returned more bytes than the buffer holds");
        if len == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&buffer[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_copy_has_the_same_size_and_time_and_can_be_repaired() {
        let dir = tempfile::tempdir().expect("a folder");
        let load = Load { titles: 2, large: 1, large_size: 700_000, secs: 2..4, ..Load::debug() };
        let library = Library::write(&dir.path().join("truth"), &load, 3, 7).expect("written");
        assert_eq!(library.titles.iter().map(|title| title.holders.len()).collect::<Vec<_>>(), [2, 3, 2]);
        let (title, media) = (&library.titles[2], dir.path().join("node"));
        let path = media.join(&title.name);
        let size_and_time =
            || fs::metadata(&path).map(|meta| (meta.len(), meta.modified().expect("a time"))).expect("there");
        library.copy(title, &media).expect("copied");
        let before = size_and_time();
        damage(&path, dir.path()).expect("damaged");
        assert_ne!(hash(&path).expect("hashed"), title.content);
        assert_eq!(size_and_time(), before);
        damage(&path, dir.path()).expect("healed");
        assert_eq!((hash(&path).expect("hashed"), size_and_time()), (title.content.clone(), before));
        damage(&path, dir.path()).expect("damaged");
        library.copy(title, &media).expect("repaired");
        assert_eq!((hash(&path).expect("hashed"), size_and_time()), (title.content.clone(), before));
    }
}
