//! Price of serving a client from another zone, in the same unit as the cost of load. Knows zone labels, not nodes.

use crate::core::fixed;

/// Unit of cost: the cost of a node that is exactly full.
pub(super) const UNIT: i64 = 1 << 32;

/// Price of leaving the client's zone if the operator sets none: 0.02. A remote node is chosen when the local one is
/// within 2.8 standard deviations of full. A higher price yields no more local traffic, a lower one less.
pub(super) const DEFAULT_PRICE: i64 = UNIT / 50;

/// Price of the link between two zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneLink {
    /// The client's zone.
    pub from: String,
    /// The node's zone.
    pub to: String,
    /// In thousandths; a full node costs 1000.
    pub price: u32,
}

/// Prices of all links between zones.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    links: Vec<ZoneLink>,
}

impl Zones {
    /// Each price holds in both directions unless the opposite direction has its own. Other links cost 20 thousandths.
    pub fn new(links: Vec<ZoneLink>) -> Self {
        Self { links }
    }

    /// Price of serving a client of `from` in `to`; 0 within a zone or if either zone is unknown.
    pub(crate) fn price(&self, from: &str, to: &str) -> i64 {
        if from.is_empty() || to.is_empty() || from == to {
            return 0;
        }
        let named = |a: &str, b: &str| self.links.iter().find(|link| link.from == a && link.to == b);
        let link = named(from, to).or_else(|| named(to, from));
        link.map_or(DEFAULT_PRICE, |link| i64::from(link.price) * (UNIT / 1000))
    }
}

/// Cost of a node at `margin` thousandths of a deviation from full behind a link of this price: roughly the probability
/// of overload, less a little per deviation so that the emptiest of several idle nodes wins.
pub(super) fn cost(margin: i64, price: i64) -> i64 {
    let margin = margin.clamp(0, 1_000_000);
    // exp(-z²/2), z in thousandths: z² / 2 in millionths.
    let overflow = i64::try_from(exp_minus(margin.unsigned_abs().pow(2) / 2)).unwrap_or(UNIT);
    overflow + price - margin * (UNIT / 10_000_000)
}

/// exp(-x) of [`UNIT`], x in millionths.
fn exp_minus(millionths: u64) -> u64 {
    // Larger exponents round to 0.
    let millionths = millionths.min(32_000_000);
    fixed::exp_neg((millionths << 32) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_node_costs_more_than_any_usual_link() {
        assert!(cost(0, 0) > cost(3000, DEFAULT_PRICE));
        assert!(cost(5000, 0) < cost(9000, DEFAULT_PRICE), "with headroom in the local zone, the local node wins");
        assert!(cost(5000, 0) > cost(9000, 0), "at the same price the emptier wins");
    }

    #[test]
    fn links_have_their_price_in_both_directions() {
        let link = |from: &str, to: &str, price| ZoneLink { from: from.into(), to: to.into(), price };
        let zones = Zones::new(vec![link("a", "b", 50), link("b", "a", 70), link("a", "c", 10)]);
        let thousandths = |from, to| (zones.price(from, to) + UNIT / 2000) * 1000 / UNIT;
        assert_eq!([thousandths("a", "b"), thousandths("b", "a")], [50, 70]);
        assert_eq!([thousandths("a", "c"), thousandths("c", "a"), thousandths("b", "c")], [10, 10, 20]);
        assert_eq!([thousandths("a", "a"), thousandths("", "a"), thousandths("a", "")], [0, 0, 0]);
    }
}
