//! The exact ledger of the baselines: what a node was committed to when it measured its last report, less the
//! departures expected since, and every ticket that no report has acknowledged yet.

use super::{Join, NodeIndex, Report, SessionNumber, baseline::Roster};
use crate::sim::units::{SECOND, Time, to_seconds};

/// A ticket that no report acknowledges is forgotten by the first report measured so long after it was given.
const EXPIRY: Time = 5 * SECOND;

/// Seconds over which the rate of departures is averaged.
const HAZARD_SECONDS: f64 = 60.0;

/// Tickets and departures of one node.
#[derive(Clone, Debug, Default)]
struct Account {
    /// Tickets that are not acknowledged: session, bit/s, when given.
    tickets: Vec<(SessionNumber, u64, Time)>,
    /// Their sum in bit/s.
    pending: u64,
    /// Departures per second and committed bit.
    hazard: f64,
    /// The node's start, by its reports.
    born: Time,
    /// When the last report was measured.
    measured: Time,
}

/// The ledgers of all nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    accounts: Vec<Account>,
}

impl Ledger {
    pub(super) fn joined(&mut self, now: Time, node: NodeIndex, _join: &Join<'_>) {
        if self.accounts.len() <= node as usize {
            self.accounts.resize(node as usize + 1, Account::default());
        }
        self.accounts[node as usize] = Account { born: now, measured: now, ..Account::default() };
    }

    pub(super) fn reserve(&mut self, now: Time, node: NodeIndex, session: SessionNumber, rate: u64) {
        let account = &mut self.accounts[node as usize];
        account.tickets.push((session, rate, now));
        account.pending += rate;
    }

    /// Takes over a report that the roster accepted.
    pub(super) fn report(&mut self, node: NodeIndex, report: &Report) {
        let account = &mut self.accounts[node as usize];
        account.measured = account.born + report.uptime_ms * 1000;
        let mut known = report.acknowledged.clone();
        known.sort_unstable();
        let limit = account.measured.saturating_sub(EXPIRY);
        account.tickets.retain(|&(session, _, given)| given >= limit && known.binary_search(&session).is_err());
        account.pending = account.tickets.iter().map(|&(_, rate, _)| rate).sum();
        let seconds = report.window_ms as f64 / 1e3;
        let carried = report.demand as f64 * seconds;
        if carried > 0.0 {
            let share = (seconds / HAZARD_SECONDS).min(1.0);
            account.hazard += share * (report.ended as f64 / carried - account.hazard);
        }
    }

    /// Bit/s that `node` carries now, by all that is known.
    pub(super) fn level(&self, now: Time, node: NodeIndex, roster: &Roster) -> u64 {
        let account = &self.accounts[node as usize];
        let (committed, background) =
            roster.seen(node).report.as_ref().map_or((0, 0), |report| (report.committed, report.background));
        let stays = (-account.hazard * to_seconds(now.saturating_sub(account.measured))).exp();
        let known = committed as f64 * stays + account.pending as f64 * (0.5 + 0.5 * stays);
        known as u64 + background
    }
}
