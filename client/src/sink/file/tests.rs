//! The files that a second run finds, and those that it must not trust.

use bytes::Bytes;
use usher_proto::{
    Title,
    tree::{self, GROUP},
};

use super::*;

fn about(data: &[u8], start: u64) -> TransferInfo {
    let mut builder = tree::Builder::default();
    data.chunks(GROUP as usize).for_each(|group| builder.push(group));
    let title = Title::parse("a.mp4").expect("valid");
    let size = data.len() as u64;
    TransferInfo { title, content: Some(builder.finish().content), size, range: start..size }
}

fn chunks(data: &[u8], start: u64) -> Vec<Chunk> {
    let first = start / GROUP;
    let chunks = (first..tree::groups(data.len() as u64)).map(|index| {
        let offset = (index * GROUP).max(start);
        let end = ((index + 1) * GROUP).min(data.len() as u64);
        let data = Bytes::copy_from_slice(&data[offset as usize..end as usize]);
        Chunk { number: index - first, offset, value: tree::group_value(index, &data), data, pending: false }
    });
    chunks.collect()
}

fn data() -> Vec<u8> {
    (0..4 * GROUP + 77).map(|i| (i % 253) as u8).collect()
}

/// Writes the first `groups` groups and stops.
async fn begin(target: &Path, about: &TransferInfo, chunks: &[Chunk], groups: usize) -> FileSink {
    let mut sink = FileSink::new(target.to_owned(), false);
    assert_eq!(sink.begin(about).await, Ok(0));
    for chunk in &chunks[..groups] {
        let chunk = chunk.clone();
        sink.write(move || (vec![chunk], ())).await.expect("room");
    }
    sink.pause().await.expect("room");
    sink
}

#[tokio::test]
async fn a_second_run_goes_on_and_the_whole_is_moved_into_place() {
    for start in [0, GROUP - 5, 2 * GROUP] {
        let folder = tempfile::tempdir().expect("temp");
        let target = folder.path().join("sub/a.mp4");
        let (data, content) = (data(), about(&data(), 0).content.expect("hashed"));
        let (about, chunks) = (about(&data, start), chunks(&data, start));
        let sink = begin(&target, &about, &chunks, 2).await;
        assert!(sink.resumable());
        drop(sink);
        let mut sink = FileSink::new(target.clone(), false);
        assert_eq!(sink.begin(&about).await, Ok(2), "from {start}");
        assert_eq!(sink.notices(), Vec::<String>::new());
        for chunk in &chunks[2..] {
            let chunk = chunk.clone();
            sink.write(move || (vec![chunk], ())).await.expect("room");
        }
        assert!(!target.exists());
        sink.finish(content).await.expect("moves");
        assert!(std::fs::read(&target).is_ok_and(|bytes| bytes == data[start as usize..]));
        let left: Vec<_> = std::fs::read_dir(folder.path().join("sub")).expect("folder").collect();
        assert_eq!(left.len(), 1, "no part is left: {left:?}");
    }
}

#[tokio::test]
async fn bytes_that_were_spoilt_are_fetched_again() {
    let folder = tempfile::tempdir().expect("temp");
    let target = folder.path().join("a.mp4");
    let (data, part) = (data(), folder.path().join("a.mp4.part"));
    let (about, chunks) = (about(&data, 0), chunks(&data, 0));
    drop(begin(&target, &about, &chunks, 3).await);
    let mut bytes = std::fs::read(&part).expect("part");
    bytes[GROUP as usize + 9] ^= 1;
    std::fs::write(&part, &bytes).expect("part");
    let mut sink = FileSink::new(target.clone(), false);
    assert_eq!(sink.begin(&about).await, Ok(1), "only the first group is good");
    assert_eq!(part.metadata().map(|meta| meta.len()).ok(), Some(GROUP));
    for chunk in &chunks[1..] {
        let chunk = chunk.clone();
        sink.write(move || (vec![chunk], ())).await.expect("room");
    }
    sink.finish(ContentId([0; 32])).await.expect("moves");
    assert!(std::fs::read(&target).is_ok_and(|bytes| bytes == data));
}

