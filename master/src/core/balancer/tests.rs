//! Tables of nodes and who is chosen.

use std::time::{Duration, Instant};

use rand::{SeedableRng as _, rngs::SmallRng};
use usher_proto::{
    BootId, NodeName, SessionId,
    model::{Equipment, Hello, Presence, Report},
};

use super::*;
use crate::core::roster::Link;

struct Nodes {
    now: Now,
    roster: Roster,
    ledger: Ledger,
    rng: SmallRng,
}

/// Nodes of 1000 bit/s in zones `a`, `b`, `a`, `b`…, that sell and send this much.
fn nodes(loads: &[(u64, u64)]) -> Nodes {
    let now = Now { instant: Instant::now(), unix_ms: 0 };
    let mut roster = Roster::default();
    for ((committed, egress), i) in loads.iter().zip(0..) {
        let link = attach(&mut roster, now, i);
        let report =
            Report { sequence: 1, committed: Bitrate(*committed), egress: Bitrate(*egress), ..Report::default() };
        roster.report(now, link, report).expect("taken");
    }
    Nodes { now, roster, ledger: Ledger::default(), rng: SmallRng::seed_from_u64(7) }
}

fn attach(roster: &mut Roster, now: Now, i: u32) -> Link {
    let hello = Hello {
        node: NodeName::parse(&format!("n{i}")).expect("a name"),
        boot: BootId(u128::from(i)),
        version: String::new(),
        zone: if i.is_multiple_of(2) { "a" } else { "b" }.to_owned(),
        capacity: Bitrate(1000),
        presence: Presence { addresses: vec![([127, 0, 0, 1], 1).into()], certificates: vec![], draining: false },
        attachment: 1,
        equipment: Equipment::default(),
        replica_bytes: 0,
    };
    let link = roster.attach(now, hello).expect("attached").0;
    roster.current(link).expect("attached").catalog_known = true;
    link
}

impl Nodes {
    fn order(&mut self, need: &Need<'_>) -> Result<Vec<u32>, NoChoice> {
        let holders: Vec<NodeId> = self.roster.nodes().map(|(id, _)| id).collect();
        let mut ranked = Vec::new();
        let parts = (&self.roster, &self.ledger);
        choose(self.now, need, holders.into_iter(), parts, &mut self.rng, &mut ranked)?;
        Ok(ranked.iter().map(|candidate| candidate.node.0).collect())
    }
}

fn need(rate: u64) -> Need<'static> {
    Need { rate: Bitrate(rate), exclude: &[], zone: "", coverage: None }
}

#[test]
fn the_greater_of_measured_and_booked_counts() {
    // Free: 400, 300, 200.
    let mut nodes = nodes(&[(600, 0), (0, 700), (100, 800)]);
    assert_eq!(nodes.order(&need(100)), Ok(vec![0, 1, 2]));
    assert_eq!(nodes.order(&need(201)), Ok(vec![0, 1]));
    nodes.ledger.reserve(nodes.now, SessionId(1), NodeId(0), 150);
    assert_eq!(nodes.order(&need(100)), Ok(vec![1, 0, 2]));
    let refused = nodes.order(&need(301)).expect_err("full");
    assert!(matches!(refused, NoChoice::Full { count: Count { full: 3, .. }, .. }), "{refused}");
    // A node that reports nonsense has no headroom, and no less.
    assert_eq!(headroom(nodes.roster.node(NodeId(0)).expect("known"), u64::MAX), 0);
}

#[test]
fn among_equals_the_fewest_tickets_then_the_lot() {
    let mut nodes = nodes(&[(100, 0), (100, 0), (0, 0), (0, 0)]);
    // As much booked everywhere, but by two tickets on the last.
    nodes.ledger.reserve(nodes.now, SessionId(1), NodeId(2), 100);
    nodes.ledger.reserve(nodes.now, SessionId(2), NodeId(3), 50);
    nodes.ledger.reserve(nodes.now, SessionId(3), NodeId(3), 50);
    let mut firsts = std::collections::HashSet::new();
    for _ in 0..64 {
        let order = nodes.order(&need(1)).expect("all fit");
        assert_eq!(order[2..], [2, 3]);
        firsts.insert(order[0]);
    }
    assert_eq!(firsts.len(), 2, "the lot falls on both");
}

#[test]
fn a_near_node_is_taken_when_it_has_about_as_much() {
    for (far, near, first) in [(0, 50, 1), (0, 51, 0), (50, 0, 1)] {
        let mut nodes = nodes(&[(far, 0), (near, 0)]);
        let order = nodes.order(&Need { zone: "b", ..need(1) }).expect("both fit");
        assert_eq!(order[0], first, "far {far} near {near}");
        let elsewhere = nodes.order(&Need { zone: "c", ..need(1) }).expect("both fit");
        assert_eq!(elsewhere[0], u32::from(far > near));
    }
}

#[test]
fn a_node_for_more_of_the_titles_is_taken_when_it_has_nearly_as_much() {
    let mut coverage = Coverage::default();
    coverage.add(NodeId(1));
    for (load, first) in [(250, 1), (251, 0)] {
        let mut nodes = nodes(&[(0, 0), (load, 0)]);
        let order = nodes.order(&Need { coverage: Some(&coverage), ..need(1) }).expect("both fit");
        assert_eq!(order[0], first, "load {load}");
    }
}

#[test]
fn who_may_not_be_chosen() {
    let mut nodes = nodes(&[(0, 0); 4]);
    let drop_lease = nodes.now.after(crate::core::roster::LEASE);
    let link = attach(&mut nodes.roster, drop_lease, 9);
    nodes.now = drop_lease;
    assert_eq!(nodes.order(&need(1)), Ok(vec![4]), "only the newcomer's lease is good");
    let draining = Presence { addresses: vec![([127, 0, 0, 1], 1).into()], certificates: vec![], draining: true };
    nodes.roster.presence(link, draining);
    let refused = nodes.order(&need(1)).expect_err("none");
    assert_eq!(refused, NoChoice::Down(Count { holders: 5, down: 4, draining: 1, ..Count::default() }));
    let nowhere = Presence { addresses: vec![], certificates: vec![], draining: false };
    nodes.roster.presence(link, nowhere);
    assert!(nodes.order(&need(1)).is_err(), "a node without an address cannot be dialled");
    nodes.roster.detach(nodes.now.after(Duration::from_secs(1)), link);
    assert!(nodes.order(&need(1)).is_err());
}
