//! The media library: the volumes (folders) that hold the titles, the type and hashes of each file, and the index on
//! disk. Knows no QUIC, gRPC, tickets or sessions: it lists titles, reports changes and opens copies.
//!
//! Each library has three threads: the indexer (scans, watches, decides when a file is complete), the hasher, and the
//! file system watcher's own. Finding and opening a title wait for none of them.

mod catalog;
mod copy;
mod debounce;
mod hashing;
mod index;
mod indexer;
mod library;
mod open;
mod queue;
mod read;
mod replicas;
mod scan;
mod shared;
mod volume;
mod walk;
mod watch;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

pub use catalog::{Changes, Subscription};
pub use copy::{Copy, CopyKey, FindError, OpenError};
pub use library::{Library, LibraryConfig, LibraryStats, RejectedFile};
pub use open::OpenMedia;
pub use replicas::ReplicaConfig;
pub(crate) use replicas::{IncomingReplica, ReplicaStore};
