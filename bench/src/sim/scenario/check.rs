//! Checks of a scenario. Owns the limits and their messages.

use anyhow::{bail, ensure};

use super::{Fault, Placement, Scenario};

/// The most nodes of a scenario: holder sets and routes are kept per node.
const MAX_NODES: u32 = 10_000;

/// The most titles of a scenario.
const MAX_TITLES: u32 = 1_000_000;

/// The longest run: a day and a night each of warm-up and counted time.
const MAX_SECONDS: f64 = 86_400.0;

impl Scenario {
    /// Fails with the key that makes no sense.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.check_cluster()?;
        self.check_titles()?;
        self.check_traffic()?;
        for fault in &self.fault {
            self.check_fault(fault)?;
        }
        Ok(())
    }

    fn check_cluster(&self) -> anyhow::Result<()> {
        for kind in &self.nodes {
            ensure!((0.001..=10_000.0).contains(&kind.gbps), "nodes: gbps {} is not in 0.001 to 10000", kind.gbps);
            ensure!(kind.count <= MAX_NODES, "nodes: count {} is over {MAX_NODES}", kind.count);
        }
        let nodes = self.nodes.iter().map(|kind| u64::from(kind.count)).sum::<u64>();
        ensure!((1..=u64::from(MAX_NODES)).contains(&nodes), "nodes: {nodes} in all, not 1 to {MAX_NODES}");
        ensure!((1..=1000).contains(&self.zones), "zones: {} is not 1 to 1000", self.zones);
        ensure!((1..=64).contains(&self.masters), "masters: {} is not 1 to 64", self.masters);
        let reports = &self.reports;
        ensure!((0.01..=3600.0).contains(&reports.interval), "reports: interval must be 0.01 to 3600 s");
        ensure!((0.0..=60.0).contains(&reports.delay), "reports: delay must be 0 to 60 s");
        ensure!((0.0..1.0).contains(&reports.jitter), "reports: jitter must be at least 0 and under 1");
        ensure!((0.0..1.0).contains(&reports.loss), "reports: loss must be at least 0 and under 1");
        let background = &self.background;
        ensure!((0.0..=1.0).contains(&background.mean), "background: mean must be 0 to 1");
        ensure!((0.0..=1.0).contains(&background.sigma), "background: sigma must be 0 to 1");
        ensure!((0.0..=1000.0).contains(&background.bursts_per_hour), "background: bursts_per_hour must be 0 to 1000");
        Ok(())
    }

    fn check_titles(&self) -> anyhow::Result<()> {
        ensure!((1..=MAX_TITLES).contains(&self.titles), "titles: {} is not 1 to {MAX_TITLES}", self.titles);
        ensure!((0.0..=5.0).contains(&self.zipf), "zipf: {} is not 0 to 5", self.zipf);
        let nodes = self.node_count();
        match self.placement {
            Placement::Popular { mean, min } => {
                ensure!((1..=nodes).contains(&min), "placement: min {min} is not 1 to the number of nodes, {nodes}");
                let range = f64::from(min)..=f64::from(nodes);
                ensure!(range.contains(&mean), "placement: mean {mean} is not between min, {min}, and {nodes} nodes");
            }
            Placement::Uniform { copies } => {
                ensure!((1..=nodes).contains(&copies), "placement: copies {copies} is not 1 to {nodes} nodes");
            }
            Placement::Nested => ensure!(nodes >= 2, "placement: nested needs at least 2 nodes"),
        }
        let (rates, weights) = (&self.bitrates_mbps, &self.bitrate_weights);
        ensure!(!rates.is_empty(), "bitrates_mbps: at least one is needed");
        ensure!(
            rates.len() == weights.len(),
            "bitrate_weights: {} weights for {} bitrates_mbps",
            weights.len(),
            rates.len()
        );
        ensure!(
            rates.iter().all(|rate| (0.001..=10_000.0).contains(rate)),
            "bitrates_mbps: each must be 0.001 to 10000"
        );
        ensure!(weights.iter().all(|weight| (0.0..=1e9).contains(weight)), "bitrate_weights: each must be at least 0");
        ensure!(weights.iter().sum::<f64>() > 0.0, "bitrate_weights: one must be above 0");
        Ok(())
    }

    fn check_traffic(&self) -> anyhow::Result<()> {
        ensure!(!self.load.is_empty(), "load: at least one [second, level] is needed");
        ensure!(
            self.load.iter().all(|&(at, level)| (0.0..=MAX_SECONDS).contains(&at) && (0.0..=10.0).contains(&level)),
            "load: seconds must be 0 to {MAX_SECONDS} and levels 0 to 10"
        );
        ensure!(self.load.windows(2).all(|pair| pair[0].0 < pair[1].0), "load: seconds must rise");
        ensure!((0.0..=MAX_SECONDS).contains(&self.warmup), "warmup: {} is not 0 to {MAX_SECONDS}", self.warmup);
        ensure!((10.0..=MAX_SECONDS).contains(&self.seconds), "seconds: {} is not 10 to {MAX_SECONDS}", self.seconds);
        ensure!((0.0..1.0).contains(&self.abandon), "abandon: {} is not at least 0 and under 1", self.abandon);
        for flash in &self.flash {
            self.check_second("flash: at", flash.at)?;
            ensure!((0.0..=MAX_SECONDS).contains(&flash.seconds), "flash: seconds must be 0 to {MAX_SECONDS}");
            ensure!((0.0..=1e6).contains(&flash.per_second), "flash: per_second must be 0 to 1000000");
            let last = u64::from(flash.first_rank) + u64::from(flash.titles);
            ensure!(
                flash.titles > 0 && last <= u64::from(self.titles),
                "flash: titles from first_rank {} on: {} of them, but there are {} titles",
                flash.first_rank,
                flash.titles,
                self.titles
            );
        }
        Ok(())
    }

    fn check_fault(&self, fault: &Fault) -> anyhow::Result<()> {
        let (node, times): (u32, &[f64]) = match fault {
            Fault::Crash { at, node, until } | Fault::Grey { at, node, until, .. } => (*node, &[*at, *until]),
            Fault::Drain { at, node, deadline } => (*node, &[*at, *deadline]),
            Fault::Flap { at, node, .. } => (*node, &[*at]),
            Fault::Upgrade { at, node, down, back } => (*node, &[*at, *down, *back]),
        };
        let nodes = self.node_count();
        ensure!(node < nodes, "fault: node {node} does not exist: nodes are 0 to {}", nodes - 1);
        for &time in times {
            self.check_second("fault: a time", time)?;
        }
        ensure!(times.windows(2).all(|pair| pair[0] < pair[1]), "fault: on node {node}: times must rise");
        match *fault {
            Fault::Grey { fraction, .. } if !(0.0..=1.0).contains(&fraction) => {
                bail!("fault: fraction {fraction} is not 0 to 1")
            }
            Fault::Flap { period, times, .. } if !(0.1..=MAX_SECONDS).contains(&period) || times > 10_000 => {
                bail!("fault: flap: period must be 0.1 to {MAX_SECONDS} s, times at most 10000")
            }
            _ => Ok(()),
        }
    }

    /// Times may lie in the warm-up, but not before it.
    fn check_second(&self, what: &str, second: f64) -> anyhow::Result<()> {
        ensure!(
            (-self.warmup..=MAX_SECONDS).contains(&second),
            "{what}: second {second} is not between -{} and {MAX_SECONDS}",
            self.warmup
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scenario::Durations;

    #[test]
    fn an_empty_file_is_the_base() {
        assert_eq!(Scenario::parse("").unwrap(), Scenario::default());
        assert_eq!(Scenario::default().node_count(), 60);
    }

    #[test]
    fn every_key_is_read() {
        let text = include_str!("../../../scenarios/example.toml");
        let scenario = Scenario::parse(text).unwrap();
        assert_eq!(scenario.fault.len(), 5);
        assert_eq!(scenario.durations, Durations::Mix);
        assert_eq!(Scenario { fault: Vec::new(), flash: Vec::new(), ..scenario.clone() }, {
            Scenario { name: "example".to_owned(), ..Scenario::default() }
        });
        assert_eq!(scenario.flash[0].per_second, 15.0);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, complaint) in [
            ("node = 3", "unknown field `node`"),
            ("reports = { interal = 1.0 }", "unknown field `interal`"),
            ("placement = { kind = \"uniform\", mean = 2 }", "unknown field `mean`"),
            ("placement = { kind = \"odd\" }", "unknown variant `odd`"),
            ("placement = { kind = \"uniform\", copies = 61 }", "copies 61"),
            ("durations = \"ages\"", "unknown variant `ages`"),
            ("nodes = []", "0 in all"),
            ("nodes = [{ gbps = -1.0, count = 2 }]", "gbps -1"),
            ("nodes = [{ gbps = nan, count = 2 }]", "gbps NaN"),
            ("zones = 0", "zones: 0"),
            ("titles = 0", "titles: 0"),
            ("bitrate_weights = [1.0]", "1 weights for 6"),
            ("load = []", "at least one"),
            ("load = [[10, 0.5], [5, 0.5]]", "seconds must rise"),
            ("abandon = 1.0", "abandon: 1"),
            ("masters = 0", "masters: 0"),
            ("reports = { loss = 1.0 }", "loss must be"),
            ("flash = [{ first_rank = 3000 }]", "there are 3000 titles"),
            ("fault = [{ kind = \"crash\", at = 5, node = 60, until = 9 }]", "nodes are 0 to 59"),
            ("fault = [{ kind = \"crash\", at = 9, node = 0, until = 5 }]", "times must rise"),
            ("fault = [{ kind = \"grey\", at = 1, node = 0, until = 5, fraction = 2 }]", "fraction 2"),
            ("fault = [{ kind = \"drain\", at = 1, node = 0, until = 5 }]", "unknown field `until`"),
        ] {
            let error = format!("{:#}", Scenario::parse(text).unwrap_err());
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }

    #[test]
    fn load_is_linear_between_its_points() {
        let scenario = Scenario { load: vec![(10.0, 0.5), (20.0, 1.0)], ..Scenario::default() };
        let levels = [-5.0, 10.0, 15.0, 20.0, 99.0].map(|second| scenario.level(second));
        assert_eq!(levels, [0.5, 0.5, 0.75, 1.0, 1.0]);
    }
}
