//! The plan of faults: a function of a seed and the shape of a cluster. At most one node is unavailable at a time; a second
//! fault during that outage leaves every title one running node with a complete copy. The injection is left to `faults`.

use std::{fmt, str::FromStr, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A node is killed and started again.
    Crash,
    /// A node is stopped and continued.
    Freeze,
    /// An operator drains a node and undrains it.
    Drain,
    /// A node gets SIGTERM, and is started again after its exit.
    Rolling,
    /// The master is killed and started again.
    Master,
    /// Bits of a copy flip on a node's disk.
    Corrupt,
    /// Datagrams from or to a node's clients are lost.
    Blackhole,
    /// A node's clients get new ports.
    Rebind,
    /// An operator rebalances the sessions.
    Rebalance,
}

impl Kind {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 9] = [
        Self::Crash,
        Self::Freeze,
        Self::Drain,
        Self::Rolling,
        Self::Rebalance,
        Self::Blackhole,
        Self::Master,
        Self::Rebind,
        Self::Corrupt,
    ];

    /// The name on command lines and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Freeze => "freeze",
            Self::Drain => "drain",
            Self::Rolling => "rolling",
            Self::Master => "master",
            Self::Corrupt => "corrupt",
            Self::Blackhole => "blackhole",
            Self::Rebind => "rebind",
            Self::Rebalance => "rebalance",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("`{text}` is no kind of fault: use {}", names()))
    }
}

/// The direction whose datagrams are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Those from clients to the node.
    Up,
    /// Those from the node to clients.
    Down,
}

/// One fault. Nodes and titles are numbers, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "a node, a title, and how long it lasts")]
pub enum Fault {
    Crash { node: usize, down: Duration },
    Freeze { node: usize, lasts: Duration },
    Drain { node: usize, lasts: Duration },
    Rolling { node: usize },
    Master { down: Duration },
    Corrupt { title: usize, node: usize, lasts: Duration },
    Blackhole { node: usize, way: Way, lasts: Duration },
    Rebind { node: usize },
    Rebalance,
}

impl Fault {
    /// Its kind.
    pub fn kind(self) -> Kind {
        match self {
            Self::Crash { .. } => Kind::Crash,
            Self::Freeze { .. } => Kind::Freeze,
            Self::Drain { .. } => Kind::Drain,
            Self::Rolling { .. } => Kind::Rolling,
            Self::Master { .. } => Kind::Master,
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::Blackhole { .. } => Kind::Blackhole,
            Self::Rebind { .. } => Kind::Rebind,
            Self::Rebalance => Kind::Rebalance,
        }
    }

    /// Its node.
    pub fn node(self) -> Option<usize> {
        match self {
            Self::Crash { node, .. } | Self::Freeze { node, .. } | Self::Drain { node, .. } => Some(node),
            Self::Rolling { node } | Self::Rebind { node } => Some(node),
            Self::Corrupt { node, .. } | Self::Blackhole { node, .. } => Some(node),
            Self::Master { .. } | Self::Rebalance => None,
        }
    }

    /// Its planned duration.
    pub fn lasts(self) -> Duration {
        match self {
            Self::Crash { down: lasts, .. } | Self::Master { down: lasts } => lasts,
            Self::Freeze { lasts, .. } | Self::Drain { lasts, .. } => lasts,
            Self::Corrupt { lasts, .. } | Self::Blackhole { lasts, .. } => lasts,
            Self::Rolling { .. } => ROLLING,
            Self::Rebind { .. } | Self::Rebalance => Duration::ZERO,
        }
    }

    /// Whether a node or the master is unavailable, so that no other may be.
    pub fn is_outage(self) -> bool {
        !matches!(self, Self::Rebind { .. } | Self::Corrupt { .. })
    }
}

/// Drain timeout of the nodes.
pub const ROLLING: Duration = Duration::from_secs(10);

/// The run that a plan is made for.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Number of nodes.
    pub nodes: usize,
    /// The holders of each title, at least two.
    pub holders: Vec<Vec<usize>>,
    /// Duration of the plan: every fault ends by then.
    pub time: Duration,
    /// Kinds of faults to plan.
    pub kinds: Vec<Kind>,
    /// Short faults and short pauses, for a short run.
    pub brisk: bool,
}

/// The faults in order of their start times. Each round contains every kind once, shuffled; a rebalancing follows the
/// crash, if there is one.
pub fn plan(seed: u64, shape: &Shape) -> Vec<(Duration, Fault)> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut planned = Vec::new();
    let mut at = pause(&mut rng, shape);
    while !shape.kinds.is_empty() && at < shape.time {
        let mut round = shape.kinds.clone();
        round.shuffle(&mut rng);
        if let Some(last) = round.iter().position(|kind| *kind == Kind::Rebalance)
            && let Some(crash) = round.iter().position(|kind| *kind == Kind::Crash)
        {
            let rebalance = round.remove(last);
            let crash = if last < crash { crash - 1 } else { crash };
            round.insert(crash + 1, rebalance);
        }
        for kind in round {
            let fault = draw(&mut rng, kind, shape);
            if at + fault.lasts() <= shape.time {
                planned.push((at, fault));
                planned.extend(within(&mut rng, at, fault, shape));
            }
            at += fault.lasts() + pause(&mut rng, shape);
        }
    }
    planned.sort_by_key(|(at, _)| *at);
    planned
}

/// Pause after a fault.
fn pause(rng: &mut SmallRng, shape: &Shape) -> Duration {
    millis(rng, shape, 3_000, 6_000)
}

fn millis(rng: &mut SmallRng, shape: &Shape, least: u64, most: u64) -> Duration {
    let time = Duration::from_millis(rng.random_range(least..most));
    if shape.brisk { time / 2 } else { time }
}

