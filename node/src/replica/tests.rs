//! Two nodes on loopback: one that copies, and a source that is a real node or a scripted one.

mod growing;
mod script;

use std::{fs, path::Path};

use tempfile::TempDir;
use usher_proto::{
    model::Origin,
    pb::v1::Seat,
    ticket::Purpose,
    tree::{self, GROUP, PAGE},
};

use super::*;
use crate::{
    core::quota,
    media::fixtures::{mp4, rot},
    test_node::{self, NODE, SessionEnd, TestNode, claims},
};
use script::ScriptedSource;

/// Enough for every test.
const QUOTA: u64 = 100_000_000;

async fn target() -> TestNode {
    TestNode::taking(TempDir::new().expect("a folder"), QUOTA).await
}

/// An order for a title with these bytes from a node with these certificates.
fn order(title: &str, data: &[u8], address: std::net::SocketAddr, pins: &[[u8; 32]], ticket: String) -> Replicate {
    let hex = |pin: &[u8; 32]| ContentId(*pin).to_string();
    let seat = Seat {
        lifetime_s: 0,
        node: NODE.into(),
        addresses: vec![address.to_string()],
        certificate_sha256: pins.iter().map(hex).collect(),
        ticket,
        zone: String::new(),
    };
    Replicate {
        id: 1,
        title: title.into(),
        content_id: tree::single(data).0.to_vec(),
        size: data.len() as u64,
        source: Some(seat),
        rate_bps: 0,
        request_id: "r".into(),
    }
}

/// An order for a title of a real node.
fn seat_at(source: &TestNode, title: &str, data: &[u8]) -> Replicate {
    let mut claims = claims(title, Some(tree::single(data)));
    (claims.purpose, claims.rate) = (Purpose::Fetch, 0);
    let pins = source.presence.subscribe().borrow().certificates.clone();
    order(title, data, source.address, &pins, source.sign(&claims))
}

fn evict(title: &str, data: &[u8]) -> Evict {
    Evict { title: title.into(), content_id: tree::single(data).0.to_vec() }
}

/// The files in the folder of copies except its lock.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir.join("replicas")).expect("a folder");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| !path.ends_with("lock"));
    files.sort();
    files
}

/// Stops a node and starts another on its folder.
async fn restart(node: TestNode, quota: u64) -> TestNode {
    node.server.close().await;
    node.services.puller.close().await;
    node.context.library.close().await;
    let TestNode { dir, context, services, presence, server, .. } = node;
    drop((context, services, presence, server));
    TestNode::taking(dir, quota).await
}

#[tokio::test]
async fn a_damaged_copy_is_deleted_and_can_be_ordered_again() {
    let data = mp4(6, (PAGE + 3 * GROUP) as usize + 5);
    let (source, target) = (TestNode::with(&[("a.mp4", &data)]).await, target().await);
    target.services.puller.order(seat_at(&source, "a.mp4", &data)).await.expect("copied");
    let (title, content) = (Title::parse("a.mp4").expect("a title"), tree::single(&data));
    let library = target.context.library.clone();
    let mut view = library.subscribe();
    assert_eq!(view.page(None, 9).len(), 1);
    // A false report of damage changes nothing.
    assert_eq!(library.recheck(&title, content), 1);
    let media = files(target.dir.path())
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() == data.len() as u64));
    let open = library.open_copy(&library.find(&title, Some(content)).expect("here")).expect("open");
    rot(&media.expect("a file of its bytes"), PAGE + GROUP);
    assert_eq!(library.recheck(&title, content), 1);
    assert_eq!(view.changed().await.removals.len(), 1);
    open.damaged().await;
    assert_eq!(files(target.dir.path()), Vec::<std::path::PathBuf>::new());
    assert_eq!(library.stats().rejected_files, 0, "it is no file of the operator's");
    target.services.puller.order(seat_at(&source, "a.mp4", &data)).await.expect("copied again");
    let got = target.viewer().await.play(&target.ticket("a.mp4", Some(content)), None).await.expect("plays");
    assert!(got.data == data);
}

