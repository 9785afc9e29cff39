//! The media library: the volumes (folders) that hold the titles, what each file is, its hashes, and the index on
//! disk that remembers all of it. It refuses to know QUIC, gRPC, tickets and sessions: it answers "which titles are
//! there", "what changed" and "open this one".
//!
//! Three threads per library: the keeper (scans, watches, decides when a file is complete), the hasher, and the
//! watcher's own. None of them is waited for while a title is found or opened.

mod catalog;
mod hashing;
mod index;
mod keeper;
mod library;
mod open;
mod replicas;
mod scan;
mod settle;
mod shared;
mod volume;
mod walk;
mod watch;

#[cfg(test)]
pub(crate) mod clips;
#[cfg(test)]
mod tests;

pub use catalog::{Changes, Copy, FindError, Key, Subscription};
pub use library::{Config, Library, Rejected, Stats};
pub use open::{OpenError, OpenMedia};
pub use replicas::Config as ReplicaConfig;
pub(crate) use replicas::{Growing, Replicas};