fn draw(rng: &mut SmallRng, kind: Kind, shape: &Shape) -> Fault {
    let node = rng.random_range(0..shape.nodes);
    match kind {
        Kind::Crash => Fault::Crash { node, down: millis(rng, shape, 3_000, 9_000) },
        Kind::Freeze => Fault::Freeze { node, lasts: millis(rng, shape, 5_000, 15_000) },
        Kind::Drain => Fault::Drain { node, lasts: millis(rng, shape, 8_000, 14_000) },
        Kind::Rolling => Fault::Rolling { node },
        Kind::Master => Fault::Master { down: millis(rng, shape, 1_000, 5_000) },
        Kind::Corrupt => {
            let title = rng.random_range(0..shape.holders.len());
            corrupt(rng, title, shape)
        }
        Kind::Blackhole => {
            let way = if rng.random_bool(0.5) { Way::Up } else { Way::Down };
            Fault::Blackhole { node, way, lasts: millis(rng, shape, 2_000, 8_000) }
        }
        Kind::Rebind => Fault::Rebind { node },
        Kind::Rebalance => Fault::Rebalance,
    }
}

fn corrupt(rng: &mut SmallRng, title: usize, shape: &Shape) -> Fault {
    let holders = &shape.holders[title];
    let node = holders[rng.random_range(0..holders.len())];
    Fault::Corrupt { title, node, lasts: millis(rng, shape, 6_000, 12_000) }
}

/// A second fault that sometimes comes during an outage: the clients of another node get new ports, or one of three copies
/// is damaged, and is repaired before the outage ends.
fn within(rng: &mut SmallRng, at: Duration, outage: Fault, shape: &Shape) -> Option<(Duration, Fault)> {
    let wanted = outage.is_outage() && rng.random_bool(0.4);
    let middle = at + outage.lasts() / 4;
    let (kind, title) = (*shape.kinds.get(rng.random_range(0..shape.kinds.len()))?, rng.random_range(0..usize::MAX));
    let other = rng.random_range(0..shape.nodes);
    match kind {
        Kind::Rebind if wanted && Some(other) != outage.node() => Some((middle, Fault::Rebind { node: other })),
        Kind::Corrupt if wanted => {
            let safe: Vec<usize> = (0..shape.holders.len()).filter(|title| shape.holders[*title].len() >= 3).collect();
            let title = *safe.get(title % safe.len().max(1))?;
            let Fault::Corrupt { node, .. } = corrupt(rng, title, shape) else { return None };
            Some((middle, Fault::Corrupt { title, node, lasts: outage.lasts() / 2 }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(secs: u64, brisk: bool) -> Shape {
        let holders = (0..12).map(|title| (0..2 + title % 2).map(|copy| (title + copy) % 4).collect()).collect();
        Shape { nodes: 4, holders, time: Duration::from_secs(secs), kinds: Kind::ALL.to_vec(), brisk }
    }

    /// The faults at `now`, each extended by the time in which its node restarts.
    fn active_at(planned: &[(Duration, Fault)], now: Duration) -> impl Iterator<Item = Fault> {
        let back = |fault: &Fault| fault.lasts() + Duration::from_millis(500);
        let active = move |(at, fault): &&(Duration, Fault)| *at <= now && now < *at + back(fault);
        planned.iter().filter(active).map(|(_, fault)| *fault)
    }

    proptest! {
        #[test]
        fn every_title_has_a_running_node_with_a_complete_copy(seed: u64, brisk: bool) {
            let shape = shape(300, brisk);
            let planned = plan(seed, &shape);
            prop_assert_eq!(&planned, &plan(seed, &shape));
            prop_assert!(planned.is_sorted_by_key(|(at, _)| *at));
            for now in (0..3000).map(|tenth| Duration::from_millis(tenth * 100)) {
                let active: Vec<Fault> = active_at(&planned, now).collect();
                prop_assert!(active.iter().filter(|fault| fault.is_outage()).count() <= 1, "{:?}", active);
                for (title, holders) in shape.holders.iter().enumerate() {
                    let bad = |node: usize| active.iter().any(|fault| match *fault {
                        Fault::Rebind { .. } => false,
                        Fault::Corrupt { title: of, node: at, .. } => of == title && at == node,
                        fault => fault.node() == Some(node),
                    });
                    prop_assert!(holders.iter().any(|node| !bad(*node)), "title {}: {:?}", title, active);
                }
            }
        }

        #[test]
        fn every_kind_is_planned(seed: u64) {
            for (secs, brisk) in [(180, false), (100, true)] {
                let planned = plan(seed, &shape(secs, brisk));
                for kind in Kind::ALL {
                    prop_assert!(planned.iter().any(|(_, fault)| fault.kind() == kind), "no {} in {} s", kind, secs);
                }
                let end = planned.iter().map(|(at, fault)| *at + fault.lasts()).max();
                prop_assert!(end <= Some(Duration::from_secs(secs)));
            }
        }
    }

    #[test]
    fn seeds_differ_and_only_wanted_kinds_are_planned() {
        let all = shape(120, false);
        assert_ne!(plan(1, &all), plan(2, &all));
        let kills = Shape { kinds: vec![Kind::Crash, Kind::Freeze], ..all.clone() };
        let planned = plan(1, &kills);
        assert!(planned.len() > 4, "{planned:?}");
        assert!(planned.iter().all(|(_, fault)| kills.kinds.contains(&fault.kind())));
        assert_eq!(plan(1, &Shape { kinds: Vec::new(), ..all }), []);
    }

    #[test]
    fn kinds_parse_from_their_names() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("flood".parse::<Kind>().is_err_and(|text| text.contains("blackhole")));
    }
}
