//! Limits that the system sets for a process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the number of open files to the system's maximum: each session and each connection takes one, and the usual
/// first limit of 1024 exists only for programs that use `select`.
pub(crate) fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files was not raised");
        }
    }
}
