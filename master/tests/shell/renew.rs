//! Renewal of tickets, and its refusals.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use usher_certs::Role;
use usher_master::settings::Lifetime;
use usher_proto::{
    NodeName,
    pb::v1,
    ticket::{self, Claims, Key, Ticket},
};

use crate::harness::{Master, Node, eventually, hello, request};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A ticket, verified as its node does before it extends the session.
fn check(token: &str, node: &Node) -> Ticket {
    let name = NodeName::parse("node-1").expect("a name");
    ticket::verify_renewal(&node.keys(), &name, now(), token).expect("good")
}

/// A ticket issued `ago` seconds ago for a session that may run until `until`.
fn signed(key: &Key, ago: u64, until: Option<u64>) -> String {
    let (session, issued) = (usher_proto::SessionId(7), now() - ago);
    let claims = Claims { rate: 1, until, ..Claims::new("node-1", session, "a", ticket::Purpose::Play, issued) };
    key.sign(&claims).expect("signs")
}

fn renew(ticket: &str) -> v1::RenewRequest {
    v1::RenewRequest { node: "node-1".into(), ticket: ticket.into() }
}

fn reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}

#[tokio::test]
async fn renewal_extends_a_tickets_lifetime() {
    let master = Master::start().await;
    let node = master.node("node-1", &["a"]).await;
    let mut tickets = master.tickets().await;
    let answer = tickets.resolve(request("a")).await.expect("resolved").into_inner();
    let seat = &answer.seats[0];
    let first = check(&seat.ticket, &node);
    let until = first.until.expect("not for ever");
    assert!(seat.lifetime_s == 600 && (now() + 590..=now() + 600).contains(&until), "{until}");

    let renewed = tickets.renew(renew(&seat.ticket)).await.expect("renewed").into_inner();
    let second = check(&renewed.ticket, &node);
    assert_eq!((renewed.lifetime_s, Ticket { until: first.until, ..second.clone() }), (600, first));
    assert!(second.until.is_some_and(|later| later >= until));
    // One that can no longer open a session; one that has expired; each renewed twice.
    for old in [signed(&node.keys()[0], 1000, Some(now() + 5)), signed(&node.keys()[0], 5000, Some(now() - 3500))] {
        let once = tickets.renew(renew(&old)).await.expect("renewed").into_inner();
        let twice = tickets.renew(renew(&once.ticket)).await.expect("renewed").into_inner();
        assert!(check(&twice.ticket, &node).until.is_some_and(|until| until >= now() + 590));
    }
}

#[tokio::test]
async fn refused_renewals_name_their_reason() {
    let master = Master::start().await;
    let node = master.node("node-1", &["a"]).await;
    let mut tickets = master.tickets().await;
    let good = signed(&node.keys()[0], 10, Some(now() + 100));
    let forged = good.replace(&good[good.len() - 6..], "AAAAAA");
    let wordless = v1::RenewRequest { node: "NO NAME".into(), ticket: String::new() };
    let elsewhere = v1::RenewRequest { node: "node-9".into(), ticket: good.clone() };
    for (asked, code, why) in [
        (wordless, Code::InvalidArgument, "BAD_REQUEST"),
        (renew(&"x".repeat(5000)), Code::InvalidArgument, "BAD_REQUEST"),
        (renew("x"), Code::Unauthenticated, "TICKET_INVALID"),
        (renew(&forged), Code::Unauthenticated, "TICKET_INVALID"),
        (renew(&signed(&node.keys()[0], 9000, Some(now() - 3600))), Code::Unauthenticated, "TICKET_EXPIRED"),
        (renew(&signed(&Key::new([1; 32]), 10, Some(now() + 100))), Code::NotFound, "NOT_FOUND"),
        (elsewhere, Code::NotFound, "NOT_FOUND"),
    ] {
        let status = tickets.renew(asked).await.expect_err(why);
        assert_eq!(reason(&status), (code, why.to_owned()), "{status}");
        assert!(!format!("{status:?}").contains(&good), "a ticket is not disclosed");
    }
    // The node restarted and knows none of its sessions.
    drop(node);
    let again = async || {
        let channel = master.dial_as(Role::Node, "node-1").await;
        Node::attach(channel, hello("node-1", 2, 1)).await.ok()
    };
    let _again = eventually(again).await;
    let gone = tickets.renew(renew(&good)).await.expect_err("gone");
    assert_eq!(reason(&gone), (Code::NotFound, "NOT_FOUND".to_owned()));
    assert!(gone.message().contains("this start"), "{gone}");
}

#[tokio::test]
async fn lifetimes_can_be_long_or_unlimited() {
    for (lifetime, seconds) in [(Some(Duration::from_secs(86_400)), 86_400), (None, 0)] {
        let master = Master::with(|config| config.session_lifetime = Lifetime(lifetime)).await;
        let node = master.node("node-1", &["a"]).await;
        let mut tickets = master.tickets().await;
        let many = v1::ResolveManyRequest { requests: vec![request("a")] };
        let answer = tickets.resolve_many(many).await.expect("resolved").into_inner();
        let Some(v1::resolve_result::Result::Ok(answer)) = answer.results[0].result.clone() else { panic!("no seat") };
        let seat = &answer.seats[0];
        assert_eq!((seat.lifetime_s, check(&seat.ticket, &node).until.is_some()), (seconds, seconds > 0));
        let renewed = tickets.renew(renew(&seat.ticket)).await.expect("renewed").into_inner();
        assert_eq!((renewed.lifetime_s, check(&renewed.ticket, &node).until.is_some()), (seconds, seconds > 0));
    }
}
