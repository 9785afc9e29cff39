//! Time that a source takes for a group, averaged over recent groups; idle time does not count.

use std::time::{Duration, Instant};

/// Groups after which older ones count half: the average follows a change in rate within 8 MiB.
const MEMORY: u32 = 128;

/// The pace of one source.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    groups: u32,
    elapsed: Duration,
    /// When it last sent a group, or was assigned one while idle.
    last: Option<Instant>,
}

impl Pace {
    /// It was assigned more groups; `idle` if it had none.
    pub(super) fn asked(&mut self, now: Instant, idle: bool) {
        if idle {
            self.last = Some(now);
        }
    }

    /// It sent a group.
    pub(super) fn received(&mut self, now: Instant) {
        self.elapsed += self.silence(now);
        self.last = Some(now);
        self.groups += 1;
        if self.groups >= MEMORY {
            self.groups /= 2;
            self.elapsed /= 2;
        }
    }

    /// Time since it last sent a group, or was assigned one while idle.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    /// Average time of a group; `None` before the first.
    pub(super) fn per_group(&self) -> Option<Duration> {
        (self.groups > 0).then(|| self.elapsed / self.groups)
    }

    /// Expected time of the next group: the average, or the present silence if that is longer.
    pub(super) fn expected(&self, now: Instant) -> Duration {
        let with_silence = (self.elapsed + self.silence(now)) / (self.groups + 1);
        self.per_group().unwrap_or_default().max(with_silence)
    }
}
