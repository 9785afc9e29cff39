//! Estimates of one node: tables of messages, and random ones.

mod nonsense;

use usher_proto::Bitrate;

use super::*;

const MBIT: u64 = 1_000_000;
const CAPACITY: u64 = 1000 * MBIT;

/// A node with this uptime and an accurate clock.
struct EstimatedNode {
    estimate: LoadEstimate,
    now: Instant,
    uptime: Duration,
    committed: u64,
}

impl EstimatedNode {
    fn new(uptime: u64) -> Self {
        let (now, uptime) = (Instant::now(), Duration::from_secs(uptime));
        let mut node = Self { estimate: LoadEstimate::new(now, CAPACITY), now, uptime, committed: 0 };
        node.state(0, 0);
        node
    }

    fn wait(&mut self, millis: u64) {
        let time = Duration::from_millis(millis);
        (self.now, self.uptime) = (self.now + time, self.uptime + time);
    }

    /// Committed rate, and rate ended since the previous message, in Mbit/s.
    fn state(&mut self, committed: u64, ended: u64) {
        self.committed = committed * MBIT;
        self.estimate.handle_committed(self.now, self.uptime, self.committed, ended * MBIT);
    }

    fn report(&mut self, change: impl FnOnce(&mut Report)) {
        let (uptime_ms, committed) = (self.uptime.as_millis() as u64, Bitrate(self.committed));
        let mut report = Report { uptime_ms, committed, egress: committed, ..Report::default() };
        change(&mut report);
        self.estimate.handle_report(self.now, &report);
    }

    /// In Mbit/s, rounded.
    fn level(&self, promised: PendingLoad) -> u64 {
        (self.estimate.level(self.now, promised, 1) + MBIT / 2) / MBIT
    }

    fn available(&self) -> Available {
        self.estimate.available(self.now, 0)
    }

    fn rate(&self) -> u64 {
        self.available().rate / MBIT
    }

    fn believed(&self) -> u64 {
        self.estimate.capacity() / MBIT
    }

    fn grey(&mut self, demand: u64, delivered: u64, others: u64) {
        self.report(|report| {
            (report.demand, report.delivered) = (Bitrate(demand * MBIT), Bitrate(delivered * MBIT));
            report.background = Bitrate(others * MBIT);
        });
    }
}

#[test]
fn the_level_sums_committed_and_reserved_rates() {
    let mut node = EstimatedNode::new(1000);
    node.state(300, 0);
    node.report(|report| report.background = Bitrate(50 * MBIT));
    assert_eq!(node.level(PendingLoad::default()), 350);
    let promised = PendingLoad { rate: 100 * MBIT, tickets: 3, leaving: 0 };
    assert_eq!((node.level(promised), node.estimate.level(node.now, promised, 3) / MBIT), (450, 650));
    assert_eq!(node.level(PendingLoad { leaving: 60 * MBIT, ..promised }), 390);
    assert_eq!(node.level(PendingLoad { leaving: 900 * MBIT, ..promised }), 0, "never below nothing");
    node.wait(30_000);
    assert_eq!(node.level(PendingLoad::default()), 350, "no session ever ended: all are still running");
    assert_eq!((node.estimate.committed(), node.estimate.background()), (300 * MBIT, 50 * MBIT));
}

#[test]
fn departures_are_extrapolated() {
    let mut node = EstimatedNode::new(1000);
    node.state(600, 0);
    // A tenth ends each second, and as much starts.
    for _ in 0..120 {
        node.wait(1000);
        node.state(600, 60);
    }
    let stays = node.estimate.mean_session().expect("some ended").as_millis();
    assert!((9_900..=10_100).contains(&stays), "{stays} ms");
    assert_eq!(node.level(PendingLoad::default()), 600, "just reported");
    for (millis, level) in [(1000, 543), (4000, 364), (5000, 221)] {
        node.wait(millis);
        assert_eq!(node.level(PendingLoad::default()), level);
    }
    // Half of the reserved rate may have started and ended as well.
    let promised = PendingLoad { rate: 100 * MBIT, tickets: 1, leaving: 0 };
    assert_eq!(node.level(promised), 221 + 68);
    // A message restores the estimate, and the age of one is limited to half a minute.
    node.state(600, 379);
    assert_eq!(node.level(PendingLoad::default()), 600);
    node.wait(30_000);
    let oldest = node.level(PendingLoad::default());
    node.wait(3_600_000);
    assert_eq!(node.level(PendingLoad::default()), oldest);
}

#[test]
fn a_report_without_news_renews_the_level() {
    let mut node = EstimatedNode::new(1000);
    node.state(600, 0);
    for _ in 0..10 {
        node.wait(1000);
        node.state(600, 60);
    }
    node.wait(5000);
    assert!(node.level(PendingLoad::default()) < 400);
    node.report(|_| {});
    assert_eq!(node.level(PendingLoad::default()), 600);
    // A report with another committed rate does not: the update is still in flight.
    node.wait(5000);
    node.report(|report| report.committed = Bitrate(500 * MBIT));
    assert!(node.level(PendingLoad::default()) < 600);
}

#[test]
fn unexplained_traffic_counts_as_background() {
    let mut node = EstimatedNode::new(1000);
    node.state(300, 0);
    for (egress, elastic, background, expected) in
        [(300, 0, 0, 0), (400, 0, 0, 100), (400, 100, 0, 0), (400, 0, 50, 150), (5000, 0, 0, 700), (0, 0, 5000, 1000)]
    {
        node.wait(1000);
        node.report(|report| {
            (report.egress, report.elastic) = (Bitrate(egress * MBIT), Bitrate(elastic * MBIT));
            report.background = Bitrate(background * MBIT);
        });
        assert_eq!(node.estimate.background() / MBIT, expected, "{egress} {elastic} {background}");
    }
    // Sessions that ended within the second were served as well.
    node.state(200, 100);
    node.report(|report| report.egress = Bitrate(300 * MBIT));
    assert_eq!(node.estimate.background(), 0);
    node.report(|report| report.egress = Bitrate(300 * MBIT));
    assert_eq!(node.estimate.background() / MBIT, 100, "once");
}

