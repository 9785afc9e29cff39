//! Small clusters in which every move and every chain of two can be tried.

use std::collections::BTreeMap;

use proptest::prelude::*;
use usher_proto::model::Origin;

use super::super::*;
use crate::core::{
    balancer::NoChoice,
    cluster::{Order, Refused},
    journal::Selection,
    test_cluster::{MBIT, TestCluster, copy},
};

const TITLES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A small cluster: capacities in Mbit/s; rate and holder bit mask of each title; title and preferred holder of each
/// running session; the requested title.
#[derive(Clone, Debug)]
struct ClusterCase {
    capacities: Vec<u64>,
    titles: Vec<(u64, u8)>,
    sessions: Vec<(usize, usize)>,
    ask: usize,
}

fn case() -> impl Strategy<Value = ClusterCase> {
    (
        proptest::collection::vec(4_u64..16, 2..5),
        proptest::collection::vec((1_u64..7, 1_u8..16), 2..7),
        proptest::collection::vec((0_usize..6, 0_usize..4), 3..9),
        0_usize..6,
    )
        .prop_map(|(capacities, titles, sessions, ask)| ClusterCase {
            ask: ask % titles.len(),
            capacities,
            titles,
            sessions,
        })
}

#[derive(Clone)]
struct RunningSession {
    node: usize,
    title: usize,
    rate: u64,
}

struct SmallCluster {
    test: TestCluster,
    case: ClusterCase,
    running: BTreeMap<SessionId, RunningSession>,
}

impl SmallCluster {
    /// Places each session where it fits; the others are left out.
    fn new(case: ClusterCase) -> Self {
        let capacities: Vec<u64> = case.capacities.iter().map(|capacity| capacity * MBIT).collect();
        let mut small = Self { test: TestCluster::new(&capacities), case: case.clone(), running: BTreeMap::new() };
        for node in 0..case.capacities.len() {
            let held = case.titles.iter().zip(TITLES).filter(|((_, holders), _)| holders >> node & 1 == 1);
            let copies = held.map(|((rate, _), title)| copy(title, rate * MBIT, Origin::Operator)).collect();
            small.test.copies(node, copies);
        }
        for (title, first) in &case.sessions {
            let title = title % case.titles.len();
            let rate = case.titles[title].0;
            let holders = small.holders(title);
            let at = holders.iter().cycle().skip(*first).take(holders.len()).find(|node| small.left(**node) >= rate);
            let Some(&node) = at else { continue };
            let session = small.test.run(node, TITLES[title], rate * MBIT, 1)[0];
            small.running.insert(session, RunningSession { node, title, rate });
        }
        small
    }

    fn holders(&self, title: usize) -> Vec<usize> {
        (0..self.case.capacities.len()).filter(|node| self.case.titles[title].1 >> node & 1 == 1).collect()
    }

    fn left(&self, node: usize) -> u64 {
        let used: u64 = self.running.values().filter(|one| one.node == node).map(|one| one.rate).sum();
        self.case.capacities[node] - used
    }

    /// Whether `rate` fits on `node` after at most `depth` moves, none of them to a node in `not`.
    fn can(&self, node: usize, rate: u64, depth: usize, not: &[usize]) -> bool {
        if self.left(node) >= rate {
            return true;
        }
        let short = rate - self.left(node);
        depth > 0
            && self.running.values().filter(|one| one.node == node && one.rate >= short).any(|one| {
                let not = [not, &[node]].concat();
                let seats = self.holders(one.title).into_iter().filter(|to| !not.contains(to));
                seats.into_iter().any(|to| self.can(to, one.rate, depth - 1, &not))
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_feasible_move_or_chain_is_found(case in case()) {
        let mut small = SmallCluster::new(case);
        let ask = small.case.ask;
        let rate = small.case.titles[ask].0;
        let holders = small.holders(ask);
        prop_assume!(!holders.is_empty());
        let feasible = holders.iter().any(|node| small.can(*node, rate, 2, &[]));
        match small.test.resolve(TITLES[ask], |_| {}) {
            Err(Refused::NoChoice { why: NoChoice::Full { .. } | NoChoice::TooFast { .. }, .. }) => {
                let fits = holders.iter().any(|node| small.case.capacities[*node] >= rate);
                prop_assert!(!feasible || !fits, "refused");
            }
            Err(other) => prop_assert!(false, "{other}"),
            Ok(decision) => {
                let orders = small.test.cluster.poll_orders().into_iter();
                let steps: Vec<SessionMove> =
                    orders.filter_map(|order| if let Order::Move(step) = order { Some(step) } else { None }).collect();
                if let Selection::Moved(count) = decision.how {
                    prop_assert_eq!(count, steps.len());
                    prop_assert!(count <= MAX_STEPS && holders.iter().all(|node| small.left(*node) < rate));
                } else {
                    prop_assert!(steps.is_empty());
                }
                // Each move is possible after the ones before it.
                let mut moved = Vec::new();
                for step in steps {
                    let (from, to) = (step.from.0 as usize, step.to.0 as usize);
                    let one = small.running.get(&step.session).expect("it runs").clone();
                    prop_assert_eq!((one.node, one.rate * MBIT), (from, step.rate));
                    prop_assert!(from != to && small.holders(one.title).contains(&to));
                    prop_assert!(small.left(to) >= one.rate, "no headroom for it yet");
                    prop_assert!(!moved.contains(&step.session), "twice");
                    moved.push(step.session);
                    small.running.insert(step.session, RunningSession { node: to, ..one });
                }
                let chosen = decision.first.0 as usize;
                prop_assert!(holders.contains(&chosen) && small.left(chosen) >= rate);
            }
        }
    }
}

/// The first holder's only session can go to a full node after that moves one of its own to a third.
#[test]
fn a_chain_of_two() {
    let case = ClusterCase {
        capacities: vec![4, 4, 4],
        titles: vec![(4, 0b001), (4, 0b011), (4, 0b110)],
        sessions: vec![(1, 0), (2, 0)],
        ask: 0,
    };
    let mut small = SmallCluster::new(case);
    assert_eq!([0, 1, 2].map(|node| small.left(node)), [0, 0, 4]);
    assert_eq!(small.test.resolve("a", |_| {}).map(|decision| decision.how), Ok(Selection::Moved(2)));
}

/// No single session is large enough.
#[test]
fn several_for_one() {
    let case = ClusterCase {
        capacities: vec![6, 6],
        titles: vec![(6, 0b01), (2, 0b11)],
        sessions: vec![(1, 0), (1, 0), (1, 0)],
        ask: 0,
    };
    let mut small = SmallCluster::new(case);
    assert_eq!([0, 1].map(|node| small.left(node)), [0, 6]);
    assert_eq!(small.test.resolve("a", |_| {}).map(|decision| decision.how), Ok(Selection::Moved(3)));
}

#[test]
fn no_session_is_moved_more_than_twice() {
    let mut test = TestCluster::new(&[8 * MBIT, 8 * MBIT]);
    for (node, only) in [(0, "x"), (1, "y")] {
        test.titles(node, &["b", only]);
    }
    let session = test.run(0, "b", 8 * MBIT, 1)[0];
    for (only, from, to) in [("x", 0, 1), ("y", 1, 0)] {
        let decision = test.resolve(only, |_| {}).expect("capacity is freed");
        assert_eq!(decision.how, Selection::Moved(1), "{only}");
        test.begin(to, session, "b", 8 * MBIT);
        test.end(from, session, 8 * MBIT);
        test.cluster.release(decision.session);
    }
    assert!(test.resolve("x", |_| {}).is_err());
}
