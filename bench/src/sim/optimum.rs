//! Bits that no router could deliver: the fluid optimum with free, unlimited migration, over the copies as placed and over
//! any copies. Owns the sampling; sessions are treated as fluid. Independent of policies.
//!
//! Demand is that of all sessions that would run then if each were served at the first redemption. Capacity is
//! what grey and background leave; a crashed node has none, a draining one all of it up to its deadline.

use std::collections::HashMap;

use super::{
    flow::Network,
    plan::{IncidentKind, Plan},
    units::{SECOND, Time},
};

/// Seconds of a window in which losses are compared.
pub(crate) const WINDOW: u64 = 10;

/// Every so many windows, the smallest possible maximum utilisation is looked for.
const UTILISATION_EVERY: usize = 6;

/// Steps of that search: 8 to 2⁻¹² of it, 0.002.
const SEARCH_STEPS: u32 = 12;

/// The optimum of one run.
#[derive(Clone, Debug)]
pub(crate) struct Optimum {
    /// Per window: bit/s demanded, lost on the copies as placed, lost with every title everywhere.
    pub(crate) windows: Vec<[u64; 3]>,
    /// Mean over time of the smallest achievable highest utilisation of a node, on the copies as placed.
    pub(crate) max_util: f64,
}

impl Optimum {
    /// Per cent of offered bits lost on the copies as placed.
    pub(crate) fn static_pct(&self) -> f64 {
        self.pct(1)
    }

    /// Per cent of offered bits lost with every title everywhere.
    pub(crate) fn any_copy_pct(&self) -> f64 {
        self.pct(2)
    }

    fn pct(&self, index: usize) -> f64 {
        let sum = |index: usize| self.windows.iter().map(|window| window[index] as f64).sum::<f64>();
        if sum(0) > 0.0 { 100.0 * sum(index) / sum(0) } else { 0.0 }
    }
}

/// Titles with the same holders, and the nodes.
struct Routes {
    network: Network,
    group_of: Vec<usize>,
    /// The edges from the source to the groups, between, and from the nodes to the sink.
    demands: Vec<usize>,
    between: Vec<usize>,
    sinks: Vec<usize>,
}

impl Routes {
    fn new(plan: &Plan<'_>) -> Self {
        let mut numbers: HashMap<&[u32], usize> = HashMap::new();
        let mut sets: Vec<&[u32]> = Vec::new();
        let group_of = plan
            .holders
            .iter()
            .map(|holders| {
                *numbers.entry(holders).or_insert_with(|| {
                    sets.push(holders);
                    sets.len() - 1
                })
            })
            .collect();
        let nodes = plan.capacities.len();
        // Vertex 0 is the source, then nodes, then groups, and the sink is last.
        let sink = 1 + nodes + sets.len();
        let mut network = Network::new(sink + 1);
        let demands = (0..sets.len()).map(|group| network.add(0, 1 + nodes + group, 0)).collect();
        let mut between = Vec::new();
        for (group, set) in sets.iter().enumerate() {
            between.extend(set.iter().map(|&node| network.add(1 + nodes + group, 1 + node as usize, 0)));
        }
        let sinks = (0..nodes).map(|node| network.add(1 + node, sink, 0)).collect();
        Self { network, group_of, demands, between, sinks }
    }

    /// The part of `demand` per group that reaches the clients if each node can send `room`.
    fn carried(&mut self, demand: &[u64], room: impl Iterator<Item = u64>) -> u64 {
        self.demands.iter().zip(demand).for_each(|(&edge, &demand)| self.network.set(edge, demand));
        self.between.iter().for_each(|&edge| self.network.set(edge, u64::MAX / 4));
        self.sinks.iter().zip(room).for_each(|(&edge, room)| self.network.set(edge, room));
        let sink = 1 + self.sinks.len() + self.demands.len();
        self.network.run(0, sink)
    }
}

