//! The journey of a decision, with reports, expiries and the loss of nodes.

mod fencing;
mod health;
mod live;
mod masters;
mod order;
mod sound;

use std::time::Duration;

use usher_proto::{
    Bitrate, BootId, Code, Fault, NodeName,
    model::{CatalogPage, Presence, Range, Report, Requirements, Sessions, Turned, What},
    ticket::Purpose,
};

use super::*;
use crate::core::{
    balancer::NoChoice,
    journal::How,
    ledger::RESERVATION,
    roster::{GRACE, Ignored, LEASE, RECORD},
    world::{MBIT, RATE, World, begun, content, hello, play, presence},
};

fn why(result: Result<Decision, Refused>) -> NoChoice {
    match result {
        Err(Refused::NoChoice { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_title_of_figure_4_resolves_to_a_holder() {
    let mut world = World::figure_4();
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
        let decision = world.resolve(title, |_| {}).expect(title);
        let mut seats: Vec<u32> = decision.alternates.iter().flatten().chain([&decision.first]).map(|n| n.0).collect();
        seats.sort_unstable();
        assert_eq!(seats, holders, "{title}");
        assert_eq!(decision.how, if holders.len() == 1 { How::Only } else { How::Best });
        let same = world.resolve(title, |ask| ask.what = What::Content(content(title))).expect(title);
        assert_eq!((same.title.as_str(), same.count.holders as usize), (title, holders.len()));
    }
    assert_eq!(why(world.resolve("I", |_| {})), NoChoice::NotFound);
}

#[test]
fn two_hundred_tickets_between_two_reports_book_no_node_beyond_its_capacity() {
    let mut world = World::figure_4();
    world.tell(0, |sessions| sessions.committed = Bitrate(500 * MBIT));
    let granted = (0..400).filter(|_| world.resolve("B", |_| {}).is_ok()).count();
    // 500 + 1000 + 1000 Mbit/s free, 8 each.
    assert_eq!(granted, 62 + 125 + 125);
    for node in 0..3 {
        assert!(world.level(node) <= 1000 * MBIT, "{}", world.level(node));
    }
    let refused = world.resolve("B", |_| {}).expect_err("full");
    assert!(matches!(refused, Refused::NoChoice { why: NoChoice::Full { .. }, .. }), "{refused}");
    let fault = Fault::from(&refused);
    assert_eq!(fault.code, Code::NoCapacity);
    assert!(fault.retry_after.is_some() && fault.message.contains("3 full of 3"), "{fault}");
}

#[test]
fn a_reservation_becomes_a_session_or_ends() {
    let mut world = World::figure_4();
    let decision = world.resolve("A", |_| {}).expect("chosen");
    assert_eq!((world.level(0), decision.room), (RATE, 1000 * MBIT));
    world.begin(0, decision.session, "A", RATE);
    assert_eq!(world.level(0), RATE, "counted once");
    world.report(0, |_| {});
    assert_eq!(world.level(0), RATE, "and its bytes are its own");
    world.end(0, decision.session, RATE);
    assert_eq!(world.level(0), 0);

    let lost = world.resolve("A", |_| {}).expect("chosen");
    world.report(0, |_| {});
    assert_eq!(world.level(0), RATE, "a report alone settles nothing");
    world.cluster.release(lost.session);
    assert_eq!(world.level(0), 0);

    let turned = world.resolve("A", |_| {}).expect("chosen").session;
    world.tell(0, |sessions| sessions.turned.push(Turned { session: turned, code: Code::Unavailable, limit: None }));
    assert_eq!((world.level(0), world.room(0)), (0, 1000 * MBIT), "it was not for want of room");

    world.resolve("A", |_| {}).expect("chosen");
    world.seconds(RESERVATION.as_secs() as usize - 1);
    assert!(world.level(0) > 0);
    world.seconds(1);
    assert_eq!(world.level(0), 0);

    // A new process of the node honours none of the old one's tickets.
    world.resolve("A", |_| {}).expect("chosen");
    restart(&mut world, 0);
    assert_eq!((world.level(0), world.cluster.ledger().len()), (0, 0));
}

/// The node's channel breaks and a new process of it attaches, with its catalog yet to tell.
fn restart(world: &mut World, node: usize) {
    let link = world.links[node];
    world.cluster.detach(world.now, link);
    let mut hello = world.cluster.roster().node(link.node).expect("known").hello.clone();
    hello.boot = BootId(hello.boot.0 + 1000);
    world.links[node] = world.cluster.attach(world.now, hello).expect("attached");
}

#[test]
fn a_full_node_says_what_it_can_promise_and_is_believed() {
    let mut world = World::figure_4();
    let session = world.resolve("A", |_| {}).expect("chosen").session;
    let limit = Some(Bitrate(300 * MBIT));
    world.tell(0, |sessions| sessions.turned.push(Turned { session, code: Code::NoCapacity, limit }));
    assert_eq!((world.level(0), world.room(0)), (0, 300 * MBIT));
}

#[test]
fn a_viewer_holds_its_titles_rate_and_a_fetch_what_it_can() {
    // Titles of 8 Mbit/s on a node of 4 and one of 100 Mbit/s.
    let mut world = World::new(&[4 * MBIT, 100 * MBIT]);
    world.titles(0, &["A"]);
    world.titles(1, &["C"]);
    let mut rate = |title, purpose, asked: Option<u64>| {
        let decision = world.resolve(title, |ask| (ask.purpose, ask.rate) = (purpose, asked.map(Bitrate)));
        decision.map(|decision| decision.rate.0).ok()
    };
    assert_eq!(rate("C", Purpose::Play, Some(1)), Some(8 * MBIT), "it will take that much");
    assert_eq!(rate("C", Purpose::Play, Some(9 * MBIT)), Some(9 * MBIT));
    assert_eq!(rate("C", Purpose::Fetch, Some(1)), Some(1));
    assert_eq!(rate("C", Purpose::Fetch, Some(90 * MBIT)), Some(8 * MBIT));
    assert_eq!(rate("A", Purpose::Play, None), None, "faster than its node");
    assert_eq!(rate("A", Purpose::Fetch, None), Some(MBIT), "slowly, but it comes");
}

#[test]
fn of_many_holders_some_are_looked_at_and_each_as_often() {
    let mut world = World::new(&[1000 * MBIT; 100]);
    for node in 0..100 {
        world.titles(node, &["A"]);
    }
    let mut chosen = [0_u32; 100];
    for _ in 0..2000 {
        let decision = world.resolve("A", |_| {}).expect("room");
        assert_eq!(decision.count.holders as usize, balancer::LOOKED_AT);
        chosen[decision.first.0 as usize] += 1;
        world.cluster.release(decision.session);
    }
    assert!(chosen.iter().all(|count| (5..=45).contains(count)), "{chosen:?}");
}

#[test]
fn a_title_of_unknown_rate_takes_the_usual_one() {
    let mut world = World::new(&[100 * MBIT]);
    world.copies(0, vec![crate::core::world::copy("A", 0, usher_proto::model::Origin::Operator)]);
    assert_eq!(world.resolve("A", |_| {}).map(|decision| decision.rate), Ok(balancer::DEFAULT_RATE));
}

#[test]
fn a_node_that_started_anew_is_not_chosen_by_its_old_catalog() {
    let mut world = World::figure_4();
    let session = world.run(0, "A", RATE, 1)[0];
    restart(&mut world, 0);
    assert!(matches!(why(world.resolve("A", |_| {})), NoChoice::Down(_)));
    assert_eq!(world.cluster.ledger().session(session), None, "the old process took its sessions along");
    world.titles(0, &["A"]);
    assert!(world.resolve("A", |_| {}).is_ok());
}

#[test]
fn a_whole_list_replaces_what_was_known() {
    let mut world = World::figure_4();
    let sessions = world.run(0, "A", RATE, 3);
    let promised = world.resolve("A", |_| {}).expect("room").session;
    world.tell(0, |list| {
        (list.restart, list.complete, list.committed) = (true, false, Bitrate(2 * RATE));
        list.begun.push(begun(sessions[0], "A", RATE));
    });
    assert_eq!(world.cluster.ledger().len(), 4, "the list is not whole yet");
    let new = world.session();
    world.tell(0, |list| list.begun.push(begun(new, "A", RATE)));
    let ledger = world.cluster.ledger();
    let known = |session| ledger.session(session).is_some();
    assert!(known(sessions[0]) && known(new) && known(promised) && ledger.len() == 3);
    assert_eq!(world.level(0), 3 * RATE);
    // A word of an attachment that is replaced changes nothing.
    let old = world.links[0];
    restart(&mut world, 0);
    let late = world.cluster.sessions(world.now, old, Sessions { committed: Bitrate(7), ..Sessions::default() });
    assert_eq!((late, world.level(0)), (Err(Ignored::Superseded), 0));
}

#[test]
fn refusals_say_which() {
    let mut world = World::figure_4();
    let names: Vec<NodeName> = ["node-1", "node-2", "node-3"].iter().map(|n| NodeName::parse(n).expect("ok")).collect();
    assert_eq!(why(world.resolve("B", |ask| ask.exclude = names)), NoChoice::Excluded(3));
    let one = why(world.resolve("A", |ask| ask.rate = Some(Bitrate(1001 * MBIT))));
    assert_eq!(one, NoChoice::TooFast { rate: Bitrate(1001 * MBIT), largest: Bitrate(1000 * MBIT) });
    let fault = Fault::from(&one);
    assert_eq!((fault.code, fault.retry_after), (Code::NoCapacity, None));
    let range = Range { start: 100, end: None };
    assert!(matches!(world.resolve("A", |ask| ask.range = range), Err(Refused::Range { size: 100, .. })));
    let needs = Requirements { live_ingest: true, ..Requirements::default() };
    let unequipped = why(world.resolve("A", |ask| ask.needs = needs));
    assert!(matches!(unequipped, NoChoice::Unequipped(_)) && Fault::from(&unequipped).code == Code::Unequipped);

    world.cluster.presence(world.now, world.links[0], presence(true));
    let NoChoice::Down(count) = why(world.resolve("A", |_| {})) else { panic!() };
    assert_eq!((count.draining, count.down), (1, 0));
    world.wait(LEASE);
    let NoChoice::Down(count) = why(world.resolve("B", |_| {})) else { panic!() };
    assert_eq!((count.draining, count.down), (0, 3));
    let fault = Fault::from(&NoChoice::Down(count));
    assert_eq!(fault.code, Code::Unavailable);
    assert!(fault.retry_after.is_some());
    world.report(1, |_| {});
    assert_eq!(world.resolve("B", |_| {}).expect("one is back").first, world.id(1));
}

#[test]
fn the_reason_tells_what_was_seen() {
    let mut world = World::figure_4();
    world.tell(1, |sessions| sessions.committed = Bitrate(8 * MBIT));
    world.tell(2, |sessions| sessions.committed = Bitrate(500 * MBIT));
    world.cluster.presence(world.now, world.links[0], presence(true));
    let decision = world.resolve("B", |_| {}).expect("chosen");
    let reason = world.cluster.reason(&decision).expect("known").to_string();
    assert_eq!(
        reason,
        "farthest from full: 992 Mbit/s of 1 Gbit/s free on node-2; 2 of 3 holders could serve (1 draining)"
    );
    assert_eq!(decision.alternates, [Some(world.id(2)), None]);
}

#[test]
fn several_titles_go_to_one_node_when_that_costs_nothing() {
    let plays = ["B", "E", "H", "F"].map(play);
    let many = |world: &mut World| -> Vec<u32> {
        let asks: Vec<_> = plays.iter().zip(1..).map(|(play, id)| (SessionId(id), Ask::from(play))).collect();
        let decided = world.cluster.resolve_many(world.now, &asks, &mut world.rng);
        decided.into_iter().map(|result| result.expect("chosen").first.0).collect()
    };
    let mut world = World::figure_4();
    assert_eq!(many(&mut world), [1, 1, 1, 1], "node-2 has all four");
    assert_eq!(world.level(1), 4 * RATE, "each is reserved");

    let mut world = World::figure_4();
    world.tell(1, |sessions| sessions.committed = Bitrate(960 * MBIT));
    assert_eq!(many(&mut world), [2, 2, 2, 1], "node-2 has little left, and is asked only for what no other has");
}

#[test]
fn a_node_that_is_gone_keeps_its_titles_for_a_while() {
    let mut world = World::figure_4();
    world.cluster.events();
    world.cluster.detach(world.now, world.links[2]);
    assert_eq!(world.cluster.events(), [Event::State(world.id(2), State::Gone)]);
    assert!(matches!(why(world.resolve("J", |_| {})), NoChoice::Down(_)));
    world.run(0, "A", RATE, 1);
    world.wait(LEASE + GRACE);
    while world.cluster.sweep() {}
    assert_eq!(why(world.resolve("J", |_| {})), NoChoice::NotFound);
    world.wait(RECORD);
    assert!(world.cluster.roster().node(world.id(2)).is_none(), "and then it is forgotten");
}

#[test]
fn a_forgotten_node_leaves_no_session() {
    let mut world = World::figure_4();
    world.run(0, "A", RATE, 3);
    world.cluster.detach(world.now, world.links[0]);
    world.wait(RECORD);
    assert!(world.cluster.ledger().is_empty());
}

#[test]
fn the_deadline_says_when_there_is_work() {
    assert_eq!(Cluster::default().deadline(), None, "an empty cluster sleeps");
    let mut world = World::figure_4();
    let start = world.now.instant;
    assert_eq!(world.cluster.deadline(), Some(start + ROUND));
    for second in 1..=3 {
        world.wait(Duration::from_secs(1));
        assert_eq!(world.cluster.deadline(), Some(start + Duration::from_secs(second) + ROUND));
    }
    // What is promised expires on time even between rounds.
    world.beat();
    world.now = world.now.after(Duration::from_millis(500));
    world.resolve("A", |_| {}).expect("room");
    let expires = world.now.instant + RESERVATION;
    while world.cluster.ledger().len() == 1 {
        let due = world.cluster.deadline().expect("work");
        assert!(due > world.now.instant && due <= expires, "neither at once for ever, nor too late");
        world.now = world.now.after(due - world.now.instant);
        world.cluster.handle(world.now, &mut world.rng);
    }
    assert_eq!(world.now.instant, expires);
}

#[test]
fn what_would_be_decided_changes_nothing() {
    let mut world = World::figure_4();
    let play = play("B");
    let ask = Ask { tag: 9, ..Ask::from(&play) };
    let record = world.cluster.explain(world.now, &ask, &mut world.rng).expect("known");
    assert_eq!((record.session, record.outcome), (None, crate::core::journal::Outcome::Chosen(How::Best)));
    assert!(world.cluster.ledger().is_empty() && world.cluster.decided(9).is_none());
    let session = world.session();
    world.cluster.resolve(world.now, session, &ask, &mut world.rng).expect("room");
    assert_eq!(world.cluster.decided(9).map(|record| record.session), Some(Some(session)));
}

#[test]
fn a_title_that_nodes_may_yet_tell_of_is_not_said_to_be_nowhere() {
    let mut world = World::new(&[]);
    let at = |world: &mut World, seconds| {
        world.now.instant += Duration::from_secs(seconds);
        why(world.resolve("A", |_| {}))
    };
    world.cluster.starting(world.now.instant);
    assert_eq!(at(&mut world, 0), NoChoice::Gathering, "nobody has come yet");
    // One that was attached to the master before comes back; others may.
    let hello = |number, attachment| Hello { attachment, ..hello(number, 1000 * MBIT) };
    let back = world.cluster.attach(world.now, hello(1, 2)).expect("attached");
    assert_eq!(at(&mut world, 1), NoChoice::Gathering, "its catalog is on its way");
    let whole = |world: &mut World, link| {
        let page = CatalogPage { restart: true, complete: true, ..CatalogPage::default() };
        world.cluster.page(link, &page).expect("a good page");
    };
    whole(&mut world, back);
    assert_eq!(at(&mut world, 3), NoChoice::Gathering, "a sign that the master is not the first");
    assert_eq!(at(&mut world, 1), NoChoice::NotFound);
    // Whenever a node comes, until it has told all, or takes too long.
    let new = world.cluster.attach(world.now, hello(2, 1)).expect("attached");
    assert_eq!(at(&mut world, 1), NoChoice::Gathering);
    whole(&mut world, new);
    assert_eq!(at(&mut world, 0), NoChoice::NotFound);
    world.cluster.attach(world.now, hello(3, 1)).expect("attached");
    assert_eq!(at(&mut world, 9), NoChoice::Gathering);
    assert_eq!(at(&mut world, 1), NoChoice::NotFound);
}
