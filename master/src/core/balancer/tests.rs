//! Tables of nodes and the resulting choice.

mod need;

use std::{collections::HashMap, time::Duration};

use rand::{SeedableRng as _, rngs::SmallRng};
use usher_proto::{
    SessionId,
    model::{Equipment, Hello, Presence, Report},
    ticket::Purpose,
};

use super::*;
use crate::core::{
    Now,
    ledger::Booking,
    roster::{AttachmentId, LEASE},
    test_cluster::{hello, presence},
};

/// The tables use Mbit/s, a thousandth of this.
const CAPACITY: u64 = 1_000_000_000;

struct Nodes {
    now: Now,
    roster: Roster,
    ledger: Ledger,
    rng: SmallRng,
    rule: RankRule,
    zones: Zones,
    common: ClusterStats,
    attachments: Vec<AttachmentId>,
    ranked: Vec<Candidate>,
}

/// Warm nodes of 1 Gbit/s in zones `a`, `b`, `a`, `b`…, each with this committed rate and background traffic in Mbit/s.
fn nodes(loads: &[(u64, u64)]) -> Nodes {
    let mut nodes = Nodes {
        now: Now { instant: Instant::now(), unix_ms: 0 },
        roster: Roster::default(),
        ledger: Ledger::default(),
        rng: SmallRng::seed_from_u64(7),
        rule: RankRule::default(),
        zones: Zones::default(),
        common: ClusterStats::default(),
        attachments: Vec::new(),
        ranked: Vec::new(),
    };
    for ((committed, background), i) in loads.iter().zip(0..) {
        nodes.attach(i, |_| {});
        nodes.report(i, *committed, *background);
    }
    nodes
}

fn need(rate: u64) -> SeatCriteria<'static> {
    const NOTHING: &Requirements =
        &Requirements { protocol: None, labels: Vec::new(), live_ingest: false, records: false };
    SeatCriteria { rate: rate * 1_000_000, exclude: &[], full: &[], zone: "", needs: NOTHING, coverage: None }
}

impl Nodes {
    fn attach(&mut self, i: usize, change: impl FnOnce(&mut Hello)) {
        let zone = if i.is_multiple_of(2) { "a" } else { "b" }.to_owned();
        let mut hello = Hello { zone, ..hello(i, CAPACITY) };
        change(&mut hello);
        let attachment = self.roster.handle_attach(self.now, hello).expect("attached").0;
        self.roster.current(attachment).expect("attached").catalog_known = true;
        self.attachments.push(attachment);
    }

    fn report(&mut self, i: usize, committed: u64, background: u64) {
        let sequence = self.roster.node(NodeId(i as u32)).expect("known").report.sequence + 1;
        let (committed, background) = (Bitrate(committed * 1_000_000), Bitrate(background * 1_000_000));
        let report = Report { sequence, uptime_ms: 1_000_000 * sequence, committed, background, ..Report::default() };
        self.roster.handle_report(self.now, self.attachments[i], report).expect("taken");
        let uptime = Duration::from_secs(1000 * sequence);
        self.roster.handle_sessions(self.now.instant, self.attachments[i], uptime, committed.0, 0);
    }

    fn reserve(&mut self, session: u128, node: u32, rate: u64) {
        let (session, node, rate) = (SessionId(session), NodeId(node), rate * 1_000_000);
        let booking = Booking { session, node, content: None, rate, purpose: Purpose::Play };
        self.ledger.reserve(self.now, booking, None);
    }

    /// Assesses all nodes; the copies of those in `growing` are incomplete.
    fn rank(&mut self, criteria: &SeatCriteria<'_>, growing: &[u32]) -> HolderCounts {
        let holders: Vec<(NodeId, bool)> = self.roster.nodes().map(|(id, _)| (id, !growing.contains(&id.0))).collect();
        let Self { now, roster, ledger, rng, rule, zones, common, ranked, .. } = self;
        let view = ClusterView { now: now.instant, roster, ledger, common: *common, rule: *rule, zones, copying: &[] };
        rank(&view, criteria, holders.into_iter(), rng, ranked)
    }

    fn order(&mut self, criteria: &SeatCriteria<'_>) -> Vec<u32> {
        self.rank(criteria, &[]);
        let fit = self.ranked.iter().filter(|candidate| candidate.verdict == Verdict::Fit);
        fit.map(|candidate| candidate.node.0).collect()
    }

    fn verdict(&mut self, criteria: &SeatCriteria<'_>, node: u32) -> Verdict {
        self.rank(criteria, &[]);
        self.ranked.iter().find(|candidate| candidate.node.0 == node).expect("looked at").verdict
    }
}

#[test]
fn reservations_and_background_traffic_both_count() {
    // Free bit/s in Mbit/s: 400, 300, 100.
    let mut nodes = nodes(&[(600, 0), (100, 600), (100, 800)]);
    assert_eq!(nodes.order(&need(100)), [1, 0, 2], "the steady traffic of others is safer than many sessions");
    assert_eq!(nodes.order(&need(101)), [1, 0]);
    nodes.reserve(1, 1, 150);
    assert_eq!(nodes.order(&need(100)), [0, 1, 2]);
    let refused = nodes.rank(&need(401), &[]).refuse(Bitrate(1));
    assert!(matches!(refused, NoChoice::Full { count: HolderCounts { full: 3, .. }, .. }), "{refused}");
}

