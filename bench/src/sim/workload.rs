//! The workload: Poisson arrivals, Zipf titles, and the mixes of bitrates and durations.
//!
//! The intensity is `load(t) × usable capacity ÷ E[bitrate × duration]`: the bits that arrivals of a second bring with
//! them, over their whole life, are `load(t)` of what the cluster can send in a second beside its mean background. (A
//! load of 0.98 of all capacity would leave no optimum without loss, and the published one has none.) The audience of
//! the first level is there from the start of the warm-up; later levels are reached as sessions turn over. The same
//! seed gives the same arrivals to every policy. Independent of nodes.

use std::collections::BinaryHeap;

use rand::{RngExt as _, rngs::SmallRng};

use super::{
    scenario::{Durations, Scenario},
    units::{Stream, Time, exponential, from_seconds, log_normal, normal, stream, to_seconds},
};

/// Median seconds from a ticket to its redemption: a dial and a round trip.
pub(crate) const REDEEM: f64 = 0.08;

/// Spread of such delays: 95 % lie within a factor of 2.7.
pub(crate) const SPREAD: f64 = 0.5;

/// Seconds at the start of the warm-up in which the initial sessions arrive.
const SEATING: f64 = 5.0;

/// An arriving client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrival {
    /// The time.
    pub(crate) at: Time,
    /// The title.
    pub(crate) title: u32,
    /// The duration of its session.
    pub(crate) duration: Time,
    /// The zone.
    pub(crate) zone: u32,
    /// Time from the first ticket to its redemption.
    pub(crate) redeem: Time,
    /// The ticket is never redeemed.
    pub(crate) abandoned: bool,
}

/// A title's popularity as a table to draw from.
#[derive(Clone, Debug)]
pub(crate) struct Popularity {
    sums: Vec<f64>,
}

impl Popularity {
    /// Zipf over `titles` ranks.
    pub(crate) fn zipf(titles: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = Vec::with_capacity(titles as usize);
        for rank in 1..=titles {
            sum += f64::from(rank).powf(-exponent);
            sums.push(sum);
        }
        sums.iter_mut().for_each(|entry| *entry /= sum);
        Self { sums }
    }

    /// The share of requests that ask for `rank`.
    pub(crate) fn share(&self, rank: usize) -> f64 {
        self.sums[rank] - if rank == 0 { 0.0 } else { self.sums[rank - 1] }
    }

    fn draw(&self, rng: &mut SmallRng) -> u32 {
        let point: f64 = rng.random();
        self.sums.partition_point(|&sum| sum <= point).min(self.sums.len() - 1) as u32
    }
}

impl Durations {
    /// Seconds of one session.
    fn draw(self, rng: &mut SmallRng) -> f64 {
        match self {
            Self::Clips => log_uniform(rng.random(), 3.0, 90.0),
            Self::Long => pareto(rng.random(), 1.3, 600.0, 14_400.0),
            Self::Mix => match rng.random::<f64>() {
                kind if kind < 0.25 => log_uniform(rng.random(), 5.0, 60.0),
                kind if kind < 0.70 => (480.0 * (0.8 * normal(rng)).exp()).min(3600.0),
                _ => pareto(rng.random(), 1.5, 1200.0, 14_400.0),
            },
        }
    }

    /// The longest seconds of a session.
    fn longest(self) -> f64 {
        match self {
            Self::Clips => 90.0,
            Self::Long | Self::Mix => 14_400.0,
        }
    }

    /// Mean seconds of a session.
    pub(crate) fn mean(self) -> f64 {
        // Midpoints of equal shares of probability; the log-normal by midpoints of its density.
        let over = |quantile: &dyn Fn(f64) -> f64| {
            (0..20_000).map(|step| quantile((f64::from(step) + 0.5) / 20_000.0)).sum::<f64>() / 20_000.0
        };
        match self {
            Self::Clips => over(&|u| log_uniform(u, 3.0, 90.0)),
            Self::Long => over(&|u| pareto(u, 1.3, 600.0, 14_400.0)),
            Self::Mix => {
                let step = 0.001;
                let watch: f64 = (-8000..8000)
                    .map(|index| {
                        let z = (f64::from(index) + 0.5) * step;
                        let density = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
                        (480.0 * (0.8 * z).exp()).min(3600.0) * density * step
                    })
                    .sum();
                0.25 * over(&|u| log_uniform(u, 5.0, 60.0))
                    + 0.45 * watch
                    + 0.30 * over(&|u| pareto(u, 1.5, 1200.0, 14_400.0))
            }
        }
    }
}

