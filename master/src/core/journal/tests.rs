//! Explanations word for word, and the bounds of the journal.

use usher_proto::{
    Bitrate,
    model::{Origin, Range},
};

use super::*;
use crate::core::{
    cluster::{SeatRequest, Settings},
    roster::NodeHealth,
    test_cluster::{MBIT, RATE, TestCluster, copy, play, presence},
};

/// Explanation of a hypothetical decision.
fn explain(test: &mut TestCluster, title: &str) -> String {
    let play = play(title);
    let record = test.cluster.explain(test.now, &SeatRequest::from(&play), &mut test.rng).expect("known");
    Explanation { record: &record, roster: test.cluster.roster() }.to_string()
}

#[test]
fn the_best_of_three_with_one_full_and_one_draining() {
    let mut test = TestCluster::figure_4();
    test.run(0, "B", RATE, 125);
    test.run(1, "B", RATE, 10);
    test.cluster.handle_presence(test.now, test.attachments[2], presence(true));
    assert_eq!(explain(&mut test, "B"), BEST);
}

const BEST: &str = "\
B to play, 8 Mbit/s to reserve
node-2: the farthest from full
NODE    ZONE  VERDICT   AVAILABLE  LEVEL      MARGIN  NOTE
node-2  z2    chosen    1 Gbit/s   80 Mbit/s  22.8
node-1  z1    full      1 Gbit/s   1 Gbit/s   -
node-3  z3    draining  1 Gbit/s   0 bit/s    -
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn the_only_holder() {
    assert_eq!(explain(&mut TestCluster::figure_4(), "A"), ONLY);
}

const ONLY: &str = "\
A to play, 8 Mbit/s to reserve
node-1: the only holder
NODE    ZONE  VERDICT  AVAILABLE  LEVEL    MARGIN  NOTE
node-1  z1    chosen   1 Gbit/s   0 bit/s  24.8
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn room_is_made() {
    let mut test = TestCluster::figure_4();
    test.run(0, "B", RATE, 125);
    assert_eq!(explain(&mut test, "A"), MOVED);
    assert!(test.cluster.poll_orders().is_empty(), "and nothing was moved by asking");
}

const MOVED: &str = "\
A to play, 8 Mbit/s to reserve
node-1: every holder was full; a session is moved to make room
NODE    ZONE  VERDICT  AVAILABLE  LEVEL     MARGIN  NOTE
node-1  z1    chosen   1 Gbit/s   1 Gbit/s  -
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn refused_for_lack_of_capacity() {
    let mut test = TestCluster::with(Settings { moves: false, ..Settings::default() }, &[16 * MBIT, 100 * MBIT]);
    test.titles(0, &["A"]);
    test.titles(1, &["A"]);
    test.run(0, "A", RATE, 2);
    test.cluster.handle_detach(test.now, test.attachments[1]);
    assert_eq!(explain(&mut test, "A"), FULL);
}

const FULL: &str = "\
A to play, 8 Mbit/s to reserve
refused: its holders have no capacity for another 8 Mbit/s: 1 down, 1 full of 2; try again shortly
NODE    ZONE  VERDICT  AVAILABLE  LEVEL      MARGIN  NOTE
node-1  z1    full     16 Mbit/s  16 Mbit/s  -
node-2  z2    down     -          -          -
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn every_holder_is_suspect() {
    let mut test = TestCluster::figure_4();
    test.wait(std::time::Duration::from_millis(3500));
    let node = test.cluster.roster().node(test.id(0)).expect("known");
    assert_eq!(node.health(test.now.instant), NodeHealth::Suspect);
    assert_eq!(explain(&mut test, "A"), PANIC);
}

const PANIC: &str = "\
A to play, 8 Mbit/s to reserve
node-1: no holder is healthy, and this one has the most headroom
NODE    ZONE  VERDICT  AVAILABLE  LEVEL    MARGIN  NOTE
node-1  z1    chosen   1 Gbit/s   0 bit/s  -
margin: standard deviations of the node's load between it and full, after this request
";

