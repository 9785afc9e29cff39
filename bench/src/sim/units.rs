//! Simulated time and the random streams. Independent of the simulated events.

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// Microseconds since the start of the warm-up.
pub(crate) type Time = u64;

/// One second.
pub(crate) const SECOND: Time = 1_000_000;

/// `seconds` as a time; what is negative is 0.
pub(crate) fn from_seconds(seconds: f64) -> Time {
    (seconds * SECOND as f64).round().max(0.0) as Time
}

/// A time as seconds.
pub(crate) fn to_seconds(time: Time) -> f64 {
    time as f64 / SECOND as f64
}

/// The use of a random stream. Each has its own, so that a policy's choices do not change who comes and when.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    /// Bitrates of titles.
    Titles = 1,
    /// Which node holds what.
    Placement = 2,
    /// Arrivals: client, time, title, duration.
    Arrivals = 3,
    /// Traffic that is not the cluster's.
    Background = 4,
    /// Delays and losses of reports.
    Reports = 5,
    /// Delays of clients after their first, and of orders.
    Clients = 6,
    /// A policy's own dice.
    Policy = 7,
}

/// The stream of `what` in the run with `seed`; `index` distinguishes several of a kind.
pub(crate) fn stream(seed: u64, what: Stream, index: u64) -> SmallRng {
    // Odd 64-bit constants spread small numbers over the whole word (Steele, Lea, Flood 2014, splitmix64).
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (what as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        ^ index.wrapping_mul(0x94d0_49bb_1331_11eb);
    SmallRng::seed_from_u64(mixed)
}

/// An exponential variable of mean 1.
pub(crate) fn exponential(rng: &mut SmallRng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

/// A standard normal variable (Box and Muller, 1958).
pub(crate) fn normal(rng: &mut SmallRng) -> f64 {
    let radius = (2.0 * exponential(rng)).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// A log-normal time with the given median.
pub(crate) fn log_normal(rng: &mut SmallRng, median: f64, sigma: f64) -> Time {
    from_seconds(median * (sigma * normal(rng)).exp())
}
