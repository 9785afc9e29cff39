//! Refusals by budget: counted by resource, and logged once per client and minute. Owns their label and their text.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tracing::warn;
use usher_budget::RefusalLog;
use usher_proto::{Fault, code::Code};

/// Delay before a refused client may try again.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResourceLabel {
    pub(crate) resource: &'static str,
}

/// The refusals of all budgets.
#[derive(Default)]
pub(crate) struct Refusals {
    pub(crate) counts: Family<ResourceLabel, Counter>,
    log: Mutex<RefusalLog<(&'static str, String)>>,
}

impl Refusals {
    /// Counts a refusal, and logs it unless one of this client and resource was logged lately.
    pub(crate) fn count(&self, resource: &'static str, client: &impl Display) {
        self.counts.get_or_create(&ResourceLabel { resource }).inc();
        let key = (resource, client.to_string());
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.handle_refusal(Instant::now(), &key) {
            drop(log);
            warn!(peer = key.1, resource, "refused by budget: the client has its share");
        }
    }

    /// The same, with the fault for the client.
    pub(crate) fn fault(&self, resource: &'static str, client: &impl Display) -> Fault {
        self.count(resource, client);
        let text = format!("{client} has its share of the master's {}; try again shortly", resource.replace('_', " "));
        Fault::new(Code::BudgetExceeded, text).after(RETRY)
    }
}
