//! Properties of spreading on random small clusters: it ends, no node ends up fuller than the fullest was, and a second
//! run finds nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::SmallRng};
use usher_proto::model::Origin;

use super::super::*;
use crate::core::{
    cluster::Settings,
    test_cluster::{MBIT, TestCluster, copy},
};

/// A random cluster: up to six nodes of unequal size, titles on some of them, sessions where they fit.
fn cluster(seed: u64) -> (TestCluster, BTreeMap<SessionId, usize>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let capacities: Vec<u64> = (0..rng.random_range(2..=6)).map(|_| rng.random_range(40..400) * MBIT).collect();
    let mut test = TestCluster::with(Settings { rebalance: false, ..Settings::default() }, &capacities);
    let titles: Vec<(String, u64)> =
        (0..rng.random_range(1..=5)).map(|title| (format!("t{title}"), rng.random_range(1..30) * MBIT)).collect();
    let mut titled = BTreeMap::new();
    for (node, capacity) in capacities.iter().enumerate() {
        let held: Vec<usize> = (0..titles.len()).filter(|_| rng.random_bool(0.7)).collect();
        test.copies(node, held.iter().map(|held| copy(&titles[*held].0, titles[*held].1, Origin::Operator)).collect());
        let mut free = capacity * rng.random_range(0..=10) / 10;
        while let Some(&title) = held.get(rng.random_range(0..=held.len())) {
            let (name, rate) = &titles[title];
            let Some(rest) = free.checked_sub(*rate) else { break };
            free = rest;
            titled.insert(test.run(node, name, *rate, 1)[0], title);
        }
    }
    (test, titled)
}

/// Used share of a node, in thousandths.
fn used(test: &TestCluster, node: usize) -> u64 {
    let (level, room) = (test.level(node), test.headroom(node));
    level * 1000 / (level + room).max(1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn after_a_spread_there_is_nothing_to_spread(seed in any::<u64>(), most in 1_usize..8) {
        let (mut test, titled) = cluster(seed);
        let nodes = test.attachments.len();
        let fullest = (0..nodes).map(|node| used(&test, node)).max().unwrap_or(0);
        let mut moved: BTreeMap<SessionId, u8> = BTreeMap::new();
        // In parts, as in the background, or at once.
        for _ in 0..=titled.len() {
            let steps = test.cluster.rebalance(test.now, most, &mut test.rng);
            prop_assert!(steps.len() <= most);
            if steps.is_empty() {
                break;
            }
            test.cluster.start_moves(test.now, &steps);
            test.cluster.poll_orders();
            for step in steps {
                let times = moved.entry(step.session).or_default();
                *times += 1;
                prop_assert!(*times == 1, "{step:?} goes a second time");
                let title = format!("t{}", titled[&step.session]);
                test.begin(step.to.0 as usize, step.session, &title, step.rate);
                test.end(step.from.0 as usize, step.session, step.rate);
            }
        }
        prop_assert!(test.cluster.rebalance(test.now, usize::MAX, &mut test.rng).is_empty());
        let after = (0..nodes).map(|node| used(&test, node)).max().unwrap_or(0);
        prop_assert!(after <= fullest, "{after} after {fullest}");
    }
}

#[test]
fn rebalancing_moves_sessions() {
    let spread = |seed: u64| {
        let (mut test, _) = cluster(seed);
        test.cluster.rebalance(test.now, 100, &mut test.rng).len()
    };
    let moves: usize = (0..20).map(spread).sum();
    assert!(moves > 20, "{moves}");
}
