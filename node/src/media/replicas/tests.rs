//! The folder of copies at a start, with files changed behind the node's back.

use std::{fs, path::PathBuf, sync::Arc};

use proptest::prelude::*;
use tempfile::TempDir;
use usher_proto::{
    Code, Title,
    tree::{Builder, GROUP},
};

use super::*;
use crate::{
    core::{
        pull::{Pull, ReplicaSpec, VerifiedFrame, tests::frames},
        quota,
    },
    media::{catalog::Catalog, copy::OpenError, fixtures::mp4},
};

const QUOTA: u64 = 100_000_000;

fn config(dir: &TempDir) -> ReplicaConfig {
    ReplicaConfig { folder: dir.path().join("replicas"), quota: Some(QUOTA) }
}

fn open(dir: &TempDir) -> Arc<ReplicaStore> {
    let volumes = std::iter::empty();
    ReplicaStore::open(&config(dir), volumes, Catalog::default()).expect("opens").expect("takes copies")
}

fn wanted(data: &[u8]) -> ReplicaSpec {
    let mut builder = Builder::default();
    data.chunks(GROUP as usize).for_each(|group| builder.push(group));
    let title = Title::parse("a.mp4").expect("a title");
    ReplicaSpec { title, content: builder.finish().content, size: data.len() as u64 }
}

/// The files in the folder of copies except its lock.
fn files(dir: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.path().join("replicas")).expect("a folder");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| !path.ends_with("lock"));
    files.sort();
    files
}

/// A folder with a complete copy, and the paths of its two files.
fn filled(data: &[u8]) -> (TempDir, PathBuf, PathBuf) {
    let dir = TempDir::new().expect("a folder");
    let replicas = open(&dir);
    let mut incoming = IncomingReplica::begin(&replicas, &wanted(data)).expect("fits").expect("it is not here");
    let mut pull = Pull::new(wanted(data), 0);
    let pieces: Vec<VerifiedFrame> =
        frames(data, 0).into_iter().filter_map(|frame| pull.handle_frame(frame).expect("good")).collect();
    assert_eq!(incoming.write(pieces.into_iter()), Ok(true));
    drop((incoming, replicas));
    let [media, meta] = files(&dir).try_into().expect("two files");
    (dir, media, meta)
}

#[test]
fn damaged_files_are_deleted() {
    let data = mp4(3, 5 * GROUP as usize);
    let (dir, media, meta) = filled(&data);
    let (whole, good) = (fs::read(&media).expect("read"), fs::read(&meta).expect("read"));
    let foreign = dir.path().join("replicas/notes.txt");
    fs::write(&foreign, "mine").expect("written");
    let mut wrong_hash = good.clone();
    *wrong_hash.last_mut().expect("a byte") ^= 1;
    for (what, bytes, file) in [
        ("empty", Vec::new(), &meta),
        ("truncated set-up", good[..20].to_vec(), &meta),
        ("truncated hashes", good[..good.len() - 1].to_vec(), &meta),
        ("garbage", vec![0xff; 5000], &meta),
        ("hashes of something else", wrong_hash, &meta),
        ("truncated media", whole[..whole.len() - 1].to_vec(), &media),
        ("long media", [&whole[..], b"x"].concat(), &media),
    ] {
        fs::write(&media, &whole).expect("written");
        fs::write(&meta, &good).expect("written");
        assert_eq!(open(&dir).last_free(), QUOTA - quota::disk_bytes(data.len() as u64));
        fs::write(file, bytes).expect("written");
        assert_eq!(open(&dir).last_free(), QUOTA, "{what}");
        assert_eq!(files(&dir), std::slice::from_ref(&foreign), "{what}");
    }
    // A file that is removed while the node runs is noticed when the copy is opened.
    fs::write(&media, &whole).expect("written");
    fs::write(&meta, &good).expect("written");
    let replicas = open(&dir);
    let copies = replicas.catalog.copies(&wanted(&data).title, None).expect("offered");
    fs::remove_file(&media).expect("removed");
    assert!(matches!(replicas.open_copy(&copies[0]), Err(OpenError::Gone)));
    assert!(replicas.catalog.copies(&copies[0].title, None).is_err());
    assert!(!replicas.evict(&copies[0].title, wanted(&data).content));
}

