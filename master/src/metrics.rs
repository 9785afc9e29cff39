//! The master's metrics. Owns names, units and labels; no label is a title or a session.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::refusals::Refusals;

/// HTTP content type of OpenMetrics text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const NODE_REFUSED: &str = "Attempts that nodes refused because the client's network had its share, by resource";

/// A gauge of non-negative integers.
pub(crate) type Level = Gauge<u64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub(crate) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueueLabel {
    pub(crate) queue: &'static str,
}

/// Labels of a refused request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusedLabel {
    pub(crate) queue: &'static str,
    pub(crate) reason: &'static str,
}

/// Labels of a decision; `reason` is set for refusals.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    pub(crate) outcome: &'static str,
    pub(crate) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OrderLabel {
    pub(crate) order: &'static str,
    pub(crate) result: &'static str,
}

/// Labels of a node's refusals by budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct NodeResourceLabel {
    pub(crate) node: String,
    pub(crate) resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StateLabel {
    pub(crate) state: &'static str,
}

/// All metrics. Updating them never waits for a scrape.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) queued: Family<QueueLabel, Level>,
    pub(crate) running: Family<QueueLabel, Level>,
    pub(crate) refused: Family<RefusedLabel, Counter>,
    pub(crate) wait: Family<QueueLabel, Histogram, fn() -> Histogram>,
    pub(crate) decision: Histogram,
    pub(crate) decisions: Family<OutcomeLabel, Counter>,
    /// Reports by result: "taken", "dropped" because the queue was full, "ignored" because they were outdated.
    pub(crate) reports: Family<ResultLabel, Counter>,
    pub(crate) load_queue: Level,
    /// Sessions reported by nodes.
    pub(crate) begun: Counter,
    pub(crate) ended: Counter,
    pub(crate) sessions_refused: Family<ReasonLabel, Counter>,
    pub(crate) orders: Family<OrderLabel, Counter>,
    pub(crate) hints: Counter,
    /// Reported sessions that the cluster did not issue.
    pub(crate) invented: Counter,
    pub(crate) connections: Level,
    pub(crate) refusals: Refusals,
    /// State of the ledger.
    pub(crate) sessions: Level,
    pub(crate) promised: Level,
    /// State of the roster.
    pub(crate) nodes: Family<StateLabel, Level>,
    /// As the nodes count them.
    pub(crate) node_refused: Family<NodeResourceLabel, Counter>,
    pub(crate) capacity: Level,
    pub(crate) level: Level,
    /// State of the catalog.
    pub(crate) titles: Level,
    pub(crate) catalog_bytes: Level,
    /// Copies that were not taken, by reason.
    pub(crate) titles_refused: Family<ReasonLabel, Counter>,
    pub(crate) feeds: Level,
    pub(crate) feed_viewers: Level,
    pub(crate) copies: Level,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    pub(crate) result: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("usher_master");
        let r = &mut registry;
        let refusals = Refusals::default();
        let help = "Refusals because the client has its share, by resource";
        r.register("refused_by_budget", help, refusals.counts.clone());
        let queued = made(r, "requests_queued", "Requests waiting to run", Family::default());
        let running = made(r, "requests_running", "Requests running", Family::default());
        let refused = made(r, "requests_refused", "Requests refused by the queue, by reason", Family::default());
        // 100 µs to 3 s: the wait is limited to two seconds.
        let waits: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-4, 2.0, 16));
        let wait = Family::new_with_constructor(waits);
        r.register_with_unit("queue_wait", "Time that a request waited to run", Unit::Seconds, wait.clone());
        // 1 µs to 16 ms.
        let decision = Histogram::new(exponential_buckets(1e-6, 2.0, 15));
        r.register_with_unit("decision", "Duration of a decision, lock included", Unit::Seconds, decision.clone());
        let promised = Level::default();
        let help = "Rate of tickets and moves not yet confirmed by nodes";
        r.register_with_unit("ledger_promised", help, per_second(), promised.clone());
        let capacity = Level::default();
        r.register_with_unit("capacity", "Capacity of attached nodes", per_second(), capacity.clone());
        let level = Level::default();
        r.register_with_unit("level", "Rate in use on attached nodes", per_second(), level.clone());
        Self {
            queued,
            running,
            refused,
            wait,
            decision,
            decisions: made(r, "decisions", "Decisions by outcome, refusals with their reason", Family::default()),
            reports: made(r, "reports", "Reports of nodes by result", Family::default()),
            load_queue: made(r, "load_queue_length", "Queued updates of nodes", Level::default()),
            begun: made(r, "sessions_begun", "Sessions reported started by nodes", Counter::default()),
            ended: made(r, "sessions_ended", "Sessions reported ended by nodes", Counter::default()),
            sessions_refused: made(r, "sessions_turned", "Sessions refused by nodes, by reason", Family::default()),
            orders: made(r, "orders", "Orders to nodes by kind and result", Family::default()),
            hints: made(r, "hints", "Client hints that a node does not answer", Counter::default()),
            refusals,
            invented: made(
                r,
                "sessions_invented",
                "Reported sessions that the cluster did not issue",
                Counter::default(),
            ),
            connections: made(r, "connections", "Open connections", Level::default()),
            sessions: made(r, "ledger_sessions", "Sessions reserved or running", Level::default()),
            promised,
            nodes: made(r, "nodes", "Nodes by state", Family::default()),
            node_refused: made(r, "node_refused_by_budget", NODE_REFUSED, Family::default()),
            capacity,
            level,
            feeds: made(r, "feeds", "Live feeds", Level::default()),
            feed_viewers: made(r, "feed_viewers", "Sessions watching a live feed", Level::default()),
            catalog_bytes: made(
                r,
                "catalog_memory_bytes",
                "Memory of the catalog, by a count of entries",
                Level::default(),
            ),
            titles_refused: made(
                r,
                "catalog_refused",
                "Copies of nodes that were not taken, by limit",
                Family::default(),
            ),
            titles: made(r, "catalog_titles", "Titles in the catalog", Level::default()),
            copies: made(r, "catalog_copies", "Copies in the catalog", Level::default()),
            registry,
        }
    }

    /// All metrics as OpenMetrics text.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts an order by result.
    pub(crate) fn order(&self, order: &'static str, result: &'static str) {
        self.orders.get_or_create(&OrderLabel { order, result }).inc();
    }

    /// Counts a report by result.
    pub(crate) fn report(&self, result: &'static str) {
        self.reports.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts the decisions of one call by their duration.
    pub(crate) fn decided(&self, took: Duration, requests: usize) {
        // Requests of one call count with equal parts, so that a large call does not look slow.
        let each = took.as_secs_f64() / requests.max(1) as f64;
        for _ in 0..requests {
            self.decision.observe(each);
        }
    }
}

fn made<M: prometheus_client::registry::Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn per_second() -> Unit {
    Unit::Other("bits_per_second".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_units() {
        let metrics = Metrics::new();
        metrics.order("move", "sent");
        metrics.decided(Duration::from_micros(8), 2);
        metrics.promised.set(7);
        let text = metrics.text().expect("text");
        for line in [
            "usher_master_orders_total{order=\"move\",result=\"sent\"} 1",
            "usher_master_decision_seconds_count 2",
            "usher_master_ledger_promised_bits_per_second 7",
            "# EOF",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
        }
    }
}
