//! The public scenarios, and their small form for continuous integration.

use super::{Fault, Scenario};

/// The files S1 to S10.
const FILES: [&str; 10] = [
    include_str!("../../../scenarios/s1.toml"),
    include_str!("../../../scenarios/s2.toml"),
    include_str!("../../../scenarios/s3.toml"),
    include_str!("../../../scenarios/s4.toml"),
    include_str!("../../../scenarios/s5.toml"),
    include_str!("../../../scenarios/s6.toml"),
    include_str!("../../../scenarios/s7.toml"),
    include_str!("../../../scenarios/s8.toml"),
    include_str!("../../../scenarios/s9.toml"),
    include_str!("../../../scenarios/s10.toml"),
];

/// How much smaller and shorter the small form is.
const SMALL: u32 = 10;

/// The public scenarios, in order.
pub(crate) fn public() -> anyhow::Result<Vec<Scenario>> {
    FILES.iter().map(|text| Scenario::parse(text)).collect()
}

impl Scenario {
    /// The same with a tenth of the nodes, titles and time; faults move to nodes of the same kind. For a quick look
    /// that all works, not for its figures.
    pub(crate) fn small(mut self) -> Self {
        let before = self.node_count();
        let shrink = f64::from(SMALL);
        for kind in &mut self.nodes {
            kind.count = if kind.count == 0 { 0 } else { kind.count.div_ceil(SMALL) };
        }
        let nodes = self.node_count();
        self.titles = (self.titles / SMALL).max(nodes);
        match &mut self.placement {
            super::Placement::Popular { mean, min } => {
                *min = (*min).min(nodes);
                *mean = mean.clamp(f64::from(*min), f64::from(nodes));
            }
            super::Placement::Uniform { copies } => *copies = (*copies).min(nodes),
            super::Placement::Nested => {
                if nodes < 2 {
                    self.nodes[0].count += 2 - nodes;
                }
            }
        }
        for point in &mut self.load {
            point.0 /= shrink;
        }
        self.warmup /= shrink;
        self.seconds = (self.seconds / shrink).max(10.0);
        for flash in &mut self.flash {
            flash.at /= shrink;
            flash.seconds /= shrink;
            flash.first_rank /= SMALL;
            flash.titles = flash.titles.div_ceil(SMALL).min(self.titles - flash.first_rank);
        }
        let moved = |node: u32| (u64::from(node) * u64::from(nodes) / u64::from(before)) as u32;
        for fault in &mut self.fault {
            match fault {
                Fault::Crash { at, node, until } | Fault::Grey { at, node, until, .. } => {
                    (*at, *until, *node) = (*at / shrink, *until / shrink, moved(*node));
                }
                Fault::Drain { at, node, deadline } => {
                    (*at, *deadline, *node) = (*at / shrink, *deadline / shrink, moved(*node));
                }
                Fault::Flap { at, node, times, .. } => {
                    (*at, *times, *node) = (*at / shrink, times.div_ceil(SMALL), moved(*node));
                }
                Fault::Upgrade { at, node, down, back } => {
                    (*at, *down, *back, *node) = (*at / shrink, *down / shrink, *back / shrink, moved(*node));
                }
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ten_are_good_and_named_in_order() {
        let names: Vec<_> = public().unwrap().into_iter().map(|scenario| scenario.name).collect();
        assert_eq!(names, ["S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10"]);
    }

    #[test]
    fn the_small_form_is_good_too() {
        for scenario in public().unwrap() {
            let small = scenario.small();
            small.check().unwrap_or_else(|error| panic!("{}: {error:#}", small.name));
            assert!(small.node_count() <= 9);
        }
    }
}
