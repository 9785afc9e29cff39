//! Media for tests: the repository's clips, and files of a certain age.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

pub(crate) use usher_media::samples::mp4;

/// A clip of figure 4.
pub(crate) fn clip(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../media/samples").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Writes a file with an age of an hour, so that it has no writer to wait for.
pub(crate) fn put_old(path: &Path, data: &[u8]) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("make a folder");
    }
    fs::write(path, data).expect("write a file");
    age(path);
}

/// Makes a file an hour old.
pub(crate) fn age(path: &Path) {
    let file = fs::File::options().write(true).open(path).expect("open a file");
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("set a time");
}

/// Flips a bit of a byte as a failing disk does: size and time stay, and watchers of the folder receive no event.
pub(crate) fn rot(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).expect("a time");
    let behind = tempfile::TempDir::new_in(path.ancestors().nth(2).expect("a folder above")).expect("a folder");
    let other = behind.path().join("another name of it");
    fs::hard_link(path, &other).expect("a link");
    let file = fs::File::options().read(true).write(true).open(&other).expect("open a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
    file.set_modified(modified).expect("set a time");
}

/// A folder of files that are an hour old.
pub(crate) fn folder(root: &Path, files: &[(&str, &[u8])]) -> PathBuf {
    fs::create_dir_all(root).expect("make a folder");
    files.iter().for_each(|(name, data)| put_old(&root.join(name), data));
    root.to_owned()
}