#[tokio::test]
async fn another_content_starts_over_and_says_so() {
    let folder = tempfile::tempdir().expect("temp");
    let target = folder.path().join("a.mp4");
    let data = data();
    let (mut about, chunks) = (about(&data, 0), chunks(&data, 0));
    drop(begin(&target, &about, &chunks, 3).await);
    about.content = Some(ContentId([9; 32]));
    let mut sink = FileSink::new(target.clone(), false);
    assert_eq!(sink.begin(&about).await, Ok(0));
    assert!(sink.notices().iter().any(|notice| notice.contains("another content")));
    drop(sink);
    // And a damaged state is of no use.
    std::fs::write(folder.path().join("a.mp4.part"), b"x").expect("part");
    std::fs::write(folder.path().join("a.mp4.part.state"), b"usher-part 1\ncontent").expect("state");
    let mut sink = FileSink::new(target, false);
    assert_eq!(sink.begin(&about).await, Ok(0));
    assert!(sink.notices().iter().any(|notice| notice.contains("damaged")));
}

#[tokio::test]
async fn the_longest_names_have_parts_of_their_own() {
    let folder = tempfile::tempdir().expect("temp");
    let (data, mut parts) = (data(), Vec::new());
    let (about, chunks) = (about(&data, 0), chunks(&data, 0));
    for end in ["a", "b"] {
        let target = folder.path().join("ö".repeat(127) + end);
        let mut sink = begin(&target, &about, &chunks, 5).await;
        parts.push(sink.names.part.clone());
        sink.finish(ContentId([0; 32])).await.expect("moves");
        assert!(std::fs::read(&target).is_ok_and(|bytes| bytes == data));
    }
    assert_ne!(parts[0], parts[1]);
    assert_eq!(FileSink::new("x".repeat(244).into(), false).names.part, Path::new(&("x".repeat(244) + ".part")));
}

#[tokio::test]
async fn a_part_of_someone_else_is_kept() {
    let folder = tempfile::tempdir().expect("temp");
    let (target, part) = (folder.path().join("a.mp4"), folder.path().join("a.mp4.part"));
    let about = about(&data(), 0);
    for state in [None, Some([0xff; 5000])] {
        std::fs::write(&part, b"mine").expect("part");
        if let Some(state) = state {
            std::fs::write(folder.path().join("a.mp4.part.state"), state).expect("state");
        }
        let fault = FileSink::new(target.clone(), false).begin(&about).await.expect_err("not ours");
        assert!(fault.code == Code::Exists && fault.message.contains("a.mp4.part"), "{fault}");
        assert!(std::fs::read(&part).is_ok_and(|bytes| bytes == b"mine"));
    }
    assert_eq!(FileSink::new(target, true).begin(&about).await, Ok(0));
}

#[tokio::test]
async fn what_is_there_is_kept() {
    let folder = tempfile::tempdir().expect("temp");
    let target = folder.path().join("a.mp4");
    let (data, code) = (data(), |fault: Fault| fault.code);
    let (about, chunks) = (about(&data, 0), chunks(&data, 0));
    let mut late = begin(&target, &about, &chunks, 5).await;
    assert_eq!(FileSink::new(target.clone(), false).begin(&about).await.map_err(code), Err(Code::Exists), "locked");
    std::fs::write(&target, b"mine").expect("target");
    assert_eq!(FileSink::new(target.clone(), false).begin(&about).await.map_err(code), Err(Code::Exists));
    assert_eq!(late.finish(ContentId([0; 32])).await.map_err(code), Err(Code::Exists), "came in between");
    assert!(std::fs::read(&target).is_ok_and(|bytes| bytes == b"mine"));
    assert_eq!(FileSink::new(target.clone(), true).check(), Ok(()));
    assert_eq!(FileSink::new(folder.path().to_owned(), true).check().map_err(code), Err(Code::Exists));
    drop(late);
    let mut sink = FileSink::new(target.clone(), true);
    assert_eq!(sink.begin(&about).await, Ok(5));
    sink.finish(ContentId([0; 32])).await.expect("replaces");
    assert!(std::fs::read(&target).is_ok_and(|bytes| bytes == data));
}

#[tokio::test]
async fn nothing_written_leaves_nothing() {
    let folder = tempfile::tempdir().expect("temp");
    let data = data();
    let sink = begin(&folder.path().join("a.mp4"), &about(&data, 0), &[], 0).await;
    assert!(!sink.resumable());
    assert_eq!(std::fs::read_dir(folder.path()).map(Iterator::count).ok(), Some(0));
}
