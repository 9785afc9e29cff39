//! Fixed-point mathematics for decaying values: a share is Q32 (`1 << 32` is 1.0).
//!
//! All integers, so that the same inputs give the same decision on every machine.

use std::time::Duration;

/// 1.0.
pub const ONE: u64 = 1 << 32;

/// log2(e), Q60.
const LOG2_E: u128 = 1_663_314_137_230_540_311;

/// ln(2), Q32.
const LN_2: u64 = 2_977_044_472;

/// Table entries; with 64, a cubic polynomial covers the rest to 2^-30.
const STEPS: usize = 64;

/// 2^(-i/64), Q32.
const POWERS: [u64; STEPS] = powers();

const fn powers() -> [u64; STEPS] {
    // 2^(-1/64), Q62: the product of 64 of them is still right to 2^-55.
    const STEP: u128 = 4_562_008_997_483_360_349;
    let mut table = [0; STEPS];
    let mut power: u128 = 1 << 62;
    let mut i = 0;
    while i < STEPS {
        table[i] = ((power + (1 << 29)) >> 30) as u64;
        power = (power * STEP) >> 62;
        i += 1;
    }
    table
}

/// exp(-elapsed/time_constant), Q32: the remaining share of a decaying value. Exactly [`ONE`] at 0, and 0 beyond 22
/// time constants or with a zero time constant. The error is at most 2^-32 plus 2e-9 of the value (2e-8 if a time
/// constant exceeds an hour). Both times are rounded down to microseconds. Divides machine words only and does not
/// allocate.
pub fn decay(elapsed: Duration, time_constant: Duration) -> u64 {
    let (mut elapsed, mut constant) = (micros(elapsed), micros(time_constant));
    if elapsed == 0 {
        return ONE;
    }
    // Beyond 71 minutes both lose low bits, which changes their ratio by less than 2^-31.
    let spare = 32_u32.saturating_sub(constant.leading_zeros());
    (elapsed, constant) = (elapsed >> spare, constant >> spare);
    if constant == 0 || elapsed / constant > 22 {
        return 0;
    }
    exp_neg(((elapsed / constant) << 32) | (((elapsed % constant) << 32) / constant))
}

/// exp(-x), Q32 in and out, as exact as [`decay`].
pub fn exp_neg(x: u64) -> u64 {
    let Ok(y) = u64::try_from((u128::from(x) * LOG2_E) >> 60) else { return 0 };
    let (whole, part) = (y >> 32, y & (ONE - 1));
    if whole > 32 {
        return 0;
    }
    // exp(-z), z < ln(2)/64, by Horner's rule; the polynomial's remainder is below z^4/24 = 6e-10.
    let z = ((part & (ONE / STEPS as u64 - 1)) * LN_2) >> 32;
    let mut rest = ONE - z / 3;
    rest = ONE - ((z * rest) >> 33);
    rest = ONE - ((z * rest) >> 32);
    mul(POWERS[(part >> 26) as usize], rest) >> whole
}

/// `value` times a Q32 share, rounded down; at most `u64::MAX`.
pub fn mul(value: u64, share: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(share)) >> 32).unwrap_or(u64::MAX)
}

/// `part / whole`, Q32, rounded down; 0 of 0 is 0, anything else of 0 is `u64::MAX`.
pub fn ratio(part: u64, whole: u64) -> u64 {
    match (part, whole) {
        (0, 0) => 0,
        (_, 0) => u64::MAX,
        _ => u64::try_from((u128::from(part) << 32) / u128::from(whole)).unwrap_or(u64::MAX),
    }
}

/// At most 584,000 years.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(x: f64) -> f64 {
        (-x).exp() * ONE as f64
    }

    fn off(value: u64, exact: f64) -> f64 {
        (value as f64 - exact).abs() - 1.0 - exact * 2e-9
    }

    #[test]
    fn the_known_values() {
        let second = Duration::from_secs;
        assert_eq!(decay(Duration::ZERO, second(15)), ONE);
        assert_eq!(decay(second(15 * 23), second(15)), 0);
        assert_eq!(decay(second(1), Duration::ZERO), 0);
        assert_eq!(decay(Duration::MAX, second(600)), 0);
        assert_eq!(decay(Duration::from_nanos(999), Duration::from_nanos(1)), ONE);
        for (elapsed, constant, left) in
            [(1_u64, 1000, 4_290_674_475_u64), (15, 15, 1_580_030_169), (3000, 600, 28_939_262)]
        {
            let found = decay(second(elapsed), second(constant));
            assert!(off(found, left as f64) < 0.0, "{elapsed}/{constant}: {found}, not {left}");
        }
        assert_eq!((mul(100, ONE / 2), mul(u64::MAX, u64::MAX)), (50, u64::MAX));
        assert_eq!((ratio(1, 2), ratio(0, 0), ratio(1, 0), ratio(u64::MAX, 1)), (ONE / 2, 0, u64::MAX, u64::MAX));
    }

    proptest! {
        #[test]
        fn as_exact_as_it_says(x in 0_u64..24 << 32) {
            prop_assert!(off(exp_neg(x), exact(x as f64 / ONE as f64)) <= 0.0);
        }

        /// Time constants up to a month.
        #[test]
        fn times_of_any_size(elapsed in 0_u64..50_000_000_000_000, constant in 1_u64..2_600_000_000_000) {
            let found = decay(Duration::from_micros(elapsed), Duration::from_micros(constant));
            let exact = exact(elapsed as f64 / constant as f64);
            prop_assert!((found as f64 - exact).abs() <= 2.0 + exact * 2e-8, "{found}, not {exact}");
        }

        #[test]
        fn never_more_than_one(x in any::<u64>()) {
            prop_assert!(exp_neg(x) <= ONE);
        }
    }
}
