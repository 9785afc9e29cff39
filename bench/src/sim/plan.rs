//! The plan of a run, the same for every policy: nodes, titles, copies, background traffic, faults.

use rand::{RngExt as _, rngs::SmallRng};

use super::{
    placement,
    scenario::{BURST_SECONDS, BURST_SHARE, Background, Fault, Scenario},
    units::{SECOND, Stream, Time, exponential, from_seconds, normal, stream},
    workload::{self, Arrivals},
};

/// Seconds in which background traffic forgets.
const MEMORY: f64 = 60.0;

/// Seconds of every title. A file's size is its bitrate times this; sessions that last longer play it again.
const TITLE_SECONDS: u64 = 3600;

/// The inputs of one run.
pub(crate) struct Plan<'a> {
    /// The scenario.
    pub(crate) scenario: &'a Scenario,
    /// The seed of this run.
    pub(crate) seed: u64,
    /// The nodes' capacities in bit/s.
    pub(crate) capacities: Vec<u64>,
    /// The titles' bitrates in bit/s.
    pub(crate) rates: Vec<u64>,
    /// The nodes that hold each title, ascending.
    pub(crate) holders: Vec<Vec<u32>>,
    /// Start of the counted time.
    pub(crate) from: Time,
    /// End of the run.
    pub(crate) to: Time,
    /// Incidents of nodes, in order of time.
    pub(crate) changes: Vec<Incident>,
    /// Background of each node in each second, in bit/s: second × nodes + node.
    background: Vec<u64>,
}

/// A change of a node's state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Incident {
    /// The time.
    pub(crate) at: Time,
    /// The node.
    pub(crate) node: u32,
    /// The change.
    pub(crate) what: IncidentKind,
}

/// Kind of incident.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum IncidentKind {
    /// Crashes.
    Crash,
    /// Starts again, as a new boot.
    Start,
    /// Drains: accepts no new session.
    Drain,
    /// Shuts down in order; its sessions must move.
    Stop,
    /// Delivers this share of its capacity; 1 is the full capacity.
    Grey(f64),
}

impl<'a> Plan<'a> {
    /// The plan of `scenario` with `seed`.
    pub(crate) fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let capacities: Vec<u64> = scenario
            .nodes
            .iter()
            .flat_map(|kind| std::iter::repeat_n((kind.gbps * 1e9).round() as u64, kind.count as usize))
            .collect();
        let to = from_seconds(scenario.warmup + scenario.seconds);
        Self {
            scenario,
            seed,
            rates: workload::bitrates(scenario, seed),
            holders: placement::holders(scenario, seed, &capacities),
            from: from_seconds(scenario.warmup),
            to,
            changes: changes(scenario),
            background: background(&scenario.background, seed, &capacities, to / SECOND + 1),
            capacities,
        }
    }

    /// Bit/s that all nodes can send.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacities.iter().sum()
    }

    /// All arrivals, in order of time.
    pub(crate) fn arrivals(&self) -> Arrivals<'_> {
        Arrivals::new(self.scenario, self.seed, self.capacity(), &self.rates)
    }

    /// Bit/s of others' traffic that come to each node's link in the second of `now`.
    pub(crate) fn background(&self, now: Time) -> &[u64] {
        let nodes = self.capacities.len();
        let second = (now / SECOND) as usize;
        &self.background[second * nodes..][..nodes]
    }

    /// Bytes of a title's file.
    pub(crate) fn size(&self, title: u32) -> u64 {
        self.rates[title as usize] / 8 * TITLE_SECONDS
    }
}

/// The faults as single changes.
fn changes(scenario: &Scenario) -> Vec<Incident> {
    let mut changes = Vec::new();
    for fault in &scenario.fault {
        let mut add = |second: f64, node, what| {
            changes.push(Incident { at: from_seconds(scenario.warmup + second), node, what });
        };
        match *fault {
            Fault::Crash { at, node, until } => {
                add(at, node, IncidentKind::Crash);
                add(until, node, IncidentKind::Start);
            }
            Fault::Drain { at, node, deadline } => {
                add(at, node, IncidentKind::Drain);
                add(deadline, node, IncidentKind::Stop);
            }
            Fault::Grey { at, node, until, fraction } => {
                add(at, node, IncidentKind::Grey(fraction));
                add(until, node, IncidentKind::Grey(1.0));
            }
            Fault::Flap { at, node, period, times } => {
                for index in 0..times {
                    let start = at + period * f64::from(index);
                    add(start, node, IncidentKind::Crash);
                    add(start + period / 2.0, node, IncidentKind::Start);
                }
            }
            Fault::Upgrade { at, node, down, back } => {
                add(at, node, IncidentKind::Drain);
                add(down, node, IncidentKind::Stop);
                add(back, node, IncidentKind::Start);
            }
        }
    }
    changes.sort_by_key(|change| change.at);
    changes
}

/// Background per second and node: an Ornstein–Uhlenbeck process around its mean, and bursts.
fn background(given: &Background, seed: u64, capacities: &[u64], seconds: u64) -> Vec<u64> {
    let (nodes, seconds) = (capacities.len(), seconds as usize);
    let mut table = vec![0; nodes * seconds];
    let keep = (-1.0 / MEMORY).exp();
    let stir = given.sigma * (1.0 - keep * keep).sqrt();
    for (node, &capacity) in capacities.iter().enumerate() {
        let rng = &mut stream(seed, Stream::Background, node as u64);
        let bursts = bursts(given.bursts_per_hour, seconds, rng);
        let mut offset = given.sigma * normal(rng);
        for (second, burst) in bursts.into_iter().enumerate() {
            table[second * nodes + node] =
                ((given.mean + offset).max(0.0) * capacity as f64) as u64 + (burst * capacity as f64) as u64;
            offset = offset * keep + stir * normal(rng);
        }
    }
    table
}

/// The bursts of one node per second, as shares of its capacity.
fn bursts(per_hour: f64, seconds: usize, rng: &mut SmallRng) -> Vec<f64> {
    let mut shares = vec![0.0; seconds];
    if per_hour > 0.0 {
        let mut at = 3600.0 / per_hour * exponential(rng);
        while at < seconds as f64 {
            let (length, share) = (BURST_SECONDS, BURST_SHARE);
            let (length, share) = (rng.random_range(length.0..length.1), rng.random_range(share.0..share.1));
            let from = at as usize;
            let to = (from + length as usize).min(seconds);
            shares[from..to].iter_mut().for_each(|entry| *entry += share);
            at += 3600.0 / per_hour * exponential(rng);
        }
    }
    shares
}
