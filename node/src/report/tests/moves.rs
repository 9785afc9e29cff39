//! Sessions that the master moves, over a real channel and a real stream.

use usher_proto::{
    SessionId,
    tree::GROUP,
    wire::{Decoder, Frame},
};

use super::*;

/// Bytes sent from which on a session cannot take an order without its reader: beyond two quanta of half a MiB; the
/// third does not fit into the 1.25 MB that a stream holds unread.
const STUCK: u64 = 1_100_000;

fn seat() -> v1::Seat {
    v1::Seat {
        lifetime_s: 0,
        node: "node-2".into(),
        addresses: vec!["127.0.0.1:9".into()],
        certificate_sha256: vec!["00".repeat(32)],
        ticket: "a ticket there".into(),
        zone: String::new(),
    }
}

fn order(id: u64, session: SessionId) -> v1::Move {
    v1::Move { id, session_id: session.0.to_be_bytes().to_vec(), seat: Some(seat()) }
}

/// A node with a title far longer than what a stream takes without a reader.
async fn long(master: &FakeMaster) -> (Running, Vec<u8>) {
    let data = mp4(1, 300 * GROUP as usize);
    put_old(&master.dir.path().join("films/long.mp4"), &data);
    let node = app::start(config(master), master.identity(test_node::NODE)).await.expect("a node");
    node.library().hashed().await;
    (node, data)
}

#[tokio::test]
async fn a_session_moves_at_the_edge_of_a_group() {
    let mut master = FakeMaster::start().await;
    let (node, data) = long(&master).await;
    let mut call = master.call().await;
    node.attached().await;
    let viewer = Viewer::dial(node.local_addr(), call.hello.presence.certificates.clone()).await;
    let claims = test_node::claims("long.mp4", None);
    let session: SessionId = claims.jti.parse().expect("an id");
    let mut stream = viewer.open(&key(call.hello.boot).sign(&claims).expect("signs"), None).await;
    call.until(|call| call.last.committed == Bitrate(1_000_000) && call.last.sent_bytes > STUCK).await;
    call.send_on(order(5, session)).await;
    // Its rate is released before its reader has accepted anything.
    call.until(|call| call.last.committed == Bitrate(0) && call.last.sessions == 1).await;
    // A second order finds no session to move.
    call.send_on(order(6, session)).await;
    let again = call.moved().await;
    assert_eq!((again.id, again.refusal.map(|no| no.reason).as_deref()), (6, Some("NOT_FOUND")));

    let mut decoder = Decoder::default();
    decoder.push(&stream.read_to_end(data.len()).await.expect("a good end"));
    let (mut sent, mut told) = (Vec::new(), None);
    while let Some(frame) = decoder.next_frame().expect("a good frame") {
        match frame {
            Frame::Group(group) => sent.extend_from_slice(&group),
            Frame::Setup(_) | Frame::Pages(_) | Frame::Hashes(_) => {}
            Frame::Moved(moved) => assert!(told.replace((sent.len() as u64, moved)).is_none(), "told once"),
            other => panic!("{other:?} in a session that is moved"),
        }
    }
    decoder.finish().expect("whole frames");
    let Some((then, moved)) = told else { panic!("the client is not told") };
    assert_eq!(moved.seat, Some(seat()));
    assert!(moved.until >= then + 4 * GROUP && moved.until.is_multiple_of(GROUP), "told at {then}: {}", moved.until);
    assert!(sent.len() as u64 == moved.until && sent.len() < data.len() && data.starts_with(&sent));
    let answer = call.moved().await;
    assert_eq!((answer.id, answer.refusal), (5, None));
    node.shutdown().await;
}

#[tokio::test]
async fn an_order_that_cannot_be_carried_out_is_refused() {
    let mut master = FakeMaster::start().await;
    let (node, _) = long(&master).await;
    let mut call = master.call().await;
    node.attached().await;
    let nobody = order(1, SessionId(1));
    let homeless = v1::Move { id: 2, seat: Some(v1::Seat::default()), ..nobody.clone() };
    let nameless = v1::Move { id: 3, session_id: vec![1], ..nobody.clone() };
    for (order, reason) in [(nobody, "NOT_FOUND"), (homeless, "BAD_REQUEST"), (nameless, "BAD_REQUEST")] {
        let id = order.id;
        call.send_on(order).await;
        let answer = call.moved().await;
        assert_eq!((answer.id, answer.refusal.map(|no| no.reason).as_deref()), (id, Some(reason)));
    }
    // A reader that leaves before it receives the order ends the order too.
    let viewer = Viewer::dial(node.local_addr(), call.hello.presence.certificates.clone()).await;
    let claims = test_node::claims("long.mp4", None);
    let stream = viewer.open(&key(call.hello.boot).sign(&claims).expect("signs"), None).await;
    call.until(|call| call.last.sessions == 1 && call.last.sent_bytes > STUCK).await;
    call.send_on(order(4, claims.jti.parse().expect("an id"))).await;
    call.until(|call| call.last.committed == Bitrate(0)).await;
    viewer.connection.close(0_u32.into(), b"");
    drop(stream);
    let answer = call.moved().await;
    assert_eq!((answer.id, answer.refusal.map(|no| no.reason).as_deref()), (4, Some("NOT_FOUND")));
    node.shutdown().await;
}
