//! A scenario file: its keys, their defaults (the base of the public scenarios), and the checks of its values.
//! Running it is left to `simulation`.

mod check;
mod public;

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

pub(crate) use public::public;

/// One scenario. Every key is optional.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scenario {
    /// Its name in tables and plots.
    pub(crate) name: String,
    /// The first seed; `--seeds N` runs this one and the N − 1 after it.
    pub(crate) seed: u64,
    /// Kinds of nodes; nodes are numbered from 0 in this order.
    pub(crate) nodes: Vec<NodeKind>,
    /// Node i lies in zone i mod `zones`; clients come from all zones alike.
    pub(crate) zones: u32,
    /// Number of titles; a title's number is its rank.
    pub(crate) titles: u32,
    /// Exponent of the titles' popularity.
    pub(crate) zipf: f64,
    /// Which nodes hold which titles.
    pub(crate) placement: Placement,
    /// Whether the placement was made when a fifth of the top 200 ranked elsewhere.
    pub(crate) stale_popularity: bool,
    /// Durations of sessions.
    pub(crate) durations: Durations,
    /// The bitrates of titles, in Mbit/s.
    pub(crate) bitrates_mbps: Vec<f64>,
    /// How often each of them occurs, relative to the others.
    pub(crate) bitrate_weights: Vec<f64>,
    /// Second and offered bits over capacity, linear in between; the first level holds before the first second.
    pub(crate) load: Vec<(f64, f64)>,
    /// Seconds before second 0, which are not counted.
    pub(crate) warmup: f64,
    /// Seconds that are counted.
    pub(crate) seconds: f64,
    /// Share of tickets that are never redeemed.
    pub(crate) abandon: f64,
    /// Number of masters; each request goes to a random one.
    pub(crate) masters: u32,
    /// Reports of nodes.
    pub(crate) reports: Reports,
    /// Traffic on the nodes' links that is not the cluster's.
    pub(crate) background: Background,
    /// Sudden crowds, on top of `load`.
    pub(crate) flash: Vec<Flash>,
    /// Faults, and nodes that are taken out on purpose.
    pub(crate) fault: Vec<Fault>,
}

/// Some nodes of one capacity.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeKind {
    /// Capacity in Gbit/s.
    pub(crate) gbps: f64,
    /// Number of nodes.
    pub(crate) count: u32,
}

/// Which nodes hold which titles.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Placement {
    /// Copies by popularity.
    Popular {
        /// Copies of a title on average.
        #[serde(default = "mean_copies")]
        mean: f64,
        /// The least copies of any title.
        #[serde(default = "min_copies")]
        min: u32,
    },
    /// As many copies of each title.
    Uniform {
        /// Copies of each title.
        #[serde(default = "min_copies")]
        copies: u32,
    },
    /// Nodes in pairs A and B: every other title of a pair is on A only, the rest on both.
    Nested,
}

fn mean_copies() -> f64 {
    3.0
}

fn min_copies() -> u32 {
    2
}

/// Durations of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durations {
    /// A quarter zap (5–60 s), nearly half watch a clip of minutes, the rest a film.
    Mix,
    /// Log-uniform, 3–90 s.
    Clips,
    /// Bounded Pareto with exponent 1.3, 10 min to 4 h.
    Long,
}

/// Reports of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Reports {
    /// Seconds between two reports.
    pub(crate) interval: f64,
    /// Median seconds on the way (log-normal).
    pub(crate) delay: f64,
    /// The interval varies by this share.
    pub(crate) jitter: f64,
    /// Share of messages that are lost.
    pub(crate) loss: f64,
}

/// Traffic on the nodes' links that is not the cluster's, as shares of a node's capacity.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Background {
    /// Its mean, bursts apart.
    pub(crate) mean: f64,
    /// Its standard deviation, bursts apart.
    pub(crate) sigma: f64,
    /// Bursts of 8–25 % for 20–120 s per node and hour.
    pub(crate) bursts_per_hour: f64,
}

/// A sudden crowd.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Flash {
    /// Second at which it begins.
    pub(crate) at: f64,
    /// Its duration in seconds.
    pub(crate) seconds: f64,
    /// Number of titles that it concerns, with equal probability.
    pub(crate) titles: u32,
    /// Rank of the first of them, from 0; the others follow.
    pub(crate) first_rank: u32,
    /// Requests per second, for all its titles together.
    pub(crate) per_second: f64,
}

