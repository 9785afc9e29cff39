//! When a node's media certificate is replaced, as a pure function of time.
//!
//! Certificates, keys and clocks are left to the caller: times are arguments, due actions are results.
//!
//! ```text
//! issued              half                 three quarters        expiry
//!   |------ current ----|------ current -----|==== next serves ====|
//!                       announce next        switch     drop (a ticket's lifetime after the switch)
//! ```
//! Between announcement and drop, every new seat names both hashes, so a viewer with a ticket from just before the
//! switch can still dial just after it.

use std::time::{Duration, SystemTime};

/// A due action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing until [`Rotation::deadline`].
    Nothing,
    /// Generate the next certificate and announce its hash beside the current one.
    Announce,
    /// Serve the next certificate: it is the current one from here on.
    Switch,
    /// Stop announcing the old certificate's hash.
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    not_before: SystemTime,
    expiry: SystemTime,
}

/// The rotation of one node's media certificates.
#[derive(Debug, Clone)]
pub struct Rotation {
    lifetime: Duration,
    ticket_lifetime: Duration,
    current: Validity,
    next: Option<Validity>,
    old_drop: Option<SystemTime>,
}

impl Rotation {
    /// A rotation whose current certificate was issued at `not_before` and is valid for `lifetime`, as every later one.
    /// `ticket_lifetime` is how long a ticket may be used.
    pub fn new(lifetime: Duration, ticket_lifetime: Duration, not_before: SystemTime) -> Self {
        // With a lifetime of 0 an action would always be due.
        let lifetime = lifetime.max(Duration::from_secs(1));
        let current = Validity { not_before, expiry: later(not_before, lifetime) };
        Self { lifetime, ticket_lifetime, current, next: None, old_drop: None }
    }

    /// The action due at `now`, which stays due.
    pub fn due(&self, now: SystemTime) -> Action {
        let (at, action) = self.upcoming();
        if now >= at { action } else { Action::Nothing }
    }

    /// The action due at `now`, which counts as done from then on. After a long pause several actions are due: call until
    /// [`Action::Nothing`].
    pub fn poll(&mut self, now: SystemTime) -> Action {
        let action = self.due(now);
        match action {
            Action::Nothing => {}
            Action::Announce => self.next = Some(Validity { not_before: now, expiry: later(now, self.lifetime) }),
            Action::Switch => {
                if let Some(next) = self.next.take() {
                    self.old_drop = Some(later(now, self.ticket_lifetime).min(self.current.expiry));
                    self.current = next;
                }
            }
            Action::Drop => self.old_drop = None,
        }
        action
    }

    /// Time of the next action; there always is one.
    pub fn deadline(&self) -> SystemTime {
        self.upcoming().0
    }

    /// The old certificate is dropped before the next is announced, so that at most two are announced.
    fn upcoming(&self) -> (SystemTime, Action) {
        match (self.old_drop, self.next) {
            (Some(drop), _) => (drop, Action::Drop),
            (None, None) => (later(self.current.not_before, self.lifetime / 2), Action::Announce),
            (None, Some(next)) => (self.switch_at(next), Action::Switch),
        }
    }

    /// Three quarters of the current certificate's lifetime. After a late announcement, a ticket's lifetime before the switch
    /// is kept, as long as the current certificate is valid.
    fn switch_at(&self, next: Validity) -> SystemTime {
        let planned = later(self.current.not_before, self.lifetime / 4 * 3);
        planned.max(later(next.not_before, self.ticket_lifetime)).min(self.current.expiry)
    }
}

/// The sum; `at` itself where it cannot be represented.
fn later(at: SystemTime, by: Duration) -> SystemTime {
    at.checked_add(by).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::Action::{Announce, Drop, Nothing, Switch};
    use super::*;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + second)
    }

    /// Polls at each time and compares what is done there and when the next thing is due.
    fn run(ticket_lifetime: u64, table: &[(u64, Action, u64)]) {
        let mut rotation = Rotation::new(Duration::from_secs(400), Duration::from_secs(ticket_lifetime), at(0));
        for (now, action, deadline) in table {
            assert_eq!(rotation.due(at(*now)), *action, "due at {now}");
            assert_eq!(rotation.poll(at(*now)), *action, "at {now}");
            assert_eq!(rotation.deadline(), at(*deadline), "deadline after {now}");
        }
    }

    #[test]
    fn on_time() {
        run(
            30,
            &[
                (0, Nothing, 200),
                (199, Nothing, 200),
                (200, Announce, 300),
                (200, Nothing, 300),
                (299, Nothing, 300),
                (300, Switch, 330),
                (329, Nothing, 330),
                (330, Drop, 400),
                // The second certificate was issued at 200.
                (399, Nothing, 400),
                (400, Announce, 500),
                (500, Switch, 530),
                (530, Drop, 600),
            ],
        );
    }

    #[test]
    fn a_long_ticket_ends_with_the_old_certificate() {
        run(1000, &[(200, Announce, 400), (400, Switch, 400), (400, Drop, 400), (400, Announce, 600)]);
    }

    #[test]
    fn a_late_announcement_still_precedes_the_switch_by_a_tickets_lifetime() {
        run(30, &[(290, Announce, 320), (300, Nothing, 320), (320, Switch, 350), (350, Drop, 490)]);
        run(30, &[(390, Announce, 400), (400, Switch, 400), (400, Drop, 590)]);
    }

    #[test]
    fn after_a_long_sleep_everything_is_caught_up_at_once() {
        run(30, &[(5000, Announce, 400), (5000, Switch, 400), (5000, Drop, 5200), (5000, Nothing, 5200)]);
    }

    #[test]
    fn a_clock_set_back_waits() {
        run(30, &[(200, Announce, 300), (100, Nothing, 300), (300, Switch, 330)]);
    }
}
