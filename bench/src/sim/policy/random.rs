//! Any available holder, with equal probability. Looks at no load, so nothing ever seems full to it: it refuses only when
//! no holder is available.

use rand::{RngExt as _, rngs::SmallRng};

use super::{Answer, Ask, Copied, Join, NodeIndex, Policy, Report, Setup, baseline::Roster};
use crate::sim::units::{Stream, Time, stream};

struct Random {
    roster: Roster,
    rng: SmallRng,
    holders: Vec<NodeIndex>,
}

pub(super) fn make(setup: Setup) -> Box<dyn Policy> {
    Box::new(Random {
        roster: Roster::new(setup.titles, setup.report_interval),
        rng: stream(setup.seed, Stream::Policy, u64::from(setup.index)),
        holders: Vec::new(),
    })
}

impl Policy for Random {
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
        self.holders.clear();
        self.holders.extend(self.roster.holders(now, ask.title, ask.exclude));
        if self.holders.is_empty() {
            return Answer::Refused;
        }
        let node = self.holders[self.rng.random_range(0..self.holders.len())];
        Answer::Seat { node, alternates: Vec::new(), burst: false }
    }

    fn tick(&mut self, _now: Time) {}

    fn copied(&mut self, _now: Time, copy: &Copied) {
        self.roster.copied(copy);
    }
}
