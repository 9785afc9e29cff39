//! Incomplete copies: served while they arrive, resumed, abandoned.

use std::fs::File;

use tokio::task::JoinHandle;
use usher_proto::{pb::v1::ByteRange, wire::Frame};

use super::{
    script::{ScriptedSession, encode},
    *,
};
use crate::{core::pull::tests::frames, test_node::receive_after};

fn spawn(target: &TestNode, order: Replicate) -> JoinHandle<Result<(), Fault>> {
    let puller = target.services.puller.clone();
    tokio::spawn(async move { puller.order(order).await })
}

async fn outcome(order: JoinHandle<Result<(), Fault>>) -> Result<(), Code> {
    order.await.expect("no panic").map_err(|fault| fault.code)
}

/// Number of frames up to and including the `group`th group frame.
fn until(frames: &[Frame], group: usize) -> usize {
    let mut groups = frames.iter().enumerate().filter(|(_, frame)| matches!(frame, Frame::Group(_)));
    groups.nth(group).map_or(0, |(at, _)| at + 1)
}

/// A scripted source that sent this many groups of `data`, which the target stored, and waits.
async fn begun(
    target: &TestNode,
    data: &[u8],
    groups: u64,
) -> (ScriptedSource, ScriptedSession, JoinHandle<Result<(), Fault>>) {
    let mut script = ScriptedSource::start();
    let title = Title::parse("a.mp4").expect("a title");
    let mut changes = target.context.library.subscribe();
    let order = spawn(target, script.order("a.mp4", data));
    let mut session = script.session().await;
    let frames = frames(data, 0);
    session.send(&frames[..until(&frames, groups as usize - 1)]).await;
    let copy = loop {
        match target.context.library.find(&title, None) {
            Ok(copy) => break copy,
            Err(_) => drop(changes.changed().await),
        }
    };
    let media = target.context.library.open_copy(&copy).expect("opens");
    media.ready(groups).await.expect("received");
    assert_eq!(media.groups(), groups);
    (script, session, order)
}

#[tokio::test]
async fn a_viewer_plays_while_the_copy_is_received() {
    let data = mp4(7, (PAGE + 5 * GROUP) as usize);
    let target = target().await;
    let (_script, mut session, order) = begun(&target, &data, 20).await;
    let copy = target.context.library.subscribe().page(None, 1).pop().expect("a copy");
    assert_eq!((copy.origin, copy.content, copy.size), (Origin::Growing, Some(tree::single(&data)), data.len() as u64));

    let viewer = target.viewer().await;
    let ticket = || target.ticket("a.mp4", Some(tree::single(&data)));
    let mut stream = viewer.open(&ticket(), None).await;
    // Two steps of 8 groups and a part of a third have arrived: the session waits after the second.
    let frames = frames(&data, 0);
    let ahead: usize = frames[1..until(&frames, 15)].iter().map(|frame| encode(frame).len()).sum();
    let mut head = vec![0; ahead];
    stream.read_exact(&mut head).await.expect("the beginning");
    // A range that has not arrived is available sooner elsewhere.
    let far = Some(ByteRange { start: 100 * GROUP, end: 0 });
    assert_eq!(viewer.play(&ticket(), far).await, Err(SessionEnd::Refused(Code::Unavailable)));
    let near = Some(ByteRange { start: 0, end: 16 * GROUP });
    assert!(viewer.play(&ticket(), near).await.expect("plays").data == data[..16 * GROUP as usize]);

    let rest = tokio::spawn(async move { receive_after(&head, &mut stream).await });
    session.send(&frames[until(&frames, 19)..]).await;
    session.finish();
    let got = rest.await.expect("no panic").expect("continues to the end");
    assert!(got.data == data && got.content == tree::single(&data));
    assert_eq!(outcome(order).await, Ok(()));
    assert!(viewer.play(&ticket(), far).await.expect("plays").data == data[100 * GROUP as usize..]);
}

#[tokio::test]
async fn a_copy_that_ends_early_refers_its_viewers_elsewhere_and_is_resumed() {
    let data = mp4(7, (PAGE + 5 * GROUP) as usize);
    let target = target().await;
    let (_first, mut session, order) = begun(&target, &data, 20).await;
    let viewer = target.viewer().await;
    let mut stream = viewer.open(&target.ticket("a.mp4", None), None).await;
    stream.read_exact(&mut [0; 5]).await.expect("something");
    let mut changes = target.context.library.subscribe();
    assert_eq!(changes.page(None, 2).len(), 1);
    session.finish();
    assert_eq!(outcome(order).await, Err(Code::Network));
    assert_eq!(changes.changed().await.removals.len(), 1);
    let mut rest = vec![0; 100_000];
    let end = loop {
        match stream.read(&mut rest).await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end, Err(quinn::ReadError::Reset(Code::Unavailable.quic().into())));
    drop((viewer, changes));

    // Received groups survive a restart; damage on the disk is detected.
    let target = restart(target, QUOTA).await;
    assert_eq!(target.context.library.stats().titles, 0);
    let part = files(target.dir.path()).into_iter().find(|path| path.extension().is_some_and(|end| end == "part"));
    let part = File::options().write(true).open(part.expect("a part")).expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&part, b"bad", 18 * GROUP + 5).expect("written");
    let mut script = ScriptedSource::start();
    let order = spawn(&target, script.order("a.mp4", &data));
    let mut session = script.session().await;
    assert_eq!(session.open.range, Some(ByteRange { start: 18 * GROUP, end: 0 }));
    // It is offered before further groups arrive.
    let viewer = target.viewer().await;
    let near = Some(ByteRange { start: 0, end: 16 * GROUP });
    assert!(viewer.play(&target.ticket("a.mp4", None), near).await.expect("plays").data == data[..16 * GROUP as usize]);
    session.send(&frames(&data, 18)).await;
    session.finish();
    assert_eq!(outcome(order).await, Ok(()));
    assert!(viewer.play(&target.ticket("a.mp4", None), None).await.expect("plays").data == data);
}

