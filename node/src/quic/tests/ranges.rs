//! Sessions of several ranges.

use usher_proto::{
    model::SetupInfo,
    verify::{Step, Verifier},
};

use super::*;

/// Opens a session that accepts further ranges; returns its stream.
async fn open_for_more(node: &TestNode, viewer: &Viewer, wanted: Option<ByteRange>) -> (SendStream, RecvStream) {
    let open = Open { ticket: node.ticket("a.mp4", None), range: wanted, more: true, ..Open::default() };
    viewer.send(&wire::message(Kind::Open, &open).expect("short enough")).await
}

fn ask(start: u64, end: u64) -> bytes::Bytes {
    wire::message(Kind::Range, &ByteRange { start, end }).expect("short enough")
}

#[tokio::test]
async fn one_session_serves_range_after_range() {
    let data = mp4(5, (2 * PAGE + 3 * GROUP) as usize + 7);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let (mut send, mut receive) = open_for_more(&node, &viewer, range(0, GROUP)).await;
    // The end of the title, the edge of two pages, and one of these pages again.
    let ranges = [(2 * PAGE + GROUP, data.len() as u64), (PAGE - GROUP, PAGE + 2 * GROUP), (PAGE, PAGE + 1)];
    for (start, end) in ranges {
        send.write_all(&ask(start, end)).await.expect("sent");
    }
    send.finish().expect("finished");
    let mut frames = frames(&mut receive).await.into_iter();
    let Some(Frame::Setup(setup)) = frames.next() else { panic!("Setup comes first") };
    let mut verifier = Verifier::new(&SetupInfo::try_from(setup).expect("good"), Some(id(&data))).expect("good");
    for (start, end) in ranges {
        verifier.extend(start..end).expect("a good range");
    }
    let (mut got, mut done) = (Vec::new(), None);
    for frame in frames {
        match verifier.take(frame).expect("verified") {
            Step::Group(group) => got.push((group.index, group.data)),
            Step::Done(content) => done = Some(content),
            Step::More => {}
        }
    }
    let page = PAGE / GROUP;
    let indices: Vec<u64> = got.iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, [0, 2 * page + 1, 2 * page + 2, 2 * page + 3, page - 1, page, page + 1, page]);
    assert!(got.iter().all(|(index, group)| data[(index * GROUP) as usize..].starts_with(group)));
    assert_eq!(done, Some(id(&data)));
    node.context.idle().await;
}

#[tokio::test]
async fn bad_ranges_are_refused_and_a_leaving_client_ends_the_session() {
    let data = mp4(5, 3 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let garbage = bytes::Bytes::from_static(&[Kind::Range as u8, 0, 0, 0, 1, 0xff]);
    let cut = ask(0, 1).slice(..3);
    for (asked, code) in [(ask(5, 5), Code::BadRange), (garbage, Code::BadRequest), (cut, Code::BadRequest)] {
        let (mut send, mut receive) = open_for_more(&node, &viewer, None).await;
        send.write_all(&asked).await.expect("sent");
        send.finish().expect("finished");
        let frames = frames(&mut receive).await;
        let Some(Frame::Refused(refused)) = frames.last() else { panic!("{:?}", frames.last()) };
        assert_eq!(Code::from_reason(&refused.reason), code);
    }
    let (mut send, mut receive) = open_for_more(&node, &viewer, None).await;
    receive.read_exact(&mut [0]).await.expect("something");
    send.reset(0_u32.into()).expect("reset");
    node.context.idle().await;
}
