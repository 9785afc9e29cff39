//! Water-filling: load added to a set of nodes goes to the least loaded first.

use super::super::fixed;

/// Available and used bit/s of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FillNode {
    pub(super) available: u64,
    pub(super) level: u64,
}

/// Load (Q32) of the least loaded nodes after `inflow` bit/s are spread over them; `u64::MAX` without any capacity.
/// Sorts `nodes` by load; O(n log n).
pub(super) fn fill(nodes: &mut [FillNode], inflow: u64) -> u64 {
    nodes.sort_unstable_by_key(|node| (share(*node), node.available));
    let (mut width, mut volume, mut height) = (0_u64, inflow, u64::MAX);
    for node in nodes.iter().filter(|node| node.available > 0) {
        if share(*node) >= height {
            break;
        }
        width = width.saturating_add(node.available);
        volume = volume.saturating_add(node.level);
        height = fixed::ratio(volume, width);
    }
    height
}

fn share(node: FillNode) -> u64 {
    fixed::ratio(node.level, node.available)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn level(nodes: &[(u64, u64)], inflow: u64) -> u64 {
        let mut nodes: Vec<_> = nodes.iter().map(|&(available, level)| FillNode { available, level }).collect();
        fill(&mut nodes, inflow) * 100 / fixed::ONE
    }

    #[test]
    fn the_least_loaded_gets_it_first() {
        for (nodes, inflow, expected) in [
            (&[(100, 50)][..], 0, 50),
            (&[(100, 50)], 60, 110),
            (&[(100, 50), (100, 90)], 20, 70),
            (&[(100, 50), (100, 90)], 60, 100),
            (&[(100, 50), (300, 60)], 30, 22 + 7),
            (&[(0, 0), (100, 10)], 10, 20),
        ] {
            let found = level(nodes, inflow);
            assert!(found.abs_diff(expected) <= 1, "{nodes:?} + {inflow}: {found}, not {expected}");
        }
        assert_eq!((fill(&mut [], 1), fill(&mut [FillNode { available: 0, level: 0 }], 1)), (u64::MAX, u64::MAX));
    }

    proptest! {
        /// At the level found, the capacity below it equals the inflow.
        #[test]
        fn the_level_matches_the_inflow(nodes in proptest::collection::vec((1_u64..1_000_000, 0_u64..1_000_000), 1..20), inflow in 0_u64..10_000_000) {
            let mut filled: Vec<_> = nodes.iter().map(|&(available, level)| FillNode { available, level }).collect();
            let height = fill(&mut filled, inflow);
            let below = |height: u64| -> u64 {
                nodes.iter().map(|&(available, level)| fixed::mul(available, height).saturating_sub(level)).sum()
            };
            prop_assert!(below(height) <= inflow && below(height + 20_000) + 20 >= inflow, "{height}");
        }
    }
}
