//! Late, repeated, contradictory and false messages, and clock jumps.

use proptest::prelude::*;
use usher_proto::units::MAX_RATE;

use super::*;

#[test]
fn a_message_that_was_slow_is_as_old_as_it_is() {
    let mut node = EstimatedNode::new(1000);
    node.state(600, 0);
    for _ in 0..60 {
        node.wait(1000);
        node.state(600, 60);
    }
    // Sent a second ago, as the undelayed messages show.
    let said = node.uptime;
    node.wait(1000);
    node.estimate.handle_committed(node.now, said, 500 * MBIT, 0);
    let level = node.level(PendingLoad::default());
    assert!((448..=456).contains(&level), "{level}: 500 less a second of departures");
    // A message older than the last one changes nothing.
    node.estimate.handle_committed(node.now, said - Duration::from_secs(1), 7 * MBIT, 0);
    assert_eq!(node.level(PendingLoad::default()), level);
}

#[test]
fn a_clock_that_jumps_empties_no_node() {
    for jump in [-900_i64, -31, -5, -1, 1, 5, 31, 100_000, 1_000_000_000_000] {
        let mut node = EstimatedNode::new(1000);
        node.state(600, 0);
        for _ in 0..60 {
            node.wait(1000);
            node.state(600, 6);
        }
        let by = Duration::from_secs(jump.unsigned_abs());
        node.uptime = if jump > 0 { node.uptime + by } else { node.uptime - by };
        for second in 0..120 {
            node.wait(1000);
            node.state(600, 6);
            node.report(|_| {});
            let level = node.level(PendingLoad::default());
            assert!((400..=600).contains(&level), "jump {jump} s: {level} after {second} s");
        }
        node.state(800, 0);
        assert!(
            node.level(PendingLoad::default()) > 590,
            "jump {jump} s: the update counts: {}",
            node.level(PendingLoad::default())
        );
        assert_eq!(node.rate(), 1000, "jump {jump} s: nor is it young again");
    }
}

/// A node's clock that runs slow by as much as quartz may.
#[test]
fn a_slow_clock_makes_no_message_old() {
    let mut node = EstimatedNode::new(1000);
    for _ in 0..86_400 {
        node.now += Duration::from_millis(1000);
        node.uptime += Duration::from_micros(999_900);
        node.state(600, 60);
    }
    assert!(node.level(PendingLoad::default()) >= 590, "{}", node.level(PendingLoad::default()));
}

fn rate() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(MAX_RATE), 0..=MAX_RATE, 0..2 * CAPACITY]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// No sequence of messages panics or raises the available rate above the capacity.
    #[test]
    fn no_message_does_harm(
        capacity in prop_oneof![Just(0), Just(1), Just(MAX_RATE), 0..2 * CAPACITY],
        words in proptest::collection::vec((0_u8..4, rate(), rate(), rate(), any::<u64>(), 0_u64..5000), 1..60),
        promised in (rate(), rate(), 1_u64..100), pool in 0_u64..=1_000_000_000_000,
    ) {
        let (mut now, mut estimate) = (Instant::now(), LoadEstimate::new(Instant::now(), capacity));
        let common = ClusterStats { pool, ..ClusterStats::default() };
        for (what, a, b, c, uptime, wait) in words {
            now += Duration::from_millis(wait);
            match what {
                0 => estimate.handle_committed(now, Duration::from_millis(uptime), a, b),
                1 => estimate.handle_committed(now, Duration::from_secs(1000), a, b),
                2 => estimate.handle_limit(now, a),
                _ => {
                    let [egress, elastic, committed, demand] = [a, b.min(a), c, b].map(Bitrate);
                    let (background, delivered) = (Bitrate(c), Bitrate(a.min(b)));
                    let report = Report {
                        uptime_ms: uptime, egress, elastic, committed, background, demand, delivered,
                        ..Report::default()
                    };
                    estimate.handle_report(now, &report);
                }
            }
            let available = estimate.available(now, 0);
            let whole = available.rate + available.warm_up + available.variance + available.shortfall;
            prop_assert!(available.rate <= capacity && whole + available.unproven >= capacity);
            estimate.handle_proof(promised.0);
            estimate.trust(estimate.proven());
            prop_assert!(estimate.available(now, 0).rate <= capacity);
            let promised = PendingLoad { rate: promised.0, tickets: 1, leaving: promised.1 };
            let level = estimate.level(now, promised, 3);
            estimate.margin(available.rate, level, a, &common);
            estimate.is_burst(available.rate, level, a, &common);
            prop_assert!(estimate.background() <= capacity);
            estimate.mean_session();
        }
    }

    /// More free bit/s never lower the margin, and a higher rate never raises it.
    #[test]
    fn the_margin_grows_with_headroom_and_falls_with_rate(
        capacity in 1_u64..=MAX_RATE, others in 0_u64..1000, pool in 0_u64..=1_000_000_000_000, grain in 1_u64..100_000_000,
        available in 0_u64..=1000, level in 0_u64..=1000, rate in 0_u64..=1000, more in 0_u64..=1000,
    ) {
        let now = Instant::now();
        let mut estimate = LoadEstimate::new(now, capacity);
        let of = |thousandths: u64| (u128::from(capacity) * u128::from(thousandths) / 1000) as u64;
        estimate.handle_report(now, &Report { background: Bitrate(of(others)), ..Report::default() });
        let common = ClusterStats { pool, grain, ..ClusterStats::default() };
        let margin = |level, rate| estimate.margin(of(available), level, rate, &common);
        let here = margin(of(level), of(rate));
        prop_assert!(here >= 0);
        prop_assert!(margin(of(level) + of(more), of(rate)) <= here, "a higher level");
        prop_assert!(margin(of(level), of(rate) + of(more)) <= here, "a higher rate");
        if level + rate > available {
            prop_assert_eq!(here, 0);
        }
    }
}
