//! The journey of a decision, with reports, expiries and the loss of nodes.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::SmallRng};
use usher_proto::{
    Bitrate, BootId, ContentId, NodeName,
    model::{CatalogCopy, Equipment, Mode, Origin, Range, Requirements, Resolve, What},
    ticket::Purpose,
};

use super::*;
use crate::core::{balancer::NoChoice, ledger::RESERVATION, roster::LEASE};

const MBIT: u64 = 1_000_000;

struct World {
    cluster: Cluster,
    now: Now,
    rng: SmallRng,
    links: Vec<Link>,
    sessions: u128,
    reports: u64,
}

fn presence(draining: bool) -> Presence {
    Presence { addresses: vec![([127, 0, 0, 1], 1).into()], certificates: vec![[0; 32]], draining }
}

impl World {
    fn new(capacities: &[u64]) -> Self {
        let mut world = Self {
            cluster: Cluster::new(),
            now: Now { instant: Instant::now(), unix_ms: 0 },
            rng: SmallRng::seed_from_u64(1),
            links: Vec::new(),
            sessions: 0,
            reports: 0,
        };
        for (capacity, i) in capacities.iter().zip(1..) {
            let hello = Hello {
                node: NodeName::parse(&format!("node-{i}")).expect("a name"),
                boot: BootId(i),
                version: String::new(),
                zone: format!("z{i}"),
                capacity: Bitrate(*capacity),
                presence: presence(false),
                attachment: 1,
                equipment: Equipment::default(),
                replica_bytes: 0,
            };
            let link = world.cluster.attach(world.now, hello).expect("attached");
            world.links.push(link);
        }
        world
    }

    fn figure_4() -> Self {
        let mut world = Self::new(&[1000 * MBIT; 3]);
        for (node, titles) in [(0, "A B C D"), (1, "B E F G H"), (2, "B E H J")] {
            world.titles(node, &titles.split(' ').collect::<Vec<_>>());
        }
        world
    }

    fn titles(&mut self, node: usize, titles: &[&str]) {
        let copies = titles.iter().map(|title| CatalogCopy {
            title: Title::parse(title).expect("a title"),
            volume: 0,
            content: Some(ContentId([title.as_bytes()[0]; 32])),
            size: 100,
            modified_ms: 0,
            bitrate: Bitrate(8 * MBIT),
            duration_ms: 0,
            media_type: "video/mp4".into(),
            streamable: true,
            origin: Origin::Operator,
        });
        let page = CatalogPage { complete: true, copies: copies.collect(), ..CatalogPage::default() };
        assert!(self.cluster.page(self.links[node], &page).expect("taken").is_some());
    }

    fn resolve(&mut self, title: &str, change: impl FnOnce(&mut Resolve)) -> Result<Decision, Refused> {
        self.sessions += 1;
        let mut resolve = Resolve {
            what: What::Title(Title::parse(title).expect("a title")),
            purpose: Purpose::Play,
            range: Range::default(),
            mode: Mode::Redirect,
            exclude: Vec::new(),
            zone: String::new(),
            rate: None,
            failed: Vec::new(),
            needs: Requirements::default(),
        };
        change(&mut resolve);
        let ask = Ask::from(&resolve);
        self.cluster.resolve(self.now, SessionId(self.sessions), &ask, &mut self.rng)
    }

    fn report(&mut self, node: usize, committed: u64, settled: Vec<SessionId>) {
        self.reports += 1;
        let committed = Bitrate(committed);
        let report = Report { sequence: self.reports, committed, egress: committed, settled, ..Report::default() };
        self.cluster.report(self.now, self.links[node], report).expect("taken");
    }

    fn wait(&mut self, by: Duration) {
        self.now = self.now.after(by);
        self.cluster.handle(self.now);
    }

    fn booked(&self, node: usize) -> u64 {
        self.cluster.load(self.links[node].node).0
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
        let by_content = What::Content(ContentId([title.as_bytes()[0]; 32]));
        let what = by_content.clone();
        let ask =
            Ask { what: &what, purpose: Purpose::Play, range: Range::default(), rate: None, exclude: &[], zone: "" };
        world.sessions += 1;
        let same = world.cluster.resolve(world.now, SessionId(world.sessions), &ask, &mut world.rng).expect(title);
        assert_eq!((same.title.as_str(), same.count.holders as usize), (title, holders.len()));
    }
    let refused = world.resolve("I", |_| {}).expect_err("nobody has it");
    assert!(matches!(refused, Refused::NoChoice { why: NoChoice::NotFound, .. }), "{refused}");
}

