//! How sessions end early: stalled readers, leaving clients, drains, and files that change.

use std::{fs::File, time::Instant};

use usher_proto::ticket::Claims;

use super::*;
use crate::media::fixtures::rot;

/// Reads the bytes that have arrived, and returns the code of the reset behind them.
async fn reset(stream: &mut RecvStream) -> Code {
    let mut buffer = vec![0; 100_000];
    loop {
        match stream.read(&mut buffer).await {
            Ok(Some(_)) => {}
            Err(quinn::ReadError::Reset(code)) => return Code::from_quic(code.into_inner()),
            end => panic!("{end:?}"),
        }
    }
}

#[tokio::test]
async fn a_stalled_reader_ends_its_session() {
    let quick = QuicSettings { stall_timeout: Duration::from_millis(50), ..settings() };
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::set(&[("a.mp4", &data)], quick, Bitrate(100_000_000_000), true).await;
    let viewer = node.viewer().await;
    let mut stream = viewer.open(&node.ticket("a.mp4", None), None).await;
    let mut first = [0];
    stream.read_exact(&mut first).await.expect("something");
    node.context.idle().await;
    // Bytes that had arrived can be read; then comes the reset.
    assert_eq!(reset(&mut stream).await, Code::Timeout);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_session() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::set(&[("a.mp4", &data)], settings(), Bitrate(8_000_000), true).await;
    let viewer = node.viewer().await;
    // They wait for their readers and for the scheduler: all of it takes 12 s at 1 MB/s.
    let mut fetch = claims("a.mp4", None);
    (fetch.purpose, fetch.rate) = (Purpose::Fetch, 8_000);
    let mut streams = Vec::new();
    for ticket in [node.ticket("a.mp4", None), node.sign(&fetch), node.ticket("a.mp4", None)] {
        let mut stream = viewer.open(&ticket, None).await;
        stream.read_exact(&mut [0]).await.expect("something");
        streams.push(stream);
    }
    assert_eq!(node.context.meter().sessions(), 3);
    for mut stream in streams.drain(..2) {
        stream.stop(0_u32.into()).expect("stopped");
    }
    let mut sessions = node.context.sessions();
    sessions.wait_for(|count| *count == 1).await.expect("two ended");
    viewer.connection.close(0_u32.into(), b"");
    node.context.idle().await;
}

#[tokio::test]
async fn a_draining_node_finishes_active_sessions() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let mut running = viewer.open(&node.ticket("a.mp4", None), None).await;
    let mut sessions = node.context.sessions();
    sessions.wait_for(|count| *count == 1).await.expect("it began");
    node.services.drain();
    assert_eq!(viewer.play(&node.ticket("a.mp4", None), None).await, Err(SessionEnd::Refused(Code::Draining)));
    assert!(receive(&mut running).await.expect("goes on").data == data);
    node.context.idle().await;

    // A forced end gives the clients the reason.
    let node = TestNode::set(&[("a.mp4", &data)], settings(), Bitrate(8_000), true).await;
    let viewer = node.viewer().await;
    let mut fetch = claims("a.mp4", None);
    (fetch.purpose, fetch.rate) = (Purpose::Fetch, 8_000);
    let mut running = viewer.open(&node.sign(&fetch), None).await;
    running.read_exact(&mut [0]).await.expect("something");
    node.server.close().await;
    assert_eq!(receive(&mut running).await, Err(SessionEnd::Reset(Code::Draining)));
    let end = viewer.connection.closed().await;
    let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
    assert_eq!(close.error_code, code(Code::Draining));
    assert_eq!(node.context.meter().sessions(), 0);
}

#[tokio::test]
async fn a_truncated_file_ends_its_session_with_a_reason() {
    let data = mp4(1, 400 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let mut stream = viewer.open(&node.ticket("a.mp4", None), None).await;
    stream.read_exact(&mut [0]).await.expect("something");
    File::options().write(true).open(node.path("a.mp4")).expect("a file").set_len(GROUP).expect("cut");
    assert_eq!(reset(&mut stream).await, Code::ContentChanged);
    node.context.idle().await;
}

#[tokio::test]
async fn a_damaged_file_ends_its_sessions_with_a_reason() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data), ("b.mp4", &data)]).await;
    let viewer = node.viewer().await;
    // Both wait for their readers.
    let mut stream = viewer.open(&node.ticket("a.mp4", None), None).await;
    let mut other = viewer.open(&node.ticket("b.mp4", None), None).await;
    let mut sessions = node.context.sessions();
    sessions.wait_for(|count| *count == 2).await.expect("both began");
    rot(&node.path("a.mp4"), 59 * GROUP);
    let title = usher_proto::Title::parse("a.mp4").expect("a title");
    assert_eq!(node.context.library.recheck(&title, id(&data)), 1);
    sessions.wait_for(|count| *count == 1).await.expect("one ended");
    assert_eq!(reset(&mut stream).await, Code::ContentChanged);
    assert!(receive(&mut other).await.expect("plays").data == data);
    assert_eq!(viewer.play(&node.ticket("a.mp4", None), None).await, Err(SessionEnd::Refused(Code::ContentChanged)));
}

#[tokio::test]
async fn a_viewer_that_pauses_gives_its_rate_back_and_loses_nothing() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.sipping(64 << 10).await;
    let ticket = Claims { rate: 100_000_000, purpose: Purpose::Play, ..claims("a.mp4", None) };
    let mut stream = viewer.open(&node.sign(&ticket), None).await;
    let mut sessions = node.context.sessions();
    sessions.wait_for(|count| *count == 1).await.expect("it began");
    let committed = || node.context.meter().poll_report(Instant::now()).committed;
    assert_eq!(committed(), Bitrate(100_000_000));
    while committed() > Bitrate(0) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(node.context.meter().sessions(), 1, "it goes on");
    assert!(receive(&mut stream).await.expect("plays").data == data);
}
