//! Messages of a replaced attachment or an ended process change nothing that its successor reported, whatever their
//! kind and time.

use super::*;
use crate::core::test_cluster::{copy, hello};
use usher_proto::model::{CatalogCopy, Origin};

fn page(restart: bool, copies: Vec<CatalogCopy>, removals: &[&str]) -> CatalogPage {
    let removals = removals.iter().map(|title| (Title::parse(title).expect("a title"), 0)).collect();
    CatalogPage { restart, complete: true, copies, removals, ..CatalogPage::default() }
}

/// The observable state of node 1.
fn seen(test: &TestCluster) -> String {
    let (id, cluster) = (test.id(0), &test.cluster);
    let node = cluster.roster().node(id).expect("known");
    let titles: Vec<String> = cluster.list("", None).map(|found| format!("{found:?}")).collect();
    format!(
        "{:?} {:?} {:?} {:?} {:?} {} {} {:?} {:?} {:?}",
        node.state,
        node.hello,
        node.report,
        node.rejected_files,
        node.health(test.now.instant),
        cluster.ledger().len(),
        cluster.ledger().running(id),
        cluster.load(test.now, id),
        cluster.drain_left(test.now, id),
        titles,
    )
}

#[test]
fn a_replaced_attachment_or_process_is_ignored() {
    for same in [true, false] {
        let mut test = TestCluster::figure_4();
        test.run(0, "A", RATE, 3);
        let old = test.attachments[0];
        if !same {
            // Its channel ends with the process, and its messages may still be queued.
            test.cluster.handle_detach(test.now, old);
        }
        let again = Hello { boot: BootId(if same { 1 } else { 99 }), attachment: 2, ..hello(1, 1000 * MBIT) };
        test.attachments[0] = test.cluster.handle_attach(test.now, again).expect("attached");
        test.titles(0, &["A", "B"]);
        let session = test.run(0, "A", RATE, 1)[0];
        test.report(0, |report| report.egress = Bitrate(RATE));
        let before = seen(&test);

        let now = test.now;
        let cluster = &mut test.cluster;
        let report = Report { sequence: 999, uptime_ms: 9_999_999, committed: Bitrate(7), ..Report::default() };
        assert_eq!(cluster.handle_report(now, old, report), Err(Ignored::Superseded));
        assert_eq!(cluster.handle_page(old, &page(true, vec![copy("Z", RATE, Origin::Operator)], &[])), Ok(None));
        assert_eq!(cluster.handle_page(old, &page(false, vec![], &["A", "B"])), Ok(None));
        let mut sessions = Sessions { restart: true, complete: true, ..Sessions::default() };
        assert_eq!(cluster.handle_sessions(now, old, sessions.clone()), Err(Ignored::Superseded));
        sessions.ended = vec![session];
        sessions.begun = vec![begun(SessionId(777), "B", RATE)];
        sessions.turned = vec![Turned { session, code: Code::NoCapacity, limit: Some(Bitrate(1)) }];
        sessions.restart = false;
        assert_eq!(cluster.handle_sessions(now, old, sessions), Err(Ignored::Superseded));
        let drain = Presence { drain_left: Duration::from_secs(9), ..presence(true) };
        cluster.handle_presence(now, old, drain);
        cluster.handle_probe_answer(now, old);
        cluster.handle_detach(now, old);
        assert!(
            cluster
                .poll_events()
                .iter()
                .all(|event| !matches!(event, ClusterEvent::State(_, NodeState::Gone | NodeState::Draining)))
                || !same
        );
        assert_eq!(seen(&test), before, "the same process: {same}");
    }
}

#[test]
fn half_a_catalog_of_an_older_attachment_does_not_go_on() {
    let mut test = TestCluster::figure_4();
    let old = test.attachments[0];
    let first = CatalogPage { complete: false, ..page(true, vec![copy("X", RATE, Origin::Operator)], &[]) };
    assert!(test.cluster.handle_page(old, &first).expect("taken").is_some());
    let again = Hello { attachment: 2, ..hello(1, 1000 * MBIT) };
    test.attachments[0] = test.cluster.handle_attach(test.now, again).expect("attached");
    test.cluster
        .handle_page(test.attachments[0], &page(true, vec![copy("A", RATE, Origin::Operator)], &[]))
        .expect("taken");
    assert_eq!(test.cluster.handle_page(old, &page(false, vec![copy("Y", RATE, Origin::Operator)], &[])), Ok(None));
    let of_the_first = |title: &str| {
        let versions = test.cluster.versions(&Title::parse(title).expect("a title"));
        versions.iter().any(|found| test.cluster.catalog().holders(found).any(|holder| holder == test.id(0)))
    };
    assert!(of_the_first("A") && !of_the_first("X") && !of_the_first("Y") && !of_the_first("B"));
}