#[test]
fn the_variance_reserve_is_at_most_a_twentieth() {
    let mut node = EstimatedNode::new(1000);
    let others = |node: &mut EstimatedNode, rate: u64| {
        node.wait(1000);
        node.report(|report| report.background = Bitrate(rate * MBIT));
        node.available().variance / MBIT
    };
    for _ in 0..20 {
        assert_eq!(others(&mut node, 40), 0, "steady");
    }
    let unsteady: Vec<u64> = (0..60).map(|i| others(&mut node, if i % 2 == 0 { 340 } else { 40 })).collect();
    assert!(unsteady.is_sorted() && unsteady[0] > 0 && unsteady[59] == 50, "{unsteady:?}");
    for _ in 0..120 {
        others(&mut node, 40);
    }
    assert!(others(&mut node, 40) <= 1, "it calms down");
}

#[test]
fn a_burst_stands_above_what_is_usual() {
    let mut node = EstimatedNode::new(1000);
    let common = ClusterStats { pool: 15_000 * 15_000, ..ClusterStats::default() };
    for second in 0..900 {
        node.wait(1000);
        node.report(|report| report.background = Bitrate((30 + second % 20) * MBIT));
    }
    let deviation = node.estimate.variance().expect("known").isqrt();
    assert!((4_000..8_000).contains(&deviation), "{deviation} millionths");
    let mut bursts = Vec::new();
    for background in [41, 60, 200, 800] {
        node.report(|report| report.background = Bitrate(background * MBIT));
        let is = |level, rate| node.estimate.is_burst(900 * MBIT, level * MBIT, rate * MBIT, &common);
        bursts.push([is(895, 10), is(980, 10), is(981, 10), is(990, 1)]);
    }
    let usual = [false; 4];
    assert_eq!(bursts, [usual, [true, false, false, false], [true, true, false, false], [true, true, false, false]]);
}

#[test]
fn warm_up_starts_at_a_quarter() {
    let mut node = EstimatedNode::new(0);
    for (wait, rate) in [(0, 250), (20_000, 500), (20_000, 750), (20_000, 1000)] {
        node.wait(wait);
        let available = node.available();
        assert_eq!((available.rate / MBIT, (available.rate + available.warm_up) / MBIT), (rate, 1000));
    }
    let silent = LoadEstimate::new(node.now, CAPACITY);
    assert_eq!(silent.available(node.now, 0).rate, CAPACITY / WARM_UP_SHARE, "a node without messages is in warm-up");
}

#[test]
fn a_grey_node_is_limited_to_its_delivered_rate() {
    let mut node = EstimatedNode::new(1000);
    node.state(800, 0);
    node.grey(800, 790, 0);
    assert_eq!(node.believed(), 1000, "near enough");
    node.grey(49, 10, 0);
    assert_eq!(node.believed(), 1000, "too little demand");
    node.grey(800, 400, 50);
    assert_eq!((node.believed(), node.available().shortfall / MBIT), (450, 550), "all that it sent");
    node.grey(800, 300, 0);
    assert_eq!(node.believed(), 300);
    node.grey(800, 0, 0);
    assert_eq!(node.believed(), 10, "never nothing");
}

#[test]
fn the_estimate_recovers_with_backoff() {
    let mut node = EstimatedNode::new(1000);
    node.state(400, 0);
    let mut waits = Vec::new();
    for _ in 0..8 {
        node.grey(400, 300, 0);
        let mut seconds = 0;
        while node.believed() == 300 && seconds < 1000 {
            node.wait(1000);
            node.grey(250, 250, 0);
            seconds += 1;
        }
        waits.push(seconds);
    }
    // One second of growth after the wait.
    assert_eq!(waits, [3, 5, 9, 17, 33, 65, 129, 129]);
    // Half a per cent a second, and a whole one when nearly used up.
    let before = node.believed();
    for _ in 0..10 {
        node.wait(1000);
        node.grey(100, 100, 0);
    }
    assert_eq!(node.believed(), before + 50);
    let before = node.believed();
    for _ in 0..10 {
        node.wait(1000);
        node.grey(before, before, 100);
    }
    assert_eq!(node.believed(), before + 100);
    for _ in 0..400 {
        node.wait(1000);
        node.grey(100, 100, 0);
    }
    assert_eq!(node.believed(), 1000);
    node.grey(400, 300, 0);
    node.wait(2000);
    node.grey(100, 100, 0);
    node.wait(1000);
    node.grey(100, 100, 0);
    assert!(node.believed() > 300, "the backoff starts over after a long quiet time");
}

#[test]
fn a_refusal_limits_the_estimate() {
    let mut node = EstimatedNode::new(1000);
    node.estimate.handle_limit(node.now, 2000 * MBIT);
    assert_eq!(node.rate(), 1000, "it cannot promise more than it has");
    node.estimate.handle_limit(node.now, 600 * MBIT);
    assert_eq!(node.rate(), 600);
    node.estimate.handle_limit(node.now, 700 * MBIT);
    assert_eq!(node.rate(), 600, "not a lower limit");
    for _ in 0..200 {
        node.wait(1000);
        node.report(|_| {});
    }
    assert_eq!(node.rate(), 1000, "for a while");
}
