//! Sessions that move to other seats: what they still send, and how they end.

use usher_proto::{SessionId, pb::v1};

use super::*;

fn seat() -> v1::Seat {
    v1::Seat {
        node: "node-2".into(),
        addresses: vec!["127.0.0.1:9".into()],
        certificate_sha256: vec!["00".repeat(32)],
        ticket: "a ticket there".into(),
        ..v1::Seat::default()
    }
}

fn order(claims: &usher_proto::ticket::Claims) -> v1::Move {
    let session: SessionId = claims.jti.parse().expect("an id");
    v1::Move { id: 1, session_id: session.0.to_be_bytes().to_vec(), seat: Some(seat()) }
}

fn reason(moved: v1::Moved) -> Option<String> {
    moved.refusal.map(|no| no.reason)
}

/// Reads the first byte of a session, which can be moved from then on.
async fn began(stream: &mut RecvStream) -> Decoder {
    let (mut decoder, mut first) = (Decoder::default(), [0]);
    stream.read_exact(&mut first).await.expect("something");
    decoder.push(&first);
    decoder
}

/// Reads until the Moved message. Returns the groups before it, the byte at which the client continues, and what was
/// read behind it.
async fn moved_message(stream: &mut RecvStream, mut decoder: Decoder) -> (u64, u64, Decoder) {
    let mut groups = 0;
    let mut buffer = vec![0; 10_000];
    loop {
        while let Some(frame) = decoder.next_frame().expect("a good frame") {
            match frame {
                Frame::Moved(moved) => {
                    assert_eq!(moved.seat, Some(seat()));
                    return (groups, moved.until, decoder);
                }
                Frame::Group(_) => groups += 1,
                _ => {}
            }
        }
        let read = stream.read(&mut buffer).await.expect("an orderly end").expect("the client is told before the end");
        decoder.push(&buffer[..read]);
    }
}

/// Number of groups until the end of the stream, which must be orderly and without Finish.
async fn last(stream: &mut RecvStream, mut decoder: Decoder) -> u64 {
    decoder.push(&stream.read_to_end(1 << 30).await.expect("an orderly end"));
    let frames: Vec<Frame> = std::iter::from_fn(|| decoder.next_frame().expect("good frames")).collect();
    decoder.finish().expect("whole frames");
    let groups = frames.iter().filter(|frame| matches!(frame, Frame::Group(_))).count();
    let hashes = frames.iter().filter(|frame| matches!(frame, Frame::Hashes(_))).count();
    assert_eq!(groups + hashes, frames.len(), "groups and their hashes are all that follows");
    groups as u64
}

#[tokio::test]
async fn a_viewer_waiting_for_the_next_group_is_moved_at_once() {
    let data = mp4(1, 300 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let mut claims = claims("a.mp4", None);
    // After its first 2 MiB, this session sends one group in 7 minutes.
    (claims.purpose, claims.rate) = (Purpose::Play, 1_000);
    let mut stream = viewer.open(&node.sign(&claims), None).await;
    let mut decoder = Decoder::default();
    let mut next = async || loop {
        if let Some(frame) = decoder.next_frame().expect("a good frame") {
            return frame;
        }
        let chunk = stream.read_chunk(10_000, true).await.expect("the stream").expect("goes on");
        decoder.push(&chunk.bytes);
    };
    // Reads everything that comes without waiting: before that, the two groups after the Moved message would not wait
    // either.
    let mut groups = 0;
    while groups < (2 << 20) / GROUP - 1 {
        groups += u64::from(matches!(next().await, Frame::Group(_)));
    }
    let moving = tokio::spawn(node.services.moves.clone().carry_out(node.context.clone(), order(&claims)));
    let Frame::Moved(moved) = next().await else { panic!("told at once") };
    assert_eq!((moved.until, moved.seat), ((groups + 2) * GROUP, Some(seat())));
    assert_eq!(node.context.meter().sessions(), 1, "it goes on, as slowly as before");
    // A client that has the new seat need not wait.
    stream.stop(0_u32.into()).expect("stopped");
    assert_eq!(reason(moving.await.expect("no panic")), None);
    node.context.idle().await;
}

#[tokio::test]
async fn a_moving_session_sends_exactly_the_announced_groups() {
    let data = mp4(1, 300 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    for (purpose, rate) in [(Purpose::Fetch, 1_000_000), (Purpose::Play, 10_000_000)] {
        let mut claims = claims("a.mp4", None);
        (claims.purpose, claims.rate) = (purpose, rate);
        let mut stream = viewer.open(&node.sign(&claims), None).await;
        let begun = began(&mut stream).await;
        let moving = tokio::spawn(node.services.moves.clone().carry_out(node.context.clone(), order(&claims)));
        let (before, until, decoder) = moved_message(&mut stream, begun).await;
        let lead = until / GROUP - before;
        match purpose {
            Purpose::Fetch => assert!((4..=256).contains(&lead), "{lead}"),
            Purpose::Play => assert_eq!(lead, 24, "12.5 Mbit"),
        }
        assert_eq!(last(&mut stream, decoder).await, lead);
        assert_eq!(reason(moving.await.expect("no panic")), None);
        node.context.idle().await;
    }
}

#[tokio::test]
async fn a_session_between_ranges_moves_at_once_and_a_complete_one_stays() {
    let data = mp4(1, 3 * GROUP as usize + 5);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let claims = claims("a.mp4", None);
    let open = Open { ticket: node.sign(&claims), more: true, ..Open::default() };
    let (_send, mut receive) = viewer.send(&wire::message(Kind::Open, &open).expect("short enough")).await;
    let mut groups = 0;
    let mut decoder = Decoder::default();
    while groups < 4 {
        let chunk = receive.read_chunk(10_000, true).await.expect("the stream").expect("goes on");
        decoder.push(&chunk.bytes);
        while let Some(frame) = decoder.next_frame().expect("a good frame") {
            groups += u64::from(matches!(frame, Frame::Group(_)));
        }
    }
    let moving = tokio::spawn(node.services.moves.clone().carry_out(node.context.clone(), order(&claims)));
    let (after, until, decoder) = moved_message(&mut receive, decoder).await;
    assert_eq!((after, until, last(&mut receive, decoder).await), (0, 0, 0));
    assert_eq!(reason(moving.await.expect("no panic")), None);

    // A whole title that is smaller than what any moving fetch still sends.
    let claims = super::claims("a.mp4", None);
    let mut stream = viewer.open(&node.sign(&claims), None).await;
    let moved = carry_out(&node, order(&claims));
    let (moved, received) = tokio::join!(moved, receive_whole(&mut stream));
    assert_eq!(reason(moved).as_deref(), Some("NOT_FOUND"));
    assert!(received == data);
}

async fn receive_whole(stream: &mut RecvStream) -> Vec<u8> {
    receive(stream).await.expect("all of it, with its Finish").data
}

/// Moves a session as the master orders.
async fn carry_out(node: &TestNode, order: v1::Move) -> v1::Moved {
    node.services.moves.clone().carry_out(node.context.clone(), order).await
}
