//! The true state of one node: capacity, sessions, titles, and admission.
//!
//! Background takes its part of the real capacity (capacity × grey fraction) first; the sessions share the rest in
//! proportion to their rates and lose what is missing. All is integrated when something changes, so it is exact.

use super::meter::RunMeter;
use crate::sim::{
    plan::Plan,
    policy::{Change, Held},
    units::Time,
};

/// A node gives copies room for a fifth of the bytes that it was given.
const REPLICA_SHARE: u64 = 5;

/// Sums of a node since its last report, in bit·µs; `ended` in bit/s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NodeTotals {
    pub(super) since: Time,
    pub(super) demand: u128,
    pub(super) delivered: u128,
    pub(super) background: u128,
    pub(super) elastic: u128,
    pub(super) ended: u64,
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) capacity: u64,
    /// Real sending capacity: less when grey.
    pub(super) real: u64,
    pub(super) zone: u32,
    pub(super) background: u64,
    pub(super) up: bool,
    pub(super) draining: bool,
    pub(super) boot: u64,
    pub(super) started: Time,
    /// Summed bit/s of its sessions, and who they are.
    pub(super) sum: u64,
    pub(super) sessions: Vec<u64>,
    /// Titles that are whole here.
    pub(super) held: Vec<Held>,
    /// A bit per title that can be served, whole or from its prefix.
    servable: Vec<u64>,
    pub(super) replica_bytes: u64,
    pub(super) replica_used: u64,
    /// Summed bit/s that copies from here may take.
    pub(super) elastic: u64,
    settled: Time,
    pub(super) totals: NodeTotals,
    pub(super) sequence: u64,
    /// Per master: ids for the next report, changes for the next batch, and when the last batch arrives.
    pub(super) acknowledged: Vec<Vec<u64>>,
    pub(super) outbox: Vec<Vec<Change>>,
    pub(super) arrives: Vec<Time>,
    pub(super) flush_planned: bool,
}

/// Reason of a refused session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Draining, or the title is not here.
    Closed,
    /// Full: bit/s that it can reserve in total.
    Full(u64),
}

/// All nodes of a plan, up and empty.
pub(super) fn all(plan: &Plan<'_>) -> Vec<Node> {
    let masters = plan.scenario.masters as usize;
    let words = plan.rates.len().div_ceil(64);
    let zones = plan.scenario.zones;
    let node = |(index, &capacity): (usize, &u64)| Node {
        capacity,
        real: capacity,
        zone: index as u32 % zones,
        background: 0,
        up: true,
        draining: false,
        boot: 1,
        started: 0,
        sum: 0,
        sessions: Vec::new(),
        held: Vec::new(),
        servable: vec![0; words],
        replica_bytes: 0,
        replica_used: 0,
        elastic: 0,
        settled: 0,
        totals: NodeTotals::default(),
        sequence: 0,
        acknowledged: vec![Vec::new(); masters],
        outbox: vec![Vec::new(); masters],
        arrives: vec![0; masters],
        flush_planned: false,
    };
    let mut nodes: Vec<Node> = plan.capacities.iter().enumerate().map(node).collect();
    for (title, holders) in plan.holders.iter().enumerate() {
        let title = title as u32;
        for &holder in holders {
            let node = &mut nodes[holder as usize];
            node.held.push(Held { title, rate: plan.rates[title as usize], bytes: plan.size(title), replica: false });
            node.serve(title, true);
        }
    }
    for node in &mut nodes {
        let given: u64 = node.held.iter().map(|held| held.bytes).sum();
        let largest = node.held.iter().map(|held| held.bytes).max();
        node.replica_bytes = (given / REPLICA_SHARE).max(largest.unwrap_or(0));
    }
    nodes
}

impl Node {
    /// Whether it can serve `title`.
    pub(super) fn serves(&self, title: u32) -> bool {
        self.servable[title as usize / 64] >> (title % 64) & 1 == 1
    }

    pub(super) fn serve(&mut self, title: u32, yes: bool) {
        let (word, bit) = (&mut self.servable[title as usize / 64], 1 << (title % 64));
        if yes { *word |= bit } else { *word &= !bit }
    }

    /// The share of its real capacity in use, at most 1; `None` when it can send nothing.
    pub(super) fn utilisation(&self) -> Option<f64> {
        (self.up && self.real > 0).then(|| ((self.sum + self.background) as f64 / self.real as f64).min(1.0))
    }

    /// The share of its capacity that sessions take.
    pub(super) fn level(&self) -> f64 {
        self.sum as f64 / self.capacity as f64
    }

    /// Bit/s that sessions and background leave.
    pub(super) fn spare(&self) -> u64 {
        self.real.saturating_sub(self.background).saturating_sub(self.sum)
    }

    /// Whether a session may begin here.
    pub(super) fn admit(&self, title: u32, rate: u64, guard: bool, burst: bool) -> Result<(), Refusal> {
        if self.draining || !self.serves(title) {
            return Err(Refusal::Closed);
        }
        let slack = if burst { self.real / 10 } else { 0 };
        if guard && self.sum + self.background + rate > self.real + slack {
            return Err(Refusal::Full(self.real));
        }
        Ok(())
    }

    /// Integrates up to `now`. Call before anything about the node changes.
    pub(super) fn settle(&mut self, now: Time, meter: &mut RunMeter) {
        let span = now - self.settled;
        self.settled = now;
        if span == 0 || !self.up {
            return;
        }
        let background = self.background.min(self.real);
        let delivered = self.sum.min(self.real - background);
        let span = u128::from(span);
        self.totals.demand += u128::from(self.sum) * span;
        self.totals.delivered += u128::from(delivered) * span;
        self.totals.background += u128::from(background) * span;
        let above = (self.sum + self.background) * 100 > self.real * 101;
        meter.node(span, self.sum, delivered, self.sessions.len(), above);
    }

    /// Records a change for the masters' next report, and next batch if they get batches.
    pub(super) fn note(&mut self, change: Change, deltas: bool) {
        if let Change::Begun { session, .. } | Change::Refused { session, .. } = change {
            self.acknowledged.iter_mut().for_each(|ids| ids.push(session));
        }
        if deltas {
            self.outbox.iter_mut().for_each(|outbox| outbox.push(change));
        }
    }
}
