//! Shares of the resources that clients of a node have in common: handshakes in progress, connections, streams on which
//! no session runs yet. Counts and logs refusals, also those of sessions, which the meter shares out.

use std::{
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tracing::warn;
use usher_budget::{Exceeded, Permit, Permits, Prefix, PrefixLengths, RefusalLog, Shares};
use usher_proto::{Code, Fault, model::BudgetRefusals};

use crate::{
    core::admission::{ALPHA, FLOOR, RETRY_AFTER},
    sync::lock,
};

/// Maximum number of handshakes in progress.
pub(crate) const HANDSHAKES: u64 = 1024;

/// Maximum number of streams without a running session: the Open message is incomplete, is being checked, or was refused
/// and the client has not acknowledged that.
const STREAMS: u64 = 8192;

/// A resource that clients share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    Handshakes,
    Connections,
    Streams,
    Sessions,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Self::Handshakes => "handshakes",
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::Sessions => "sessions",
        }
    }
}

/// The budgets of one node.
pub(crate) struct Budgets {
    lengths: PrefixLengths,
    /// By prefix; `None` for all addresses that are not proved, since anyone may claim them.
    handshakes: Permits<Option<Prefix>>,
    connections: Permits<Prefix>,
    max_connections: u64,
    streams: Permits<Prefix>,
    refused: [AtomicU64; 4],
    log: Mutex<RefusalLog<(Prefix, Resource)>>,
}

fn shares<K: Eq + std::hash::Hash>(capacity: u64) -> Permits<K> {
    Permits::new(Shares::new(capacity).with_floor(FLOOR).with_alpha(ALPHA))
}

impl Budgets {
    /// Budgets of which nothing is in use.
    pub(crate) fn new(lengths: PrefixLengths, max_connections: usize) -> Self {
        let max_connections = u64::try_from(max_connections).unwrap_or(u64::MAX);
        Self {
            lengths,
            handshakes: shares(HANDSHAKES),
            connections: shares(max_connections),
            max_connections,
            streams: shares(STREAMS),
            refused: Default::default(),
            log: Mutex::default(),
        }
    }

    /// The prefix that an address counts for.
    pub(crate) fn prefix(&self, address: IpAddr) -> Prefix {
        self.lengths.prefix(address)
    }

    /// Number of handshakes in progress.
    pub(crate) fn handshakes(&self) -> u64 {
        self.handshakes.used()
    }

    /// Whether there is room for one more connection of anyone.
    pub(crate) fn has_connections(&self) -> bool {
        self.connections.used() < self.max_connections
    }

    /// A place for a handshake; `proved` if the address is.
    pub(crate) fn handshake(&self, prefix: Prefix, proved: bool) -> Option<Permit<Option<Prefix>>> {
        let taken = self.handshakes.take(proved.then_some(prefix), 1);
        // An address that is not proved says nothing about its owner.
        taken
            .inspect_err(|_| {
                if proved {
                    self.refused(Resource::Handshakes, prefix)
                }
            })
            .ok()
    }

    /// A place for a connection.
    ///
    /// # Errors
    /// `BUDGET_EXCEEDED`, or `NO_CAPACITY` when all places are taken.
    pub(crate) fn connection(&self, prefix: Prefix) -> Result<Permit<Prefix>, Fault> {
        self.take(&self.connections, Resource::Connections, prefix)
    }

    /// A place for a stream until its session is admitted.
    ///
    /// # Errors
    /// As [`Budgets::connection`].
    pub(crate) fn stream(&self, prefix: Prefix) -> Result<Permit<Prefix>, Fault> {
        self.take(&self.streams, Resource::Streams, prefix)
    }

    fn take(&self, permits: &Permits<Prefix>, resource: Resource, prefix: Prefix) -> Result<Permit<Prefix>, Fault> {
        permits.take(prefix, 1).map_err(|exceeded| {
            let what = resource.name();
            let (code, text) = match exceeded {
                Exceeded::Share => (Code::BudgetExceeded, format!("{prefix} has its share of this node's {what}")),
                Exceeded::Capacity => (Code::NoCapacity, format!("all {what} of this node are in use")),
            };
            if exceeded == Exceeded::Share {
                self.refused(resource, prefix);
            }
            Fault::new(code, text).after(RETRY_AFTER)
        })
    }

    /// Counts a refusal by budget, and logs it once per prefix and minute.
    pub(crate) fn refused(&self, resource: Resource, prefix: Prefix) {
        self.refused[resource as usize].fetch_add(1, Ordering::Relaxed);
        if lock(&self.log).handle_refusal(Instant::now(), &(prefix, resource)) {
            warn!(peer = %prefix, resource = resource.name(), "refused: this address prefix has its share; further refusals are counted and logged once a minute");
        }
    }

    /// Numbers of refusals since the start.
    pub(crate) fn refusals(&self) -> BudgetRefusals {
        let count = |resource| self.refused[resource as usize].load(Ordering::Relaxed);
        BudgetRefusals {
            handshakes: count(Resource::Handshakes),
            connections: count(Resource::Connections),
            streams: count(Resource::Streams),
            sessions: count(Resource::Sessions),
        }
    }
}