#[test]
fn equal_nodes_are_chosen_equally_often() {
    let mut nodes = nodes(&[(100, 0), (100, 0), (200, 0)]);
    let mut firsts: HashMap<u32, u32> = HashMap::new();
    for _ in 0..200 {
        let order = nodes.order(&need(1));
        assert_eq!(order[2..], [2]);
        *firsts.entry(order[0]).or_default() += 1;
    }
    assert!(firsts.len() == 2 && firsts.values().all(|count| *count > 60), "{firsts:?}");
}

#[test]
fn a_near_node_is_taken_until_it_is_nearly_full() {
    for (far, near, first) in [(0, 0, 1), (0, 600, 1), (0, 950, 0), (300, 0, 1), (950, 950, 1)] {
        let mut nodes = nodes(&[(far, 0), (near, 0)]);
        assert_eq!(nodes.order(&SeatCriteria { zone: "b", ..need(1) })[0], first, "far {far} near {near}");
        let elsewhere = nodes.order(&SeatCriteria { zone: "", ..need(1) });
        assert!(far == near || elsewhere[0] == u32::from(far > near));
    }
}

#[test]
fn an_expensive_link_is_taken_only_when_all_else_is_full() {
    for (price, near, first) in [(0, 100, 0), (900, 950, 1), (900, 999, 0), (1100, 999, 1), (1100, 1000, 0)] {
        let mut nodes = nodes(&[(0, 0), (near, 0)]);
        nodes.zones = Zones::new(vec![ZoneLink { from: "b".into(), to: "a".into(), price }]);
        assert_eq!(nodes.order(&SeatCriteria { zone: "b", ..need(1) })[0], first, "price {price} near {near}");
    }
}

#[test]
fn a_node_for_more_of_the_titles_is_taken_when_it_is_not_nearly_full() {
    let mut coverage = Coverage::default();
    coverage.add(NodeId(1));
    for (load, first) in [(0, 1), (600, 1), (950, 0)] {
        let mut nodes = nodes(&[(0, 0), (load, 0)]);
        let order = nodes.order(&SeatCriteria { coverage: Some(&coverage), ..need(1) });
        assert_eq!(order[0], first, "load {load}");
    }
    assert_eq!(
        nodes(&[(10, 0), (0, 0)]).order(&SeatCriteria { coverage: Some(&Coverage::default()), ..need(1) })[0],
        1
    );
}

#[test]
fn the_rules_differ() {
    // A small, nearly empty node, and a large one that is fuller but has more free bit/s.
    let order = |rule, rate| {
        let mut nodes = nodes(&[(200, 0)]);
        nodes.attach(1, |hello| hello.capacity = Bitrate(10 * CAPACITY));
        nodes.report(1, 8800, 0);
        nodes.rule = rule;
        nodes.order(&need(rate))
    };
    assert_eq!(order(RankRule::Headroom, 1), [1, 0], "1200 are more than 800");
    assert_eq!(order(RankRule::Margin, 1), [0, 1], "the small one is more deviations from full");
    // At equal load, the request takes a larger share of the small node.
    let order = |rule| {
        let mut nodes = nodes(&[(500, 0)]);
        nodes.attach(1, |hello| hello.capacity = Bitrate(10 * CAPACITY));
        nodes.report(1, 5000, 0);
        nodes.rule = rule;
        nodes.order(&need(100))
    };
    for rule in [RankRule::Headroom, RankRule::Margin] {
        assert_eq!(order(rule), [1, 0], "{rule:?}");
    }
}

#[test]
fn unavailable_nodes_are_not_chosen() {
    let mut nodes = nodes(&[(0, 0); 4]);
    nodes.now = nodes.now.after(LEASE);
    nodes.attach(4, |_| {});
    assert_eq!(nodes.order(&need(1)), [4], "only the newcomer's lease is good");
    nodes.roster.handle_presence(nodes.now.instant, nodes.attachments[4], presence(true));
    let count = HolderCounts { holders: 5, down: 4, draining: 1, largest: CAPACITY, ..HolderCounts::default() };
    assert_eq!(nodes.rank(&need(1), &[]).refuse(Bitrate(1)), NoChoice::Down(count));
    let nowhere =
        Presence { drain_left: std::time::Duration::ZERO, addresses: vec![], certificates: vec![], draining: false };
    nodes.roster.handle_presence(nodes.now.instant, nodes.attachments[4], nowhere);
    assert_eq!(nodes.verdict(&need(1), 4), Verdict::Down, "a node without an address cannot be dialled");
    nodes.roster.handle_detach(nodes.now, nodes.attachments[4]);
    assert_eq!(nodes.verdict(&need(1), 4), Verdict::Down);
}
