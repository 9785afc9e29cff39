//! What the master counts, under the names that Prometheus reads. Owns names, units and labels, none of which is a title
//! or a session. Refuses to know who reads it.

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

/// What an OpenMetrics text is called in HTTP.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A figure that goes up and down.
pub(crate) type Level = Gauge<u64, AtomicU64>;

/// One label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub(crate) reason: &'static str,
}

/// Which queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueueLabel {
    pub(crate) queue: &'static str,
}

/// Which queue, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusedLabel {
    pub(crate) queue: &'static str,
    pub(crate) reason: &'static str,
}

/// How a request was decided; a reason if it was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    pub(crate) outcome: &'static str,
    pub(crate) reason: &'static str,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OrderLabel {
    pub(crate) order: &'static str,
    pub(crate) result: &'static str,
}

/// A state of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StateLabel {
    pub(crate) state: &'static str,
}

/// See the module. Cheap to count in: nothing here waits for a reader.
pub(crate) struct Metrics {
    registry: Registry,
    /// Requests that wait for a turn.
    pub(crate) queued: Family<QueueLabel, Level>,
    /// Requests that have one.
    pub(crate) running: Family<QueueLabel, Level>,
    /// Requests that got none.
    pub(crate) refused: Family<RefusedLabel, Counter>,
    /// How long a turn was waited for.
    pub(crate) wait: Family<QueueLabel, Histogram, fn() -> Histogram>,
    /// How long a decision took, with its lock.
    pub(crate) decision: Histogram,
    /// Decisions.
    pub(crate) decisions: Family<OutcomeLabel, Counter>,
    /// Reports by what became of them: "taken", "dropped" by a full queue, "ignored" since they were old.
    pub(crate) reports: Family<ResultLabel, Counter>,
    /// Messages of nodes that wait to be applied.
    pub(crate) load_queue: Level,
    /// Sessions that nodes told of.
    pub(crate) begun: Counter,
    pub(crate) ended: Counter,
    pub(crate) sessions_refused: Family<ReasonLabel, Counter>,
    /// Orders to nodes.
    pub(crate) orders: Family<OrderLabel, Counter>,
    /// Clients' words that a node does not answer.
    pub(crate) hints: Counter,
    /// Open connections.
    pub(crate) connections: Level,
    /// The ledger.
    pub(crate) sessions: Level,
    pub(crate) promised: Level,
    /// The roster.
    pub(crate) nodes: Family<StateLabel, Level>,
    pub(crate) capacity: Level,
    pub(crate) level: Level,
    /// The catalog.
    pub(crate) titles: Level,
    pub(crate) feeds: Level,
    pub(crate) feed_viewers: Level,
    pub(crate) copies: Level,
}

/// What became of something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    pub(crate) result: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("usher_master");
        let r = &mut registry;
        let queued = made(r, "requests_queued", "Requests that wait for a turn", Family::default());
        let running = made(r, "requests_running", "Requests that have a turn", Family::default());
        let refused = made(r, "requests_refused", "Requests that got no turn, by reason", Family::default());
        // 100 microseconds to 3 seconds: a turn is waited for two seconds at most.
        let waits: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-4, 2.0, 16));
        let wait = Family::new_with_constructor(waits);
        r.register_with_unit("queue_wait", "How long a request waited for its turn", Unit::Seconds, wait.clone());
        // One microsecond to 16 milliseconds.
        let decision = Histogram::new(exponential_buckets(1e-6, 2.0, 15));
        r.register_with_unit(
            "decision",
            "How long a decision took, its lock included",
            Unit::Seconds,
            decision.clone(),
        );
        let promised = Level::default();
        let help = "Bits a second of tickets and moves that no node has told of yet";
        r.register_with_unit("ledger_promised", help, per_second(), promised.clone());
        let capacity = Level::default();
        r.register_with_unit("capacity", "What the attached nodes may send", per_second(), capacity.clone());
        let level = Level::default();
        r.register_with_unit("level", "What is taken of the attached nodes", per_second(), level.clone());
        Self {
            queued,
            running,
            refused,
            wait,
            decision,
            decisions: made(r, "decisions", "Decisions by outcome, with the reason of a refusal", Family::default()),
            reports: made(r, "reports", "Reports of nodes by what became of them", Family::default()),
            load_queue: made(r, "load_queue_length", "Messages of nodes that wait to be applied", Level::default()),
            begun: made(r, "sessions_begun", "Sessions that nodes told the beginning of", Counter::default()),
            ended: made(r, "sessions_ended", "Sessions that nodes told the end of", Counter::default()),
            sessions_refused: made(
                r,
                "sessions_turned",
                "Sessions that nodes turned away at the door",
                Family::default(),
            ),
            orders: made(r, "orders", "Orders to nodes by kind and result", Family::default()),
            hints: made(r, "hints", "Clients' words that a node does not answer", Counter::default()),
            connections: made(r, "connections", "Open connections", Level::default()),
            sessions: made(r, "ledger_sessions", "Sessions that are promised or run", Level::default()),
            promised,
            nodes: made(r, "nodes", "Nodes by state", Family::default()),
            capacity,
            level,
            feeds: made(r, "feeds", "Live feeds on the air", Level::default()),
            feed_viewers: made(r, "feed_viewers", "Sessions that watch a live feed", Level::default()),
            titles: made(r, "catalog_titles", "Titles of the catalog", Level::default()),
            copies: made(r, "catalog_copies", "Copies of the catalog", Level::default()),
            registry,
        }
    }

    /// All of it as OpenMetrics text.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// An order went out, was answered, or could not be carried out.
    pub(crate) fn order(&self, order: &'static str, result: &'static str) {
        self.orders.get_or_create(&OrderLabel { order, result }).inc();
    }

    /// What became of a report.
    pub(crate) fn report(&self, result: &'static str) {
        self.reports.get_or_create(&ResultLabel { result }).inc();
    }

    /// A decision of so many requests that took this long.
    pub(crate) fn decided(&self, took: Duration, requests: usize) {
        // What several took together is counted as equal parts, so that a large request does not look like a slow one.
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