/// An incomplete copy serves only requests from the beginning.
#[test]
fn a_copy_that_grows() {
    let mut test = TestCluster::new(&[100 * MBIT; 2]);
    test.copies(0, vec![copy("A", RATE, Origin::Growing)]);
    test.titles(1, &["A"]);
    let mut play = play("A");
    play.range = Range { start: 7, end: None };
    let ask = SeatRequest { tag: 3, ..SeatRequest::from(&play) };
    let session = test.session();
    test.cluster.resolve(test.now, session, &ask, &mut test.rng).expect("room");
    let record = test.cluster.decision(3).expect("kept");
    assert_eq!(Explanation { record, roster: test.cluster.roster() }.to_string(), GROWING);
}

const GROWING: &str = "\
A to play, 8 Mbit/s to reserve
node-2: the farthest from full
NODE    ZONE  VERDICT  AVAILABLE   LEVEL    MARGIN  NOTE
node-2  z2    chosen   100 Mbit/s  0 bit/s  7.2
node-1  z1    growing  100 Mbit/s  0 bit/s  -
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn reductions_are_noted() {
    let mut test = TestCluster::new(&[1000 * MBIT; 2]);
    test.titles(0, &["A"]);
    test.titles(1, &["A"]);
    for second in 0..40 {
        test.seconds(1);
        let others = if second % 2 == 0 { 200 } else { 0 };
        test.report(0, |report| report.background = Bitrate(others * MBIT));
    }
    test.report(0, |report| (report.demand, report.delivered) = (Bitrate(900 * MBIT), Bitrate(600 * MBIT)));
    assert_eq!(explain(&mut test, "A"), NOTES);
}

const NOTES: &str = "\
A to play, 8 Mbit/s to reserve
node-2: the farthest from full
NODE    ZONE  VERDICT    AVAILABLE   LEVEL    MARGIN  NOTE
node-2  z2    chosen     1 Gbit/s    0 bit/s  24.8
node-1  z1    alternate  550 Mbit/s  0 bit/s  18.2    delivers less than its capacity (-400 Mbit/s), background \
    traffic fluctuates (-50 Mbit/s)
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn a_young_node_is_taken_at_need() {
    let mut test = TestCluster::new(&[100 * MBIT]);
    let hello = crate::core::test_cluster::hello(2, 100 * MBIT);
    let attachment = test.cluster.handle_attach(test.now, hello).expect("attached");
    test.attachments.push(attachment);
    test.attachments.remove(0);
    test.titles(0, &["A"]);
    test.run(0, "A", RATE, 0);
    for _ in 0..3 {
        test.resolve("A", |_| {}).expect("a quarter");
    }
    assert_eq!(explain(&mut test, "A"), COLD);
}

const COLD: &str = "\
A to play, 8 Mbit/s to reserve
node-2: every holder is full; this one uses its reserve
NODE    ZONE  VERDICT  AVAILABLE  LEVEL      MARGIN  NOTE
node-2  z2    chosen   25 Mbit/s  24 Mbit/s  -       has just started (-75 Mbit/s)
margin: standard deviations of the node's load between it and full, after this request
";

#[test]
fn a_missing_title_is_refused() {
    let mut test = TestCluster::figure_4();
    let play = play("I");
    let refused = test.cluster.explain(test.now, &SeatRequest::from(&play), &mut test.rng).expect_err("nobody has it");
    assert_eq!(refused.to_string(), "`I`: no node holds it; `usher ls` lists all titles");
}

#[test]
fn the_journal_is_bounded() {
    let mut test = TestCluster::new(&[100 * MBIT; 10]);
    for node in 0..10 {
        test.titles(node, &["A"]);
    }
    let text = explain(&mut test, "A");
    assert!(text.contains("and 2 more holders\n") && text.lines().count() == 3 + MAX_RECORDED + 2, "{text}");
    let play = play("A");
    let record = test.cluster.explain(test.now, &SeatRequest::from(&play), &mut test.rng).expect("known");
    let mut journal = Journal::default();
    assert!(journal.is_empty());
    for tag in 0..KEPT as u64 + 10 {
        journal.keep(DecisionRecord { tag, ..record.clone() });
        journal.keep(DecisionRecord { tag, rate: Bitrate(tag), ..record.clone() });
    }
    assert_eq!(journal.len(), KEPT);
    let last = KEPT as u64 + 9;
    assert_eq!(journal.find(last).map(|record| record.rate), Some(Bitrate(last)), "the later of two");
    assert!(journal.find(0).is_none() && journal.find(last - KEPT as u64 / 2).is_none());
    assert!(journal.find(last - KEPT as u64 / 2 + 1).is_some());
}