/// The quantile `u` of a log-uniform variable.
fn log_uniform(u: f64, low: f64, high: f64) -> f64 {
    low * (high / low).powf(u)
}

/// The quantile `u` of a bounded Pareto variable.
fn pareto(u: f64, exponent: f64, low: f64, high: f64) -> f64 {
    let tail = 1.0 - u * (1.0 - (low / high).powf(exponent));
    low * tail.powf(-1.0 / exponent)
}

/// The bitrate of every title in bit/s.
pub(crate) fn bitrates(scenario: &Scenario, seed: u64) -> Vec<u64> {
    let rng = &mut stream(seed, Stream::Titles, 0);
    let total: f64 = scenario.bitrate_weights.iter().sum();
    let draw = |_| {
        let mut point = rng.random::<f64>() * total;
        let index = scenario.bitrate_weights.iter().position(|weight| {
            point -= weight;
            point < 0.0
        });
        let index = index.unwrap_or(scenario.bitrates_mbps.len() - 1);
        (scenario.bitrates_mbps[index] * 1e6).round() as u64
    };
    (0..scenario.titles).map(draw).collect()
}

/// All arrivals of a run in order of time.
pub(crate) struct Arrivals<'a> {
    scenario: &'a Scenario,
    popularity: Popularity,
    /// Requests per second at a load of 1.
    intensity: f64,
    peak: f64,
    end: Time,
    rngs: Vec<SmallRng>,
    /// Sessions that run already when the warm-up starts, the last first.
    audience: Vec<Arrival>,
    /// The next arrival of each source: 0 is the load, the others are flashes.
    next: BinaryHeap<std::cmp::Reverse<(Time, usize)>>,
}

impl<'a> Arrivals<'a> {
    /// The arrivals of `scenario` with `seed`; `capacity` in bit/s, `rates` of the titles in bit/s.
    pub(crate) fn new(scenario: &'a Scenario, seed: u64, capacity: u64, rates: &[u64]) -> Self {
        let popularity = Popularity::zipf(scenario.titles, scenario.zipf);
        let rate: f64 = rates.iter().enumerate().map(|(rank, &rate)| popularity.share(rank) * rate as f64).sum();
        // Only tickets that are redeemed offer bits.
        let bits = rate * scenario.durations.mean() * (1.0 - scenario.abandon);
        let peak = scenario.load.iter().map(|&(_, level)| level).fold(0.0, f64::max);
        let sources = 1 + scenario.flash.len() as u64;
        let mut arrivals = Self {
            scenario,
            popularity,
            intensity: capacity as f64 * scenario.background.leaves() / bits,
            peak,
            end: from_seconds(scenario.warmup + scenario.seconds),
            rngs: (0..sources).map(|index| stream(seed, Stream::Arrivals, index)).collect(),
            next: BinaryHeap::new(),
            audience: Vec::new(),
        };
        arrivals.seat_audience();
        arrivals.plan(0, 0);
        for index in 0..scenario.flash.len() {
            arrivals.plan(index + 1, from_seconds(scenario.warmup + scenario.flash[index].at));
        }
        arrivals
    }

