//! What an attachment that was replaced, or a process that is gone, still says: it changes nothing of what its successor
//! said, whatever it is about and whenever it comes.

use super::*;
use crate::core::world::{copy, hello};
use usher_proto::model::{CatalogCopy, Origin};

fn page(restart: bool, copies: Vec<CatalogCopy>, removals: &[&str]) -> CatalogPage {
    let removals = removals.iter().map(|title| (Title::parse(title).expect("a title"), 0)).collect();
    CatalogPage { restart, complete: true, copies, removals, ..CatalogPage::default() }
}

/// All that can be seen of node 1.
fn seen(world: &World) -> String {
    let (id, cluster) = (world.id(0), &world.cluster);
    let node = cluster.roster().node(id).expect("known");
    let titles: Vec<String> = cluster.list("", None).map(|found| format!("{found:?}")).collect();
    format!(
        "{:?} {:?} {:?} {:?} {:?} {} {} {:?} {:?} {:?}",
        node.state,
        node.hello,
        node.report,
        node.rejected_files,
        node.standing(world.now.instant),
        cluster.ledger().len(),
        cluster.ledger().running(id),
        cluster.load(world.now, id),
        cluster.drain_left(world.now, id),
        titles,
    )
}

#[test]
fn an_older_attachment_or_process_says_nothing_any_more() {
    for same in [true, false] {
        let mut world = World::figure_4();
        world.run(0, "A", RATE, 3);
        let old = world.links[0];
        if !same {
            // Its channel is lost with the process, and what it sent may still wait to be read.
            world.cluster.detach(world.now, old);
        }
        let again = Hello { boot: BootId(if same { 1 } else { 99 }), attachment: 2, ..hello(1, 1000 * MBIT) };
        world.links[0] = world.cluster.attach(world.now, again).expect("attached");
        world.titles(0, &["A", "B"]);
        let session = world.run(0, "A", RATE, 1)[0];
        world.report(0, |report| report.egress = Bitrate(RATE));
        let before = seen(&world);

        let now = world.now;
        let cluster = &mut world.cluster;
        let report = Report { sequence: 999, uptime_ms: 9_999_999, committed: Bitrate(7), ..Report::default() };
        assert_eq!(cluster.report(now, old, report), Err(Ignored::Superseded));
        assert_eq!(cluster.page(old, &page(true, vec![copy("Z", RATE, Origin::Operator)], &[])), Ok(None));
        assert_eq!(cluster.page(old, &page(false, vec![], &["A", "B"])), Ok(None));
        let mut sessions = Sessions { restart: true, complete: true, ..Sessions::default() };
        assert_eq!(cluster.sessions(now, old, sessions.clone()), Err(Ignored::Superseded));
        sessions.ended = vec![session];
        sessions.begun = vec![begun(SessionId(777), "B", RATE)];
        sessions.turned = vec![Turned { session, code: Code::NoCapacity, limit: Some(Bitrate(1)) }];
        sessions.restart = false;
        assert_eq!(cluster.sessions(now, old, sessions), Err(Ignored::Superseded));
        let drain = Presence { drain_left: Duration::from_secs(9), ..presence(true) };
        cluster.presence(now, old, drain);
        cluster.probed(now, old);
        cluster.detach(now, old);
        assert!(
            cluster.events().iter().all(|event| !matches!(event, Event::State(_, State::Gone | State::Draining)))
                || !same
        );
        assert_eq!(seen(&world), before, "the same process: {same}");
    }
}

#[test]
fn half_a_catalog_of_an_older_attachment_does_not_go_on() {
    let mut world = World::figure_4();
    let old = world.links[0];
    let first = CatalogPage { complete: false, ..page(true, vec![copy("X", RATE, Origin::Operator)], &[]) };
    assert!(world.cluster.page(old, &first).expect("taken").is_some());
    let again = Hello { attachment: 2, ..hello(1, 1000 * MBIT) };
    world.links[0] = world.cluster.attach(world.now, again).expect("attached");
    world.cluster.page(world.links[0], &page(true, vec![copy("A", RATE, Origin::Operator)], &[])).expect("taken");
    assert_eq!(world.cluster.page(old, &page(false, vec![copy("Y", RATE, Origin::Operator)], &[])), Ok(None));
    let of_the_first = |title: &str| {
        let versions = world.cluster.versions(&Title::parse(title).expect("a title"));
        versions.iter().any(|found| world.cluster.catalog().holders(found).any(|holder| holder == world.id(0)))
    };
    assert!(of_the_first("A") && !of_the_first("X") && !of_the_first("Y") && !of_the_first("B"));
}
