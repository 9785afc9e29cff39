//! The simulated cluster: nodes, clients, messages and time, run against one policy. Owns the order of events and
//! the true state; a policy sees it only through `policy::Policy`.
//!
//! - Sessions are fluid: a node's sessions share what background leaves of its real capacity (`node`).
//! - Clients resolve, dial, try alternates, ask once more, and give up (`client`).
//! - Reports and deltas are delayed and lost (`wire`). Moves, copies and probes are carried out (`orders`).
//! - Nodes crash, drain, turn grey and come back (`fault`). All is counted exactly, in bit·µs (`meter`).

mod client;
mod fault;
mod meter;
mod node;
mod orders;
mod queue;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use rand::{RngExt as _, rngs::SmallRng};

pub(crate) use meter::RunFigures;
use meter::RunMeter;
use node::Node;
use orders::Transfer;
use queue::{Event, Queue};
use session::Sessions;

use super::{
    optimum::WINDOW,
    plan::Plan,
    policy::{Join, Named, Policy, Setup},
    units::{SECOND, Stream, Time, from_seconds, stream},
    workload::Arrivals,
};

/// Regular ticks of a policy.
const TICK: Time = 250_000;

/// Delay of a deadline that lies in the past, so that time advances.
const LEAST_WAIT: Time = 1_000;

/// One run.
pub(crate) struct Simulation<'a> {
    plan: &'a Plan<'a>,
    guard: bool,
    deltas: bool,
    masters: Vec<Box<dyn Policy>>,
    /// Per master, when a tick is planned that its deadline asked for.
    wakes: Vec<Time>,
    nodes: Vec<Node>,
    sessions: Sessions,
    queue: Queue,
    arrivals: Arrivals<'a>,
    now: Time,
    meter: RunMeter,
    transfers: Vec<Option<Transfer>>,
    /// Random streams of clients and of messages.
    clients: SmallRng,
    messages: SmallRng,
}

/// Runs `policy` through `plan` and returns its figures.
pub(crate) fn run(plan: &Plan<'_>, policy: &Named) -> RunFigures {
    let mut simulation = Simulation::new(plan, policy);
    simulation.start();
    while let Some((at, event)) = simulation.queue.pop() {
        if at > plan.to {
            break;
        }
        simulation.now = at;
        simulation.handle(event);
    }
    simulation.meter.figures()
}

impl<'a> Simulation<'a> {
    fn new(plan: &'a Plan<'a>, policy: &Named) -> Self {
        let scenario = plan.scenario;
        let make = |index| {
            (policy.make)(Setup {
                seed: plan.seed,
                index,
                masters: scenario.masters,
                titles: scenario.titles,
                report_interval: from_seconds(scenario.reports.interval),
            })
        };
        Self {
            plan,
            guard: policy.flags.guard,
            deltas: policy.flags.deltas,
            masters: (0..scenario.masters).map(make).collect(),
            wakes: vec![Time::MAX; scenario.masters as usize],
            nodes: node::all(plan),
            sessions: Sessions::default(),
            queue: Queue::default(),
            arrivals: plan.arrivals(),
            now: 0,
            meter: RunMeter::new(plan),
            transfers: Vec::new(),
            clients: stream(plan.seed, Stream::Clients, 0),
            messages: stream(plan.seed, Stream::Reports, 0),
        }
    }