#[test]
fn two_hundred_tickets_between_two_reports_book_no_node_beyond_its_capacity() {
    let mut world = World::figure_4();
    world.report(0, 500 * MBIT, vec![]);
    let granted = (0..400).filter(|_| world.resolve("B", |_| {}).is_ok()).count();
    // 500 + 1000 + 1000 Mbit/s free, 8 each.
    assert_eq!(granted, 62 + 125 + 125);
    for node in 0..3 {
        assert!(world.booked(node) <= 1000 * MBIT, "{}", world.booked(node));
    }
    let refused = world.resolve("B", |_| {}).expect_err("full");
    assert!(matches!(refused, Refused::NoChoice { why: NoChoice::Full { .. }, .. }), "{refused}");
    let fault = usher_proto::Fault::from(&refused);
    assert_eq!(fault.code, usher_proto::Code::NoCapacity);
    assert!(fault.retry_after.is_some() && fault.message.contains("3 full of 3"), "{fault}");
}

#[test]
fn a_reservation_becomes_a_session_or_expires() {
    let mut world = World::figure_4();
    let decision = world.resolve("A", |_| {}).expect("chosen");
    assert_eq!((world.booked(0), decision.headroom), (8 * MBIT, 1000 * MBIT));
    world.report(0, 8 * MBIT, vec![decision.session]);
    assert_eq!(world.booked(0), 8 * MBIT, "counted once");
    world.report(0, 0, vec![]);
    assert_eq!(world.booked(0), 0);

    let lost = world.resolve("A", |_| {}).expect("chosen");
    world.report(0, 0, vec![]);
    assert_eq!(world.booked(0), 8 * MBIT, "a report alone settles nothing");
    world.cluster.release(lost.session);
    assert_eq!(world.booked(0), 0);

    world.resolve("A", |_| {}).expect("chosen");
    for _ in 0..10 {
        world.wait(RESERVATION / 10);
        world.report(0, 0, vec![]);
    }
    assert_eq!(world.booked(0), 0);

    // A new process of the node honours none of the old one's tickets.
    world.resolve("A", |_| {}).expect("chosen");
    world.cluster.detach(world.now, world.links[0]);
    let mut hello = world.cluster.roster().node(world.links[0].node).expect("known").hello.clone();
    hello.boot = BootId(99);
    world.cluster.attach(world.now, hello).expect("attached");
    assert_eq!(world.booked(0), 0);
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
fn a_node_that_started_anew_is_not_chosen_by_its_old_catalog() {
    let mut world = World::figure_4();
    let link = world.links[0];
    world.cluster.detach(world.now, link);
    let mut hello = world.cluster.roster().node(link.node).expect("known").hello.clone();
    hello.boot = BootId(99);
    world.links[0] = world.cluster.attach(world.now, hello).expect("attached");
    assert!(matches!(world.resolve("A", |_| {}), Err(Refused::NoChoice { why: NoChoice::Down(_), .. })));
    world.titles(0, &["A"]);
    assert!(world.resolve("A", |_| {}).is_ok());
}

#[test]
fn refusals_say_which() {
    let mut world = World::figure_4();
    let names: Vec<NodeName> = ["node-1", "node-2", "node-3"].iter().map(|n| NodeName::parse(n).expect("ok")).collect();
    let why = |result: Result<Decision, Refused>| match result {
        Err(Refused::NoChoice { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(world.resolve("B", |ask| ask.exclude = names)), NoChoice::Excluded(3));
    let one = why(world.resolve("A", |ask| ask.rate = Some(Bitrate(1001 * MBIT))));
    assert_eq!(one, NoChoice::TooFast { rate: Bitrate(1001 * MBIT), largest: Bitrate(1000 * MBIT) });
    let fault = usher_proto::Fault::from(&one);
    assert_eq!((fault.code, fault.retry_after), (usher_proto::Code::NoCapacity, None));
    let range = Range { start: 100, end: None };
    assert!(matches!(world.resolve("A", |ask| ask.range = range), Err(Refused::Range { size: 100, .. })));

    world.cluster.presence(world.links[0], presence(true));
    let NoChoice::Down(count) = why(world.resolve("A", |_| {})) else { panic!() };
    assert_eq!((count.draining, count.down), (1, 0));
    world.wait(LEASE);
    let NoChoice::Down(count) = why(world.resolve("B", |_| {})) else { panic!() };
    assert_eq!((count.draining, count.down), (0, 3));
    let fault = usher_proto::Fault::from(&NoChoice::Down(count));
    assert_eq!(fault.code, usher_proto::Code::Unavailable);
    assert!(fault.retry_after.is_some());
    world.report(1, 0, vec![]);
    assert_eq!(world.resolve("B", |_| {}).expect("one is back").first, world.links[1].node);
}

#[test]
fn the_reason_tells_what_was_seen() {
    let mut world = World::figure_4();
    world.report(1, 8 * MBIT, vec![]);
    world.report(2, 500 * MBIT, vec![]);
    world.cluster.presence(world.links[0], presence(true));
    let decision = world.resolve("B", |_| {}).expect("chosen");
    let reason = world.cluster.reason(&decision).expect("known").to_string();
    assert_eq!(
        reason,
        "greatest headroom: 992 Mbit/s of 1 Gbit/s free on node-2; 2 of 3 holders could serve (1 draining)"
    );
    assert_eq!(decision.alternates, [Some(world.links[2].node), None]);
}

#[test]
fn several_titles_go_to_one_node_when_that_costs_nothing() {
    let titles = ["B", "E", "H", "F"].map(|title| What::Title(Title::parse(title).expect("a title")));
    let ask = |what| Ask { what, purpose: Purpose::Play, range: Range::default(), rate: None, exclude: &[], zone: "" };
    let many = |world: &mut World| -> Vec<u32> {
        let asks: Vec<_> = titles.iter().zip(1..).map(|(what, id)| (SessionId(id), ask(what))).collect();
        let decided = world.cluster.resolve_many(world.now, &asks, &mut world.rng);
        decided.into_iter().map(|result| result.expect("chosen").first.0).collect()
    };
    let mut world = World::figure_4();
    assert_eq!(many(&mut world), [1, 1, 1, 1], "node-2 has all four");
    assert_eq!(world.booked(1), 32 * MBIT, "each is reserved");

    let mut world = World::figure_4();
    world.report(1, 600 * MBIT, vec![]);
    assert_eq!(many(&mut world), [2, 2, 2, 1], "node-2 has little left, and is asked only for what no other has");
}

#[test]
fn a_node_that_is_gone_keeps_its_titles_for_a_while() {
    let mut world = World::figure_4();
    world.cluster.events();
    world.cluster.detach(world.now, world.links[2]);
    assert_eq!(world.cluster.events(), [Event::State(world.links[2].node, State::Gone)]);
    let down = world.resolve("J", |_| {}).expect_err("down");
    assert!(matches!(down, Refused::NoChoice { why: NoChoice::Down(_), .. }), "{down}");
    world.wait(LEASE + crate::core::roster::GRACE);
    while world.cluster.sweep() {}
    let gone = world.resolve("J", |_| {}).expect_err("gone");
    assert!(matches!(gone, Refused::NoChoice { why: NoChoice::NotFound, .. }), "{gone}");
}

proptest! {
    /// Whatever happens, a decision is for a node that may have it, and no node is booked beyond its capacity by
    /// decisions; and when all is quiet the ledger holds nothing.
    #[test]
    fn decisions_are_sound(steps in proptest::collection::vec((0_u8..9, 0_usize..3, 1_u64..300), 1..150)) {
        let mut world = World::figure_4();
        let mut open: Vec<(usize, SessionId, u64)> = Vec::new();
        let mut draining = [false; 3];
        for (what, node, size) in steps {
            match what {
                0..=4 => {
                    let title = ["A", "B", "E", "J", "H"][usize::from(what)];
                    let rate = Bitrate(size * MBIT);
                    if let Ok(decision) = world.resolve(title, |ask| ask.rate = Some(rate)) {
                        let chosen = decision.first.0 as usize;
                        let holders: &[usize] = [&[0][..], &[0, 1, 2], &[1, 2], &[2], &[1, 2]][usize::from(what)];
                        prop_assert!(holders.contains(&chosen));
                        prop_assert!(!draining[chosen]);
                        prop_assert!(world.booked(chosen) <= 1000 * MBIT);
                        open.push((chosen, decision.session, rate.0));
                    }
                }
                5 => {
                    // The node reports everything that began there.
                    let mine: Vec<_> = open.iter().filter(|session| session.0 == node).collect();
                    let committed = mine.iter().map(|session| session.2).sum();
                    let settled = mine.iter().map(|session| session.1).collect();
                    world.report(node, committed, settled);
                    prop_assert_eq!(world.booked(node), committed);
                }
                6 => {
                    // Every session there ended, or was refused at the door.
                    let settled = open.iter().filter(|session| session.0 == node).map(|session| session.1).collect();
                    open.retain(|session| session.0 != node);
                    world.report(node, 0, settled);
                    prop_assert_eq!(world.booked(node), 0);
                }
                7 => {
                    draining[node] = !draining[node];
                    world.cluster.presence(world.links[node], presence(draining[node]));
                }
                _ => {
                    world.wait(Duration::from_millis(size * 10));
                    for node in 0..3 {
                        let committed = open.iter().filter(|s| s.0 == node).map(|s| s.2).sum();
                        let settled = open.iter().filter(|s| s.0 == node).map(|s| s.1).collect();
                        world.report(node, committed, settled);
                    }
                }
            }
        }
        world.wait(RESERVATION);
        for node in 0..3 {
            let committed = open.iter().filter(|session| session.0 == node).map(|session| session.2).sum();
            world.report(node, committed, vec![]);
            prop_assert_eq!(world.booked(node), committed);
        }
        prop_assert!(world.cluster.ledger().is_empty());
    }
}
