//! Carries out the orders of a policy.
//!
//! - A move takes about 100 ms; the target may refuse, then the session stays. Playback has no gap.
//! - A copy of a title (an hour of its bitrate) comes at the ordered rate, but only with what sessions and background
//!   leave of its source, shared among the copies from there, as seen every quarter second. It serves from its prefix
//!   once a second of media is there and it has come at least as fast as it plays, else when it is whole.
//! - A probe is answered within a round trip, or is not after a second.

use super::{Simulation, queue::Event, session::Place};
use crate::sim::{
    policy::{Change, Copied, CopyStage, Held, Order},
    units::{SECOND, Time, log_normal},
    workload::{REDEEM, SPREAD},
};

/// Median seconds from a move's order to its end.
const MOVE: f64 = 0.1;

/// A copy goes on in steps of this.
const STEP: Time = 250_000;

/// From the start of a copy to its first session.
const PREFIX: Time = SECOND;

/// A copy in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    title: u32,
    from: u32,
    to: u32,
    /// Ordered bit/s.
    rate: u64,
    /// Remaining bits.
    left: u64,
    began: Time,
    serving: bool,
}

impl Simulation<'_> {
    /// Starts the orders of `master`.
    pub(super) fn take_orders(&mut self, master: usize) {
        let mut orders = Vec::new();
        self.masters[master].orders(&mut orders);
        let master = master as u32;
        for order in orders {
            match order {
                Order::Move { session, from, to } => {
                    let at = self.now + log_normal(&mut self.clients, MOVE, SPREAD);
                    self.queue.push(at, Event::Move { master, session, from, to });
                }
                Order::Replicate { title, from, to, rate } => self.replicate(title, from, to, rate),
                Order::Evict { node, title } => self.evict(node, title),
                Order::Probe { node } => {
                    let alive = self.nodes[node as usize].up;
                    let wait = if alive { log_normal(&mut self.clients, REDEEM, SPREAD) } else { SECOND };
                    self.queue.push(self.now + wait, Event::Probed { master, node, alive });
                }
            }
        }
    }

    /// A move has come through: the session goes over if it is still there and the target admits it.
    pub(super) fn carry_over(&mut self, master: u32, id: u64, from: u32, to: u32) {
        let place = self.sessions.find(id).map(|session| (session.place, session.title, session.rate));
        let target = &self.nodes[to as usize];
        let ok = match place {
            Some((Place::Node(node), title, rate)) if node == from && node != to && target.up => {
                target.admit(title, rate, self.guard, false).is_ok()
            }
            _ => false,
        };
        if ok {
            self.take_from(from, id);
            self.note(from, Change::Ended { session: id });
            self.begin(id, to);
            self.meter.moved();
        }
        self.call(master as usize, |policy, now| policy.moved(now, id, ok));
    }

    fn replicate(&mut self, title: u32, from: u32, to: u32, rate: u64) {
        let bytes = self.plan.size(title);
        let (source, target) = (&self.nodes[from as usize], &self.nodes[to as usize]);
        let has = |held: &Held| held.title == title;
        let growing = self.transfers.iter().flatten().any(|copy| copy.title == title && copy.to == to);
        let good = source.up
            && target.up
            && !target.draining
            && source.held.iter().any(has)
            && !target.held.iter().any(has)
            && !growing
            && rate > 0
            && target.replica_used + bytes <= target.replica_bytes;
        if !good {
            // The order reaches no running node; the policy learns of it a little later, as of everything.
            let index = self.keep(Transfer { title, from, to, rate: 0, left: 0, began: self.now, serving: false });
            self.queue.push(self.now + STEP, Event::Copy { index });
            return;
        }
        self.nodes[to as usize].replica_used += bytes;
        self.nodes[from as usize].elastic += rate;
        self.meter.copied();
        let index = self.keep(Transfer { title, from, to, rate, left: bytes * 8, began: self.now, serving: false });
        self.queue.push(self.now + STEP, Event::Copy { index });
    }

    fn keep(&mut self, transfer: Transfer) -> u32 {
        let free = self.transfers.iter().position(Option::is_none);
        let index = free.unwrap_or(self.transfers.len());
        if index == self.transfers.len() {
            self.transfers.push(None);
        }
        self.transfers[index] = Some(transfer);
        index as u32
    }

    /// A copy has progressed by a step.
    pub(super) fn copy_step(&mut self, index: usize) {
        let Some(mut copy) = self.transfers[index] else { return };
        if copy.rate == 0 {
            self.transfers[index] = None;
            self.report_copied(&copy, CopyStage::Failed);
            return;
        }
        let source = &mut self.nodes[copy.from as usize];
        let share = (source.spare() as f64 / source.elastic.max(1) as f64).min(1.0);
        let bits = ((copy.rate as f64 * share) as u64 * STEP / SECOND).min(copy.left);
        source.totals.elastic += u128::from(bits) * u128::from(SECOND);
        copy.left -= bits;
        let came = self.plan.size(copy.title) * 8 - copy.left;
        let played =
            |time: u64| u128::from(self.plan.rates[copy.title as usize]) * u128::from(time) / u128::from(SECOND);
        let quick = u128::from(came) >= played(PREFIX).max(played(self.now - copy.began));
        let whole = copy.left == 0;
        let begins = (quick || whole) && !copy.serving;
        copy.serving |= begins;
        self.transfers[index] = (!whole).then_some(copy);
        if begins {
            self.nodes[copy.to as usize].serve(copy.title, true);
            self.report_copied(&copy, CopyStage::Serving);
        }
        if whole {
            let held = Held {
                title: copy.title,
                rate: self.plan.rates[copy.title as usize],
                bytes: self.plan.size(copy.title),
                replica: true,
            };
            self.nodes[copy.from as usize].elastic -= copy.rate;
            self.nodes[copy.to as usize].held.push(held);
            self.report_copied(&copy, CopyStage::Whole);
        } else {
            self.queue.push(self.now + STEP, Event::Copy { index: index as u32 });
        }
    }

    /// Stops the copies from and to a node that is gone.
    pub(super) fn fail_transfers(&mut self, node: u32) {
        for index in 0..self.transfers.len() {
            let Some(copy) = &mut self.transfers[index] else { continue };
            if copy.rate == 0 || (copy.from != node && copy.to != node) {
                continue;
            }
            self.nodes[copy.from as usize].elastic -= copy.rate;
            let target = &mut self.nodes[copy.to as usize];
            target.replica_used -= self.plan.size(copy.title);
            target.serve(copy.title, false);
            // Its next step reports to the masters.
            copy.rate = 0;
        }
    }

    fn evict(&mut self, node: u32, title: u32) {
        let others = self.nodes.iter().enumerate().any(|(index, other)| {
            index as u32 != node && other.up && other.held.iter().any(|held| held.title == title)
        });
        let it = &mut self.nodes[node as usize];
        let Some(index) = it.held.iter().position(|held| held.title == title).filter(|_| others) else { return };
        let held = it.held.swap_remove(index);
        if held.replica {
            it.replica_used -= held.bytes;
        }
        it.serve(title, false);
        self.call_all(|policy, now| {
            policy.copied(now, &Copied { title, from: node, to: node, stage: CopyStage::Evicted });
        });
    }

    fn report_copied(&mut self, copy: &Transfer, stage: CopyStage) {
        let copied = Copied { title: copy.title, from: copy.from, to: copy.to, stage };
        self.call_all(|policy, now| policy.copied(now, &copied));
    }
}
