//! The rule of 2000: the holder with the greatest available bandwidth by its last report, capacity less egress. It
//! reserves nothing. A node seems full when that is less than the title's bitrate.

use super::{Answer, Ask, Copied, Join, NodeIndex, Policy, Report, Setup, baseline::Roster};
use crate::sim::units::Time;

struct Patent {
    roster: Roster,
}

pub(super) fn make(setup: Setup) -> Box<dyn Policy> {
    Box::new(Patent { roster: Roster::new(setup.titles, setup.report_interval) })
}

impl Policy for Patent {
    fn joined(&mut self, now: Time, node: NodeIndex, join: &Join<'_>) {
        self.roster.joined(now, node, join);
    }

    fn left(&mut self, _now: Time, node: NodeIndex) {
        self.roster.close(node);
    }

    fn draining(&mut self, _now: Time, node: NodeIndex) {
        self.roster.close(node);
    }

    fn report(&mut self, now: Time, node: NodeIndex, report: &Report) {
        self.roster.report(now, node, report);
    }

    fn resolve(&mut self, now: Time, ask: &Ask<'_>) -> Answer {
        let available = |node: NodeIndex| {
            let seen = self.roster.seen(node);
            seen.capacity.saturating_sub(seen.report.as_ref().map_or(0, |report| report.egress))
        };
        let best = self.roster.holders(now, ask.title, ask.exclude).max_by_key(|&node| available(node));
        match best.filter(|&node| available(node) >= self.roster.rate(ask.title)) {
            Some(node) => Answer::Seat { node, alternates: Vec::new(), burst: false },
            None => Answer::Refused,
        }
    }

    fn tick(&mut self, _now: Time) {}

    fn copied(&mut self, _now: Time, copy: &Copied) {
        self.roster.copied(copy);
    }
}
