//! Behaviour of clients: ask, dial, try the alternates, ask once more without those that refused, and give up.
//!
//! - A ticket is redeemed after a log-normal delay, and each further try takes as long again.
//! - A dial to a node that is gone times out after a second; the client reports it to its master.
//! - Waiting for a first seat loses nothing: the session plays its whole length once it begins. One that never gets a
//!   seat is lost from the moment it gives up, for as long as it would have lasted.

use super::{Simulation, node::Refusal, queue::Event, session::Place};
use crate::sim::{
    policy::{Answer, Ask, Change},
    units::{SECOND, Time, log_normal},
    workload::{Arrival, REDEEM, SPREAD},
};

/// Limit of a dial.
const DIAL_PATIENCE: Time = SECOND;

impl Simulation<'_> {
    /// A client asks for a title.
    pub(super) fn arrive(&mut self, arrival: &Arrival) {
        let rate = self.plan.rates[arrival.title as usize];
        let session = self.sessions.open(arrival.title, rate, arrival.zone, arrival.duration);
        if arrival.abandoned {
            let master = self.any_master();
            let ask = Ask { session, title: arrival.title, zone: arrival.zone, exclude: &[], full: &[] };
            self.call(master, |policy, now| policy.resolve(now, &ask));
            self.sessions.close(session);
        } else {
            self.ask(session, arrival.redeem);
        }
    }

    /// Asks a master and dials the seat, or gives up.
    fn ask(&mut self, id: u64, travel: Time) {
        let master = self.any_master();
        let Some(session) = self.sessions.find(id) else { return };
        let (exclude, full) = (std::mem::take(&mut session.exclude), std::mem::take(&mut session.full));
        let (title, zone) = (session.title, session.zone);
        let ask = Ask { session: id, title, zone, exclude: &exclude, full: &full };
        let answer = self.call(master, |policy, now| policy.resolve(now, &ask));
        let Some(session) = self.sessions.find(id) else { return };
        (session.exclude, session.full) = (exclude, full);
        match answer {
            Answer::Seat { node, alternates, burst } => {
                session.burst = burst;
                session.seats.clear();
                session.seats.push_back(node);
                session.seats.extend(alternates);
                self.queue.push(self.now + travel, Event::Dial { session: id });
            }
            Answer::Refused => self.lose(id),
        }
    }

    /// A client reaches its next seat.
    pub(super) fn dial(&mut self, id: u64) {
        let Some(session) = self.sessions.find(id) else { return };
        let Some(&node) = session.seats.front() else { return };
        let it = &mut self.nodes[node as usize];
        if !it.up {
            self.queue.push(self.now + DIAL_PATIENCE, Event::TimedOut { session: id });
            return;
        }
        match it.admit(session.title, session.rate, self.guard, session.burst) {
            Ok(()) => self.begin(id, node),
            Err(shut) => {
                let limit = match shut {
                    Refusal::Closed => None,
                    Refusal::Full(limit) => {
                        session.full.push(node);
                        Some(limit)
                    }
                };
                self.note(node, Change::Refused { session: id, limit });
                self.next_seat(id);
            }
        }
    }

    /// A dial got no answer.
    pub(super) fn timed_out(&mut self, id: u64) {
        let Some(session) = self.sessions.find(id) else { return };
        let Some(&node) = session.seats.front() else { return };
        let master = self.any_master();
        self.call(master, |policy, now| policy.hint(now, node, id));
        self.next_seat(id);
    }

    /// The present seat failed: tries the next one, asks a second time, or gives up.
    fn next_seat(&mut self, id: u64) {
        let travel = log_normal(&mut self.clients, REDEEM, SPREAD);
        let Some(session) = self.sessions.find(id) else { return };
        if let Some(node) = session.seats.pop_front() {
            session.exclude.push(node);
        }
        if !session.seats.is_empty() {
            self.queue.push(self.now + travel, Event::Dial { session: id });
        } else if !session.retried {
            session.retried = true;
            self.ask(id, travel);
        } else {
            self.lose(id);
        }
    }

    /// A client that lost its node asks for another.
    pub(super) fn again(&mut self, id: u64, suspect: Option<u32>) {
        if self.sessions.find(id).is_none() {
            return;
        }
        if let Some(node) = suspect {
            let master = self.any_master();
            self.call(master, |policy, now| policy.hint(now, node, id));
        }
        let travel = log_normal(&mut self.clients, REDEEM, SPREAD);
        self.ask(id, travel);
    }

    /// A session begins on `node`, or continues there.
    pub(super) fn begin(&mut self, id: u64, node: u32) {
        let Some(session) = self.sessions.find(id) else { return };
        let (title, rate, duration) = (session.title, session.rate, session.duration);
        let before = std::mem::replace(&mut session.place, Place::Node(node));
        let it = &mut self.nodes[node as usize];
        it.settle(self.now, &mut self.meter);
        session.index = it.sessions.len() as u32;
        session.seats.clear();
        it.sessions.push(id);
        it.sum += rate;
        match before {
            Place::Asking => {
                self.meter.offer(self.now, rate, duration);
                self.queue.push(self.now + duration, Event::End { session: id });
            }
            Place::Unserved => self.meter.served(self.now, rate),
            Place::Node(_) => {}
        }
        self.note(node, Change::Begun { session: id, title, rate });
    }

    /// No node accepts a session: the rest of it is lost.
    fn lose(&mut self, id: u64) {
        let Some(session) = self.sessions.find(id) else { return };
        self.meter.refused();
        session.seats.clear();
        if session.place == Place::Asking {
            session.place = Place::Unserved;
            let (rate, duration) = (session.rate, session.duration);
            self.meter.offer(self.now, rate, duration);
            self.meter.unserved(self.now, rate);
            self.queue.push(self.now + duration, Event::End { session: id });
        }
    }

    /// A session ends.
    pub(super) fn end(&mut self, id: u64) {
        let Some(session) = self.sessions.find(id) else { return };
        let (place, rate) = (session.place, session.rate);
        match place {
            Place::Node(node) => {
                self.take_from(node, id);
                self.nodes[node as usize].totals.ended += rate;
                self.note(node, Change::Ended { session: id });
            }
            Place::Unserved => self.meter.served(self.now, rate),
            Place::Asking => {}
        }
        self.sessions.close(id);
    }

    /// Takes a session off the list of `node`.
    pub(super) fn take_from(&mut self, node: u32, id: u64) {
        let Some(session) = self.sessions.find(id) else { return };
        let (index, rate) = (session.index, session.rate);
        let it = &mut self.nodes[node as usize];
        it.settle(self.now, &mut self.meter);
        it.sessions.swap_remove(index as usize);
        it.sum -= rate;
        if let Some(&other) = it.sessions.get(index as usize)
            && let Some(other) = self.sessions.find(other)
        {
            other.index = index;
        }
    }
}
