//! Decisions together with reports, expiry and the loss of nodes.

mod claims;
mod fair;
mod fencing;
mod health;
mod live;
mod masters;
mod order;
mod sound;

use std::time::Duration;

use usher_proto::{
    Bitrate, BootId, Code, Fault, NodeName,
    model::{CatalogPage, Origin, Presence, Range, Report, Requirements, Sessions, Turned, What},
    ticket::Purpose,
};

use super::*;
use crate::core::{
    balancer::NoChoice,
    journal::Selection,
    ledger::RESERVATION,
    roster::{GRACE, Ignored, LEASE, RECORD},
    test_cluster::{MBIT, RATE, TestCluster, begun, content, copy, hello, play, presence},
};

fn why(result: Result<Decision, Refused>) -> NoChoice {
    match result {
        Err(Refused::NoChoice { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_title_of_figure_4_resolves_to_a_holder() {
    let mut test = TestCluster::figure_4();
    for (title, holders) in [
        ("A", vec![0]),
        ("B", vec![0, 1, 2]),
        ("C", vec![0]),
        ("D", vec![0]),
        ("E", vec![1, 2]),
        ("F", vec![1]),
        ("G", vec![1]),
        ("H", vec![1, 2]),
        ("J", vec![2]),
    ] {
        let decision = test.resolve(title, |_| {}).expect(title);
        let mut seats: Vec<u32> = decision.alternates.iter().flatten().chain([&decision.first]).map(|n| n.0).collect();
        seats.sort_unstable();
        assert_eq!(seats, holders, "{title}");
        assert_eq!(decision.how, if holders.len() == 1 { Selection::Only } else { Selection::Best });
        let same = test.resolve(title, |ask| ask.what = What::Content(content(title))).expect(title);
        assert_eq!((same.title.as_str(), same.count.holders as usize), (title, holders.len()));
    }
    assert_eq!(why(test.resolve("I", |_| {})), NoChoice::NotFound);
}

#[test]
fn two_hundred_tickets_between_two_reports_book_no_node_beyond_its_capacity() {
    let mut test = TestCluster::figure_4();
    test.send_sessions(0, |sessions| sessions.committed = Bitrate(500 * MBIT));
    let granted = (0..400).filter(|_| test.resolve("B", |_| {}).is_ok()).count();
    // 500 + 1000 + 1000 Mbit/s free, 8 each.
    assert_eq!(granted, 62 + 125 + 125);
    for node in 0..3 {
        assert!(test.level(node) <= 1000 * MBIT, "{}", test.level(node));
    }
    let refused = test.resolve("B", |_| {}).expect_err("full");
    assert!(matches!(refused, Refused::NoChoice { why: NoChoice::Full { .. }, .. }), "{refused}");
    let fault = Fault::from(&refused);
    assert_eq!(fault.code, Code::NoCapacity);
    assert!(fault.retry_after.is_some() && fault.message.contains("3 full of 3"), "{fault}");
}

#[test]
fn a_reservation_becomes_a_session_or_ends() {
    let mut test = TestCluster::figure_4();
    let decision = test.resolve("A", |_| {}).expect("chosen");
    assert_eq!((test.level(0), decision.headroom), (RATE, 1000 * MBIT));
    test.begin(0, decision.session, "A", RATE);
    assert_eq!(test.level(0), RATE, "counted once");
    test.report(0, |_| {});
    assert_eq!(test.level(0), RATE, "and its bytes are its own");
    test.end(0, decision.session, RATE);
    assert_eq!(test.level(0), 0);

    let lost = test.resolve("A", |_| {}).expect("chosen");
    test.report(0, |_| {});
    assert_eq!(test.level(0), RATE, "a report alone settles nothing");
    test.cluster.release(lost.session);
    assert_eq!(test.level(0), 0);

    let turned = test.resolve("A", |_| {}).expect("chosen").session;
    test.send_sessions(0, |sessions| {
        sessions.turned.push(Turned { session: turned, code: Code::Unavailable, limit: None })
    });
    assert_eq!((test.level(0), test.headroom(0)), (0, 1000 * MBIT), "not refused for lack of capacity");

    test.resolve("A", |_| {}).expect("chosen");
    test.seconds(RESERVATION.as_secs() as usize - 1);
    assert!(test.level(0) > 0);
    test.seconds(1);
    assert_eq!(test.level(0), 0);

    // A new process of the node does not honour the old one's tickets.
    test.resolve("A", |_| {}).expect("chosen");
    restart(&mut test, 0);
    assert_eq!((test.level(0), test.cluster.ledger().len()), (0, 0));
}

/// The node's channel breaks and a new process attaches, without a catalog yet.
fn restart(test: &mut TestCluster, node: usize) {
    let attachment = test.attachments[node];
    test.cluster.handle_detach(test.now, attachment);
    let mut hello = test.cluster.roster().node(attachment.node).expect("known").hello.clone();
    hello.boot = BootId(hello.boot.0 + 1000);
    test.attachments[node] = test.cluster.handle_attach(test.now, hello).expect("attached");
}

#[test]
fn a_refusal_of_a_full_node_limits_it() {
    let mut test = TestCluster::figure_4();
    let session = test.resolve("A", |_| {}).expect("chosen").session;
    let limit = Some(Bitrate(300 * MBIT));
    test.send_sessions(0, |sessions| sessions.turned.push(Turned { session, code: Code::NoCapacity, limit }));
    assert_eq!((test.level(0), test.headroom(0)), (0, 300 * MBIT));
}

#[test]
fn viewers_reserve_the_titles_rate_and_fetches_a_share() {
    // Titles of 8 Mbit/s on nodes of 4 and 100 Mbit/s.
    let mut test = TestCluster::new(&[4 * MBIT, 100 * MBIT]);
    test.titles(0, &["A"]);
    test.titles(1, &["C"]);
    let mut rate = |title, purpose, asked: Option<u64>| {
        let decision = test.resolve(title, |ask| (ask.purpose, ask.rate) = (purpose, asked.map(Bitrate)));
        decision.map(|decision| decision.rate.0).ok()
    };
    assert_eq!(rate("C", Purpose::Play, Some(1)), Some(8 * MBIT), "it will take that much");
    assert_eq!(rate("C", Purpose::Play, Some(9 * MBIT)), Some(9 * MBIT));
    assert_eq!(rate("C", Purpose::Play, Some(90 * MBIT)), Some(32 * MBIT), "no player reads ahead that fast for long");
    assert_eq!(rate("C", Purpose::Fetch, Some(1)), Some(1));
    assert_eq!(rate("C", Purpose::Fetch, Some(90 * MBIT)), Some(8 * MBIT));
    assert_eq!(rate("A", Purpose::Play, None), None, "faster than its node");
    assert_eq!(rate("A", Purpose::Fetch, None), Some(MBIT), "slowly, but it comes");
}

#[test]
fn a_random_subset_of_many_holders_is_examined() {
    let mut test = TestCluster::new(&[1000 * MBIT; 100]);
    for node in 0..100 {
        test.titles(node, &["A"]);
    }
    let mut chosen = [0_u32; 100];
    for _ in 0..2000 {
        let decision = test.resolve("A", |_| {}).expect("room");
        assert_eq!(decision.count.holders as usize, balancer::MAX_HOLDERS);
        chosen[decision.first.0 as usize] += 1;
        test.cluster.release(decision.session);
    }
    assert!(chosen.iter().all(|count| (5..=45).contains(count)), "{chosen:?}");
}

#[test]
fn a_title_of_unknown_rate_takes_the_usual_one() {
    let mut test = TestCluster::new(&[100 * MBIT]);
    test.copies(0, vec![copy("A", 0, Origin::Operator)]);
    assert_eq!(test.resolve("A", |_| {}).map(|decision| decision.rate), Ok(balancer::DEFAULT_RATE));
}

#[test]
fn a_node_that_started_anew_is_not_chosen_by_its_old_catalog() {
    let mut test = TestCluster::figure_4();
    let session = test.run(0, "A", RATE, 1)[0];
    restart(&mut test, 0);
    assert!(matches!(why(test.resolve("A", |_| {})), NoChoice::Down(_)));
    assert_eq!(test.cluster.ledger().session(session), None, "the old process took its sessions along");
    test.titles(0, &["A"]);
    assert!(test.resolve("A", |_| {}).is_ok());
}

#[test]
fn a_whole_list_replaces_what_was_known() {
    let mut test = TestCluster::figure_4();
    let sessions = test.run(0, "A", RATE, 3);
    let promised = test.resolve("A", |_| {}).expect("room").session;
    test.send_sessions(0, |list| {
        (list.restart, list.complete, list.committed) = (true, false, Bitrate(2 * RATE));
        list.begun.push(begun(sessions[0], "A", RATE));
    });
    assert_eq!(test.cluster.ledger().len(), 4, "the list is not whole yet");
    let new = test.session();
    test.send_sessions(0, |list| list.begun.push(begun(new, "A", RATE)));
    let ledger = test.cluster.ledger();
    let known = |session| ledger.session(session).is_some();
    assert!(known(sessions[0]) && known(new) && known(promised) && ledger.len() == 3);
    assert_eq!(test.level(0), 3 * RATE);
    // A message of a replaced attachment changes nothing.
    let old = test.attachments[0];
    restart(&mut test, 0);
    let late = test.cluster.handle_sessions(test.now, old, Sessions { committed: Bitrate(7), ..Sessions::default() });
    assert_eq!((late, test.level(0)), (Err(Ignored::Superseded), 0));
}

#[test]
fn refusals_name_their_reason() {
    let mut test = TestCluster::figure_4();
    let names: Vec<NodeName> = ["node-1", "node-2", "node-3"].iter().map(|n| NodeName::parse(n).expect("ok")).collect();
    assert_eq!(why(test.resolve("B", |ask| ask.exclude = names)), NoChoice::Excluded(3));
    test.copies(0, vec![copy("K", 500 * MBIT, Origin::Operator)]);
    let one = why(test.resolve("K", |ask| ask.rate = Some(Bitrate(1001 * MBIT))));
    assert_eq!(one, NoChoice::TooFast { rate: Bitrate(1001 * MBIT), largest: Bitrate(1000 * MBIT) });
    let fault = Fault::from(&one);
    assert_eq!((fault.code, fault.retry_after), (Code::NoCapacity, None));
    let range = Range { start: 100, end: None };
    assert!(matches!(test.resolve("A", |ask| ask.range = range), Err(Refused::Range { size: 100, .. })));
    let needs = Requirements { live_ingest: true, ..Requirements::default() };
    let unequipped = why(test.resolve("A", |ask| ask.needs = needs));
    assert!(matches!(unequipped, NoChoice::Unequipped(_)) && Fault::from(&unequipped).code == Code::Unequipped);

    test.cluster.handle_presence(test.now, test.attachments[0], presence(true));
    let NoChoice::Down(count) = why(test.resolve("A", |_| {})) else { panic!() };
    assert_eq!((count.draining, count.down), (1, 0));
    test.wait(LEASE);
    let NoChoice::Down(count) = why(test.resolve("B", |_| {})) else { panic!() };
    assert_eq!((count.draining, count.down), (0, 3));
    let fault = Fault::from(&NoChoice::Down(count));
    assert_eq!(fault.code, Code::Unavailable);
    assert!(fault.retry_after.is_some());
    test.report(1, |_| {});
    assert_eq!(test.resolve("B", |_| {}).expect("one is back").first, test.id(1));
}

#[test]
fn the_reason_names_the_choice() {
    let mut test = TestCluster::figure_4();
    test.send_sessions(1, |sessions| sessions.committed = Bitrate(8 * MBIT));
    test.send_sessions(2, |sessions| sessions.committed = Bitrate(500 * MBIT));
    test.cluster.handle_presence(test.now, test.attachments[0], presence(true));
    let decision = test.resolve("B", |_| {}).expect("chosen");
    let reason = test.cluster.reason(&decision).expect("known").to_string();
    assert_eq!(
        reason,
        "farthest from full: 992 Mbit/s of 1 Gbit/s free on node-2; 2 of 3 holders could serve (1 draining)"
    );
    assert_eq!(decision.alternates, [Some(test.id(2)), None]);
}

#[test]
fn several_titles_go_to_one_node_when_that_costs_nothing() {
    let plays = ["B", "E", "H", "F"].map(play);
    let many = |test: &mut TestCluster| -> Vec<u32> {
        let asks: Vec<_> = plays.iter().zip(1..).map(|(play, id)| (SessionId(id), SeatRequest::from(play))).collect();
        let decided = test.cluster.resolve_many(test.now, &asks, &mut test.rng);
        decided.into_iter().map(|result| result.expect("chosen").first.0).collect()
    };
    let mut test = TestCluster::figure_4();
    assert_eq!(many(&mut test), [1, 1, 1, 1], "node-2 has all four");
    assert_eq!(test.level(1), 4 * RATE, "each is reserved");

    let mut test = TestCluster::figure_4();
    test.send_sessions(1, |sessions| sessions.committed = Bitrate(960 * MBIT));
    assert_eq!(many(&mut test), [2, 2, 2, 1], "node-2 has little left, and is asked only for what no other has");
}

#[test]
fn a_node_that_is_gone_keeps_its_titles_for_a_while() {
    let mut test = TestCluster::figure_4();
    test.cluster.poll_events();
    test.cluster.handle_detach(test.now, test.attachments[2]);
    assert_eq!(test.cluster.poll_events(), [ClusterEvent::State(test.id(2), NodeState::Gone)]);
    assert!(matches!(why(test.resolve("J", |_| {})), NoChoice::Down(_)));
    test.run(0, "A", RATE, 1);
    test.wait(LEASE + GRACE);
    while test.cluster.sweep() {}
    assert_eq!(why(test.resolve("J", |_| {})), NoChoice::NotFound);
    test.wait(RECORD);
    assert!(test.cluster.roster().node(test.id(2)).is_none(), "and then it is forgotten");
}

#[test]
fn a_forgotten_node_leaves_no_session() {
    let mut test = TestCluster::figure_4();
    test.run(0, "A", RATE, 3);
    test.cluster.handle_detach(test.now, test.attachments[0]);
    test.wait(RECORD);
    assert!(test.cluster.ledger().is_empty());
}

#[test]
fn the_deadline_says_when_there_is_work() {
    assert_eq!(Cluster::default().next_timeout(), None, "an empty cluster sleeps");
    let mut test = TestCluster::figure_4();
    let start = test.now.instant;
    assert_eq!(test.cluster.next_timeout(), Some(start + ROUND));
    for second in 1..=3 {
        test.wait(Duration::from_secs(1));
        assert_eq!(test.cluster.next_timeout(), Some(start + Duration::from_secs(second) + ROUND));
    }
    // Reservations expire on time, also between rounds.
    test.report_all();
    test.now = test.now.after(Duration::from_millis(500));
    test.resolve("A", |_| {}).expect("room");
    let expires = test.now.instant + RESERVATION;
    while test.cluster.ledger().len() == 1 {
        let due = test.cluster.next_timeout().expect("work");
        assert!(due > test.now.instant && due <= expires, "neither at once for ever, nor too late");
        test.now = test.now.after(due - test.now.instant);
        test.cluster.handle_timeout(test.now, &mut test.rng);
    }
    assert_eq!(test.now.instant, expires);
}

#[test]
fn explaining_changes_nothing() {
    let mut test = TestCluster::figure_4();
    let play = play("B");
    let ask = SeatRequest { tag: 9, ..SeatRequest::from(&play) };
    let record = test.cluster.explain(test.now, &ask, &mut test.rng).expect("known");
    assert_eq!((record.session, record.outcome), (None, crate::core::journal::Outcome::Chosen(Selection::Best)));
    assert!(test.cluster.ledger().is_empty() && test.cluster.decision(9).is_none());
    let session = test.session();
    test.cluster.resolve(test.now, session, &ask, &mut test.rng).expect("room");
    assert_eq!(test.cluster.decision(9).map(|record| record.session), Some(Some(session)));
}

#[test]
fn a_title_is_not_reported_missing_while_catalogs_are_incomplete() {
    let mut test = TestCluster::new(&[]);
    let at = |test: &mut TestCluster, seconds| {
        test.now.instant += Duration::from_secs(seconds);
        why(test.resolve("A", |_| {}))
    };
    test.cluster.handle_start(test.now.instant);
    assert_eq!(at(&mut test, 0), NoChoice::Gathering, "no node has attached yet");
    // A node of the previous master returns; others may follow.
    let hello = |number, attachment| Hello { attachment, ..hello(number, 1000 * MBIT) };
    let back = test.cluster.handle_attach(test.now, hello(1, 2)).expect("attached");
    assert_eq!(at(&mut test, 1), NoChoice::Gathering, "its catalog is on its way");
    let whole = |test: &mut TestCluster, attachment| {
        let page = CatalogPage { restart: true, complete: true, ..CatalogPage::default() };
        test.cluster.handle_page(attachment, &page).expect("a good page");
    };
    whole(&mut test, back);
    assert_eq!(at(&mut test, 3), NoChoice::Gathering, "a sign that the master is not the first");
    assert_eq!(at(&mut test, 1), NoChoice::NotFound);
    // The same for any node that attaches, until its catalog is complete or overdue.
    let new = test.cluster.handle_attach(test.now, hello(2, 1)).expect("attached");
    assert_eq!(at(&mut test, 1), NoChoice::Gathering);
    whole(&mut test, new);
    assert_eq!(at(&mut test, 0), NoChoice::NotFound);
    test.cluster.handle_attach(test.now, hello(3, 1)).expect("attached");
    assert_eq!(at(&mut test, 9), NoChoice::Gathering);
    assert_eq!(at(&mut test, 1), NoChoice::NotFound);
}
