//! How long a source takes for a group, as it did lately; the time in which it had nothing to send does not count.

use std::time::{Duration, Instant};

/// Groups after which what was before counts half: half a MiB tells a start from a run, 8 MiB follow a change in rate.
const MEMORY: u32 = 128;

/// The pace of one source.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    groups: u32,
    elapsed: Duration,
    /// When it last sent something, or got something to send.
    last: Option<Instant>,
}

impl Pace {
    /// It was asked for more; `idle` if it had nothing to send.
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

    /// Time since it last sent something, or got something to send.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    /// Time for a group as it was; `None` before the first.
    pub(super) fn per_group(&self) -> Option<Duration> {
        (self.groups > 0).then(|| self.elapsed / self.groups)
    }

    /// The same for a source that owes groups: its silence counts as far as it is longer than usual.
    pub(super) fn expected(&self, now: Instant) -> Duration {
        let with_silence = (self.elapsed + self.silence(now)) / (self.groups + 1);
        self.per_group().unwrap_or_default().max(with_silence)
    }
}
