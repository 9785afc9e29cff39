//! Two choices: of two holders at random, the one with the smaller utilisation by an exact ledger. A node seems full
//! when the ledger leaves less than the title's bitrate; if the better of the two does, any holder that does not will do.

use rand::{RngExt as _, rngs::SmallRng};

use super::{Answer, Ask, Copied, Join, NodeIndex, Policy, Report, Setup, baseline::Roster, ledger::Ledger};
use crate::sim::units::{Stream, Time, stream};

struct TwoChoices {
    roster: Roster,
    ledger: Ledger,
    rng: SmallRng,
    /// Node, utilisation in parts of a million, and whether the title fits.
    open: Vec<(NodeIndex, u64, bool)>,
}

pub(super) fn make(setup: Setup) -> Box<dyn Policy> {
    Box::new(TwoChoices {
        roster: Roster::new(setup.titles, setup.report_interval),
        ledger: Ledger::default(),
        rng: stream(setup.seed, Stream::Policy, u64::from(setup.index)),
        open: Vec::new(),
    })
}

impl Policy for TwoChoices {
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
        self.open.clear();
        for node in self.roster.holders(now, ask.title, ask.exclude) {
            let (level, capacity) = (self.ledger.level(now, node, &self.roster), self.roster.seen(node).capacity);
            self.open.push((node, level * 1_000_000 / capacity.max(1), level + rate <= capacity));
        }
        let count = self.open.len();
        if count == 0 {
            return Answer::Refused;
        }
        let first = self.rng.random_range(0..count);
        // Any other one, if there is one.
        let second = if count > 1 { (first + self.rng.random_range(1..count)) % count } else { first };
        let better = if self.open[second].1 < self.open[first].1 { self.open[second] } else { self.open[first] };
        let any = || self.open.iter().find(|open| open.2).copied();
        let Some((node, ..)) = Some(better).filter(|open| open.2).or_else(any) else { return Answer::Refused };
        self.ledger.reserve(now, node, ask.session, rate);
        Answer::Seat { node, alternates: Vec::new(), burst: false }
    }

    fn tick(&mut self, _now: Time) {}

    fn copied(&mut self, _now: Time, copy: &Copied) {
        self.roster.copied(copy);
    }
}
