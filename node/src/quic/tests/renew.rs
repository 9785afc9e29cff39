//! Sessions whose tickets expire, and renewals.

use usher_proto::{
    Fault, SessionId,
    pb::wire::{Renew, Renewed},
    ticket::Claims,
};

use super::*;
use crate::context::unix_now;

/// Claims on a title, for a session that may run for `seconds` more.
fn until(title: &str, seconds: i64) -> Claims {
    Claims { until: Some(unix_now().saturating_add_signed(seconds)), ..claims(title, None) }
}

/// Sends a ticket on a stream of its own.
async fn renew(viewer: &Viewer, ticket: &str) -> Result<Renewed, Code> {
    let renew = wire::message(Kind::Renew, &Renew { ticket: ticket.into() }).expect("short enough");
    let (mut send, mut receive) = viewer.send(&renew).await;
    send.finish().expect("finished");
    match frames(&mut receive).await.as_slice() {
        [Frame::Renewed(renewed)] => Ok(*renewed),
        [Frame::Refused(refused)] => Err(Code::from_reason(&refused.reason)),
        other => panic!("{other:?}"),
    }
}

/// A session that waits for its reader.
async fn stuck(node: &TestNode, viewer: &Viewer, claims: &Claims) -> RecvStream {
    let mut stream = viewer.open(&node.sign(claims), None).await;
    stream.read_exact(&mut [0]).await.expect("it began");
    stream
}

/// Reads the rest, and returns how the stream ends.
async fn end(stream: &mut RecvStream) -> Result<(), Code> {
    loop {
        match stream.read_chunk(usize::MAX, true).await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(quinn::ReadError::Reset(code)) => return Err(Code::from_quic(code.into_inner())),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_session_that_is_not_renewed_ends_while_a_master_is_attached() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    // Expired, but for the grace of a node without a master.
    let (lost, kept, endless) = (until("a.mp4", -100), until("a.mp4", -100), claims("a.mp4", None));
    let mut lost_stream = stuck(&node, &viewer, &lost).await;
    let mut kept_stream = stuck(&node, &viewer, &kept).await;
    let mut endless_stream = stuck(&node, &viewer, &endless).await;
    assert_eq!(node.context.meter().sessions(), 3);
    let later = node.sign(&Claims { until: Some(unix_now() + 500), nbf: 0, exp: 60, ..kept });
    let renewed = renew(&viewer, &later).await.expect("renewed");
    assert!((400..=500).contains(&renewed.lifetime_s), "{renewed:?}");
    // A session whose master has just returned gets a chance.
    let tied = node.services.leases.attach(unix_now());
    tokio::task::yield_now().await;
    assert_eq!(node.context.meter().sessions(), 3);
    drop(tied);
    let _attached = node.services.leases.attach(unix_now() - 100);
    assert_eq!(end(&mut lost_stream).await, Err(Code::TicketExpired));
    assert_eq!(end(&mut kept_stream).await, Ok(()));
    assert_eq!(end(&mut endless_stream).await, Ok(()));
    node.context.idle().await;
    assert_eq!(renew(&viewer, &later).await, Err(Code::NotFound));
}

#[tokio::test]
async fn a_session_ends_as_the_master_orders() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let viewer = node.viewer().await;
    let (ended, other) = (until("a.mp4", 300), claims("a.mp4", None));
    let mut ended_stream = stuck(&node, &viewer, &ended).await;
    let mut other_stream = stuck(&node, &viewer, &other).await;
    let session = ended.jti.parse().expect("a session id");
    let why = || Fault::new(Code::TicketReplayed, "it also runs at another node");
    assert!(node.services.leases.end(session, why()));
    assert_eq!(end(&mut ended_stream).await, Err(Code::TicketReplayed));
    assert_eq!(end(&mut other_stream).await, Ok(()));
    node.context.idle().await;
    assert!(!node.services.leases.end(session, why()), "it does not run any more");
}

