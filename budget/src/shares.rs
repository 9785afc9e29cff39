//! Shares of one bounded resource, by dynamic thresholds (Choudhury and Hahne, 1998): the more of it is in use, the less
//! may one holder have. A holder that is alone gets a fixed part of the whole, `n` holders that all want more get equal
//! parts, and a rest always remains for a newcomer. Nothing has to be known about the holders in advance.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use thiserror::Error;

/// The holders of one bounded resource and their amounts. Amounts are in units of the caller's choice.
#[derive(Clone, Debug)]
pub struct Shares<K> {
    capacity: u64,
    floor: u64,
    alpha: u64,
    used: u64,
    /// Without entries of zero, so its size is bounded by what is in use.
    held: HashMap<K, u64>,
}

/// An amount that a holder may not take now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Exceeded {
    /// The holder has its share.
    #[error("its share is in use")]
    Share,
    /// The whole resource is in use, or less is left than was asked for.
    #[error("the whole is in use")]
    Capacity,
}

impl<K: Hash + Eq> Shares<K> {
    /// Shares of `capacity` units, of which one holder alone may have half.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, floor: 1, alpha: 1, used: 0, held: HashMap::new() }
    }

    /// Sets the units that every holder may have as long as there are any; 1 by default.
    #[must_use]
    pub fn with_floor(mut self, floor: u64) -> Self {
        self.floor = floor;
        self
    }

    /// Sets how much a holder may have for each unit that remains free, 1 by default. One holder alone gets
    /// `alpha / (alpha + 1)` of the capacity, and each of `n` holders `alpha / (n × alpha + 1)`.
    #[must_use]
    pub fn with_alpha(mut self, alpha: u64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Changes the capacity. Amounts that are in use stay so, even above the new capacity.
    pub fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    /// The capacity in units.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Units in use by all holders.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Units that are not in use.
    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }

    /// Units that this holder has.
    pub fn held<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> u64
    where
        K: Borrow<Q>,
    {
        self.held.get(key).copied().unwrap_or(0)
    }

    /// Holders with what they have, in no particular order.
    pub fn holders(&self) -> impl Iterator<Item = (&K, u64)> {
        self.held.iter().map(|(key, &held)| (key, held))
    }

    /// Whether this holder may take `units` now.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check<Q: Hash + Eq + ?Sized>(&self, key: &Q, units: u64) -> Result<(), Exceeded>
    where
        K: Borrow<Q>,
    {
        let rest = self.free().checked_sub(units).ok_or(Exceeded::Capacity)?;
        let limit = self.floor.max(self.alpha.saturating_mul(rest));
        if self.held(key).saturating_add(units) <= limit { Ok(()) } else { Err(Exceeded::Share) }
    }

    /// Takes `units` for this holder.
    ///
    /// # Errors
    /// Why it may not have them; then nothing changes.
    pub fn take(&mut self, key: K, units: u64) -> Result<(), Exceeded> {
        self.check(&key, units)?;
        self.force(key, units);
        Ok(())
    }

    /// Takes `units` for this holder whatever its share: for amounts that are in use already.
    pub fn force(&mut self, key: K, units: u64) {
        if units > 0 {
            self.used = self.used.saturating_add(units);
            let held = self.held.entry(key).or_insert(0);
            *held = held.saturating_add(units);
        }
    }

    /// Gives back `units`, or all that this holder has if that is less.
    pub fn release<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, units: u64)
    where
        K: Borrow<Q>,
    {
        let Some(held) = self.held.get_mut(key) else { return };
        let units = units.min(*held);
        *held -= units;
        self.used -= units;
        if *held == 0 {
            self.held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes single units until the first refusal; returns how many.
    fn fill(shares: &mut Shares<u8>, key: u8) -> u64 {
        while shares.take(key, 1).is_ok() {}
        shares.held(&key)
    }

    #[test]
    fn one_holder_alone_has_a_fixed_part() {
        for (alpha, part) in [(1, 500), (3, 750), (9, 900)] {
            let mut shares = Shares::new(1000).with_alpha(alpha);
            assert_eq!(fill(&mut shares, 0), part);
            assert_eq!(shares.check(&0, 1), Err(Exceeded::Share));
            assert_eq!(shares.check(&1, 1), Ok(()), "a newcomer");
        }
    }

    #[test]
    fn greedy_holders_have_equal_parts() {
        let mut shares = Shares::new(1100);
        let mut last = Vec::new();
        // As earlier holders have more than their part, it takes some rounds of giving back and taking again.
        for _ in 0..64 {
            for key in 0..10 {
                shares.release(&key, shares.held(&key) / 4);
                fill(&mut shares, key);
            }
            last = (0..10).map(|key| shares.held(&key)).collect();
        }
        assert!(last.iter().all(|held| (95..=115).contains(held)), "{last:?}");
    }

    #[test]
    fn the_floor_is_for_everybody_while_there_is_room() {
        let mut shares = Shares::new(10).with_floor(4);
        assert_eq!([fill(&mut shares, 0), fill(&mut shares, 1), fill(&mut shares, 2)], [5, 4, 1]);
        assert_eq!(shares.take(3, 1), Err(Exceeded::Capacity));
        shares.release(&0, 100);
        assert_eq!((shares.used(), shares.held(&0), shares.holders().count()), (5, 0, 2));
    }

    #[test]
    fn a_large_amount_counts_whole() {
        let mut shares = Shares::new(100);
        assert_eq!(shares.take(0, 51), Err(Exceeded::Share));
        assert_eq!(shares.take(0, 101), Err(Exceeded::Capacity));
        assert_eq!(shares.take(0, 50), Ok(()));
        shares.set_capacity(40);
        assert_eq!((shares.free(), shares.take(1, 1)), (0, Err(Exceeded::Capacity)));
        shares.force(1, 7);
        assert_eq!((shares.used(), shares.held(&1)), (57, 7));
    }

    proptest! {
        #[test]
        fn sums_and_limits_hold(
            capacity in 0_u64..200, floor in 1_u64..5, alpha in 1_u64..5,
            steps in prop::collection::vec((0_u8..8, 0_u64..40, any::<bool>()), 0..200),
        ) {
            let mut shares = Shares::new(capacity).with_floor(floor).with_alpha(alpha);
            for (key, units, take) in steps {
                let before = (shares.used(), shares.held(&key));
                if !take {
                    shares.release(&key, units);
                } else if shares.take(key, units).is_ok() {
                    prop_assert_eq!((before.0 + units, before.1 + units), (shares.used(), shares.held(&key)));
                    prop_assert!(shares.held(&key) <= floor.max(alpha * shares.free()));
                } else {
                    prop_assert_eq!(before, (shares.used(), shares.held(&key)));
                }
                prop_assert!(shares.used() <= capacity);
                prop_assert_eq!(shares.used(), shares.holders().map(|(_, held)| held).sum::<u64>());
                prop_assert!(shares.holders().all(|(_, held)| held > 0));
                // A newcomer gets a unit of whatever is left.
                prop_assert_eq!(shares.check(&99, 1).is_ok(), shares.free() > 0);
            }
        }
    }
}
