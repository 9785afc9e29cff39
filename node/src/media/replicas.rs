//! The copies ordered by the master, beside the operator's volumes: which exist, the disk space they take, and which
//! sessions may read them. Owns the quota and the folder; the catalog shows them as a volume of their own. Does not
//! know where they come from. Functions block on the disk unless their docs say otherwise.

mod folder;
mod incoming;
mod replica;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use folder::ReplicaFiles;
pub(crate) use incoming::IncomingReplica;
pub(crate) use replica::Replica;
pub use store::ReplicaConfig;
pub(crate) use store::{ReplicaStore, VOLUME};
