//! The simulation as a whole: the same by seed, nothing lost in the accounts, and the guard holds.

use crate::sim::{
    plan::Plan,
    policy::{self, Answer, Ask, Change, Copied, CopyStage, Delta, Flags, Join, Named, Order, Policy, Report, Setup},
    scenario::{Background, Fault, Placement, Scenario},
    simulation::{RunFigures, run},
    units::Time,
};

fn small(name: &str) -> Scenario {
    let scenario = crate::sim::scenario::public().unwrap().into_iter().find(|scenario| scenario.name == name);
    scenario.unwrap().small()
}

fn figures(scenario: &Scenario, seed: u64, policy: &Named) -> RunFigures {
    run(&Plan::new(scenario, seed), policy)
}

/// A scenario with every kind of fault.
fn troubled() -> Scenario {
    let mut scenario = small("S3");
    scenario.masters = 3;
    scenario.reports.loss = 0.2;
    scenario.fault = vec![
        Fault::Crash { at: 20.0, node: 6, until: 90.0 },
        Fault::Drain { at: 30.0, node: 0, deadline: 60.0 },
        Fault::Grey { at: 50.0, node: 5, until: 200.0, fraction: 0.4 },
        Fault::Flap { at: 100.0, node: 1, period: 8.0, times: 9 },
        Fault::Upgrade { at: 40.0, node: 3, down: 70.0, back: 110.0 },
    ];
    scenario
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    for name in ["random", "patent", "p2c", "least"] {
        let policy = policy::named(name).unwrap();
        let (one, two) = (figures(&troubled(), 5, &policy), figures(&troubled(), 5, &policy));
        assert_eq!(one, two);
        assert_ne!(one, figures(&troubled(), 6, &policy));
    }
}

#[test]
fn what_was_offered_was_delivered_or_lost() {
    for scenario in [troubled(), small("S1"), small("S4"), small("S7"), small("S9")] {
        for flags in [Flags::default(), Flags { guard: true, deltas: true }] {
            for name in ["random", "least"] {
                let policy = Named { flags, ..policy::named(name).unwrap() };
                let figures = figures(&scenario, 2, &policy);
                assert_eq!(figures.offered, figures.delivered + figures.lost, "{} {name}", scenario.name);
                assert!(figures.delivered > 0 && figures.offered_sessions > 100);
                let windows: u128 = figures.windows.iter().map(|window| window.0 + window.1).sum();
                assert_eq!(windows, figures.offered);
            }
        }
    }
}

#[test]
fn the_guard_keeps_every_node_within_its_real_capacity() {
    let mut scenario = small("S3");
    scenario.load = vec![(0.0, 2.0)];
    scenario.background = Background { mean: 0.05, sigma: 0.0, bursts_per_hour: 0.0 };
    let random = policy::named("random").unwrap();
    let without = figures(&scenario, 1, &random);
    assert!(without.above > 0);
    let guarded = Named { flags: Flags { guard: true, deltas: false }, ..random };
    let with = figures(&scenario, 1, &guarded);
    assert_eq!(with.above, 0);
    assert!(with.refused > 0 && with.max_util > 0.9);
}

#[test]
fn quiet_times_lose_nothing() {
    let mut scenario = small("S1");
    scenario.load = vec![(0.0, 0.3)];
    scenario.background = Background { mean: 0.0, sigma: 0.0, bursts_per_hour: 0.0 };
    let figures = figures(&scenario, 1, &policy::named("least").unwrap());
    assert_eq!((figures.lost, figures.refused, figures.above), (0, 0, 0));
}

/// Sends every session to node 0, copies every title that comes to node 1, moves every session there, then forgets the
/// copy; panics if the simulation violates its contract.
struct Mover {
    copying: Vec<bool>,
    orders: Vec<Order>,
    probed: bool,
    moved: usize,
    whole: usize,
    evicted: usize,
    last: u64,
}

fn mover(setup: Setup) -> Box<dyn Policy> {
    assert_eq!((setup.masters, setup.index), (1, 0));
    Box::new(Mover {
        copying: vec![false; setup.titles as usize],
        orders: vec![Order::Probe { node: 1 }],
        probed: false,
        moved: 0,
        whole: 0,
        evicted: 0,
        last: 0,
    })
}

impl Policy for Mover {
    fn joined(&mut self, _now: Time, node: u32, join: &Join<'_>) {
        assert!(join.replica_bytes > 0 || node == 1);
        assert_eq!(join.zone, node);
    }

    fn left(&mut self, _now: Time, _node: u32) {}

    fn draining(&mut self, _now: Time, _node: u32) {}

    fn report(&mut self, _now: Time, node: u32, report: &Report) {
        assert!(report.egress <= 1_000_000_000 && report.delivered <= report.demand, "{node}: {report:?}");
    }

    fn delta(&mut self, _now: Time, node: u32, delta: &Delta) {
        for change in &delta.changes {
            match *change {
                Change::Begun { session, title, .. } if node == 0 => {
                    if std::mem::replace(&mut self.copying[title as usize], true) {
                        self.orders.push(Order::Move { session, from: 0, to: 1 });
                    } else {
                        self.orders.push(Order::Replicate { title, from: 0, to: 1, rate: 100_000_000 });
                    }
                }
                _ => {}
            }
        }
        if node == 0 {
            assert!(delta.uptime_ms >= self.last);
            self.last = delta.uptime_ms;
        }
    }

    fn resolve(&mut self, _now: Time, ask: &Ask<'_>) -> Answer {
        assert!(ask.zone < 2 && ask.exclude.iter().all(|node| *node == 0));
        Answer::Seat { node: 0, alternates: Vec::new(), burst: false }
    }

    fn tick(&mut self, _now: Time) {}

    fn moved(&mut self, _now: Time, _session: u64, ok: bool) {
        self.moved += usize::from(ok);
    }

    fn copied(&mut self, _now: Time, copy: &Copied) {
        assert_eq!(copy.to, 1);
        if copy.stage == CopyStage::Whole {
            self.whole += 1;
            self.orders.push(Order::Evict { node: 1, title: copy.title });
        }
        self.evicted += usize::from(copy.stage == CopyStage::Evicted);
    }

    fn probed(&mut self, _now: Time, node: u32, alive: bool) {
        assert!(node == 1 && alive);
        self.probed = true;
    }

    fn orders(&mut self, orders: &mut Vec<Order>) {
        orders.append(&mut self.orders);
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.probed && self.moved > 0, "{} moved", self.moved);
            assert!(self.whole > 0 && self.evicted == self.whole, "{} whole, {} evicted", self.whole, self.evicted);
        }
    }
}

#[test]
fn orders_are_carried_out_and_answered() {
    let mut scenario = Scenario::parse(
        "nodes = [{ gbps = 1, count = 2 }]\nzones = 2\ntitles = 4\nwarmup = 10\nseconds = 400\nload = [[0, 0.3]]\n\
         placement = { kind = \"nested\" }\nbitrates_mbps = [2]\nbitrate_weights = [1]\nbackground = { mean = 0.0 }",
    )
    .unwrap();
    assert_eq!(scenario.placement, Placement::Nested);
    scenario.abandon = 0.0;
    let policy = Named { name: "mover", flags: Flags { guard: true, deltas: true }, make: mover };
    let figures = figures(&scenario, 1, &policy);
    assert!(figures.moves > 0 && figures.copies > 0);
    assert_eq!(figures.offered, figures.delivered + figures.lost);
}