#[tokio::test]
async fn a_node_without_a_master_applies_its_grace() {
    let data = mp4(1, 60 * GROUP as usize);
    let brief = QuicSettings { ticket_grace: Duration::from_secs(50), ..settings() };
    let node = TestNode::set(&[("a.mp4", &data)], brief, Bitrate(100_000_000_000), true).await;
    let viewer = node.viewer().await;
    let mut over = viewer.open(&node.sign(&until("a.mp4", -100)), None).await;
    assert_eq!(end(&mut over).await, Err(Code::TicketExpired));
    let mut within = viewer.open(&node.sign(&until("a.mp4", -30)), None).await;
    assert_eq!(end(&mut within).await, Ok(()));
}

#[tokio::test]
async fn a_bad_renewal_leaves_the_session_as_it_was() {
    let data = mp4(1, 60 * GROUP as usize);
    let node = TestNode::with(&[("a.mp4", &data)]).await;
    let (viewer, other) = (node.viewer().await, node.viewer().await);
    let good = until("a.mp4", 300);
    let mut stream = stuck(&node, &viewer, &good).await;
    let with = |change: fn(&mut Claims)| {
        let mut claims = Claims { until: Some(unix_now() + 500), ..good.clone() };
        change(&mut claims);
        node.sign(&claims)
    };
    for (what, ticket, code) in [
        ("none", String::new(), Code::TicketInvalid),
        ("other key", Key::new([6; 32]).sign(&good).expect("signs"), Code::TicketInvalid),
        ("other node", with(|claims| claims.aud = "node-2".into()), Code::TicketMismatch),
        ("other title", with(|claims| claims.title = "b.mp4".into()), Code::TicketMismatch),
        ("another session", with(|claims| claims.jti = SessionId(u128::MAX).to_string()), Code::NotFound),
        ("over itself", with(|claims| claims.until = Some(unix_now() - 11)), Code::TicketExpired),
        ("not yet", with(|claims| claims.nbf = unix_now() + 100), Code::TicketExpired),
    ] {
        assert_eq!(renew(&viewer, &ticket).await, Err(code), "{what}");
    }
    // An older ticket takes nothing back, one on another connection is valid, and one without an end has none.
    let renewed = renew(&viewer, &with(|claims| claims.until = Some(unix_now() + 20))).await.expect("renewed");
    assert!((200..=300).contains(&renewed.lifetime_s), "{renewed:?}");
    assert!(renew(&other, &with(|_| {})).await.is_ok_and(|renewed| renewed.lifetime_s > 400));
    assert_eq!(renew(&other, &with(|claims| claims.until = None)).await, Ok(Renewed { lifetime_s: 0 }));
    assert_eq!(node.context.meter().sessions(), 1);
    assert_eq!(end(&mut stream).await, Ok(()));
}

#[tokio::test]
async fn renewals_keep_no_connection_open() {
    let data = mp4(1, 60 * GROUP as usize);
    let quick = QuicSettings { never_used: Duration::from_secs(2), unused: Duration::from_secs(2), ..settings() };
    let node = TestNode::set(&[("a.mp4", &data)], quick, Bitrate(100_000_000_000), true).await;
    let (viewer, other) = (node.viewer().await, node.viewer().await);
    let claims = until("a.mp4", 300);
    let _stream = stuck(&node, &viewer, &claims).await;
    // However often it renews: the session runs on another connection.
    let end = loop {
        let renew = wire::message(Kind::Renew, &Renew { ticket: node.sign(&claims) }).expect("short enough");
        let Ok((mut send, mut receive)) = other.connection.open_bi().await else {
            break other.connection.closed().await;
        };
        if send.write_all(&renew).await.is_err() || receive.read_to_end(1000).await.is_err() {
            break other.connection.closed().await;
        }
    };
    let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
    assert_eq!(close.reason.as_ref(), b"idle");
}