    /// Draws the initial sessions with their remaining durations, so that the load is reached from the start.
    fn seat_audience(&mut self) {
        let durations = self.scenario.durations;
        let mean = self.scenario.level(0.0) * self.intensity * durations.mean();
        let rng = &mut self.rngs[0];
        let mut at = exponential(rng);
        while at < mean {
            // A session found playing has a duration in proportion to its length, and any part of it is over.
            let whole = loop {
                let seconds = durations.draw(rng);
                if rng.random::<f64>() * durations.longest() <= seconds {
                    break seconds;
                }
            };
            let left = whole * rng.random::<f64>();
            self.audience.push(Arrival {
                at: from_seconds(SEATING * at / mean),
                title: self.popularity.draw(rng),
                duration: from_seconds(left),
                zone: rng.random_range(0..self.scenario.zones),
                redeem: log_normal(rng, REDEEM, SPREAD),
                abandoned: rng.random::<f64>() < self.scenario.abandon,
            });
            at += exponential(rng);
        }
        self.audience.reverse();
    }

    /// Finds the next arrival of `source` after `now`.
    fn plan(&mut self, source: usize, now: Time) {
        let rng = &mut self.rngs[source];
        let mut at = to_seconds(now);
        let at = if source == 0 {
            let peak = self.peak * self.intensity;
            if peak <= 0.0 {
                return;
            }
            // Thinning (Lewis and Shedler, 1979).
            loop {
                at += exponential(rng) / peak;
                let level = self.scenario.level((at - self.scenario.warmup).max(0.0));
                if from_seconds(at) >= self.end || rng.random::<f64>() * self.peak <= level {
                    break from_seconds(at);
                }
            }
        } else {
            let flash = &self.scenario.flash[source - 1];
            at += exponential(rng) / flash.per_second;
            if at > self.scenario.warmup + flash.at + flash.seconds {
                return;
            }
            from_seconds(at)
        };
        if at < self.end {
            self.next.push(std::cmp::Reverse((at, source)));
        }
    }
}

impl Iterator for Arrivals<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let planned = self.next.peek().map_or(Time::MAX, |next| next.0.0);
        if self.audience.last().is_some_and(|arrival| arrival.at <= planned) {
            return self.audience.pop();
        }
        let std::cmp::Reverse((at, source)) = self.next.pop()?;
        let rng = &mut self.rngs[source];
        let title = match source.checked_sub(1).map(|index| &self.scenario.flash[index]) {
            None => self.popularity.draw(rng),
            Some(flash) => flash.first_rank + rng.random_range(0..flash.titles),
        };
        let arrival = Arrival {
            at,
            title,
            duration: from_seconds(self.scenario.durations.draw(rng)),
            zone: rng.random_range(0..self.scenario.zones),
            redeem: log_normal(rng, REDEEM, SPREAD),
            abandoned: rng.random::<f64>() < self.scenario.abandon,
        };
        self.plan(source, at);
        Some(arrival)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_durations_are_those_of_the_draws() {
        for durations in [Durations::Mix, Durations::Clips, Durations::Long] {
            let rng = &mut stream(7, Stream::Arrivals, 0);
            let drawn = (0..400_000).map(|_| durations.draw(rng)).sum::<f64>() / 400_000.0;
            assert!((drawn / durations.mean() - 1.0).abs() < 0.02, "{durations:?}: {drawn} and {}", durations.mean());
        }
    }

    #[test]
    fn arrivals_bring_the_bits_of_the_load_and_repeat_by_seed() {
        let scenario = Scenario { durations: Durations::Clips, load: vec![(0.0, 0.5)], ..Scenario::default() };
        let rates = bitrates(&scenario, 3);
        let arrivals: Vec<_> = Arrivals::new(&scenario, 3, 20_000_000_000, &rates).collect();
        let bits: f64 = arrivals
            .iter()
            .filter(|arrival| !arrival.abandoned)
            .map(|arrival| rates[arrival.title as usize] as f64 * to_seconds(arrival.duration))
            .sum();
        let share = bits / (20e9 * (scenario.warmup + scenario.seconds));
        let wanted = 0.5 * scenario.background.leaves();
        assert!((share - wanted).abs() < 0.01, "{share}, not {wanted}");
        assert!(arrivals.windows(2).all(|pair| pair[0].at <= pair[1].at));
        assert!(arrivals.iter().copied().eq(Arrivals::new(&scenario, 3, 20_000_000_000, &rates)));
    }
}
