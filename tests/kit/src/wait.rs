//! Waiting for another process, which has no signal that a test could wait for.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

/// Long enough for the slowest shared machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two questions to another process.
const PAUSE: Duration = Duration::from_millis(25);

/// Asks again until the answer is yes, for [`PATIENCE`] at most.
///
/// # Errors
/// When the question fails, and when time is up.
#[expect(clippy::disallowed_methods, reason = "polls another process")]
pub fn poll(what: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Asks again until the answer is yes; panics after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    if let Err(error) = poll(what, || Ok(is_so())) {
        panic!("{error}");
    }
}
