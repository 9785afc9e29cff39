//! What the system lets one process have.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the number of open files to what the system allows at most: each session and each connection takes one, and
/// the usual first limit of 1024 is kept for programs that still use `select`.
pub(crate) fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}
