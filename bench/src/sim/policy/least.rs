//! The holder with the smallest utilisation by an exact ledger. A node seems full when the ledger leaves less than the
//! title's bitrate of its capacity.

use super::{Answer, Ask, Copied, Join, NodeIndex, Policy, Report, Setup, baseline::Roster, ledger::Ledger};
use crate::sim::units::Time;

struct Least {
    roster: Roster,
    ledger: Ledger,
}

pub(super) fn make(setup: Setup) -> Box<dyn Policy> {
    Box::new(Least { roster: Roster::new(setup.titles, setup.report_interval), ledger: Ledger::default() })
}

impl Policy for Least {
    fn joined(&mut self, now: Time, node: NodeIndex, join: &Join<'_>) {
        self.roster.joined(now, node, join);
        self.ledger.joined(now, node, join);
    }

    fn left(&mut self, _now: Time, node: NodeIndex) {
        self.roster.close(node);
    }

    fn draining(&mut self, _now: Time, node: NodeIndex) {
        self.roster.close(node);
    }

    fn report(&mut self, now: Time, node: NodeIndex, report: &Report) {
        if self.roster.report(now, node, report) {
            self.ledger.report(node, report);
        }
    }

    fn resolve(&mut self, now: Time, ask: &Ask<'_>) -> Answer {
        let rate = self.roster.rate(ask.title);
        let best = self
            .roster
            .holders(now, ask.title, ask.exclude)
            .map(|node| (node, self.ledger.level(now, node, &self.roster), self.roster.seen(node).capacity))
            .filter(|&(_, level, capacity)| level + rate <= capacity)
            // Smallest level ÷ capacity, in parts of a million.
            .min_by_key(|&(_, level, capacity)| level * 1_000_000 / capacity.max(1));
        let Some((node, ..)) = best else { return Answer::Refused };
        self.ledger.reserve(now, node, ask.session, rate);
        Answer::Seat { node, alternates: Vec::new(), burst: false }
    }

    fn tick(&mut self, _now: Time) {}

    fn copied(&mut self, _now: Time, copy: &Copied) {
        self.roster.copied(copy);
    }
}
