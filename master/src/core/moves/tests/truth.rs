//! Nodes that execute every order and report late: decisions and moves alone never exceed a capacity.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::SmallRng};
use usher_proto::{
    Bitrate,
    model::{Origin, Sessions},
};

use super::super::*;
use crate::core::{
    Now,
    cluster::Order,
    test_cluster::{MBIT, TestCluster, begun, copy},
};

const TITLES: [(&str, u64); 5] = [("a", 3), ("b", 5), ("c", 8), ("d", 13), ("e", 2)];

struct Truth {
    test: TestCluster,
    /// Node and title of each running session.
    running: BTreeMap<SessionId, (usize, usize)>,
    /// Unredeemed tickets: due time, node and title.
    tickets: BTreeMap<SessionId, (Now, usize, usize)>,
    /// Updates in flight by arrival time, in order per node.
    in_flight: VecDeque<(Now, usize, Sessions)>,
}

impl Truth {
    fn rate(title: usize) -> u64 {
        TITLES[title].1 * MBIT
    }

    fn committed(&self, node: usize) -> u64 {
        self.running.values().filter(|(at, _)| *at == node).map(|(_, title)| Self::rate(*title)).sum()
    }

    fn promised(&self, node: usize) -> u64 {
        self.tickets.values().filter(|(_, at, _)| *at == node).map(|(.., title)| Self::rate(*title)).sum()
    }

    fn send_update(&mut self, node: usize, late: u64, change: impl FnOnce(&mut Sessions)) {
        let (committed, uptime_ms) = (Bitrate(self.committed(node)), self.test.uptime().as_millis() as u64);
        let mut update = Sessions { complete: true, committed, uptime_ms, ..Sessions::default() };
        change(&mut update);
        let at = self.test.now.after(std::time::Duration::from_millis(late));
        self.in_flight.push_back((at, node, update));
    }

    fn deliver_updates(&mut self) {
        let (due, rest): (VecDeque<_>, _) =
            self.in_flight.drain(..).partition(|(at, ..)| at.instant <= self.test.now.instant);
        self.in_flight = rest;
        let mut due = Vec::from(due);
        due.sort_by_key(|(at, ..)| at.instant);
        for (_, node, update) in due {
            self.test.cluster.handle_sessions(self.test.now, self.test.attachments[node], update).expect("taken");
        }
    }

    /// Moves are executed at once: a session starts at its new seat and then ends at its old one.
    fn execute_orders(&mut self, late: u64) -> u64 {
        let mut moved = 0;
        for order in self.test.cluster.poll_orders() {
            let Order::Move(step) = order else { continue };
            let (node, title) = self.running[&step.session];
            let to = step.to.0 as usize;
            assert_eq!(node, step.from.0 as usize);
            self.running.insert(step.session, (to, title));
            self.send_update(to, late, |update| {
                update.begun.push(begun(step.session, TITLES[title].0, Self::rate(title)))
            });
            self.send_update(node, late, |update| update.ended.push(step.session));
            moved += 1;
        }
        moved
    }

    fn check(&self, capacities: &[u64]) -> Result<(), TestCaseError> {
        for (node, capacity) in capacities.iter().enumerate() {
            let (committed, promised) = (self.committed(node), self.promised(node));
            prop_assert!(committed + promised <= *capacity, "node {node}: {committed} + {promised} > {capacity}");
        }
        Ok(())
    }
}

/// One run of arrivals. Returns the number admitted and moved.
fn run(seed: u64, late: u64, redeem: u64) -> Result<(u64, u64), TestCaseError> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let capacities: Vec<u64> = (0..4).map(|_| rng.random_range(20..60) * MBIT).collect();
    let mut truth = Truth {
        test: TestCluster::new(&capacities),
        running: BTreeMap::new(),
        tickets: BTreeMap::new(),
        in_flight: VecDeque::new(),
    };
    for (title, rate) in TITLES {
        let holders: u8 = rng.random_range(1..16);
        for node in (0..4).filter(|node| holders >> node & 1 == 1) {
            truth.test.copies(node, vec![copy(title, rate * MBIT, Origin::Operator)]);
        }
    }
    let (mut admitted, mut moved) = (0, 0);
    for step in 0..120 {
        truth.test.now = truth.test.now.after(std::time::Duration::from_millis(rng.random_range(0..50)));
        if step % 20 == 0 {
            (0..4).for_each(|node| truth.send_update(node, late, |_| {}));
        }
        truth.deliver_updates();
        let title = pick(&mut rng);
        if let Ok(decision) = truth.test.resolve(TITLES[title].0, |_| {}) {
            admitted += 1;
            let due = truth.test.now.after(std::time::Duration::from_millis(rng.random_range(0..=redeem)));
            // The orders precede the answer.
            moved += truth.execute_orders(late);
            truth.tickets.insert(decision.session, (due, decision.first.0 as usize, title));
        }
        truth.check(&capacities)?;
        let due: Vec<SessionId> = truth
            .tickets
            .iter()
            .filter(|(_, (at, ..))| at.instant <= truth.test.now.instant)
            .map(|(session, _)| *session)
            .collect();
        for session in due {
            let (_, node, title) = truth.tickets.remove(&session).expect("there");
            truth.running.insert(session, (node, title));
            truth.send_update(node, late, |update| {
                update.begun.push(begun(session, TITLES[title].0, Truth::rate(title)))
            });
        }
        truth.check(&capacities)?;
    }
    Ok((admitted, moved))
}

fn pick(rng: &mut impl Rng) -> usize {
    rng.random_range(0..TITLES.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn decisions_and_moves_exceed_no_capacity(seed in any::<u64>(), late in 0_u64..800, redeem in 0_u64..2000) {
        run(seed, late, redeem)?;
    }
}

#[test]
fn decisions_do_move_sessions() {
    let moved: u64 = (0..20).map(|seed| run(seed, 100, 100).expect("sound").1).sum();
    assert!(moved > 20, "{moved}");
}