/// Finds the optimum of `plan`.
pub(crate) fn find(plan: &Plan<'_>) -> Optimum {
    let mut routes = Routes::new(plan);
    let (groups, nodes) = (routes.demands.len(), plan.capacities.len());
    let windows = ((plan.to - plan.from) / (WINDOW * SECOND)) as usize;
    let deltas = deltas(plan, &routes.group_of, groups, windows);
    let mut demand = vec![0_i64; groups];
    let mut weather = Weather { plan, next: 0, up: vec![true; nodes], grey: vec![1.0; nodes] };
    let mut found = Optimum { windows: Vec::with_capacity(windows), max_util: 0.0 };
    let mut utilisations = Vec::new();
    for window in 0..windows {
        demand.iter_mut().zip(&deltas[window * groups..]).for_each(|(demand, delta)| *demand += delta);
        let now: Vec<u64> = demand.iter().map(|&demand| demand.max(0) as u64).collect();
        let capacities = weather.at(middle(plan, window));
        let background = plan.background(middle(plan, window));
        let room = |node: usize, scale: f64| {
            let (capacity, background) = (capacities[node], background[node].min(capacities[node]));
            ((capacity as f64 * scale) as u64).saturating_sub(background)
        };
        let offered: u64 = now.iter().sum();
        let carried = routes.carried(&now, (0..nodes).map(|node| room(node, 1.0)));
        let all: u64 = (0..nodes).map(|node| room(node, 1.0)).sum();
        found.windows.push([offered, offered - carried, offered.saturating_sub(all)]);
        if window % UTILISATION_EVERY == 0 {
            let (mut low, mut high) = (0.0, if carried == offered { 1.0 } else { 8.0 });
            for _ in 0..SEARCH_STEPS {
                let scale = (low + high) / 2.0;
                let fits = routes.carried(&now, (0..nodes).map(|node| room(node, scale))) == offered;
                *if fits { &mut high } else { &mut low } = scale;
            }
            // Beyond what there is, nodes are simply full.
            utilisations.push(f64::min(high, 1.0));
        }
    }
    found.max_util = utilisations.iter().sum::<f64>() / utilisations.len().max(1) as f64;
    found
}

/// The middle of a window, which stands for it.
fn middle(plan: &Plan<'_>, window: usize) -> Time {
    plan.from + (window as u64 * WINDOW + WINDOW / 2) * SECOND
}

/// How the demand of each group changes from sample to sample.
fn deltas(plan: &Plan<'_>, group_of: &[usize], groups: usize, windows: usize) -> Vec<i64> {
    let mut deltas = vec![0; groups * (windows + 1)];
    let first = middle(plan, 0);
    // The first sample at or after a time.
    let sample = |time: Time| (time.saturating_sub(first).div_ceil(WINDOW * SECOND) as usize).min(windows);
    for arrival in plan.arrivals().filter(|arrival| !arrival.abandoned) {
        let begin = arrival.at + arrival.redeem;
        let rate = plan.rates[arrival.title as usize] as i64;
        let group = group_of[arrival.title as usize];
        deltas[sample(begin) * groups + group] += rate;
        deltas[sample(begin + arrival.duration) * groups + group] -= rate;
    }
    deltas
}

/// Sending capacity of nodes over time.
struct Weather<'a> {
    plan: &'a Plan<'a>,
    next: usize,
    up: Vec<bool>,
    grey: Vec<f64>,
}

impl Weather<'_> {
    fn at(&mut self, now: Time) -> Vec<u64> {
        while let Some(change) = self.plan.changes.get(self.next).filter(|change| change.at <= now) {
            let node = change.node as usize;
            match change.what {
                IncidentKind::Crash | IncidentKind::Stop => self.up[node] = false,
                IncidentKind::Start => self.up[node] = true,
                IncidentKind::Drain => {}
                IncidentKind::Grey(left) => self.grey[node] = left,
            }
            self.next += 1;
        }
        let capacity = |node: usize| {
            if self.up[node] { (self.plan.capacities[node] as f64 * self.grey[node]) as u64 } else { 0 }
        };
        (0..self.up.len()).map(capacity).collect()
    }
}
