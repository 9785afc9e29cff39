//! Which node holds which title before anything is copied. Owns the three kinds of placement.
//!
//! `popular`: a title gets `max(min, c·√share)` copies, at most one a node, with `c` so that the mean is right: the
//! square root is what a search would want (Cohen and Shenker, 2002).
//! Copies go to nodes at random in proportion to the slots that are left; slots are in proportion to capacity.

use rand::{RngExt as _, rngs::SmallRng};

use super::{
    scenario::{Placement, Scenario},
    units::{Stream, stream},
    workload::Popularity,
};

/// Ranks among which a stale placement had other titles.
const STALE_TOP: u32 = 200;

/// One in so many of them.
const STALE_SHARE: f64 = 0.2;

/// The holders of every title, ascending; `capacities` of the nodes in bit/s.
pub(crate) fn holders(scenario: &Scenario, seed: u64, capacities: &[u64]) -> Vec<Vec<u32>> {
    let rng = &mut stream(seed, Stream::Placement, 0);
    let titles = scenario.titles as usize;
    if scenario.placement == Placement::Nested {
        let pairs = capacities.len() as u32 / 2;
        let draw = |title| {
            let first = 2 * rng.random_range(0..pairs);
            if title % 2 == 0 { vec![first] } else { vec![first, first + 1] }
        };
        return (0..titles).map(draw).collect();
    }
    let ranks = believed_ranks(scenario, rng);
    let copies = copies(scenario, capacities.len());
    // The most copied first, while every node has room.
    let mut order: Vec<usize> = (0..titles).collect();
    order.sort_by_key(|&title| ranks[title]);
    let all: u64 = copies.iter().map(|&count| u64::from(count)).sum();
    let total: f64 = capacities.iter().map(|&capacity| capacity as f64).sum();
    let mut slots: Vec<f64> =
        capacities.iter().map(|&capacity| (all as f64 * capacity as f64 / total).ceil()).collect();
    let mut placed = vec![Vec::new(); titles];
    for title in order {
        placed[title] = place(copies[ranks[title]], &mut slots, capacities, rng);
    }
    placed
}

/// The rank of each title when the placement was made.
fn believed_ranks(scenario: &Scenario, rng: &mut SmallRng) -> Vec<usize> {
    let mut ranks: Vec<usize> = (0..scenario.titles as usize).collect();
    if scenario.stale_popularity && scenario.titles > 1 {
        let top = STALE_TOP.min(scenario.titles / 2).max(1);
        for title in 0..top as usize {
            if rng.random::<f64>() < STALE_SHARE {
                let other = rng.random_range(top..scenario.titles) as usize;
                ranks.swap(title, other);
            }
        }
    }
    ranks
}

/// How many copies each rank gets.
fn copies(scenario: &Scenario, nodes: usize) -> Vec<u32> {
    let titles = scenario.titles as usize;
    let (mean, min) = match scenario.placement {
        Placement::Popular { mean, min } => (mean, min),
        Placement::Uniform { copies } => (f64::from(copies), copies),
        Placement::Nested => (1.5, 1),
    };
    let popularity = Popularity::zipf(scenario.titles, scenario.zipf);
    let wanted = mean * titles as f64;
    let least = f64::from(min);
    let weight = |rank| popularity.share(rank).sqrt();
    let count = |scale: f64, rank: usize| (scale * weight(rank)).clamp(least, nodes as f64).round();
    let sum = |scale: f64| (0..titles).map(|rank| count(scale, rank)).sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    while sum(high) < wanted && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        *if sum(middle) <= wanted { &mut low } else { &mut high } = middle;
    }
    (0..titles).map(|rank| count(low, rank) as u32).collect()
}

/// Draws `count` different nodes in proportion to `slots`, which it uses up.
fn place(count: u32, slots: &mut [f64], capacities: &[u64], rng: &mut SmallRng) -> Vec<u32> {
    let mut chosen: Vec<u32> = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let free = |node: usize| !chosen.contains(&(node as u32));
        let room: f64 = (0..slots.len()).filter(|&node| free(node)).map(|node| slots[node]).sum();
        // When all that is left is taken, capacity decides alone.
        let weight = |node: usize| match () {
            () if !free(node) => 0.0,
            () if room > 0.0 => slots[node],
            () => capacities[node] as f64,
        };
        let mut point = rng.random::<f64>() * (0..slots.len()).map(weight).sum::<f64>();
        let drawn = (0..slots.len()).filter(|&node| weight(node) > 0.0).find(|&node| {
            point -= weight(node);
            point < 0.0
        });
        let Some(node) = drawn.or_else(|| (0..slots.len()).rfind(|&node| weight(node) > 0.0)) else { break };
        slots[node] = (slots[node] - 1.0).max(0.0);
        chosen.push(node as u32);
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_have_the_right_mean_and_spread() {
        let scenario = Scenario::default();
        let capacities: Vec<u64> = (0..60).map(|node| if node < 30 { 1_000 } else { 3_000 }).collect();
        let holders = holders(&scenario, 1, &capacities);
        let all: usize = holders.iter().map(Vec::len).sum();
        assert!((8_900..=9_000).contains(&all), "{all}");
        assert!(holders.iter().all(|nodes| nodes.len() >= 2 && nodes.windows(2).all(|pair| pair[0] < pair[1])));
        assert!(holders[0].len() > 10 * holders[2999].len());
        let large = holders.iter().flatten().filter(|&&node| node >= 30).count();
        assert!((0.70..0.80).contains(&(large as f64 / all as f64)), "{large} of {all}");
    }

    #[test]
    fn nested_titles_are_on_one_node_or_its_pair() {
        let scenario = Scenario { placement: Placement::Nested, ..Scenario::default() };
        for (title, nodes) in holders(&scenario, 1, &[1; 24]).iter().enumerate() {
            assert_eq!(nodes.len(), 1 + title % 2);
            assert_eq!(nodes[0] % 2, 0);
        }
    }

    #[test]
    fn a_stale_placement_gives_some_popular_titles_few_copies() {
        let scenario = Scenario { stale_popularity: true, ..Scenario::default() };
        let few = |holders: &[Vec<u32>]| holders[..40].iter().filter(|nodes| nodes.len() == 2).count();
        let stale: usize = (0..10).map(|seed| few(&holders(&scenario, seed, &[1; 60]))).sum();
        assert!((40..130).contains(&stale), "{stale} of 400");
        assert_eq!(few(&holders(&Scenario::default(), 1, &[1; 60])), 0);
    }
}
