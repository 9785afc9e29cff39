//! The times at which a key set is fetched from its URL: at intervals, whatever tokens arrive.

use std::time::Duration;

/// Shortest interval that a server can ask for, unless the usual one is shorter.
const LEAST: Duration = Duration::from_secs(60);

/// Longest interval that a server can ask for, unless the usual one is longer: a withdrawn key stays good for this long.
const MOST: Duration = Duration::from_secs(3600);

/// First delay after a failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Longest delay after failures, unless the usual interval is shorter.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// When to fetch next.
#[derive(Clone, Copy, Debug)]
pub struct Refresh {
    usual: Duration,
    failures: u32,
}

impl Refresh {
    /// Fetches every `usual`, unless the server says otherwise.
    pub fn new(usual: Duration) -> Self {
        Self { usual, failures: 0 }
    }

    /// Handles a success. Returns the delay of the next fetch; `max_age` is the server's wish.
    pub fn handle_success(&mut self, max_age: Option<Duration>) -> Duration {
        self.failures = 0;
        max_age.unwrap_or(self.usual).clamp(LEAST.min(self.usual), MOST.max(self.usual))
    }

    /// Handles a failure. Returns the delay of the next fetch, which grows with each failure in a row.
    pub fn handle_failure(&mut self) -> Duration {
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        wait.min(LAST_RETRY).min(self.usual)
    }
}

/// The `max-age` of a Cache-Control header (RFC 9111, section 5.2.2.1).
pub fn max_age(cache_control: &str) -> Option<Duration> {
    let directives = cache_control.split(',').filter_map(|one| one.trim().split_once('='));
    let mut ages = directives.filter(|(name, _)| name.trim().eq_ignore_ascii_case("max-age"));
    let seconds = ages.next()?.1.trim().trim_matches('"').parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetches_follow_the_server_within_bounds() {
        let seconds = Duration::from_secs;
        let mut refresh = Refresh::new(seconds(300));
        for (wish, wait) in [(None, 300), (Some(0), 60), (Some(600), 600), (Some(u64::MAX), 3600)] {
            assert_eq!(refresh.handle_success(wish.map(seconds)), seconds(wait));
        }
        assert_eq!(Refresh::new(seconds(1)).handle_success(Some(seconds(0))), seconds(1));
        assert_eq!(Refresh::new(seconds(86_400)).handle_success(None), seconds(86_400));
        let waits: Vec<u64> = (0..8).map(|_| refresh.handle_failure().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        refresh.handle_success(None);
        assert_eq!(refresh.handle_failure(), seconds(1));
        assert_eq!(Refresh::new(Duration::from_millis(200)).handle_failure(), Duration::from_millis(200));
    }

    #[test]
    fn cache_control() {
        for (header, age) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age = 7 , must-revalidate", Some(7)),
            ("max-age=\"5\"", Some(5)),
            ("no-store", None),
            ("s-maxage=9", None),
            ("max-age=soon", None),
            ("", None),
        ] {
            assert_eq!(max_age(header), age.map(Duration::from_secs), "{header}");
        }
    }
}