    fn start(&mut self) {
        let interval = self.plan.scenario.reports.interval;
        for node in 0..self.nodes.len() as u32 {
            self.attach(node);
            let phase = from_seconds(self.messages.random::<f64>() * interval);
            self.queue.push(phase, Event::Measure { node, boot: 1 });
        }
        self.queue.push(0, Event::Second);
        self.queue.push(self.plan.from, Event::Window);
        self.queue.push(TICK, Event::Tick);
        for (index, change) in self.plan.changes.iter().enumerate() {
            self.queue.push(change.at, Event::Fault { index: index as u32 });
        }
        self.await_arrival();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { arrival } => {
                self.await_arrival();
                self.arrive(&arrival);
            }
            Event::Dial { session } => self.dial(session),
            Event::TimedOut { session } => self.timed_out(session),
            Event::Again { session, suspect } => self.again(session, suspect),
            Event::End { session } => self.end(session),
            Event::Second => self.second(),
            Event::Window => self.window(),
            Event::Tick => {
                for master in 0..self.masters.len() {
                    self.tick(master);
                }
                self.queue.push(self.now + TICK, Event::Tick);
            }
            Event::Wake { master } => {
                self.wakes[master as usize] = Time::MAX;
                self.tick(master as usize);
            }
            Event::Fault { index } => self.fault(self.plan.changes[index as usize]),
            Event::Measure { node, boot } => self.measure(node, boot),
            Event::Report { master, node, report } => self.call(master as usize, |policy, now| {
                policy.report(now, node, &report);
            }),
            Event::Flush { node, boot } => self.flush(node, boot),
            Event::Delta { master, node, delta } => self.call(master as usize, |policy, now| {
                policy.delta(now, node, &delta);
            }),
            Event::Move { master, session, from, to } => self.carry_over(master, session, from, to),
            Event::Copy { index } => self.copy_step(index as usize),
            Event::Probed { master, node, alive } => self.call(master as usize, |policy, now| {
                policy.probed(now, node, alive);
            }),
        }
    }

    fn await_arrival(&mut self) {
        if let Some(arrival) = self.arrivals.next() {
            self.queue.push(arrival.at, Event::Arrive { arrival });
        }
    }

    /// Calls one master, then takes its orders and its deadline.
    fn call<T>(&mut self, master: usize, call: impl FnOnce(&mut dyn Policy, Time) -> T) -> T {
        let said = call(self.masters[master].as_mut(), self.now);
        self.take_orders(master);
        if let Some(deadline) = self.masters[master].deadline() {
            let deadline = deadline.max(self.now + LEAST_WAIT);
            if deadline < self.wakes[master] {
                self.wakes[master] = deadline;
                self.queue.push(deadline, Event::Wake { master: master as u32 });
            }
        }
        said
    }

    fn call_all(&mut self, call: impl Fn(&mut dyn Policy, Time)) {
        for master in 0..self.masters.len() {
            self.call(master, &call);
        }
    }

    fn tick(&mut self, master: usize) {
        self.call(master, |policy, now| policy.tick(now));
    }

    /// Attaches a node to all masters.
    fn attach(&mut self, node: u32) {
        let it = &self.nodes[node as usize];
        let (capacity, zone, boot, replica_bytes) = (it.capacity, it.zone, it.boot, it.replica_bytes);
        let titles = it.held.clone();
        self.call_all(|policy, now| {
            policy.joined(now, node, &Join { capacity, zone, boot, titles: &titles, replica_bytes });
        });
    }

    /// A random master: clients know them all.
    fn any_master(&mut self) -> usize {
        match self.masters.len() {
            1 => 0,
            count => self.clients.random_range(0..count),
        }
    }

    /// The background of a new second comes to all nodes.
    fn second(&mut self) {
        let background = self.plan.background(self.now);
        for (node, &background) in self.nodes.iter_mut().zip(background) {
            node.settle(self.now, &mut self.meter);
            node.background = background;
        }
        self.meter.utilisation(self.nodes.iter().filter_map(Node::utilisation));
        self.queue.push(self.now + SECOND, Event::Second);
    }

    /// Closes a window of the counted time and opens the next.
    fn window(&mut self) {
        for node in &mut self.nodes {
            node.settle(self.now, &mut self.meter);
        }
        self.meter.settle(self.now);
        self.meter.close_window(self.now, self.nodes.iter().map(Node::level).collect());
        let next = self.now + WINDOW * SECOND;
        if self.now < self.plan.to {
            self.queue.push(next.min(self.plan.to), Event::Window);
        }
    }
}