#[tokio::test]
async fn invalid_frames_of_a_source_are_refused() {
    let data = mp4(7, 40 * GROUP as usize);
    let target = target().await;
    let honest = frames(&data, 0);
    let mut lies = honest.clone();
    let at = until(&lies, 29) - 1;
    lies[at] = Frame::Group(vec![9; GROUP as usize].into());
    let mut script = ScriptedSource::start();
    let order = spawn(&target, script.order("a.mp4", &data));
    let mut session = script.session().await;
    session.send(&lies[..=at]).await;
    assert_eq!(outcome(order).await, Err(Code::VerificationFailed));
    session.left().await;
    // All groups were from that source: nothing is kept.
    assert!(files(target.dir.path()).is_empty());
    assert_eq!(target.context.library.stats().titles, 0);

    let order = spawn(&target, script.order("a.mp4", &data));
    let mut session = script.session().await;
    session.send(&honest[..1]).await;
    session.write(b"GET / HTTP/1.1\r\n").await;
    assert_eq!(outcome(order).await, Err(Code::VerificationFailed));

    // Groups from earlier, honest sources are kept.
    let (_other, mut session, order) = begun(&target, &data, 10).await;
    session.finish();
    assert_eq!(outcome(order).await, Err(Code::Network));
    let order = spawn(&target, script.order("a.mp4", &data));
    let mut session = script.session().await;
    session.send(&frames(&data, 10)[..3]).await;
    session.send(&[Frame::Group(vec![9; GROUP as usize].into())]).await;
    assert_eq!(outcome(order).await, Err(Code::VerificationFailed));
    let order = spawn(&target, script.order("a.mp4", &data));
    let mut session = script.session().await;
    assert_eq!(session.open.range.map(|range| range.start), Some(11 * GROUP));
    session.send(&frames(&data, 11)).await;
    assert_eq!(outcome(order).await, Ok(()));
}

#[tokio::test]
async fn a_silent_source_is_abandoned() {
    let data = mp4(7, 4 * GROUP as usize);
    let target = target().await;
    let puller = Puller::new(target.context.library.replicas().cloned(), Duration::from_millis(50));
    let mut script = ScriptedSource::start();
    let order = script.order("a.mp4", &data);
    let (result, _call) = tokio::join!(puller.order(order), script.session());
    assert_eq!(result.map_err(|fault| fault.code), Err(Code::Timeout));
}

#[tokio::test]
async fn an_eviction_stops_an_incoming_copy() {
    let data = mp4(7, 40 * GROUP as usize);
    let target = target().await;
    let (_script, mut session, order) = begun(&target, &data, 10).await;
    target.services.puller.evict(evict("a.mp4", &data)).await;
    assert_eq!(outcome(order).await, Err(Code::Interrupted));
    session.left().await;
    assert!(files(target.dir.path()).is_empty());
    assert_eq!(target.context.library.stats().titles, 0);
    assert_eq!(target.context.library.replicas().expect("takes copies").last_free(), QUOTA);
}

#[tokio::test]
async fn partial_copies_are_deleted_for_space_and_by_age() {
    let (data, other) = (mp4(7, 40 * GROUP as usize), mp4(1, 40 * GROUP as usize));
    let quota = quota::disk_bytes(data.len() as u64) + GROUP;
    let target = TestNode::taking(TempDir::new().expect("a folder"), quota).await;
    let (_script, mut session, order) = begun(&target, &data, 30).await;
    session.finish();
    assert_eq!(outcome(order).await, Err(Code::Network));
    assert_eq!((files(target.dir.path()).len(), target.services.puller.free()), (2, quota));
    let source = TestNode::with(&[("b.mp4", &other)]).await;
    target.services.puller.order(seat_at(&source, "b.mp4", &other)).await.expect("fits");
    let left = files(target.dir.path());
    let id = tree::single(&other).to_string();
    assert!(left.len() == 2 && left.iter().all(|path| path.to_string_lossy().contains(&id)), "{left:?}");

    target.services.puller.evict(evict("b.mp4", &other)).await;
    let (_script, mut session, order) = begun(&target, &data, 30).await;
    session.finish();
    assert_eq!(outcome(order).await, Err(Code::Network));
    let target = restart(target, quota).await;
    let kept = files(target.dir.path());
    assert_eq!(kept.len(), 2);
    for path in &kept {
        let day = std::time::SystemTime::now() - Duration::from_secs(25 * 60 * 60);
        File::options().write(true).open(path).expect("opens").set_modified(day).expect("aged");
    }
    let target = restart(target, quota).await;
    assert!(files(target.dir.path()).is_empty());
}
