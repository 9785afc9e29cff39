//! Messages from nodes to masters: reports each interval ± jitter, and batches of changes within 200 ms, delayed by a
//! log-normal time. A lost report is gone, and what it acknowledged stands in the next one; a lost batch comes with
//! the next one. Batches stay in order per node. A node sends its batch before it measures, so that a batch lies
//! wholly before or after a report.

use rand::RngExt as _;

use super::{Simulation, queue::Event};
use crate::sim::{
    policy::{Change, Delta, Report},
    units::{Time, from_seconds, log_normal},
    workload::SPREAD,
};

/// A change is sent within this time.
const BATCH: Time = 200_000;

impl Simulation<'_> {
    /// Records a change at `node` for the masters.
    pub(super) fn note(&mut self, node: u32, change: Change) {
        let it = &mut self.nodes[node as usize];
        it.note(change, self.deltas);
        if self.deltas && !it.flush_planned {
            it.flush_planned = true;
            self.queue.push(self.now + BATCH, Event::Flush { node, boot: it.boot });
        }
    }

    /// The planned sending of a batch.
    pub(super) fn flush(&mut self, node: u32, boot: u64) {
        let it = &mut self.nodes[node as usize];
        if it.up && it.boot == boot {
            it.flush_planned = false;
            self.send_batch(node);
        }
    }

    fn send_batch(&mut self, node: u32) {
        let now = self.now;
        let given = &self.plan.scenario.reports;
        let it = &mut self.nodes[node as usize];
        let mut kept = false;
        for master in 0..it.outbox.len() {
            if it.outbox[master].is_empty() {
                continue;
            }
            if self.messages.random::<f64>() < given.loss {
                kept = true;
                continue;
            }
            let arrives = now + log_normal(&mut self.messages, given.delay, SPREAD);
            it.arrives[master] = it.arrives[master].max(arrives);
            let delta = Box::new(Delta {
                boot: it.boot,
                uptime_ms: (now - it.started) / 1000,
                committed: it.sum,
                changes: std::mem::take(&mut it.outbox[master]),
            });
            self.queue.push(it.arrives[master], Event::Delta { master: master as u32, node, delta });
        }
        if kept && !it.flush_planned {
            it.flush_planned = true;
            self.queue.push(now + BATCH, Event::Flush { node, boot: it.boot });
        }
    }

    /// Plans the next report of `node`.
    pub(super) fn plan_report(&mut self, node: u32, boot: u64) {
        let given = &self.plan.scenario.reports;
        let stretch = 1.0 + given.jitter * self.messages.random_range(-1.0..=1.0);
        self.queue.push(self.now + from_seconds(given.interval * stretch), Event::Measure { node, boot });
    }

    /// A node measures and reports.
    pub(super) fn measure(&mut self, node: u32, boot: u64) {
        let it = &mut self.nodes[node as usize];
        if !it.up || it.boot != boot {
            return;
        }
        it.settle(self.now, &mut self.meter);
        self.send_batch(node);
        self.plan_report(node, boot);
        let it = &mut self.nodes[node as usize];
        let totals =
            std::mem::replace(&mut it.totals, super::node::NodeTotals { since: self.now, ..Default::default() });
        let window = u128::from(self.now - totals.since).max(1);
        let mean = |bits: u128| (bits / window) as u64;
        it.sequence += 1;
        let report = Report {
            boot,
            sequence: it.sequence,
            uptime_ms: (self.now - it.started) / 1000,
            window_ms: (self.now - totals.since) / 1000,
            committed: it.sum,
            sessions: it.sessions.len() as u32,
            egress: mean(totals.delivered + totals.background),
            background: mean(totals.background),
            demand: mean(totals.demand),
            delivered: mean(totals.delivered),
            elastic: mean(totals.elastic),
            ended: totals.ended,
            acknowledged: Vec::new(),
            replica_free: it.replica_bytes.saturating_sub(it.replica_used),
        };
        let given = &self.plan.scenario.reports;
        for master in 0..self.masters.len() {
            if self.messages.random::<f64>() < given.loss {
                continue;
            }
            let acknowledged = std::mem::take(&mut it.acknowledged[master]);
            let arrives = self.now + log_normal(&mut self.messages, given.delay, SPREAD);
            let report = Box::new(Report { acknowledged, ..report.clone() });
            self.queue.push(arrives, Event::Report { master: master as u32, node, report });
        }
    }
}