#[tokio::test]
async fn a_complete_copy_is_served_and_survives_a_restart() {
    for (seed, len) in [(1, 500), (2, 5 * GROUP as usize + 7), (3, (PAGE + 9 * GROUP) as usize + 11)] {
        let data = mp4(seed, len);
        let source = TestNode::with(&[("deep/a.mp4", &data)]).await;
        let target = target().await;
        let before = target.context.library.replicas().expect("takes copies").last_free();
        assert_eq!(before, QUOTA);
        let mut changes = target.context.library.subscribe();
        assert!(changes.page(None, 10).is_empty());
        target.services.puller.order(seat_at(&source, "deep/a.mp4", &data)).await.expect("a copy");
        let copy = loop {
            let copy = changes.changed().await.copies.pop().expect("a copy");
            if copy.origin == Origin::Replica {
                break copy;
            }
            assert_eq!(copy.origin, Origin::Growing);
        };
        assert_eq!((copy.content, copy.size, copy.duration_ms), (Some(tree::single(&data)), data.len() as u64, 10_000));
        let free = target.context.library.replicas().expect("takes copies");
        free.refresh_free();
        assert_eq!(free.last_free(), QUOTA - quota::disk_bytes(data.len() as u64));
        // A repeated order does not contact the source: its ticket is invalid.
        let again = order("deep/a.mp4", &data, source.address, &[[0; 32]], "x".into());
        target.services.puller.order(again).await.expect("it is here");

        let plays = async |node: &TestNode| {
            let ticket = node.ticket("deep/a.mp4", Some(tree::single(&data)));
            let got = node.viewer().await.play(&ticket, None).await.expect("plays");
            assert!(got.data == data && got.setup.duration_ms == 10_000 && got.setup.tracks.len() == 1);
        };
        plays(&target).await;
        assert_eq!(fs::read_dir(target.path("")).expect("the operator's folder").count(), 0);
        let target = restart(target, QUOTA).await;
        plays(&target).await;
        assert_eq!(target.context.library.stats().hashed_bytes, 0);
        let page = target.context.library.subscribe().page(None, 10);
        assert!(page.len() == 1 && page[0].origin == Origin::Replica && page[0].volume == u16::MAX, "{page:?}");
    }
}

#[tokio::test]
async fn a_copy_of_a_copy_beside_the_operators_own() {
    let data = mp4(2, 20 * GROUP as usize);
    let source = TestNode::with(&[("a.mp4", &data)]).await;
    let (first, second) = (target().await, target().await);
    first.services.puller.order(seat_at(&source, "a.mp4", &data)).await.expect("a copy");
    second.services.puller.order(seat_at(&first, "a.mp4", &data)).await.expect("a copy of the copy");
    crate::media::fixtures::put_old(&second.path("a.mp4"), &data);
    let mut changes = second.context.library.subscribe();
    while changes.page(None, 10).iter().filter(|copy| copy.content.is_some()).count() < 2 {
        changes.changed().await;
    }
    let origins: Vec<_> = changes.page(None, 10).iter().map(|copy| copy.origin).collect();
    assert_eq!(origins, [Origin::Operator, Origin::Replica]);
    // An operator's file is never evicted.
    second.services.puller.evict(evict("a.mp4", &data)).await;
    second.services.puller.evict(evict("a.mp4", &data)).await;
    // It may be inspected once more meanwhile, since it was written a moment ago.
    while changes.page(None, 10).iter().map(|copy| copy.origin).ne([Origin::Operator]) {
        changes.changed().await;
    }
    assert!(second.path("a.mp4").exists() && files(second.dir.path()).is_empty());
}

#[tokio::test]
async fn an_evicted_copy_is_served_to_its_end() {
    let data = mp4(2, 60 * GROUP as usize);
    let source = TestNode::with(&[("a.mp4", &data)]).await;
    let target = target().await;
    target.services.puller.order(seat_at(&source, "a.mp4", &data)).await.expect("a copy");
    let mut changes = target.context.library.subscribe();
    assert_eq!(changes.page(None, 10).len(), 1);
    let viewer = target.viewer().await;
    // More than a stream's window remains to be read from the disk.
    let mut stream = viewer.open(&target.ticket("a.mp4", None), None).await;
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.expect("something");
    target.services.puller.evict(evict("a.mp4", b"other content")).await;
    assert_eq!(files(target.dir.path()).len(), 2);
    target.services.puller.evict(evict("a.mp4", &data)).await;
    assert!(files(target.dir.path()).is_empty());
    assert_eq!(changes.changed().await.removals.len(), 1);
    assert_eq!(target.context.library.replicas().expect("takes copies").last_free(), QUOTA);
    let refused = viewer.play(&target.ticket("a.mp4", None), None).await;
    assert_eq!(refused, Err(SessionEnd::Refused(Code::ContentChanged)));
    let got = test_node::receive_after(&head, &mut stream).await.expect("continues");
    assert!(got.data == data);
}

#[tokio::test]
async fn copies_stay_within_their_quota() {
    let (small, large) = (mp4(1, 3 * GROUP as usize), mp4(2, 9 * GROUP as usize));
    let source = TestNode::with(&[("small.mp4", &small), ("large.mp4", &large)]).await;
    let cost = |data: &[u8]| quota::disk_bytes(data.len() as u64);
    let target = TestNode::taking(TempDir::new().expect("a folder"), cost(&small) + cost(&large) - 1).await;
    target.services.puller.order(seat_at(&source, "small.mp4", &small)).await.expect("a copy");
    let full = target.services.puller.order(seat_at(&source, "large.mp4", &large)).await.expect_err("does not fit");
    assert_eq!(full.code, Code::Disk);
    assert!(full.message.contains(&format!("{} of", units::bytes(cost(&large) - 1))), "{full}");
    target.services.puller.evict(evict("small.mp4", &small)).await;
    target.services.puller.order(seat_at(&source, "large.mp4", &large)).await.expect("fits now");
    // A smaller quota deletes nothing and refuses further copies.
    let target = restart(target, 1000).await;
    assert_eq!((target.services.puller.quota(), target.services.puller.free()), (1000, 0));
    assert!(target.context.library.find(&Title::parse("large.mp4").expect("a title"), None).is_ok());
    let full = target.services.puller.order(seat_at(&source, "small.mp4", &small)).await.expect_err("does not fit");
    assert_eq!(full.code, Code::Disk);
    // A node that takes no copies refuses them.
    let none = TestNode::with(&[]).await;
    let refused = none.services.puller.order(seat_at(&source, "small.mp4", &small)).await.expect_err("takes none");
    assert_eq!((refused.code, none.services.puller.quota()), (Code::Disk, 0));
}

