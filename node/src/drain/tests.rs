//! A drain from start to end, with a viewer that stays connected.

use usher_certs::media::MAX_MEDIA_LIFETIME;
use usher_proto::{Code, tree::GROUP};

use super::*;
use crate::{
    media::fixtures::mp4,
    test_node::{NODE, SessionEnd, TestNode, receive_after},
};

fn presence() -> Arc<Presence> {
    Arc::new(Presence::new(NODE, MAX_MEDIA_LIFETIME, Vec::new()).expect("a certificate"))
}

/// The presence that the master receives: whether the node drains, and whether sessions may still run.
fn reported(presence: &Presence) -> (bool, bool) {
    let state = presence.subscribe().borrow().clone();
    let told = presence.to_pb(&state);
    (told.draining, told.drain_left_ms > 0)
}

#[tokio::test]
async fn sessions_run_until_the_deadline_and_then_the_node_stays_empty() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let presence = presence();
    let drain = Arc::new(Drain::new(node.services.clone(), presence.clone()));
    let keeper = drain.clone();
    let keeper = tokio::spawn(async move { keeper.keep().await });
    let viewer = node.viewer().await;
    let mut running = viewer.open(&node.ticket("a.mp4", None), None).await;
    let mut head = [0];
    running.read_exact(&mut head).await.expect("something");
    assert_eq!(reported(&presence), (false, false));

    drain.order(Duration::from_secs(3600));
    assert_eq!(reported(&presence), (true, true));
    assert_eq!(viewer.play(&node.ticket("a.mp4", None), None).await, Err(SessionEnd::Refused(Code::Draining)));
    assert_eq!(node.context.meter().sessions(), 1, "the one from before runs on");

    // A second order sets a new deadline: now.
    drain.order(Duration::ZERO);
    drain.over().await;
    assert_eq!(receive_after(&head, &mut running).await, Err(SessionEnd::Reset(Code::Draining)));
    node.context.idle().await;
    let end = viewer.connection.closed().await;
    let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
    assert_eq!(u64::from(close.error_code), u64::from(Code::Draining.quic()));
    assert_eq!(reported(&presence), (true, false));
    let again = node.viewer().await;
    assert_eq!(again.play(&node.ticket("a.mp4", None), None).await, Err(SessionEnd::Refused(Code::Draining)));

    // A drain can be ended after its deadline, and the connection is still usable.
    drain.undo();
    assert_eq!(reported(&presence), (false, false));
    assert!(again.play(&node.ticket("a.mp4", None), None).await.is_ok());
    keeper.abort();
}

#[tokio::test]
async fn an_undrained_node_ends_nothing_and_an_ending_one_is_not_undrained() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let presence = presence();
    let drain = Arc::new(Drain::new(node.services.clone(), presence.clone()));
    let viewer = node.viewer().await;
    let mut running = viewer.open(&node.ticket("a.mp4", None), None).await;
    running.read_exact(&mut [0]).await.expect("something");
    drain.order(Duration::ZERO);
    drain.undo();
    // Deadlines are enforced only from here on.
    let keeper = drain.clone();
    let keeper = tokio::spawn(async move { keeper.keep().await });
    drain.over().await;
    assert!(viewer.play(&node.ticket("a.mp4", None), None).await.is_ok());
    node.context.sessions().wait_for(|count| *count == 1).await.expect("that one ends, and the other goes on");

    drain.end(Duration::from_secs(3600));
    drain.undo();
    drain.order(Duration::ZERO);
    assert_eq!(reported(&presence), (true, true), "neither is heard");
    keeper.abort();
}
