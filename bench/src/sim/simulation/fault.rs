//! Incidents of nodes. A crash is silent: clients notice after about a second, masters by themselves. A stop is in
//! order: masters and clients know at once. A node that comes back is a new boot with the titles that were whole.

use rand::RngExt as _;

use super::{Simulation, queue::Event, session::Place};
use crate::sim::{
    plan::{Incident, IncidentKind},
    units::{SECOND, Time},
};

/// A client notices a silent node after this, and up to a fifth more.
const NOTICE: Time = SECOND;

impl Simulation<'_> {
    pub(super) fn fault(&mut self, incident: Incident) {
        let node = incident.node;
        let it = &mut self.nodes[node as usize];
        it.settle(self.now, &mut self.meter);
        match incident.what {
            IncidentKind::Crash if it.up => self.down(node, true),
            IncidentKind::Stop if it.up => {
                self.down(node, false);
                self.call_all(|policy, now| policy.left(now, node));
            }
            IncidentKind::Start if !it.up => self.up(node),
            IncidentKind::Drain if it.up => {
                it.draining = true;
                self.call_all(|policy, now| policy.draining(now, node));
            }
            IncidentKind::Grey(left) => it.real = (it.capacity as f64 * left) as u64,
            // Faults that overlap on one node: it is down, or up, already.
            IncidentKind::Crash | IncidentKind::Stop | IncidentKind::Start | IncidentKind::Drain => {}
        }
    }

    /// The node's sessions lose it.
    fn down(&mut self, node: u32, silent: bool) {
        let it = &mut self.nodes[node as usize];
        it.up = false;
        it.sum = 0;
        it.outbox.iter_mut().for_each(Vec::clear);
        it.acknowledged.iter_mut().for_each(Vec::clear);
        for id in std::mem::take(&mut it.sessions) {
            let Some(session) = self.sessions.find(id) else { continue };
            session.place = Place::Unserved;
            session.retried = false;
            session.exclude = vec![node];
            self.meter.unserved(self.now, session.rate);
            let (wait, suspect) =
                if silent { (NOTICE + self.clients.random_range(0..NOTICE / 5), Some(node)) } else { (0, None) };
            self.queue.push(self.now + wait, Event::Again { session: id, suspect });
        }
        self.fail_transfers(node);
    }

    fn up(&mut self, node: u32) {
        let it = &mut self.nodes[node as usize];
        it.up = true;
        it.draining = false;
        it.boot += 1;
        it.started = self.now;
        it.sequence = 0;
        it.flush_planned = false;
        it.totals = super::node::NodeTotals { since: self.now, ..Default::default() };
        let boot = it.boot;
        self.attach(node);
        self.plan_report(node, boot);
    }
}