#[test]
fn a_folder_belongs_to_one_node_and_overlaps_no_volume() {
    let dir = TempDir::new().expect("a folder");
    let first = open(&dir);
    let error = ReplicaStore::open(&config(&dir), std::iter::empty(), Catalog::default()).err().expect("in use");
    assert!(error.to_string().contains("in use by another node"), "{error}");
    drop(first);
    let films = dir.path().join("films").canonicalize().unwrap_or_else(|_| dir.path().join("films"));
    fs::create_dir_all(&films).expect("a folder");
    for folder in [films.clone(), films.join("new/copies"), dir.path().to_owned()] {
        let inside = |quota| {
            let config = ReplicaConfig { folder: folder.clone(), quota };
            ReplicaStore::open(&config, [films.as_path()].into_iter(), Catalog::default())
        };
        let error = inside(Some(1)).err().expect("overlaps").to_string();
        assert!(error.contains("--replicas"), "{error}");
        assert!(inside(None).expect("no copies were asked for").is_none());
    }
    assert_eq!(fs::read_dir(&films).expect("a folder").count(), 0);
    let none = ReplicaConfig { folder: dir.path().join("none"), quota: Some(0) };
    assert!(ReplicaStore::open(&none, std::iter::empty(), Catalog::default()).expect("opens").is_none());
    assert!(!none.folder.exists());
}

#[test]
fn the_default_quota_is_a_fraction_of_the_disk() {
    let dir = TempDir::new().expect("a folder");
    let config = ReplicaConfig { quota: None, ..config(&dir) };
    let replicas = ReplicaStore::open(&config, std::iter::empty(), Catalog::default()).expect("opens").expect("some");
    let free = replicas.folder.free().expect("a disk");
    assert!(replicas.quota() <= quota::DEFAULT && replicas.quota() <= free / 5, "{} of {free}", replicas.quota());
}

#[test]
fn a_disk_that_fails_is_an_error() {
    let data = mp4(3, 5 * GROUP as usize);
    let dir = TempDir::new().expect("a folder");
    let replicas = open(&dir);
    let mut incoming = IncomingReplica::begin(&replicas, &wanted(&data)).expect("fits").expect("it is not here");
    fs::remove_dir_all(dir.path().join("replicas")).expect("removed");
    let mut pull = Pull::new(wanted(&data), 0);
    let setup = pull.handle_frame(frames(&data, 0).remove(0)).expect("good");
    assert_eq!(incoming.write(setup.into_iter()).map_err(|fault| fault.code), Err(Code::Disk));
    incoming.abandon(false);
    let full = IncomingReplica::begin(&replicas, &wanted(&data)).err().expect("no disk");
    assert_eq!(full.code, Code::Disk);
}

/// After any change or truncation of the meta file, the copy is deleted or still has its content.
#[test]
fn a_corrupt_meta_file_is_harmless() {
    let data = mp4(3, 2 * GROUP as usize);
    let (dir, media, meta) = filled(&data);
    let (whole, good) = (fs::read(&media).expect("read"), fs::read(&meta).expect("read"));
    proptest!(ProptestConfig::with_cases(200), |(at in 0..good.len(), byte: u8, cut in prop::option::of(0..good.len()))| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad.truncate(cut.unwrap_or(good.len()));
        fs::write(&media, &whole).expect("written");
        fs::write(&meta, &bad).expect("written");
        let replicas = open(&dir);
        match replicas.catalog.copies(&wanted(&data).title, None) {
            Ok(copies) => prop_assert!(copies[0].content == Some(wanted(&data).content)),
            Err(_) => prop_assert!(files(&dir).is_empty()),
        }
    });
}