#[tokio::test]
async fn invalid_orders_are_refused() {
    let data = mp4(1, 3 * GROUP as usize);
    let source = TestNode::with(&[("a.mp4", &data)]).await;
    let target = target().await;
    let good = || seat_at(&source, "a.mp4", &data);
    let stranger = |seat: Seat| Seat { certificate_sha256: vec!["00".repeat(32)], ..seat };
    let seat = || good().source.expect("a seat");
    let table = [
        ("title", Replicate { title: "../a".into(), ..good() }, Code::BadRequest),
        ("content", Replicate { content_id: vec![1], ..good() }, Code::BadRequest),
        ("size", Replicate { size: 0, ..good() }, Code::BadRequest),
        ("huge", Replicate { size: u64::MAX, ..good() }, Code::BadRequest),
        ("seat", Replicate { source: None, ..good() }, Code::BadRequest),
        ("other size", Replicate { size: 7, ..good() }, Code::ContentChanged),
        ("other content", Replicate { content_id: vec![7; 32], ..good() }, Code::ContentChanged),
        ("ticket", Replicate { source: Some(Seat { ticket: "x".into(), ..seat() }), ..good() }, Code::TicketInvalid),
        ("stranger", Replicate { source: Some(stranger(seat())), ..good() }, Code::Network),
    ];
    for (what, order, code) in table {
        let fault = target.services.puller.order(order).await.expect_err(what);
        assert_eq!(fault.code, code, "{what}: {fault}");
    }
    assert!(files(target.dir.path()).is_empty());
    assert_eq!(target.context.library.stats().titles, 0);
    target.services.drain();
    assert_eq!(target.services.puller.order(good()).await.expect_err("drains").code, Code::Draining);
}

#[tokio::test]
async fn six_copies_are_received_at_a_time_each_once() {
    let data = mp4(1, 9 * GROUP as usize);
    let mut script = ScriptedSource::start();
    let target = target().await;
    let begin = |title: &str| {
        let puller = target.services.puller.clone();
        let order = script.order(title, &data);
        puller.begin(order.try_into().expect("a good order")).map_err(|fault| fault.code)
    };
    let begun = ["a", "b", "c", "d", "e", "f"].map(begin).into_iter().collect::<Result<Vec<_>, _>>();
    let outcomes = begun.expect("six");
    assert_eq!(begin("g").err(), Some(Code::NoCapacity));
    assert!(begin("a").is_ok_and(|again| again.same_channel(&outcomes[0])));
    let other = Replicate { content_id: vec![1; 32], ..script.order("a", &data) };
    let other = target.services.puller.begin(other.try_into().expect("a good order"));
    assert_eq!(other.err().map(|fault| fault.code), Some(Code::Exists));
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(script.session().await);
    }
    target.services.puller.close().await;
    for outcome in outcomes {
        assert!(matches!(&*outcome.borrow(), Some(Err(fault)) if fault.code == Code::Interrupted));
    }
}

#[tokio::test]
async fn a_title_has_one_copy() {
    let (one, two) = (mp4(1, 3 * GROUP as usize), mp4(2, 3 * GROUP as usize));
    let (first, second) = (TestNode::with(&[("a.mp4", &one)]).await, TestNode::with(&[("a.mp4", &two)]).await);
    let target = target().await;
    target.services.puller.order(seat_at(&first, "a.mp4", &one)).await.expect("a copy");
    let other = target.services.puller.order(seat_at(&second, "a.mp4", &two)).await.expect_err("another is here");
    assert_eq!(other.code, Code::Exists);
    target.services.puller.evict(evict("a.mp4", &one)).await;
    target.services.puller.order(seat_at(&second, "a.mp4", &two)).await.expect("a copy");
}

#[tokio::test]
async fn a_copy_is_received_at_its_rate() {
    let (small, large) = (mp4(1, 4 * GROUP as usize), mp4(2, 200 * GROUP as usize));
    let source = TestNode::with(&[("small.mp4", &small), ("large.mp4", &large)]).await;
    let target = target().await;
    let puller = &target.services.puller;
    // After its first read it would wait for an hour.
    let slow = Replicate { rate_bps: 1, ..seat_at(&source, "small.mp4", &small) };
    let outcome = puller.begin(slow.try_into().expect("a good order")).expect("begins");
    puller.order(seat_at(&source, "large.mp4", &large)).await.expect("a copy");
    assert!(outcome.borrow().is_none());
    puller.evict(evict("small.mp4", &small)).await;
    assert!(matches!(&*outcome.borrow(), Some(Err(fault)) if fault.code == Code::Interrupted));
}