/// Faults, and nodes that are taken out on purpose. Seconds count from second 0.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Fault {
    /// The node crashes, and starts again without sessions.
    Crash {
        /// Second of the crash.
        at: f64,
        /// The node's number.
        node: u32,
        /// Second of the start.
        until: f64,
    },
    /// The node drains, and stops for good at the deadline.
    Drain {
        /// Second at which it begins.
        at: f64,
        /// The node's number.
        node: u32,
        /// Second at which it stops.
        deadline: f64,
    },
    /// The node delivers less than it claims.
    Grey {
        /// Second at which it begins.
        at: f64,
        /// The node's number.
        node: u32,
        /// Second at which it ends.
        until: f64,
        /// The share of its capacity that is left.
        fraction: f64,
    },
    /// The node crashes at the start of every period and is back at half of it.
    Flap {
        /// Second at which the first period begins.
        at: f64,
        /// The node's number.
        node: u32,
        /// Seconds of a period.
        period: f64,
        /// Number of periods.
        times: u32,
    },
    /// The node drains, stops, and starts again without sessions.
    Upgrade {
        /// Second at which it begins to drain.
        at: f64,
        /// The node's number.
        node: u32,
        /// Second at which it stops.
        down: f64,
        /// Second at which it is back.
        back: f64,
    },
}

impl Default for Scenario {
    fn default() -> Self {
        let kind = |gbps, count| NodeKind { gbps, count };
        Self {
            name: "base".to_owned(),
            seed: 1,
            nodes: vec![kind(1.0, 24), kind(2.5, 18), kind(5.0, 12), kind(10.0, 6)],
            zones: 3,
            titles: 3000,
            zipf: 0.9,
            placement: Placement::Popular { mean: mean_copies(), min: min_copies() },
            stale_popularity: false,
            durations: Durations::Mix,
            bitrates_mbps: vec![2.0, 4.0, 6.0, 8.0, 15.0, 25.0],
            bitrate_weights: vec![0.15, 0.25, 0.20, 0.20, 0.15, 0.05],
            load: vec![(0.0, 0.75)],
            warmup: 1500.0,
            seconds: 3600.0,
            abandon: 0.015,
            masters: 1,
            reports: Reports::default(),
            background: Background::default(),
            flash: Vec::new(),
            fault: Vec::new(),
        }
    }
}

impl Default for Reports {
    fn default() -> Self {
        Self { interval: 1.0, delay: 0.02, jitter: 0.1, loss: 0.01 }
    }
}

impl Default for Background {
    fn default() -> Self {
        Self { mean: 0.04, sigma: 0.015, bursts_per_hour: 1.0 }
    }
}

impl Default for Flash {
    fn default() -> Self {
        Self { at: 600.0, seconds: 300.0, titles: 1, first_rank: 400, per_second: 15.0 }
    }
}

impl Background {
    /// The share of capacity that it leaves on average.
    pub(crate) fn leaves(&self) -> f64 {
        let middle = |(low, high): (f64, f64)| (low + high) / 2.0;
        let bursts = self.bursts_per_hour / 3600.0 * middle(BURST_SECONDS) * middle(BURST_SHARE);
        (1.0 - self.mean - bursts).max(0.0)
    }
}

/// How long a burst of background lasts, in seconds.
pub(crate) const BURST_SECONDS: (f64, f64) = (20.0, 120.0);

/// The share of a node's capacity that a burst takes.
pub(crate) const BURST_SHARE: (f64, f64) = (0.08, 0.25);

impl Scenario {
    /// Reads and checks the file at `path`.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read scenario {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("scenario {}", path.display()))
    }

    /// Parses and checks `text`. The error names the key and what it may be.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text).context("parse TOML")?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Number of nodes.
    pub(crate) fn node_count(&self) -> u32 {
        self.nodes.iter().map(|kind| kind.count).sum()
    }

    /// Offered bits over capacity at `second` of the counted time.
    pub(crate) fn level(&self, second: f64) -> f64 {
        let after = self.load.iter().position(|&(at, _)| at > second);
        match after {
            Some(0) => self.load[0].1,
            Some(index) => {
                let ((from, low), (to, high)) = (self.load[index - 1], self.load[index]);
                low + (high - low) * (second - from) / (to - from)
            }
            None => self.load.last().map_or(0.0, |&(_, level)| level),
        }
    }
}
